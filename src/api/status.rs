//! Errors on the wire: the one match from [`Error`] to a gRPC code with `google.rpc` details.
//!
//! Every status of ours carries `ErrorInfo` (domain, reason, the values named in the text) and `RequestInfo`; the others
//! come where they help. All of it travels in trailers, which many clients cap at 8 KiB, so every text here is cut.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    error::{Error, Refusal, Violation},
    pb::ErrorReason,
};

/// Who speaks, in `ErrorInfo.domain`.
const DOMAIN: &str = "tasktower";

/// What every name of a reason begins with in the proto, and not on the wire.
const REASON_PREFIX: &str = "ERROR_REASON_";

/// Most violations of one answer.
const MAX_VIOLATIONS: usize = 20;
/// Most bytes of a violation's path, and of its description: twenty of them stay below 5 KiB.
const MAX_VIOLATION_TEXT: usize = 120;
/// Most bytes of the text of a status.
const MAX_MESSAGE: usize = 1024;
/// Most bytes of a value in `ErrorInfo.metadata`.
const MAX_VALUE: usize = 256;

/// Tells the retry policies of gRPC clients when to repeat (gRFC A6), in milliseconds; the same as [`SOON`].
const PUSHBACK: &str = "grpc-retry-pushback-ms";
const SHUTDOWN_PUSHBACK: &str = "100";

/// When to repeat what only waits for its turn.
const SOON: Duration = Duration::from_millis(100);
/// When to repeat what waits for somebody's recovery.
const LATER: Duration = Duration::from_secs(1);

/// The status of an error.
pub fn to_status(error: &Error, request_id: &str) -> Status {
    let Answer { code, reason, metadata, mut details } = answer(error);
    let message = match error {
        Error::Invalid(violations) if violations.len() > 1 => many_violations(violations),
        other => other.to_string(),
    };
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_owned(), cut(v, MAX_VALUE))).collect();
    details.set_error_info(reason_name(reason), DOMAIN, metadata);
    details.set_request_info(request_id, "");
    let mut status = Status::with_error_details(code, cut(message, MAX_MESSAGE), details);
    if matches!(error, Error::ShuttingDown) {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static(SHUTDOWN_PUSHBACK));
    }
    status
}

/// The status of an error as `google.rpc.Status`, for the items of a batch.
pub fn to_rpc_status(error: &Error, request_id: &str) -> tonic_types::Status {
    let status = to_status(error, request_id);
    // The details of a status are an encoded google.rpc.Status; we have just encoded it.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// A refusal of a method that does not exist.
pub fn unimplemented(request_id: &str, method: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_request_info(request_id, "");
    let text = cut(format!("there is no method {method}; reflection lists those there are"), MAX_MESSAGE);
    Status::with_error_details(Code::Unimplemented, text, details)
}

/// A panic: INTERNAL like every fault of ours.
pub fn panicked(request_id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_name(ErrorReason::Internal), DOMAIN, HashMap::new());
    details.set_request_info(request_id, "");
    Status::with_error_details(Code::Internal, "internal fault", details)
}

/// What is said of a message that is too large, compressed or not.
const TOO_LARGE: &str = "is larger than 4 MiB; send less at a time";

