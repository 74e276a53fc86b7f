//! What a command says when it fails: what happened, where, and what to do; and the exit code that goes with it.
//!
//! Exit codes: 0 ok, 1 a local error, 2 usage, 3 the awaited task did not succeed, 64 + the gRPC code for a refused call.

use std::{fmt, io, process::ExitCode};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::output::Painter;

/// A local error.
pub const EXIT_LOCAL: u8 = 1;
/// The command line makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// The task waited for ended without success.
pub const EXIT_TASK_FAILED: u8 = 3;
/// The gRPC code is added to this, as grpcurl does.
pub const EXIT_GRPC_BASE: u8 = 64;

/// The command line is understood but makes no sense.
#[derive(Debug)]
pub struct Usage(String);

impl Usage {
    /// Says what is wrong and what to write instead.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(status) = find::<Status>(error) {
        return EXIT_GRPC_BASE + code_number(true_code(status));
    }
    if find::<Usage>(error).is_some() {
        return EXIT_USAGE;
    }
    match find::<io::Error>(error) {
        // The reader of our output went away, as `head` does: nothing is wrong.
        Some(io) if io.kind() == io::ErrorKind::BrokenPipe => 0,
        _ => EXIT_LOCAL,
    }
}

/// Tells people about an error on stderr and answers the exit code.
pub fn report(error: &anyhow::Error, painter: Painter) -> ExitCode {
    let code = exit_code(error);
    if code != 0 {
        eprintln!("{}", describe(error, painter));
    }
    ExitCode::from(code)
}

/// The whole text of an error, several lines.
pub fn describe(error: &anyhow::Error, painter: Painter) -> String {
    match find::<Status>(error) {
        Some(status) => describe_status(error, status, painter),
        None => format!("{} {error:#}", painter.red("error:")),
    }
}

/// Adds the address to an error that says the server cannot be reached. Only errors from our own side have a source;
/// what the server itself refused needs no address.
pub fn name_server(error: anyhow::Error, address: &str) -> anyhow::Error {
    match find::<Status>(&error) {
        Some(status) if true_code(status) == Code::Unavailable && std::error::Error::source(status).is_some() => {
            error.context(address.to_owned())
        }
        _ => error,
    }
}

fn describe_status(error: &anyhow::Error, status: &Status, painter: Painter) -> String {
    let details = status.get_error_details();
    let code = true_code(status);
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let mut names = crate::client::code_name(code).to_owned();
    if !reason.is_empty() && reason != names {
        names = format!("{names}, {reason}");
    }
    let message = if status.message().is_empty() { code.description() } else { status.message() };
    let message = if is_timeout(status) { "the server did not answer within the deadline" } else { message };
    // What we were about to do, as the callers noted it around the status.
    let context: Vec<String> =
        error.chain().take_while(|cause| !cause.is::<Status>()).map(ToString::to_string).collect();
    let context = if context.is_empty() { String::new() } else { format!("{}: ", context.join(": ")) };

    let mut lines = vec![format!("{} {context}{message} ({names})", painter.red("error:"))];
    for violation in details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default() {
        lines.push(format!("  {}: {}", painter.bold(&violation.field), violation.description));
    }
    for violation in details.quota_failure().map(|quota| quota.violations.as_slice()).unwrap_or_default() {
        lines.push(format!("  quota {}: {}", violation.subject, violation.description));
    }
    for violation in details.precondition_failure().map(|bad| bad.violations.as_slice()).unwrap_or_default() {
        lines.push(format!("  {}: {}", violation.subject, violation.description));
    }
    let request_id = status.metadata().get("x-request-id").and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    if let Some(id) = request_id.or_else(|| details.request_info().map(|info| info.request_id.clone())) {
        lines.push(format!("  request id: {id}"));
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        lines.push(format!("  repeat after: {}", super::time::brief(delay)));
    }
    let of_call = is_timeout(status) || reason == "DEADLINE_EXCEEDED";
    if let Some(hint) = hint(code, &reason, of_call) {
        lines.push(format!("  {} {hint}", painter.dim("hint:")));
    }
    lines.join("\n")
}

