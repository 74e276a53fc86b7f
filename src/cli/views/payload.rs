//! Inputs and results, as people read them.

use prost::Message;

use crate::{
    cli::output::{json_pretty, to_json},
    pb::{Payload, payload::Kind},
};

/// Beyond this a result is for a file, not for a screen.
const MAX_SHOWN_BYTES: usize = 4096;

/// JSON as it is, text as it is, other bytes by their type and size.
pub fn payload_text(payload: Option<&Payload>) -> String {
    let text = match payload.and_then(|payload| payload.kind.as_ref()) {
        None => return String::new(),
        Some(Kind::Json(value)) => to_json("google.protobuf.Value", value)
            .and_then(|json| json_pretty(&json))
            .unwrap_or_else(|_| format!("JSON of {} bytes that cannot be shown", value.encoded_len())),
        Some(Kind::Blob(blob)) => match std::str::from_utf8(&blob.data) {
            Ok(text) if blob.content_type.starts_with("text/") || blob.content_type.ends_with("json") => {
                text.to_owned()
            }
            _ => return format!("{} bytes of {}", blob.data.len(), or_octets(&blob.content_type)),
        },
    };
    if text.len() <= MAX_SHOWN_BYTES {
        return text;
    }
    let cut = text.floor_char_boundary(MAX_SHOWN_BYTES);
    format!("{}… ({} bytes in all; -o json shows them)", &text[..cut], text.len())
}

fn or_octets(content_type: &str) -> &str {
    if content_type.is_empty() { "application/octet-stream" } else { content_type }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Blob;

    fn blob(content_type: &str, data: &'static [u8]) -> Payload {
        Payload { kind: Some(Kind::Blob(Blob { content_type: content_type.into(), data: data.into() })) }
    }

    #[test]
    fn text_is_shown_and_bytes_are_counted() {
        assert_eq!(payload_text(Some(&blob("text/plain", b"hello"))), "hello");
        assert_eq!(payload_text(Some(&blob("", b"\x00\x01"))), "2 bytes of application/octet-stream");
        assert_eq!(payload_text(None), "");
        let json = Payload { kind: Some(Kind::Json(true.into())) };
        assert_eq!(payload_text(Some(&json)), "true");
    }
}