/// The error behind a status that tonic made of a message it could not read. It speaks of INTERNAL and OUT_OF_RANGE, but
/// it is the request that is wrong. None when it is no such status.
pub fn unreadable(status: &Status) -> Option<Error> {
    let text = match (status.code(), status.message()) {
        (Code::Internal, text) if text.contains("recursion limit") => {
            "is nested too deeply; JSON may be 24 levels deep".to_owned()
        }
        (Code::Internal, text) if text.contains("decode") => {
            // Before the last colon is only the way there.
            let cause = text.rsplit(": ").next().unwrap_or(text);
            format!("cannot be read as the message of this method: {cause}")
        }
        (Code::OutOfRange, text) if text.contains("message length too large") => TOO_LARGE.to_owned(),
        (Code::ResourceExhausted, text) if text.contains("while decompressing") => TOO_LARGE.to_owned(),
        (Code::Internal, text) if text.contains("decompressing") => {
            "cannot be decompressed as grpc-encoding says".to_owned()
        }
        (Code::Internal, text) if text.contains("compressed-flag") || text.contains("compression flag") => {
            "says that it is compressed in a way the call does not name".to_owned()
        }
        (Code::Internal, text) if text.contains("Unexpected EOF") => "ends in the middle of a message".to_owned(),
        (Code::Internal, text) if text.contains("Missing request message") => {
            "is missing; the method takes one message".to_owned()
        }
        // The connection broke, so nobody hears the answer; the log is not to call it a fault of ours.
        (Code::Unknown, text) if text.contains("reading a body from connection") => {
            return status.details().is_empty().then_some(Error::Reconnect);
        }
        _ => return None,
    };
    // What we made ourselves has details.
    status.details().is_empty().then(|| Error::field("request", text))
}

