//! The id of a request: the caller's, if it is fit for logs and headers, or a new one. It is in every log line, error and
//! journal row of the call, and in its answer.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const VERSION_HEADER: HeaderName = HeaderName::from_static("tasktower-version");
const VERSION: HeaderValue = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));

/// Most characters of a caller's own id.
const MAX_ID: usize = 128;

/// The id of a request with these headers.
pub fn of(headers: &HeaderMap) -> String {
    let given = headers.get(HEADER).map(HeaderValue::as_bytes);
    match given.filter(|id| (1..=MAX_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)) {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None => Uuid::now_v7().to_string(),
    }
}

/// Puts the id, and who answers, into the headers of the answer.
pub fn mark(headers: &mut HeaderMap, id: &str) {
    if let Ok(mut id) = HeaderValue::from_str(id) {
        // It never comes again: marked like this, it has no place in the compression tables of both sides.
        id.set_sensitive(true);
        headers.insert(HEADER, id);
    }
    headers.insert(VERSION_HEADER, VERSION);
}
