//! What the end of a program means for its task. Pure.

use std::os::unix::process::ExitStatusExt;

use super::{
    child::{Ended, MAX_RESULT_BYTES},
    leases::Stop,
};
use crate::{
    cli::task::json_to_wire,
    pb::{Blob, LeasedTask, Payload, TaskError, payload::Kind},
};

/// sysexits.h: the input is wrong, so trying again does not help.
const EX_DATAERR: i32 = 65;

/// What is reported.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// It is done.
    Succeeded(Option<Payload>),
    /// It failed; finally, if so marked.
    Failed {
        /// Why.
        error: TaskError,
        /// It is not tried again.
        is_final: bool,
    },
    /// It is given back.
    Released,
    /// Nothing: our word does not count any more.
    Nothing,
}

/// What to report for a program that ended so.
pub fn of(ended: Ended) -> Outcome {
    match ended {
        Ended::Stopped(Stop::LeaseLost) => Outcome::Nothing,
        Ended::Stopped(Stop::Drained) => Outcome::Released,
        Ended::Stopped(Stop::Cancelled(reason)) => failed("Cancelled", format!("stopped: {reason}"), b"", false),
        Ended::NotStarted(error) => failed("NotStarted", error.to_string(), b"", false),
        Ended::Exited { status, stdout, stderr } => match (status.code(), stdout) {
            (Some(0), Some(stdout)) => Outcome::Succeeded(result(stdout)),
            (Some(0), None) => {
                failed("ResultTooLarge", format!("stdout is larger than {MAX_RESULT_BYTES} bytes"), &stderr, true)
            }
            (Some(code), _) => failed("ExitCode", format!("exit code {code}"), &stderr, code == EX_DATAERR),
            (None, _) => {
                let signal = status.signal().unwrap_or_default();
                failed("Signal", format!("killed by signal {signal}"), &stderr, false)
            }
        },
    }
}

fn failed(kind: &str, message: String, details: &[u8], is_final: bool) -> Outcome {
    let details = String::from_utf8_lossy(details).into_owned();
    Outcome::Failed { error: TaskError { r#type: kind.to_owned(), message, details }, is_final }
}

/// JSON if it parses, else text, else bytes. JSON whose numbers the wire would round goes as the bytes it is.
fn result(stdout: Vec<u8>) -> Option<Payload> {
    if stdout.is_empty() {
        return None;
    }
    if let Ok(value) = serde_json::from_slice(&stdout) {
        let kind = match json_to_wire(&value) {
            Ok(value) => Kind::Json(value),
            Err(_) => Kind::Blob(Blob { content_type: "application/json".to_owned(), data: stdout.into() }),
        };
        return Some(Payload { kind: Some(kind) });
    }
    let kind = match String::from_utf8(stdout) {
        Ok(text) => Kind::Json(prost_types::Value::from(text.trim_end_matches('\n'))),
        Err(bytes) => Kind::Blob(Blob { content_type: String::new(), data: bytes.into_bytes().into() }),
    };
    Some(Payload { kind: Some(kind) })
}

/// What the program reads on stdin, and its media type.
pub fn stdin_of(leased: &LeasedTask) -> (Vec<u8>, String) {
    let input = leased.task.as_ref().and_then(|task| task.input.as_ref()).and_then(|input| input.kind.as_ref());
    match input {
        None => (Vec::new(), String::new()),
        Some(Kind::Json(value)) => {
            (crate::cli::task::json_from_wire(value).to_string().into_bytes(), "application/json".to_owned())
        }
        Some(Kind::Blob(blob)) if blob.content_type.is_empty() => {
            (blob.data.to_vec(), "application/octet-stream".to_owned())
        }
        Some(Kind::Blob(blob)) => (blob.data.to_vec(), blob.content_type.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn exited(code: i32, stdout: Option<&[u8]>) -> Outcome {
        // The wait status of an exit holds the code in its second byte.
        let status = ExitStatus::from_raw(code << 8);
        of(Ended::Exited { status, stdout: stdout.map(<[u8]>::to_vec), stderr: b"why".to_vec() })
    }

    fn failure(outcome: Outcome) -> (String, String, String, bool) {
        match outcome {
            Outcome::Failed { error, is_final } => (error.r#type, error.message, error.details, is_final),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exit_codes_decide() {
        assert_eq!(exited(0, Some(b"")), Outcome::Succeeded(None));
        assert_eq!(failure(exited(1, Some(b""))), ("ExitCode".into(), "exit code 1".into(), "why".into(), false));
        assert!(failure(exited(65, Some(b""))).3);
        assert!(!failure(exited(75, Some(b""))).3);
        assert_eq!(failure(exited(0, None)).0, "ResultTooLarge");
        let killed = of(Ended::Exited { status: ExitStatus::from_raw(9), stdout: None, stderr: Vec::new() });
        assert_eq!(failure(killed).1, "killed by signal 9");
    }

    #[test]
    fn stops_are_reported_by_their_reason() {
        assert_eq!(of(Ended::Stopped(Stop::LeaseLost)), Outcome::Nothing);
        assert_eq!(of(Ended::Stopped(Stop::Drained)), Outcome::Released);
        assert_eq!(failure(of(Ended::Stopped(Stop::Cancelled("enough".into())))).1, "stopped: enough");
    }

    #[test]
    fn results_keep_their_kind() {
        let kind = |stdout: &[u8]| result(stdout.to_vec()).unwrap().kind.unwrap();
        assert_eq!(kind(b"{\"a\": 1}\n"), Kind::Json(json_to_wire(&serde_json::json!({"a": 1})).unwrap()));
        assert_eq!(kind(b"plain text\n"), Kind::Json("plain text".into()));
        assert!(matches!(kind(b"\xff\xfe"), Kind::Blob(_)));
        assert!(matches!(kind(b"9007199254740993"), Kind::Blob(blob) if blob.content_type == "application/json"));
    }
}