struct Answer {
    code: Code,
    reason: ErrorReason,
    metadata: Vec<(&'static str, String)>,
    details: ErrorDetails,
}

fn answer(error: &Error) -> Answer {
    let mut details = ErrorDetails::new();
    let mut metadata = Vec::new();
    let (code, reason) = match error {
        Error::Invalid(violations) => {
            for Violation { path, description } in violations.iter().take(MAX_VIOLATIONS) {
                details.add_bad_request_violation(cut_ref(path), cut_ref(description));
            }
            (Code::InvalidArgument, ErrorReason::FieldInvalid)
        }
        Error::Filter { column, message } => {
            details.add_bad_request_violation("filter", cut_ref(&format!("column {column}: {message}")));
            metadata.push(("column", column.to_string()));
            (Code::InvalidArgument, ErrorReason::FilterInvalid)
        }
        Error::PageToken => {
            details.add_bad_request_violation("page_token", "is not of this request");
            (Code::InvalidArgument, ErrorReason::PageTokenInvalid)
        }
        Error::IdempotencyKeyReused { key } => {
            metadata.push(("key", key.clone()));
            (Code::InvalidArgument, ErrorReason::IdempotencyKeyReused)
        }
        Error::ResumeInvalid { reason } => {
            details.add_bad_request_violation("resume_token", *reason);
            (Code::InvalidArgument, ErrorReason::ResumeInvalid)
        }
        Error::ResumeExpired { revision, oldest } => {
            metadata.extend([("revision", revision.to_string()), ("oldest", oldest.to_string())]);
            (Code::OutOfRange, ErrorReason::ResumeTokenExpired)
        }
        Error::PermissionDenied { permission, resource } => {
            metadata.push(("permission", (*permission).to_owned()));
            if !resource.is_empty() {
                metadata.push(("resource", resource.clone()));
            }
            (Code::PermissionDenied, ErrorReason::PermissionDenied)
        }
        Error::ProjectDeleted { name } => {
            details.add_precondition_failure_violation("STATE", cut_ref(name), "is deleted; undelete it first");
            metadata.push(("name", name.clone()));
            (Code::FailedPrecondition, ErrorReason::ProjectDeleted)
        }
        Error::NotFound { kind, name } => {
            details.set_resource_info(*kind, cut_ref(name), "", "does not exist");
            metadata.extend([("kind", (*kind).to_owned()), ("name", name.clone())]);
            (Code::NotFound, ErrorReason::ResourceNotFound)
        }
        Error::Exists { kind, name } => {
            details.set_resource_info(*kind, cut_ref(name), "", "exists already");
            metadata.extend([("kind", (*kind).to_owned()), ("name", name.clone())]);
            (Code::AlreadyExists, ErrorReason::ResourceExists)
        }
        Error::EtagMismatch { name, current } => {
            metadata.extend([("name", name.clone()), ("current", current.clone())]);
            (Code::Aborted, ErrorReason::EtagMismatch)
        }
        Error::LeaseLost { task, epoch } => {
            metadata.extend([("task", task.clone()), ("epoch", epoch.to_string())]);
            (Code::Aborted, ErrorReason::LeaseLost)
        }
        Error::IdempotencyInProgress { key } => {
            metadata.push(("key", key.clone()));
            details.set_retry_info(Some(SOON));
            (Code::Aborted, ErrorReason::IdempotencyInProgress)
        }
        Error::StateConflict { name, state, hint } => {
            details.add_precondition_failure_violation("STATE", cut_ref(name), format!("is {state}; {hint}"));
            metadata.extend([("name", name.clone()), ("state", (*state).to_owned())]);
            (Code::FailedPrecondition, ErrorReason::StateConflict)
        }
        Error::InUse { name, by } => {
            details.add_precondition_failure_violation("STATE", cut_ref(name), cut_ref(&format!("is used by {by}")));
            metadata.extend([("name", name.clone()), ("by", by.clone())]);
            (Code::FailedPrecondition, ErrorReason::StateConflict)
        }
        Error::QuotaExceeded { project, what, limit } => {
            details.add_quota_failure_violation(cut_ref(project), format!("{limit} {what}"));
            let values = [("project", project.clone()), ("what", (*what).to_owned()), ("limit", limit.to_string())];
            metadata.extend(values);
            (Code::ResourceExhausted, ErrorReason::QuotaExceeded)
        }
        Error::ReplayLimit { name, count, limit } => {
            let text = format!("was retried {count} times, the limit is {limit}");
            details.add_precondition_failure_violation("REPLAY_LIMIT", cut_ref(name), text);
            metadata.extend([("name", name.clone()), ("count", count.to_string()), ("limit", limit.to_string())]);
            (Code::FailedPrecondition, ErrorReason::ReplayLimitReached)
        }
        Error::Unauthenticated(refusal) => {
            let reason = match refusal {
                Refusal::Missing => ErrorReason::CredentialsMissing,
                Refusal::Invalid => ErrorReason::TokenInvalid,
                Refusal::Expired => ErrorReason::TokenExpired,
                Refusal::Revoked => ErrorReason::KeyRevoked,
            };
            (Code::Unauthenticated, reason)
        }
        Error::TooManyAttempts(wait) => {
            metadata.push(("seconds", wait.as_secs().max(1).to_string()));
            details.set_retry_info(Some(*wait));
            (Code::ResourceExhausted, ErrorReason::RateLimited)
        }
        Error::TooManyStreams { limit } => {
            metadata.push(("limit", limit.to_string()));
            details.set_retry_info(Some(LATER));
            (Code::ResourceExhausted, ErrorReason::TooManyStreams)
        }
        Error::Overloaded => {
            details.set_retry_info(Some(SOON));
            (Code::ResourceExhausted, ErrorReason::Overloaded)
        }
        Error::StorageFull => (Code::ResourceExhausted, ErrorReason::StorageFull),
        Error::SlowConsumer(limit) => {
            metadata.push(("seconds", limit.as_secs().to_string()));
            details.set_retry_info(Some(SOON));
            (Code::Unavailable, ErrorReason::SlowConsumer)
        }
        Error::Reconnect => {
            details.set_retry_info(Some(Duration::ZERO));
            (Code::Unavailable, ErrorReason::Reconnect)
        }
        Error::CommitUnknown => {
            details.set_retry_info(Some(SOON));
            (Code::Unavailable, ErrorReason::CommitUnknown)
        }
        Error::DatabaseUnavailable => {
            details.set_retry_info(Some(LATER));
            (Code::Unavailable, ErrorReason::DependencyUnavailable)
        }
        Error::ShuttingDown => {
            details.set_retry_info(Some(SOON));
            (Code::Unavailable, ErrorReason::ShuttingDown)
        }
        Error::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
        Error::ListTooSlow => (Code::DeadlineExceeded, ErrorReason::ListTooSlow),
        // The cause is in the log, under the request id.
        Error::Internal(_) => (Code::Internal, ErrorReason::Internal),
    };
    Answer { code, reason, metadata, details }
}

/// A reason as it is sent: `FIELD_INVALID`.
fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(REASON_PREFIX).unwrap_or(name)
}

