//! Inputs and results: typed values to and from [`Payload`].

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::value::{self, ValueError};
use crate::pb::{Blob, Payload, payload::Kind};

/// A payload that is not what the reader asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It holds bytes, not JSON.
    #[error("the payload is {content_type}, not JSON")]
    NotJson {
        /// The media type of the bytes.
        content_type: String,
    },
    /// Its JSON cannot be read at all.
    #[error("the payload is not a JSON value: {0}")]
    Value(#[from] ValueError),
    /// Its JSON has another shape than the type.
    #[error("the payload has another shape: {0}")]
    Shape(#[from] serde_json::Error),
}

/// A JSON payload of anything that serialises.
pub fn json(value: impl Serialize) -> Result<Payload, ValueError> {
    let value = serde_json::to_value(value)
        .map_err(|error| ValueError { path: "$".to_owned(), problem: format!("does not serialise: {error}") })?;
    Ok(Payload { kind: Some(Kind::Json(value::to_proto(value)?)) })
}

/// A payload of bytes with their media type, for example `application/x-protobuf`.
pub fn bytes(content_type: impl Into<String>, data: impl Into<bytes::Bytes>) -> Payload {
    Payload { kind: Some(Kind::Blob(Blob { content_type: content_type.into(), data: data.into() })) }
}

/// Reads a JSON payload into a type; no payload reads as JSON null.
pub fn decode<T: DeserializeOwned>(payload: Option<&Payload>) -> Result<T, DecodeError> {
    Ok(serde_json::from_value(to_json(payload)?)?)
}

/// Reads a JSON payload; no payload reads as null.
pub fn to_json(payload: Option<&Payload>) -> Result<Value, DecodeError> {
    match payload.and_then(|payload| payload.kind.as_ref()) {
        None => Ok(Value::Null),
        Some(Kind::Json(json)) => Ok(value::from_proto(json.clone())?),
        Some(Kind::Blob(blob)) => Err(DecodeError::NotJson { content_type: blob.content_type.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Mail {
        to: String,
        copies: u32,
    }

    #[test]
    fn a_typed_value_comes_back_as_it_went() {
        let mail = Mail { to: "ada@example.com".to_owned(), copies: 3 };
        let payload = json(&mail).unwrap();
        assert_eq!(decode::<Mail>(Some(&payload)).unwrap(), mail);
    }

    #[test]
    fn nothing_reads_as_null() {
        assert_eq!(decode::<Option<Mail>>(None).unwrap(), None);
        assert!(matches!(decode::<Mail>(None), Err(DecodeError::Shape(_))));
    }

    #[test]
    fn bytes_are_not_json() {
        let payload = bytes("image/png", vec![1, 2, 3]);
        assert!(
            matches!(to_json(Some(&payload)), Err(DecodeError::NotJson { content_type }) if content_type == "image/png")
        );
    }
}
