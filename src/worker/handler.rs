//! What a handler answers: an [`Output`], or a [`Failure`].

use std::{any::Any, error::Error, future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;

use super::Job;
use crate::{
    client::{payload, value::ValueError},
    pb::{Payload, TaskError},
};

/// The most a result may hold.
const MAX_RESULT_BYTES: usize = 256 * 1024;

/// Bounds of the parts of an error; together they stay below the 16 KiB tasktower accepts. Longer parts are cut: a report
/// that is refused for its length would cost the error itself.
const MAX_ERROR_TYPE_CHARS: usize = 256;
const MAX_ERROR_MESSAGE_BYTES: usize = 4 * 1024;
const MAX_ERROR_DETAILS_BYTES: usize = 10 * 1024;

/// The error type of a failure that gives none.
const UNNAMED_ERROR: &str = "ERROR";

/// A handler in the form the runtime keeps it.
pub(super) type BoxedHandler = Arc<dyn Fn(Job) -> BoxFuture<'static, Result<Output, Failure>> + Send + Sync>;

pub(super) fn boxed<H, F, O>(handler: H) -> BoxedHandler
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<O, Failure>> + Send + 'static,
    O: Into<Output>,
{
    Arc::new(move |job| {
        let handled = handler(job);
        Box::pin(async move { handled.await.map(Into::into) })
    })
}

/// What a handler that succeeded returns.
#[derive(Debug, Clone, Default)]
pub struct Output(Content);

#[derive(Debug, Clone, Default)]
enum Content {
    #[default]
    Nothing,
    Json(Value),
    Ready(Payload),
}

impl Output {
    /// JSON of anything that serialises.
    pub fn json(value: impl Serialize) -> Result<Self, ValueError> {
        payload::json(value).map(Self::from)
    }

    /// Bytes with their media type.
    pub fn bytes(content_type: impl Into<String>, data: impl Into<bytes::Bytes>) -> Self {
        Self::from(payload::bytes(content_type, data))
    }

    /// The result as it travels; a result that cannot travel is a failure of the attempt.
    pub(super) fn into_payload(self) -> Result<Option<Payload>, Failure> {
        let payload = match self.0 {
            Content::Nothing => return Ok(None),
            Content::Json(value) => payload::json(value).map_err(|error| Failure::new("RESULT_INVALID", error))?,
            Content::Ready(payload) => payload,
        };
        let size = payload.encoded_len();
        if size > MAX_RESULT_BYTES {
            let text =
                format!("the result has {size} bytes, the limit is {MAX_RESULT_BYTES}; store it and return where");
            return Err(Failure::new("RESULT_TOO_LARGE", text));
        }
        Ok(Some(payload))
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Value> for Output {
    fn from(value: Value) -> Self {
        Self(Content::Json(value))
    }
}

impl From<Payload> for Output {
    fn from(payload: Payload) -> Self {
        Self(Content::Ready(payload))
    }
}

/// Why an attempt failed. Every `std::error::Error` turns into one with `?`; its type name is the error type then.
///
/// It is repeated by the task's retry settings, unless it is [`permanent`](Self::permanent).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Failure {
    /// The kind of error, as programs see it, for example `SmtpTimeout`.
    pub kind: String,
    /// The error as people read it.
    pub message: String,
    /// Anything else worth keeping, for example the errors below it.
    pub details: String,
    /// Do not repeat the attempt.
    pub is_final: bool,
    /// Do not repeat it before this long.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: impl Into<String>, message: impl ToString) -> Self {
        Self {
            kind: kind.into(),
            message: message.to_string(),
            details: String::new(),
            is_final: false,
            retry_after: None,
        }
    }

    /// What a handler answers that stopped because it was cancelled.
    pub fn cancelled() -> Self {
        Self::new("CANCELLED", "stopped on request")
    }

    /// A failure of any boxed error, `anyhow::Error` and texts included.
    pub fn from_boxed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        Self::of(UNNAMED_ERROR, &*error)
    }

    /// Adds something worth keeping, for example a stack trace.
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Marks it as not worth repeating: the task goes to the dead letters at once.
    pub fn permanent(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// Asks not to be repeated before this long, whatever the back-off says.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        Self::new("PANIC", text.unwrap_or("the handler panicked"))
    }

    fn of(kind: &str, error: &dyn Error) -> Self {
        let mut details = String::new();
        let mut source = error.source();
        while let Some(cause) = source {
            details.push_str(&format!("caused by: {cause}\n"));
            // A chain of causes may be long, or even a circle.
            if details.len() > MAX_ERROR_DETAILS_BYTES {
                break;
            }
            source = cause.source();
        }
        Self::new(kind, error).details(details)
    }

    pub(super) fn into_error(self) -> TaskError {
        let kind = if self.kind.is_empty() { UNNAMED_ERROR.to_owned() } else { self.kind };
        TaskError {
            r#type: kind.chars().take(MAX_ERROR_TYPE_CHARS).collect(),
            message: cut(self.message, MAX_ERROR_MESSAGE_BYTES),
            details: cut(self.details, MAX_ERROR_DETAILS_BYTES),
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(std::any::type_name::<E>(), &error)
    }
}

/// The text, cut at a character so that it has at most `limit` bytes.
pub(super) fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_becomes_a_failure_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("mail not sent")]
        struct NotSent(#[source] std::io::Error);

        let failure = Failure::from(NotSent(std::io::Error::other("no route")));
        assert!(failure.kind.ends_with("NotSent"));
        assert_eq!(failure.message, "mail not sent");
        assert_eq!(failure.details, "caused by: no route\n");
        let failure = Failure::from_boxed(anyhow::anyhow!("inner").context("outer"));
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("ERROR", "outer"));
    }

    #[test]
    fn a_long_error_is_cut_to_what_is_accepted() {
        let error = Failure::new("ä".repeat(1_000), "ö".repeat(9_000)).details("ü".repeat(90_000)).into_error();
        assert_eq!(error.r#type.chars().count(), MAX_ERROR_TYPE_CHARS);
        assert!(error.encoded_len() <= 16 * 1024);
        assert_eq!(Failure::new("", "x").into_error().r#type, "ERROR");
    }

    #[test]
    fn a_result_that_cannot_travel_is_a_failure() {
        let kind = |output: Output| output.into_payload().unwrap_err().kind;
        assert_eq!(kind(Output::from(json!({ "id": u64::MAX }))), "RESULT_INVALID");
        assert_eq!(kind(Output::bytes("text/plain", vec![b'a'; MAX_RESULT_BYTES + 1])), "RESULT_TOO_LARGE");
        assert!(Output::from(()).into_payload().unwrap().is_none());
        assert!(Output::json([1, 2]).unwrap().into_payload().unwrap().is_some());
    }
}