/// The first violations in one line; `BadRequest` has them one by one.
fn many_violations(violations: &[Violation]) -> String {
    let shown: Vec<_> = violations.iter().take(3).map(ToString::to_string).collect();
    let more = violations.len() - shown.len();
    let end = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{end}", shown.join("; "))
}

fn cut_ref(text: &str) -> String {
    cut(text.to_owned(), MAX_VIOLATION_TEXT)
}

fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use prost_types::FileDescriptorSet;

    use super::*;

    fn samples() -> Vec<Error> {
        let text = || "x".to_owned();
        vec![
            Error::field("task.type", "is required"),
            Error::Filter { column: 7, message: text() },
            Error::PageToken,
            Error::IdempotencyKeyReused { key: text() },
            Error::ResumeInvalid { reason: "is damaged" },
            Error::ResumeExpired { revision: 1, oldest: 2 },
            Error::NotFound { kind: "task", name: text() },
            Error::PermissionDenied { permission: "TASKS_READ", resource: text() },
            Error::ProjectDeleted { name: text() },
            Error::Exists { kind: "task", name: text() },
            Error::EtagMismatch { name: text(), current: text() },
            Error::LeaseLost { task: text(), epoch: 1 },
            Error::IdempotencyInProgress { key: text() },
            Error::StateConflict { name: text(), state: "FAILED", hint: "no" },
            Error::InUse { name: text(), by: text() },
            Error::QuotaExceeded { project: text(), what: "retry policies", limit: 1 },
            Error::Unauthenticated(Refusal::Missing),
            Error::Unauthenticated(Refusal::Invalid),
            Error::Unauthenticated(Refusal::Expired),
            Error::Unauthenticated(Refusal::Revoked),
            Error::TooManyAttempts(Duration::from_secs(3)),
            Error::TooManyStreams { limit: 1 },
            Error::ReplayLimit { name: text(), count: 10, limit: 10 },
            Error::Overloaded,
            Error::StorageFull,
            Error::SlowConsumer(Duration::from_secs(60)),
            Error::Reconnect,
            Error::CommitUnknown,
            Error::DatabaseUnavailable,
            Error::ShuttingDown,
            Error::DeadlineExceeded,
            Error::ListTooSlow,
            Error::Internal(Arc::new(anyhow::anyhow!("secret of the driver"))),
        ]
    }

    /// A new variant does not compile here until it has a number, and then fails until it has a sample.
    fn ordinal(error: &Error) -> usize {
        match error {
            Error::Invalid(_) => 0,
            Error::Filter { .. } => 1,
            Error::PageToken => 2,
            Error::IdempotencyKeyReused { .. } => 3,
            Error::ResumeInvalid { .. } => 4,
            Error::ResumeExpired { .. } => 5,
            Error::NotFound { .. } => 6,
            Error::Exists { .. } => 7,
            Error::EtagMismatch { .. } => 8,
            Error::LeaseLost { .. } => 9,
            Error::IdempotencyInProgress { .. } => 10,
            Error::StateConflict { .. } => 11,
            Error::TooManyStreams { .. } => 12,
            Error::Overloaded => 13,
            Error::StorageFull => 14,
            Error::SlowConsumer(_) => 15,
            Error::Reconnect => 16,
            Error::CommitUnknown => 17,
            Error::DatabaseUnavailable => 18,
            Error::ShuttingDown => 19,
            Error::DeadlineExceeded => 20,
            Error::ListTooSlow => 21,
            Error::Internal(_) => 22,
            Error::InUse { .. } => 23,
            Error::ReplayLimit { .. } => 24,
            Error::QuotaExceeded { .. } => 25,
            Error::PermissionDenied { .. } => 26,
            Error::ProjectDeleted { .. } => 27,
            Error::Unauthenticated(_) => 28,
            Error::TooManyAttempts(_) => 29,
        }
    }
    const VARIANTS: usize = 30;

    /// The code that the comment of each reason begins with, from the descriptors.
    fn documented_codes() -> HashMap<String, String> {
        let set = FileDescriptorSet::decode(crate::pb::DESCRIPTORS).unwrap();
        let file = set.file.iter().find(|f| f.name() == "tasktower/v1/error.proto").unwrap();
        let names = &file.enum_type[0].value;
        let mut codes = HashMap::new();
        for location in &file.source_code_info.as_ref().unwrap().location {
            // Enum (5) number 0, value (2) number n.
            if let [5, 0, 2, value] = location.path[..] {
                let name = names[value as usize].name().strip_prefix(REASON_PREFIX).unwrap();
                let code = location.leading_comments().trim().split('.').next().unwrap();
                codes.insert(name.to_owned(), code.to_owned());
            }
        }
        codes
    }

    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for c in format!("{code:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn every_error_has_the_code_its_reason_documents() {
        let covered: BTreeSet<_> = samples().iter().map(ordinal).collect();
        assert_eq!(covered, (0..VARIANTS).collect());
        let documented = documented_codes();
        for error in samples() {
            let status = to_status(&error, "r-1");
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.domain, "tasktower");
            assert_eq!(documented.get(&info.reason), Some(&code_name(status.code())), "{error:?}");
            assert_eq!(details.request_info().unwrap().request_id, "r-1");
        }
    }

    #[test]
    fn what_helps_by_itself_says_when_to_repeat() {
        for error in [
            Error::Overloaded,
            Error::IdempotencyInProgress { key: "k".into() },
            Error::DatabaseUnavailable,
            Error::Reconnect,
            Error::ShuttingDown,
        ] {
            assert!(to_status(&error, "").get_error_details().retry_info().is_some(), "{error:?}");
        }
        assert!(to_status(&Error::StorageFull, "").get_error_details().retry_info().is_none());
        assert_eq!(to_status(&Error::ShuttingDown, "").metadata().get(PUSHBACK).unwrap(), SHUTDOWN_PUSHBACK);
    }

    #[test]
    fn a_fault_of_ours_tells_nothing_but_the_request() {
        let status = to_status(&samples().pop().unwrap(), "r-7");
        assert_eq!(status.message(), "internal fault");
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn the_worst_request_has_an_answer_that_fits_the_trailers() {
        let violations = (0..50).map(|i| Violation::new(format!("requests[{i}].{}", "ä".repeat(500)), "ö".repeat(500)));
        let status = to_status(&Error::Invalid(violations.collect()), &"r".repeat(128));
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), MAX_VIOLATIONS);
        assert!(status.details().len() < 7 * 1024, "{}", status.details().len());
        assert!(status.message().len() <= MAX_MESSAGE + 3);
    }

    #[test]
    fn items_carry_the_same_as_calls() {
        let error = Error::LeaseLost { task: "projects/p/tasks/1".into(), epoch: 4 };
        let item = to_rpc_status(&error, "r");
        assert_eq!((item.code, &*item.message), (Code::Aborted as i32, &*error.to_string()));
        assert_eq!(item.details.len(), 2);
    }

    #[test]
    fn a_message_that_cannot_be_read_is_the_callers_fault() {
        let garbled = Status::internal("failed to decode Protobuf message: Task.type: invalid wire type");
        let status = to_status(&unreadable(&garbled).unwrap(), "");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "request: cannot be read as the message of this method: invalid wire type");
        let deep =
            Status::internal("failed to decode Protobuf message: Value.kind: Value.kind: recursion limit reached");
        assert!(unreadable(&deep).unwrap().to_string().contains("24 levels"));
        assert!(unreadable(&panicked("r")).is_none());
        assert!(unreadable(&Status::not_found("x")).is_none());
    }
}
