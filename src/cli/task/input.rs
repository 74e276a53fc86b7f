//! The input of a task: JSON from the command line, a file or stdin, as the wire holds it. And back.

use std::{collections::BTreeMap, io::Read, path::Path};

use anyhow::{Context, bail};
use prost_types::{ListValue, Struct, Value as WireValue, value::Kind as WireKind};
use serde_json::Value;

use crate::{
    cli::output::whole_number,
    pb::{Blob, Payload, payload::Kind},
};

/// The server refuses more; saying so here saves reading a huge file.
const MAX_INPUT_BYTES: u64 = 256 << 10;
/// JSON numbers are doubles on the wire; beyond this integers would be rounded.
const MAX_EXACT_INTEGER: u64 = 1 << 53;

/// What was given as text, `@file` or `-` for stdin, as text.
pub fn read_text(text: &str) -> anyhow::Result<String> {
    String::from_utf8(read_bytes(text)?).context("it is no text")
}

fn read_bytes(text: &str) -> anyhow::Result<Vec<u8>> {
    Ok(match text.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(Path::new(path)).with_context(|| format!("cannot read {path}"))?;
            read_bounded(file).with_context(|| format!("cannot read {path}"))?
        }
        None if text == "-" => read_bounded(std::io::stdin().lock()).context("cannot read stdin")?,
        None => text.as_bytes().to_vec(),
    })
}

/// `JSON`, `@file` or `-` for stdin, as a payload. With a content type the bytes go as they are.
pub fn read_payload(text: &str, content_type: Option<&str>) -> anyhow::Result<Payload> {
    let bytes = read_bytes(text)?;
    if let Some(content_type) = content_type {
        return Ok(Payload {
            kind: Some(Kind::Blob(Blob { content_type: content_type.to_owned(), data: bytes.into() })),
        });
    }
    let value: Value = serde_json::from_slice(&bytes)
        .context("the input is not JSON; quote it for the shell, or give bytes with --content-type")?;
    Ok(Payload { kind: Some(Kind::Json(to_wire(&value)?)) })
}

fn read_bounded(source: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        bail!("the input is larger than {MAX_INPUT_BYTES} bytes; store it elsewhere and submit a reference");
    }
    Ok(bytes)
}

/// JSON as the wire holds it. Integers that would be rounded are refused, with their path.
pub fn to_wire(value: &Value) -> anyhow::Result<WireValue> {
    convert(value, "$")
}

fn convert(value: &Value, path: &str) -> anyhow::Result<WireValue> {
    let kind = match value {
        Value::Null => WireKind::NullValue(0),
        Value::Bool(flag) => WireKind::BoolValue(*flag),
        Value::Number(number) => {
            if number.as_i64().map(i64::unsigned_abs).or(number.as_u64()).is_some_and(|n| n > MAX_EXACT_INTEGER) {
                bail!("{path} is {number}, beyond 2^53 where JSON numbers are rounded; write it as a string");
            }
            let number = number.as_f64().filter(|n| n.is_finite());
            WireKind::NumberValue(number.with_context(|| format!("{path} is not a number the wire can hold"))?)
        }
        Value::String(text) => WireKind::StringValue(text.clone()),
        Value::Array(items) => {
            let values = items.iter().enumerate().map(|(index, item)| convert(item, &format!("{path}[{index}]")));
            WireKind::ListValue(ListValue { values: values.collect::<anyhow::Result<_>>()? })
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, field)| Ok((key.clone(), convert(field, &format!("{path}.{key}"))?)));
            WireKind::StructValue(Struct { fields: fields.collect::<anyhow::Result<BTreeMap<_, _>>>()? })
        }
    };
    Ok(WireValue { kind: Some(kind) })
}

/// A value of the wire as JSON; whole numbers come out without a fraction.
pub fn from_wire(value: &WireValue) -> Value {
    match &value.kind {
        None | Some(WireKind::NullValue(_)) => Value::Null,
        Some(WireKind::BoolValue(flag)) => Value::Bool(*flag),
        Some(WireKind::NumberValue(number)) => number_from_wire(*number),
        Some(WireKind::StringValue(text)) => Value::String(text.clone()),
        Some(WireKind::ListValue(list)) => Value::Array(list.values.iter().map(from_wire).collect()),
        Some(WireKind::StructValue(object)) => {
            Value::Object(object.fields.iter().map(|(key, field)| (key.clone(), from_wire(field))).collect())
        }
    }
}

fn number_from_wire(number: f64) -> Value {
    match whole_number(number) {
        Some(whole) => Value::from(whole),
        None => serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_survives_the_wire() {
        let value = json!({"a": [1, 2.5, -3, null, true], "b": {"c": "text"}, "max": 9_007_199_254_740_992_u64});
        assert_eq!(from_wire(&to_wire(&value).unwrap()), value);
    }

    #[test]
    fn integers_that_would_be_rounded_are_refused_with_their_path() {
        let error = to_wire(&json!({"ids": [1, 9_007_199_254_740_993_u64]})).unwrap_err().to_string();
        assert!(error.contains("$.ids[1]"), "{error}");
        assert!(to_wire(&json!(i64::MIN)).is_err());
    }

    #[test]
    fn inputs_come_as_text_files_or_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"{\"a\":1}").unwrap();
        let at = format!("@{}", file.path().display());
        assert_eq!(read_payload(&at, None).unwrap(), read_payload("{\"a\":1}", None).unwrap());
        assert!(matches!(read_payload("x", Some("text/plain")).unwrap().kind, Some(Kind::Blob(_))));
        assert!(read_payload("not json", None).is_err());
        assert!(read_payload("@/does/not/exist", None).is_err());
        std::fs::write(file.path(), vec![b'1'; 300 << 10]).unwrap();
        assert!(read_payload(&at, None).unwrap_err().chain().any(|c| c.to_string().contains("larger")));
    }
}
