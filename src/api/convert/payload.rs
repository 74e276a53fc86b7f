//! Inputs and results: JSON, or bytes with their media type.

use super::{
    fields::{Fields, Path},
    json,
    scalar::chars_bounded,
};
use crate::{domain::task::Payload, pb};

/// The largest input or result, in bytes. What is larger belongs into an object store, its address here.
const MAX_PAYLOAD: usize = 256 * 1024;

/// Most characters of a media type (RFC 6838 §4.2).
const MAX_MEDIA_TYPE: usize = 127;

/// What bytes without a media type are.
const OCTET_STREAM: &str = "application/octet-stream";

/// An input or a result, if there is one.
pub fn from_wire(fields: &mut Fields, at: &Path<'_>, payload: Option<pb::Payload>) -> Option<Payload> {
    let pb::Payload { kind } = payload?;
    match kind {
        None => {
            fields.refuse(at, "is empty; set json or blob");
            None
        }
        Some(pb::payload::Kind::Json(value)) => {
            let text = json::to_text(fields, &at.field("json"), &value, MAX_PAYLOAD);
            Some(Payload { media_type: None, data: text.into() })
        }
        Some(pb::payload::Kind::Blob(blob)) => Some(blob_from_wire(fields, &at.field("blob"), blob)),
    }
}

fn blob_from_wire(fields: &mut Fields, at: &Path<'_>, blob: pb::Blob) -> Payload {
    let pb::Blob { content_type, data } = blob;
    if data.len() > MAX_PAYLOAD {
        fields.refuse(&at.field("data"), format!("is longer than {MAX_PAYLOAD} bytes"));
    }
    if content_type.is_empty() {
        return Payload { media_type: Some(OCTET_STREAM.to_owned()), data };
    }
    if content_type.bytes().any(|b| b.is_ascii_control()) {
        fields.refuse(&at.field("content_type"), "holds control characters");
    }
    Payload { media_type: Some(chars_bounded(fields, &at.field("content_type"), content_type, MAX_MEDIA_TYPE)), data }
}

/// An input or a result for the wire.
pub fn to_wire(payload: &Payload) -> pb::Payload {
    let kind = match &payload.media_type {
        Some(media_type) => blob_to_wire(media_type, payload),
        None => match json::from_text(&payload.data) {
            Ok(value) => pb::payload::Kind::Json(value),
            // Somebody else wrote the row. The caller gets what is there, as what it is.
            Err(cause) => {
                tracing::error!(%cause, "a stored payload is not the JSON it claims to be");
                blob_to_wire("application/json", payload)
            }
        },
    };
    pb::Payload { kind: Some(kind) }
}

fn blob_to_wire(media_type: &str, payload: &Payload) -> pb::payload::Kind {
    pb::payload::Kind::Blob(pb::Blob { content_type: media_type.to_owned(), data: payload.data.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn convert(kind: Option<pb::payload::Kind>) -> Result<Option<Payload>, Error> {
        let mut fields = Fields::new();
        let payload = from_wire(&mut fields, &Path::Request.field("result"), Some(pb::Payload { kind }));
        fields.finish(payload)
    }

    fn blob(content_type: &str, bytes: usize) -> Option<pb::payload::Kind> {
        Some(pb::payload::Kind::Blob(pb::Blob { content_type: content_type.into(), data: vec![7; bytes].into() }))
    }

    #[test]
    fn payloads_come_back_as_they_went() {
        let payload = convert(blob("image/png", 3)).unwrap().unwrap();
        assert_eq!(to_wire(&payload).kind, blob("image/png", 3));
        let payload = convert(blob("", 3)).unwrap().unwrap();
        assert_eq!(to_wire(&payload).kind, blob(OCTET_STREAM, 3));
        let value = Some(pb::payload::Kind::Json(json::from_text(b"{\"a\":[1,null]}").unwrap()));
        let payload = convert(value.clone()).unwrap().unwrap();
        assert_eq!(&payload.data[..], b"{\"a\":[1,null]}");
        assert_eq!(to_wire(&payload).kind, value);
    }

    #[test]
    fn payloads_are_bounded() {
        assert!(convert(blob("", MAX_PAYLOAD)).is_ok());
        let text = |error: Error| error.to_string();
        assert!(text(convert(blob("", MAX_PAYLOAD + 1)).unwrap_err()).starts_with("result.blob.data: is longer"));
        assert!(text(convert(blob("a\nb", 1)).unwrap_err()).starts_with("result.blob.content_type"));
        assert!(text(convert(None).unwrap_err()).starts_with("result: is empty"));
    }

    #[test]
    fn a_damaged_row_is_answered_as_bytes() {
        let damaged = Payload { media_type: None, data: "{".into() };
        let Some(pb::payload::Kind::Blob(blob)) = to_wire(&damaged).kind else { panic!("bytes") };
        assert_eq!((&blob.content_type[..], &blob.data[..]), ("application/json", &b"{"[..]));
    }
}
