//! What can go wrong on the client's side, and what the server said.
//!
//! The server's refusal is kept whole in [`Refusal`]: the code, the reason to branch on, the fields that are wrong, when
//! to try again, and the request id that leads to the server's log.

use std::{collections::HashMap, error::Error as _, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use super::value::ValueError;
use crate::pb::{ErrorReason, Task};

/// The domain of tasktower's reasons in `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "tasktower";

/// The metadata key that names a request in the server's log.
const REQUEST_ID_KEY: &str = "x-request-id";

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client is set up wrong: endpoint, credentials.
    #[error("{0}")]
    Config(String),
    /// No connection to the server.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The value to send cannot travel.
    #[error("the payload cannot be sent: {0}")]
    Payload(#[from] ValueError),
    /// The server refused the call, or the connection broke.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The resume token is older than the history. Start the watch again with `initial_state`.
    #[error("{0}")]
    ResumeTokenExpired(Box<Refusal>),
    /// The resume token is damaged or of another database. Start the watch again with `initial_state`.
    #[error("{0}")]
    ResumeInvalid(Box<Refusal>),
    /// The task was not final in time; this is how it was.
    #[error("{} is not final yet", .0.name)]
    NotDone(Box<Task>),
    /// The answer lacks what the contract promises.
    #[error("the answer lacks `{0}`; do client and server fit together?")]
    Incomplete(&'static str),
}

impl Error {
    /// What the server said, if it said something.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::ResumeTokenExpired(refusal) | Self::ResumeInvalid(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The gRPC code that fits the error.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(_) | Self::Payload(_) => Code::InvalidArgument,
            Self::Connect { .. } => Code::Unavailable,
            Self::NotDone(_) => Code::DeadlineExceeded,
            Self::Incomplete(_) => Code::Internal,
            Self::Refused(refusal) | Self::ResumeTokenExpired(refusal) | Self::ResumeInvalid(refusal) => refusal.code,
        }
    }

    /// The reason to branch on; `Unspecified` when the error is not tasktower's.
    pub fn reason(&self) -> ErrorReason {
        self.refusal().map_or(ErrorReason::Unspecified, |refusal| refusal.reason)
    }

    /// The fields of the request that are wrong.
    pub fn field_violations(&self) -> &[FieldViolation] {
        self.refusal().map_or(&[], |refusal| &refusal.field_violations)
    }

    /// The id under which the server logged the call.
    pub fn request_id(&self) -> Option<&str> {
        self.refusal().and_then(|refusal| refusal.request_id.as_deref())
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let refusal = Box::new(Refusal::from(status));
        match refusal.reason {
            ErrorReason::ResumeTokenExpired => Self::ResumeTokenExpired(refusal),
            ErrorReason::ResumeInvalid => Self::ResumeInvalid(refusal),
            _ => Self::Refused(refusal),
        }
    }
}

/// A field of the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path as in the proto, for example `requests[3].task.type`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// What the server said when it refused a call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct Refusal {
    /// The gRPC code. A broken connection is UNAVAILABLE, a deadline that passed here DEADLINE_EXCEEDED.
    pub code: Code,
    /// The reason to branch on; `Unspecified` when the error is not tasktower's.
    pub reason: ErrorReason,
    /// For people.
    pub message: String,
    /// The fields of the request that are wrong.
    pub field_violations: Vec<FieldViolation>,
    /// The values named in the message.
    pub metadata: HashMap<String, String>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
    /// The id under which the server logged the call.
    pub request_id: Option<String>,
    /// The server asks not to repeat the call (`grpc-retry-pushback-ms: -1`).
    pub(crate) no_retry: bool,
}