/// What to do about it. Reasons say more than codes, so they come first. `of_call` tells a deadline that ran out on a
/// call from a wait that was over.
fn hint(code: Code, reason: &str, of_call: bool) -> Option<&'static str> {
    let by_reason = match reason {
        "FILTER_INVALID" => Some("write for example: state = FAILED AND queue = \"email\""),
        "IDEMPOTENCY_KEY_REUSED" => Some("give another --request-id, or leave it out"),
        "RESUME_TOKEN_EXPIRED" | "RESUME_INVALID" => {
            Some("start again with --initial-state and without --resume-token")
        }
        "ETAG_MISMATCH" => Some("somebody was faster; look at it again and repeat the command"),
        "COMMIT_UNKNOWN" => Some("repeat with the same --request-id; without one, look first whether it happened"),
        "SHUTTING_DOWN" => Some("this server is stopping; repeat the command"),
        "STORAGE_FULL" => Some("make space for the database; reads still work"),
        "STATE_CONFLICT" => Some("look at its state first: tasktower task get TASK"),
        "INTERNAL" => Some("this is a fault of tasktower; the request id leads to the cause in the server's log"),
        _ => None,
    };
    by_reason.or(match code {
        Code::Unavailable => Some("is the server running? Start one with `tasktower dev`, or set --endpoint"),
        Code::DeadlineExceeded if of_call => {
            Some("give it more time with --rpc-timeout; a change may still have happened")
        }
        Code::Unauthenticated => Some("set TASKTOWER_API_KEY or TASKTOWER_TOKEN"),
        Code::PermissionDenied => Some("ask an administrator of the project for the permission"),
        Code::Unimplemented => Some("the server does not know this call; is it older than this command line?"),
        _ => None,
    })
}

/// The code that says what happened. tonic says CANCELLED when our own deadline ran out, which is DEADLINE_EXCEEDED, and
/// UNKNOWN or INTERNAL when the connection broke under a stream, which is UNAVAILABLE. Only errors from our own side of
/// the connection have a source; what the server says stays as it is.
pub fn true_code(status: &Status) -> Code {
    let is_ours = std::error::Error::source(status).is_some();
    match status.code() {
        _ if is_timeout(status) => Code::DeadlineExceeded,
        Code::Unknown | Code::Internal | Code::Cancelled if is_ours => Code::Unavailable,
        code => code,
    }
}

fn is_timeout(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn code_number(code: Code) -> u8 {
    // Codes are 0 to 16.
    u8::try_from(code as i32).unwrap_or(Code::Unknown as u8)
}

/// The reason of a refusal, or nothing.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn find<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref::<E>())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn exit_codes_tell_kinds_of_failure_apart() {
        assert_eq!(exit_code(&anyhow::anyhow!("no such file")), EXIT_LOCAL);
        assert_eq!(exit_code(&Usage::new("what?").into()), EXIT_USAGE);
        assert_eq!(exit_code(&Status::not_found("gone").into()), 64 + 5);
        assert_eq!(exit_code(&Status::unauthenticated("who?").into()), 64 + 16);
        let wrapped = Err::<(), _>(Status::unavailable("down")).context("submit").unwrap_err();
        assert_eq!(exit_code(&wrapped), 64 + 14);
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(exit_code(&pipe.into()), 0);
    }

    #[test]
    fn our_own_deadline_is_not_called_cancelled() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(exit_code(&status.into()), 64 + 4);
    }

    #[test]
    fn a_connection_that_broke_is_unavailable() {
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(true_code(&broken), Code::Unavailable);
        assert_eq!(true_code(&Status::internal("a fault of the server")), Code::Internal);
    }

    #[test]
    fn a_refusal_names_reason_fields_and_request() {
        let mut details = ErrorDetails::with_bad_request_violation("task.timeout", "must be at least 1 s");
        details.set_error_info("FIELD_INVALID", "tasktower", std::collections::HashMap::new());
        let mut status = Status::with_error_details(Code::InvalidArgument, "a field is wrong", details);
        status.metadata_mut().insert("x-request-id", "req-7".parse().unwrap());
        let text = describe(&anyhow::Error::from(status).context("submit"), Painter::plain());
        assert_eq!(
            text,
            "error: submit: a field is wrong (INVALID_ARGUMENT, FIELD_INVALID)\n  task.timeout: must be at least 1 s\n  \
             request id: req-7"
        );
    }

    #[test]
    fn an_absent_server_gets_a_hint() {
        let text = describe(&Status::unavailable("connection refused").into(), Painter::plain());
        assert!(text.contains("tasktower dev"), "{text}");
    }
}
