//! JSON between `google.protobuf.Value` on the wire and compact text in the store, without a third form in between.
//!
//! Inbound everything is checked while it is written: depth, numbers, size. The texts that come back out are our own.

use std::{collections::BTreeMap, fmt, io::Write as _};

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::fields::{Fields, Path};

/// Most arrays and objects inside one another. Together with the messages around it this stays below the decoder's own
/// limit, whose answer would name no field.
const MAX_DEPTH: usize = 24;

/// From here on neighbouring integers share one double, so what arrives may not be what was sent: 2^53.
const FIRST_ROUNDED_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Writes a value as compact JSON, and notes what is wrong with it. Ends early past `max_bytes`.
pub fn to_text(fields: &mut Fields, at: &Path<'_>, value: &Value, max_bytes: usize) -> Vec<u8> {
    let mut writer = Writer { fields, out: Vec::with_capacity(128), max_bytes };
    writer.value(at, value, 0);
    let Writer { out, .. } = writer;
    if out.len() > max_bytes {
        fields.refuse(at, format!("is longer than {max_bytes} bytes as JSON text"));
    }
    out
}

struct Writer<'a> {
    fields: &'a mut Fields,
    out: Vec<u8>,
    max_bytes: usize,
}

impl Writer<'_> {
    fn value(&mut self, at: &Path<'_>, value: &Value, depth: usize) {
        if self.out.len() > self.max_bytes {
            return;
        }
        match &value.kind {
            None => self.fields.refuse(at, "is a value without a kind; send null_value for null"),
            Some(Kind::NullValue(_)) => self.out.extend_from_slice(b"null"),
            Some(Kind::BoolValue(true)) => self.out.extend_from_slice(b"true"),
            Some(Kind::BoolValue(false)) => self.out.extend_from_slice(b"false"),
            Some(Kind::NumberValue(number)) => self.number(at, *number),
            Some(Kind::StringValue(text)) => self.string(text),
            Some(Kind::ListValue(_) | Kind::StructValue(_)) if depth == MAX_DEPTH => {
                self.fields.refuse(at, format!("is nested deeper than {MAX_DEPTH} levels"));
            }
            Some(Kind::ListValue(list)) => self.list(at, list, depth + 1),
            Some(Kind::StructValue(object)) => self.object(at, object, depth + 1),
        }
    }

    fn list(&mut self, at: &Path<'_>, list: &ListValue, depth: usize) {
        self.out.push(b'[');
        for (index, value) in list.values.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&at.index(index), value, depth);
        }
        self.out.push(b']');
    }

    fn object(&mut self, at: &Path<'_>, object: &Struct, depth: usize) {
        self.out.push(b'{');
        for (index, (key, value)) in object.fields.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.string(key);
            self.out.push(b':');
            self.value(&Path::Member(at, key), value, depth);
        }
        self.out.push(b'}');
    }

    fn number(&mut self, at: &Path<'_>, number: f64) {
        if !number.is_finite() {
            self.fields.refuse(at, "is not a finite number; JSON has no NaN and no infinity");
        } else if number.fract() != 0.0 {
            self.serialized(&number);
        } else if number.abs() >= FIRST_ROUNDED_INTEGER {
            self.fields.refuse(at, "is an integer of 2^53 or beyond, which JSON numbers round; send it as a string");
        } else {
            // Writing into memory cannot fail.
            let _ = write!(self.out, "{}", number as i64);
        }
    }

    fn string(&mut self, text: &str) {
        self.serialized(text);
    }

    fn serialized(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        // Strings and finite numbers always serialise, and writing into memory cannot fail.
        let outcome = serde_json::to_writer(&mut self.out, value);
        debug_assert!(outcome.is_ok());
    }
}

/// Reads JSON text.
pub fn from_text(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<WireValue>(text).map(|value| value.0)
}

/// Builds the wire's value straight from the parser.
struct WireValue(Value);

