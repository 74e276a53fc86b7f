//! The key that makes repeating a call safe, and the fingerprint that tells whether it is the same call.

use prost::Message;
use sha2::{Digest, Sha256};

use super::fields::{Fields, Path};

/// Most characters of a key.
const MAX_KEY: usize = 64;

/// The metadata that may hold the key instead of the field.
pub const METADATA_KEY: &str = "idempotency-key";

/// Whether the text is a key: visible ASCII, not too long.
fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The key of a call: the field, or else the metadata. Both may be given if they are equal.
pub fn key(fields: &mut Fields, field: String, metadata: Option<String>) -> Option<String> {
    let at = Path::Request.field("request_id");
    let key = match metadata {
        Some(metadata) if !field.is_empty() && metadata != field => {
            fields.refuse(&at, format!("differs from the metadata {METADATA_KEY}; give one of them"));
            return None;
        }
        Some(metadata) => metadata,
        None if field.is_empty() => return None,
        None => field,
    };
    if !is_key(&key) {
        fields.refuse(&at, "must be 1 to 64 visible ASCII characters; a UUID is best");
    }
    Some(key)
}

/// Stands for everything a request asks for. The caller clears what may differ between repeats. Maps are sorted, so the
/// same request always has the same bytes.
pub fn fingerprint(request: &impl Message) -> [u8; 32] {
    Sha256::digest(request.encode_to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn key_of(field: &str, metadata: Option<&str>) -> Result<Option<String>, Error> {
        let mut fields = Fields::new();
        let key = key(&mut fields, field.to_owned(), metadata.map(str::to_owned));
        fields.finish(key)
    }

    #[test]
    fn a_key_comes_from_the_field_or_the_metadata() {
        assert_eq!(key_of("", None).unwrap(), None);
        assert_eq!(key_of("a", None).unwrap().as_deref(), Some("a"));
        assert_eq!(key_of("", Some("a")).unwrap().as_deref(), Some("a"));
        assert_eq!(key_of("a", Some("a")).unwrap().as_deref(), Some("a"));
        assert!(key_of("a", Some("b")).is_err());
        assert!(key_of("", Some("")).is_err());
        for bad in ["a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(key_of(bad, None).is_err(), "{bad}");
        }
    }
}
