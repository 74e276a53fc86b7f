//! One line for each call that failed. What is the caller's mistake is for debugging; what is not concerns the operator.
//! A thousand calls that fail alike in one second say no more than the first few, so lines for the operator have a bound.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::{Code, Status};

/// Lines for the operator in one [`PERIOD`].
const LINES: u64 = 50;
/// After it, as many more, and a word about how many were left out.
const PERIOD: Duration = Duration::from_secs(1);

/// Notes the end of a call; None and OK are silent. Runs inside the span of the call, which has the ids.
pub fn failed(method: &str, started: Instant, status: Option<&Status>) {
    static BOUND: Mutex<Bound> = Mutex::new(Bound::new());
    let Some(status) = status.filter(|status| status.code() != Code::Ok) else { return };
    let (code, text, took_ms) = (status.code(), status.message(), started.elapsed().as_millis());
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded | Code::ResourceExhausted => {
            // A panic while it was held left nothing half-done.
            let Some(left_out) = BOUND.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now()) else {
                return;
            };
            if left_out > 0 {
                tracing::info!(left_out, "more calls failed than were logged");
            }
            tracing::info!(method, ?code, text, took_ms, "the call failed");
        }
        _ => tracing::debug!(method, ?code, text, took_ms, "the call was refused"),
    }
}

/// How many lines there were lately.
struct Bound {
    since: Option<Instant>,
    lines: u64,
}

impl Bound {
    const fn new() -> Self {
        Self { since: None, lines: 0 }
    }

    /// None when there were enough lines; else how many were left out since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD);
        let left_out = if is_over { self.lines.saturating_sub(LINES) } else { 0 };
        if is_over {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines += 1;
        (self.lines <= LINES).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted_and_told_later() {
        let mut bound = Bound::new();
        let now = Instant::now();
        let admitted = (0..LINES + 7).filter(|_| bound.admit(now) == Some(0)).count();
        assert_eq!(admitted as u64, LINES);
        assert_eq!(bound.admit(now + PERIOD), Some(7));
        assert_eq!(bound.admit(now + PERIOD), Some(0));
    }
}