impl Refusal {
    fn new(code: Code, message: &str, details: ErrorDetails) -> Self {
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let reason = info
            .and_then(|info| ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason)))
            .unwrap_or(ErrorReason::Unspecified);
        let metadata = info.map(|info| info.metadata.clone()).unwrap_or_default();
        let field_violations = details
            .bad_request()
            .map(|bad| bad.field_violations.iter())
            .into_iter()
            .flatten()
            .map(|violation| FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            })
            .collect();
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let request_id = details.request_info().map(|info| info.request_id.clone());
        Self {
            code,
            reason,
            message: message.to_owned(),
            field_violations,
            metadata,
            retry_after,
            request_id,
            no_retry: false,
        }
    }

    /// The outcome of one item of a batch; nothing if it is OK.
    pub fn of_item(status: &tonic_types::Status) -> Option<Self> {
        let code = Code::from_i32(status.code);
        (code != Code::Ok).then(|| Self::new(code, &status.message, status.get_error_details()))
    }

    fn text(&self) -> String {
        let mut text = code_name(self.code).to_owned();
        if self.reason != ErrorReason::Unspecified {
            text.push_str(" / ");
            text.push_str(self.reason.as_str_name().trim_start_matches("ERROR_REASON_"));
        }
        text.push_str(": ");
        text.push_str(&self.message);
        for violation in &self.field_violations {
            text.push_str(&format!("; {}: {}", violation.field, violation.description));
        }
        text
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let mut refusal = Self::new(code_of(&status), status.message(), status.get_error_details());
        let value = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
        if let Some(id) = value(REQUEST_ID_KEY) {
            refusal.request_id = Some(id.to_owned());
        }
        // gRFC A6: a negative or unreadable pushback means "do not retry".
        if let Some(pushback) = value("grpc-retry-pushback-ms") {
            match pushback.parse::<u64>() {
                Ok(millis) => refusal.retry_after = refusal.retry_after.or(Some(Duration::from_millis(millis))),
                Err(_) => refusal.no_retry = true,
            }
        }
        refusal
    }
}

/// The code a gRPC client of another language would report.
///
/// tonic reports a deadline that passed here as CANCELLED, and a connection that broke during the call as UNKNOWN,
/// INTERNAL or CANCELLED. The server itself never answers UNKNOWN, so that one too means that no answer came.
fn code_of(status: &Status) -> Code {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        source = error.source();
    }
    match status.code() {
        Code::Unknown => Code::Unavailable,
        Code::Internal | Code::Cancelled if status.source().is_some() => Code::Unavailable,
        code => code,
    }
}

/// The name of a code as the gRPC documentation spells it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, reason: &str) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
        details.add_bad_request_violation("task.type", "is missing");
        details.set_retry_info(Some(Duration::from_millis(250)));
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn a_refusal_keeps_what_the_server_said() {
        let mut status = refused(Code::InvalidArgument, "FIELD_INVALID");
        status.metadata_mut().insert(REQUEST_ID_KEY, "r-1".parse().unwrap());
        let error = Error::from(status);
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.reason(), ErrorReason::FieldInvalid);
        assert_eq!(error.field_violations()[0].field, "task.type");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(error.request_id(), Some("r-1"));
        assert_eq!(error.to_string(), "INVALID_ARGUMENT / FIELD_INVALID: no; task.type: is missing");
    }

    #[test]
    fn lost_resume_tokens_have_their_own_errors() {
        let expired = Error::from(refused(Code::OutOfRange, "RESUME_TOKEN_EXPIRED"));
        assert!(matches!(expired, Error::ResumeTokenExpired(_)));
        let invalid = Error::from(refused(Code::InvalidArgument, "RESUME_INVALID"));
        assert!(matches!(invalid, Error::ResumeInvalid(_)));
        // OUT_OF_RANGE alone says nothing: tonic answers it for a message that is too large.
        assert!(matches!(Error::from(Status::out_of_range("too large")), Error::Refused(_)));
    }

    #[test]
    fn codes_made_on_this_side_are_told_apart() {
        let late = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(Error::from(late).code(), Code::DeadlineExceeded);
        let broken = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        assert_eq!(Error::from(broken).code(), Code::Unavailable);
        assert_eq!(Error::from(Status::internal("a fault")).code(), Code::Internal);
    }

    #[test]
    fn pushback_overrules_the_client() {
        let mut status = Status::unavailable("no");
        status.metadata_mut().insert("grpc-retry-pushback-ms", "-1".parse().unwrap());
        assert!(Refusal::from(status).no_retry);
    }
}
