//! One handler at work, and the clock of its lease.
//!
//! [`LeaseClock`] is pure arithmetic on a monotonic clock. It starts before the grant arrived, so it never believes in a
//! lease longer than the server does. [`Attempt`] asks its handler to stop when the clock says so, and drops it when it
//! does not listen. A handler that blocks its thread cannot be dropped; it keeps its slot until it returns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{AbortHandle, Id, JoinSet};

use super::{
    Failure, Job, Output, StopReason,
    handler::BoxedHandler,
    job::Line,
    outbox::{Item, completion, failure, release},
};
use crate::pb::{LeaseHeartbeat, LeaseToken, LeasedTask, Payload};

/// The part of a lease a handler may use without a heartbeat; the rest is for stopping it.
const USABLE_PART_OF_LEASE: f64 = 0.9;

/// How long a handler may go on whose lease is held by somebody else: just enough to notice.
const LOST_LEASE_GRACE: Duration = Duration::from_secs(1);

/// A lease without a duration lasts as long as the default of a queue.
const DEFAULT_LEASE: Duration = Duration::from_secs(60);

/// Until when a lease may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseClock {
    lease: Duration,
    /// The lease was given, or extended, not earlier than this.
    held_from: Instant,
    /// The attempt takes too long from here on.
    deadline: Option<Instant>,
}

/// What the clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// Work on.
    Fine,
    /// The attempt took too long.
    TimedOut,
    /// No heartbeat extended the lease; what is left of it is for stopping.
    LeaseRunsOut,
    /// The lease is over.
    LeaseOver,
}

impl LeaseClock {
    /// `before` is a moment before the lease was given; `now` is when the attempt starts.
    pub(super) fn new(before: Instant, now: Instant, lease: Option<Duration>, timeout: Option<Duration>) -> Self {
        Self {
            lease: lease.unwrap_or(DEFAULT_LEASE),
            held_from: before,
            // Counted from the start here, a moment after the server's: when both end it, the server's word comes first.
            deadline: timeout.and_then(|timeout| now.checked_add(timeout)),
        }
    }

    /// A heartbeat sent at `sent` was answered.
    pub(super) fn extend(&mut self, sent: Instant, lease: Option<Duration>) {
        if sent >= self.held_from {
            self.held_from = sent;
            self.lease = lease.unwrap_or(self.lease);
        }
    }

    pub(super) fn read(&self, now: Instant) -> Time {
        let used = now.saturating_duration_since(self.held_from);
        if used >= self.lease {
            Time::LeaseOver
        } else if used >= self.lease.mul_f64(USABLE_PART_OF_LEASE) {
            Time::LeaseRunsOut
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Time::TimedOut
        } else {
            Time::Fine
        }
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }
}

/// What a handler answered, ready to travel.
pub(super) type Outcome = Result<Option<Payload>, Failure>;

/// A handler at work.
pub(super) struct Attempt {
    token: LeaseToken,
    pub(super) clock: LeaseClock,
    line: Arc<Line>,
    task: AbortHandle,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Working,
    /// Asked to stop, and dropped at `abort_at`.
    Stopping {
        reason: StopReason,
        abort_at: Instant,
    },
    /// Told to the server; the handler may still be on its way out.
    Aborted,
}

impl Attempt {
    /// Starts the handler among `tasks`. `leased` carries its task.
    pub(super) fn start(
        handler: BoxedHandler,
        leased: LeasedTask,
        token: LeaseToken,
        clock: LeaseClock,
        tasks: &mut JoinSet<Outcome>,
    ) -> Self {
        let line = Arc::new(Line::default());
        let timeout = leased.attempt_timeout.and_then(|timeout| timeout.try_into().ok());
        let job = Job::new(leased.task.unwrap_or_default(), token.epoch, timeout, line.clone());
        // The handler is called inside, so that a panic in its synchronous part is caught by the runtime too.
        let task = tasks.spawn(async move { handler(job).await.and_then(Output::into_payload) });
        Self { token, clock, line, task, stage: Stage::Working }
    }

    /// What the runtime knows the handler by.
    pub(super) fn id(&self) -> Id {
        self.task.id()
    }

    /// Whether the handler still counts; not after it was dropped.
    pub(super) fn is_live(&self) -> bool {
        self.stage != Stage::Aborted
    }

    /// Asks the handler to stop within `grace`. A lost lease overrules other reasons: nothing is reported then.
    pub(super) fn stop(&mut self, why: StopReason, now: Instant, grace: Duration) {
        let grace = if why == StopReason::LeaseLost { grace.min(LOST_LEASE_GRACE) } else { grace };
        let abort_at = now + grace;
        match &mut self.stage {
            Stage::Working => {
                self.line.ask_to_stop(why.clone());
                self.stage = Stage::Stopping { reason: why, abort_at };
            }
            Stage::Stopping { reason, abort_at: until } if why == StopReason::LeaseLost => {
                *reason = why;
                *until = abort_at.min(*until);
            }
            Stage::Stopping { .. } | Stage::Aborted => {}
        }
    }

