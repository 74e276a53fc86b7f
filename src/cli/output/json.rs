//! Proto3 JSON by reflection: the same descriptors the server reflects, so both spell everything alike.

use std::{
    io::{self, Write},
    sync::LazyLock,
};

use anyhow::Context;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::pb::DESCRIPTORS;

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()));

/// A message that serialises as proto3 JSON. `proto` is its full name.
pub fn to_json<M: prost::Message>(proto: &str, message: &M) -> anyhow::Result<DynamicMessage> {
    let pool = POOL.as_ref().map_err(|error| anyhow::anyhow!("the descriptors in this binary are damaged: {error}"))?;
    let descriptor =
        pool.get_message_by_name(proto).with_context(|| format!("the descriptors in this binary lack {proto}"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).context("a message does not fit its descriptor")?;
    Ok(dynamic)
}

/// Reads proto3 JSON as a message. `proto` is its full name; fields that it does not have are refused.
pub fn from_json<M: prost::Message + Default>(proto: &str, text: &str) -> anyhow::Result<M> {
    let pool = POOL.as_ref().map_err(|error| anyhow::anyhow!("the descriptors in this binary are damaged: {error}"))?;
    let descriptor =
        pool.get_message_by_name(proto).with_context(|| format!("the descriptors in this binary lack {proto}"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let dynamic =
        DynamicMessage::deserialize(descriptor, &mut json).with_context(|| format!("not a {proto} in JSON"))?;
    json.end().context("something follows the JSON")?;
    dynamic.transcode_to().context("a message does not fit its descriptor")
}

/// Indented, for people and for `jq`.
pub fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    write(value, PrettyFormatter::new())
}

/// On one line.
pub fn line<T: Serialize>(value: &T) -> anyhow::Result<String> {
    write(value, CompactFormatter)
}

fn write<T: Serialize>(value: &T, shape: impl Formatter) -> anyhow::Result<String> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, WholeNumbers(shape)))?;
    Ok(String::from_utf8(text)?)
}

/// As a tree.
pub fn value<T: Serialize>(value: &T) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(value)?)
}

/// JSON of the wire holds every number as a double. A whole one is written without a fraction, as it was submitted.
pub fn whole_number(number: f64) -> Option<i64> {
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    // Whole and within 2^53: the cast is exact.
    (number.fract() == 0.0 && number.abs() <= MAX_EXACT).then_some(number as i64)
}

/// A formatter that writes whole numbers whole and leaves everything else to the one inside.
struct WholeNumbers<F>(F);

macro_rules! delegate {
    ($($method:ident($($flag:ident)?);)*) => {
        $(fn $method<W: Write + ?Sized>(&mut self, out: &mut W $(, $flag: bool)?) -> io::Result<()> {
            self.0.$method(out $(, $flag)?)
        })*
    };
}

impl<F: Formatter> Formatter for WholeNumbers<F> {
    fn write_f64<W: Write + ?Sized>(&mut self, out: &mut W, number: f64) -> io::Result<()> {
        match whole_number(number) {
            Some(whole) => self.0.write_i64(out, whole),
            None => self.0.write_f64(out, number),
        }
    }

    delegate! {
        begin_array();
        end_array();
        begin_array_value(first);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first);
        end_object_key();
        begin_object_value();
        end_object_value();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_no_fraction() {
        let value = serde_json::json!({"a": [1.0, 2.5, -0.0, 1e300], "b": {}});
        assert_eq!(line(&value).unwrap(), r#"{"a":[1,2.5,0,1e+300],"b":{}}"#);
        assert_eq!(pretty(&serde_json::json!({"a": [1.0]})).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}