impl<'de> Deserialize<'de> for WireValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(|kind| Self(Value { kind: Some(kind) }))
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::NullValue(0))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::BoolValue(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::NumberValue(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::StringValue(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::StringValue(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut values = Vec::new();
        while let Some(WireValue(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Kind::ListValue(ListValue { values }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((key, WireValue(value))) = map.next_entry::<String, _>()? {
            fields.insert(key, value);
        }
        Ok(Kind::StructValue(Struct { fields }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    const MAX: usize = 256 * 1024;

    fn write(value: &Value) -> Result<String, Vec<String>> {
        let mut fields = Fields::new();
        let input = Path::Request.field("input");
        let text = to_text(&mut fields, &input.field("json"), value, MAX);
        match fields.finish(()) {
            Ok(()) => Ok(String::from_utf8(text).unwrap()),
            Err(Error::Invalid(violations)) => Err(violations.iter().map(ToString::to_string).collect()),
            Err(other) => panic!("{other}"),
        }
    }

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn list(values: Vec<Value>) -> Value {
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    fn object(key: &str, value: Value) -> Value {
        Value { kind: Some(Kind::StructValue(Struct { fields: BTreeMap::from([(key.to_owned(), value)]) })) }
    }

    #[test]
    fn the_text_is_compact_and_integers_have_no_fraction() {
        let text = r#"{"a":[1,-2.5,true,null,"x\"\n"],"b":{}}"#;
        assert_eq!(write(&from_text(text.as_bytes()).unwrap()).unwrap(), text);
        assert_eq!(write(&number(9_007_199_254_740_991.0)).unwrap(), "9007199254740991");
        assert_eq!(write(&number(-0.0)).unwrap(), "0");
    }

    #[test]
    fn numbers_that_would_be_rounded_are_refused_with_their_path() {
        let value = object("a", list(vec![number(1.0), number(2.0), object("b", number((1_u64 << 53) as f64))]));
        let faults = write(&value).unwrap_err();
        assert!(faults[0].starts_with("input.json.a[2].b: is an integer of 2^53"), "{faults:?}");
        for not_finite in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(write(&number(not_finite)).unwrap_err()[0].contains("not a finite number"));
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |levels| (0..levels).fold(number(1.0), |inner, _| list(vec![inner]));
        assert!(write(&nested(MAX_DEPTH)).is_ok());
        assert!(write(&nested(MAX_DEPTH + 1)).unwrap_err()[0].contains("deeper than 24"));
        let long = Value { kind: Some(Kind::StringValue("x".repeat(MAX))) };
        assert!(write(&long).unwrap_err()[0].contains("longer than 262144 bytes"));
        assert!(write(&Value { kind: None }).unwrap_err()[0].contains("without a kind"));
    }

    #[test]
    fn the_deepest_value_passes_the_decoder() {
        use prost::Message as _;
        let deepest = (0..MAX_DEPTH).fold(number(1.0), |inner, _| object("k", inner));
        let task = crate::pb::Task {
            input: Some(crate::pb::Payload { kind: Some(crate::pb::payload::Kind::Json(deepest)) }),
            ..Default::default()
        };
        let submit = crate::pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let batch = crate::pb::BatchSubmitTasksRequest { requests: vec![submit], ..Default::default() };
        assert!(crate::pb::BatchSubmitTasksRequest::decode(&*batch.encode_to_vec()).is_ok());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Kind::NullValue(0)),
            any::<bool>().prop_map(Kind::BoolValue),
            (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(|n| Kind::NumberValue(n as f64)),
            (-1e15..1e15_f64).prop_map(Kind::NumberValue),
            (-1.0..1.0_f64).prop_map(Kind::NumberValue),
            any::<String>().prop_map(Kind::StringValue),
        ]
        .prop_map(|kind| Value { kind: Some(kind) });
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(list),
                proptest::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|fields| Value { kind: Some(Kind::StructValue(Struct { fields })) }),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_it_went(value in any_value()) {
            let text = write(&value).unwrap();
            prop_assert_eq!(from_text(text.as_bytes()).unwrap(), value);
        }
    }
}