    /// Looks at the clock. Answers what to report when the handler had to be dropped.
    pub(super) fn tick(&mut self, now: Instant, stop_grace: Duration) -> Option<Item> {
        let time = self.clock.read(now);
        match (&self.stage, time) {
            (Stage::Working, Time::TimedOut) => self.stop(StopReason::TimedOut, now, stop_grace),
            (Stage::Working, Time::LeaseRunsOut | Time::LeaseOver) => {
                let left = self.clock.lease().mul_f64(1.0 - USABLE_PART_OF_LEASE);
                self.stop(StopReason::LeaseRunsOut, now, stop_grace.min(left));
            }
            (Stage::Stopping { abort_at, .. }, time) if now >= *abort_at || time == Time::LeaseOver => {
                return self.abort();
            }
            _ => {}
        }
        None
    }

    fn abort(&mut self) -> Option<Item> {
        self.task.abort();
        let Stage::Stopping { reason, .. } = std::mem::replace(&mut self.stage, Stage::Aborted) else {
            return None;
        };
        match reason {
            StopReason::Cancelled(_) => Some(failure(self.token.clone(), Failure::cancelled())),
            StopReason::TimedOut => {
                Some(failure(self.token.clone(), Failure::new("TIMEOUT", "the attempt took too long")))
            }
            StopReason::LeaseRunsOut | StopReason::Draining => Some(release(self.token.clone(), None)),
            StopReason::LeaseLost => None,
        }
    }

    /// What to report now that the handler is gone; without an outcome it was dropped.
    pub(super) fn into_report(self, outcome: Option<Outcome>) -> Option<Item> {
        let token = self.token;
        let reason = match &self.stage {
            Stage::Aborted => return None,
            Stage::Working => None,
            Stage::Stopping { reason, .. } => Some(reason),
        };
        match (reason, outcome) {
            (Some(StopReason::LeaseLost), _) => None,
            (_, Some(Ok(result))) => Some(completion(token, result)),
            // It stopped because we asked, not because the task is bad: the attempt does not count.
            (Some(StopReason::Draining | StopReason::LeaseRunsOut), Some(Err(_))) => Some(release(token, None)),
            (_, Some(Err(error))) => Some(failure(token, error)),
            // The runtime is shutting down around us.
            (_, None) => Some(release(token, None)),
        }
    }

    /// The heartbeat of this lease; none when it should be left to run out.
    pub(super) fn heartbeat(&self) -> Option<LeaseHeartbeat> {
        let wanted = match &self.stage {
            Stage::Working => true,
            Stage::Stopping { reason, .. } => matches!(reason, StopReason::Cancelled(_) | StopReason::Draining),
            Stage::Aborted => false,
        };
        wanted.then(|| LeaseHeartbeat { token: Some(self.token.clone()), progress: self.line.take_news() })
    }

    /// A heartbeat only if there is progress to tell.
    pub(super) fn progress_heartbeat(&self) -> Option<LeaseHeartbeat> {
        if self.stage != Stage::Working {
            return None;
        }
        let progress = self.line.take_news()?;
        Some(LeaseHeartbeat { token: Some(self.token.clone()), progress: Some(progress) })
    }

    /// The next heartbeat tells the progress again: the session it was told in is gone.
    pub(super) fn renew_progress(&self) {
        self.line.renew_news();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_used_up_to_nine_tenths() {
        let start = Instant::now();
        let clock = LeaseClock::new(start, start, Some(60 * SECOND), None);
        assert_eq!(clock.read(start + 53 * SECOND), Time::Fine);
        assert_eq!(clock.read(start + 54 * SECOND), Time::LeaseRunsOut);
        assert_eq!(clock.read(start + 60 * SECOND), Time::LeaseOver);
    }

    #[test]
    fn a_heartbeat_counts_from_when_it_was_sent() {
        let start = Instant::now();
        let mut clock = LeaseClock::new(start, start, Some(60 * SECOND), None);
        clock.extend(start + 20 * SECOND, None);
        assert_eq!(clock.read(start + 73 * SECOND), Time::Fine);
        assert_eq!(clock.read(start + 74 * SECOND), Time::LeaseRunsOut);
        // An answer that comes late must not shorten what a later one gave.
        clock.extend(start + 10 * SECOND, Some(5 * SECOND));
        assert_eq!(clock.read(start + 73 * SECOND), Time::Fine);
        clock.extend(start + 30 * SECOND, Some(10 * SECOND));
        assert_eq!(clock.read(start + 39 * SECOND), Time::LeaseRunsOut);
    }

    #[test]
    fn heartbeats_do_not_move_the_deadline() {
        let start = Instant::now();
        let mut clock = LeaseClock::new(start, start + SECOND, Some(60 * SECOND), Some(30 * SECOND));
        clock.extend(start + 25 * SECOND, None);
        assert_eq!(clock.read(start + 30 * SECOND), Time::Fine);
        assert_eq!(clock.read(start + 31 * SECOND), Time::TimedOut);
    }

    #[test]
    fn a_grant_that_waited_while_the_process_slept_is_over() {
        let before = Instant::now();
        let now = before + 120 * SECOND;
        assert_eq!(LeaseClock::new(before, now, Some(60 * SECOND), Some(10 * SECOND)).read(now), Time::LeaseOver);
    }

    #[test]
    fn an_endless_timeout_is_none() {
        let now = Instant::now();
        assert_eq!(LeaseClock::new(now, now, None, Some(Duration::MAX)).deadline, None);
    }
}
