//! One line for each call that failed. What is the caller's mistake is for debugging; what is not concerns the operator.

use std::time::Instant;

use tonic::{Code, Status};

/// Notes the end of a call; None and OK are silent. Runs inside the span of the call, which has the ids.
pub fn failed(method: &str, started: Instant, status: Option<&Status>) {
    let Some(status) = status.filter(|status| status.code() != Code::Ok) else { return };
    let (code, text, took_ms) = (status.code(), status.message(), started.elapsed().as_millis());
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded | Code::ResourceExhausted => {
            tracing::info!(method, ?code, text, took_ms, "the call failed");
        }
        _ => tracing::debug!(method, ?code, text, took_ms, "the call was refused"),
    }
}
