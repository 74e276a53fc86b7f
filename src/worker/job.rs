//! What a handler is given: the task, and the line to the runtime while it works on it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::handler::cut;
use crate::{
    client::payload::{self, DecodeError},
    pb::{Payload, Progress, Task},
};

/// The longest progress text tasktower accepts.
const MAX_PROGRESS_BYTES: usize = 1024;

/// Why a handler is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The task was cancelled, with this reason.
    Cancelled(String),
    /// The attempt took longer than the task allows.
    TimedOut,
    /// Another worker may run the task by now; nothing this handler does counts.
    LeaseLost,
    /// The lease could not be extended in time.
    LeaseRunsOut,
    /// The worker stops; the task is given back and runs elsewhere.
    Draining,
}

/// One attempt at a task, as its handler sees it. Clones are the same attempt.
#[derive(Clone)]
pub struct Job(Arc<Inner>);

struct Inner {
    task: Task,
    epoch: i64,
    timeout: Option<Duration>,
    line: Arc<Line>,
}

impl Job {
    pub(super) fn new(task: Task, epoch: i64, timeout: Option<Duration>, line: Arc<Line>) -> Self {
        Self(Arc::new(Inner { task, epoch, timeout, line }))
    }

    /// The task with everything.
    pub fn task(&self) -> &Task {
        &self.0.task
    }

    /// The resource name of the task.
    pub fn name(&self) -> &str {
        &self.0.task.name
    }

    /// The JSON input as a type. `?` makes an input of another shape a failed attempt.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        payload::decode(self.raw_input())
    }

    /// The input as it was submitted.
    pub fn raw_input(&self) -> Option<&Payload> {
        self.0.task.input.as_ref()
    }

    /// The epoch of the lease: rises with each lease of the task, so it can fence effects in other systems.
    pub fn epoch(&self) -> i64 {
        self.0.epoch
    }

    /// The most this attempt may take, from its start.
    pub fn timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// Says how far the work is, 0 to 100, with a line for people. Cheap enough to call in a loop: the latest word is
    /// sent about once a second.
    pub fn progress(&self, percent: f64, message: impl Into<String>) {
        let percent = if percent.is_nan() { 0.0 } else { percent.clamp(0.0, 100.0) };
        self.0.line.tell(Progress { percent, message: cut(message.into(), MAX_PROGRESS_BYTES) });
    }

    /// Returns when the handler should stop. What it does then still counts if it is quick; a handler that goes on is
    /// dropped at its next await. [`stop_reason`](Self::stop_reason) says why.
    pub async fn cancelled(&self) {
        self.0.line.stop.cancelled().await;
    }

    /// Whether the handler should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.line.stop.is_cancelled()
    }

    /// The token behind [`cancelled`](Self::cancelled), to hand on to others.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.line.stop
    }

    /// Why the handler should stop; nothing while it should not.
    pub fn stop_reason(&self) -> Option<&StopReason> {
        self.0.line.reason.get()
    }
}

/// What the handler and the runtime share: progress one way, the wish to stop the other.
#[derive(Default)]
pub(super) struct Line {
    stop: CancellationToken,
    reason: OnceLock<StopReason>,
    progress: Mutex<Option<Progress>>,
    progress_is_news: AtomicBool,
}

impl Line {
    fn tell(&self, progress: Progress) {
        // The lock is held for a move only, by the handler and once a second by the runtime.
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        self.progress_is_news.store(true, Ordering::Release);
    }

    /// The latest progress, if it was not taken before.
    pub(super) fn take_news(&self) -> Option<Progress> {
        if !self.progress_is_news.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the latest progress news again: nobody knows whether the server heard it.
    pub(super) fn renew_news(&self) {
        let told = self.progress.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.progress_is_news.fetch_or(told, Ordering::AcqRel);
    }

    /// Asks the handler to stop. The first reason stands.
    pub(super) fn ask_to_stop(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> (Job, Arc<Line>) {
        let line = Arc::new(Line::default());
        (Job::new(Task::default(), 1, None, line.clone()), line)
    }

    #[test]
    fn the_latest_progress_is_taken_once() {
        let (job, line) = job();
        assert_eq!(line.take_news(), None);
        job.progress(10.0, "a");
        job.progress(f64::INFINITY, "é".repeat(MAX_PROGRESS_BYTES));
        let progress = line.take_news().unwrap();
        assert_eq!((progress.percent, progress.message.len()), (100.0, MAX_PROGRESS_BYTES));
        assert_eq!(line.take_news(), None);
        line.renew_news();
        assert_eq!(line.take_news(), Some(progress));
    }

    #[tokio::test]
    async fn the_first_reason_to_stop_stands() {
        let (job, line) = job();
        assert!(!job.is_cancelled());
        line.ask_to_stop(StopReason::Cancelled("no longer needed".to_owned()));
        line.ask_to_stop(StopReason::LeaseLost);
        job.cancelled().await;
        assert_eq!(job.stop_reason(), Some(&StopReason::Cancelled("no longer needed".to_owned())));
    }
}
