//! JSON values to and from `google.protobuf.Value`, without loss.
//!
//! `Value` knows one number type, a double. An integer beyond 2^53 would be rounded on the way, so it is refused with its
//! path instead. Depth is bounded here too: the decoder on the other side gives up on deep values, and recursion on a
//! value of any depth could overflow the stack.

use prost_types::{ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Number, Value};

/// The largest integer that a double holds together with all smaller ones: 2^53.
const MAX_EXACT_INTEGER: i64 = 1 << 53;

/// Levels of nesting tasktower accepts in an input or a result.
const MAX_DEPTH: usize = 24;

/// A JSON value that cannot travel, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ValueError {
    /// Where: `$` is the whole value, `$.items[2].id` a part of it.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Converts a JSON value to its wire form.
pub fn to_proto(value: Value) -> Result<ProtoValue, ValueError> {
    outbound(value, &mut Path::default())
}

/// Converts a wire value to JSON. Numbers without a fraction become JSON integers.
pub fn from_proto(value: ProtoValue) -> Result<Value, ValueError> {
    inbound(value, &mut Path::default())
}

fn outbound(value: Value, path: &mut Path) -> Result<ProtoValue, ValueError> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(exact_double(&number).ok_or_else(|| {
            path.error(format!("integer {number} is beyond 2^53 and would be rounded; send it as a string"))
        })?),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            path.check_depth()?;
            let mut values = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                values.push(path.within(Step::Index(index), |path| outbound(item, path))?);
            }
            Kind::ListValue(ListValue { values })
        }
        Value::Object(members) => {
            path.check_depth()?;
            let mut fields = std::collections::BTreeMap::new();
            for (key, member) in members {
                let value = path.within(Step::Key(key.clone()), |path| outbound(member, path))?;
                fields.insert(key, value);
            }
            Kind::StructValue(Struct { fields })
        }
    };
    Ok(ProtoValue { kind: Some(kind) })
}

fn inbound(value: ProtoValue, path: &mut Path) -> Result<Value, ValueError> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(double)) => {
            Value::Number(json_number(double).ok_or_else(|| path.error(format!("{double} is not a JSON number")))?)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => {
            path.check_depth()?;
            let mut items = Vec::with_capacity(list.values.len());
            for (index, item) in list.values.into_iter().enumerate() {
                items.push(path.within(Step::Index(index), |path| inbound(item, path))?);
            }
            Value::Array(items)
        }
        Some(Kind::StructValue(object)) => {
            path.check_depth()?;
            let mut members = Map::new();
            for (key, member) in object.fields {
                let value = path.within(Step::Key(key.clone()), |path| inbound(member, path))?;
                members.insert(key, value);
            }
            Value::Object(members)
        }
    })
}

/// The number as a double; nothing if it is an integer that a double would round.
fn exact_double(number: &Number) -> Option<f64> {
    if let Some(integer) = number.as_i64() {
        let exact = (-MAX_EXACT_INTEGER..=MAX_EXACT_INTEGER).contains(&integer);
        return exact.then_some(integer as f64);
    }
    // What fits no i64 but a u64 is far beyond 2^53.
    if number.is_u64() { None } else { number.as_f64() }
}

/// The double as a JSON number: an integer where that is exact, so that `3` sent comes back as `3`, not `3.0`.
fn json_number(double: f64) -> Option<Number> {
    if double.fract() == 0.0 && double.abs() <= MAX_EXACT_INTEGER as f64 {
        return Some(Number::from(double as i64));
    }
    Number::from_f64(double)
}

/// Where in the value the conversion is. Text is only made when something is wrong.
#[derive(Default)]
struct Path(Vec<Step>);

enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    fn within<T>(&mut self, step: Step, convert: impl FnOnce(&mut Self) -> T) -> T {
        self.0.push(step);
        let converted = convert(self);
        self.0.pop();
        converted
    }

    /// A list or an object stands one level deeper than the steps that lead to it.
    fn check_depth(&self) -> Result<(), ValueError> {
        if self.0.len() >= MAX_DEPTH {
            return Err(self.error(format!("deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    fn error(&self, problem: String) -> ValueError {
        let mut path = String::from("$");
        for step in &self.0 {
            match step {
                Step::Key(key) => {
                    path.push('.');
                    path.push_str(key);
                }
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        ValueError { path, problem }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_value_comes_back_as_it_went() {
        let value = json!({
            "null": null, "flag": true, "text": "ä", "integer": -7, "fraction": 0.25, "huge": 1e300,
            "list": [1, [2, {}], []], "limit": 9_007_199_254_740_992_i64,
        });
        assert_eq!(from_proto(to_proto(value.clone()).unwrap()).unwrap(), value);
    }

    #[test]
    fn an_integer_beyond_2_53_is_refused_with_its_path() {
        for integer in [json!(9_007_199_254_740_993_i64), json!(-9_007_199_254_740_993_i64), json!(u64::MAX)] {
            let error = to_proto(json!({ "orders": [{ "id": 1 }, { "id": integer }] })).unwrap_err();
            assert_eq!(error.path, "$.orders[1].id");
        }
    }

    #[test]
    fn depth_is_bounded_in_both_directions() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(to_proto(nested(MAX_DEPTH)).is_ok());
        assert!(to_proto(nested(MAX_DEPTH + 1)).unwrap_err().problem.contains("24 levels"));

        let wire = |levels: usize| {
            (0..levels).fold(ProtoValue { kind: Some(Kind::BoolValue(true)) }, |inner, _| ProtoValue {
                kind: Some(Kind::ListValue(ListValue { values: vec![inner] })),
            })
        };
        assert!(from_proto(wire(MAX_DEPTH)).is_ok());
        assert!(from_proto(wire(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn a_number_json_cannot_write_is_refused() {
        let value = ProtoValue { kind: Some(Kind::NumberValue(f64::NAN)) };
        assert_eq!(from_proto(value).unwrap_err().path, "$");
    }
}
