//! Dead letters: what is kept of tasks that failed for good, and what may be done about them.
//!
//! ```text
//!                     retried                          fails for good again
//!  (task FAILED) OPEN ───────► REPLAYED (task open or ended well) ───────► OPEN
//!                 │ ▲ mark        ▲
//!                 ▼ │ reopen      │ retried
//!              PROCESSED ─────────┘
//! ```
//!
//! An entry is OPEN or PROCESSED exactly while its task is FAILED. What changes it holds the lock of its task.

use super::{
    etag,
    task::{Micros, TaskError},
    task_list::Position,
    transition::DeadLetterReason,
};
use crate::{
    error::{Error, Result},
    ids::{BulkJobId, ProjectId, TaskId, dead_letter_name},
};

/// How often an entry may be retried. Who tried ten times knows that the eleventh will not help, and each replay is kept.
pub const MAX_REPLAYS: i32 = 10;

/// An entry.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its project.
    pub project: ProjectId,
    /// Its task.
    pub task: TaskId,
    /// The task's queue.
    pub queue: String,
    /// The task's type.
    pub task_type: String,
    /// What was done about it.
    pub state: DeadLetterState,
    /// Why the task was not tried again.
    pub reason: DeadLetterReason,
    /// The last error, without its details.
    pub error: TaskError,
    /// See `fingerprint`.
    pub fingerprint: String,
    /// Attempts that counted; none in rows of older versions.
    pub attempt_count: Option<i32>,
    /// Leases that expired; none in rows of older versions.
    pub crash_count: Option<i32>,
    /// When the task failed for good, the last time.
    pub fail_time: Micros,
    /// When it did so the first time.
    pub first_fail_time: Micros,
    /// How often it was retried.
    pub replay_count: i32,
    /// Who put it aside, if somebody did.
    pub processed: Option<Processed>,
}

impl DeadLetter {
    /// Its place in a list.
    pub fn position(&self) -> Position {
        Position { create_time: self.fail_time, id: self.task }
    }

    /// Its etag.
    pub fn etag(&self) -> String {
        let standing = Standing {
            fail_time: (self.state != DeadLetterState::Replayed).then_some(self.fail_time),
            reason: Some(self.reason),
            process_time: self.processed.as_ref().map(|processed| processed.time),
            replay_count: self.replay_count,
        };
        standing.etag(self.task)
    }
}

/// Entries of one fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// How many there are.
    pub count: i64,
    /// When the first of them failed.
    pub first_fail_time: Micros,
    /// The one that failed last.
    pub sample: DeadLetter,
}

/// Who put an entry aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// When.
    pub time: Micros,
    /// Who.
    pub by: String,
    /// What was done instead.
    pub reason: String,
}

/// What was done about an entry. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeadLetterState {
    /// Nothing yet.
    Open = 1,
    /// Somebody said that it is dealt with.
    Processed = 2,
    /// Its task was opened again, and has not failed for good since.
    Replayed = 3,
}

impl DeadLetterState {
    /// The name as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Processed => "PROCESSED",
            Self::Replayed => "REPLAYED",
        }
    }
}

impl DeadLetterReason {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Exhausted, Self::Final, Self::Poison, Self::Expired, Self::Rule, Self::MaxAge];

    /// The name as people and filters write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "EXHAUSTED",
            Self::Final => "FINAL",
            Self::Poison => "POISON",
            Self::Expired => "EXPIRED",
            Self::Rule => "RULE",
            Self::MaxAge => "MAX_AGE",
        }
    }
}

impl TryFrom<i16> for DeadLetterReason {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        Self::ALL.into_iter().find(|reason| *reason as i16 == number).ok_or(number)
    }
}

/// One time that an entry was retried.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// 1, 2, 3 …
    pub number: i32,
    /// When.
    pub time: Micros,
    /// By whom.
    pub owner: String,
    /// The bulk job that did it, if one did.
    pub bulk_job: Option<BulkJobId>,
    /// The task's epoch then.
    pub epoch: i64,
    /// The task got another input with it.
    pub input_changed: bool,
    /// Why the task had not been tried again before.
    pub reason: DeadLetterReason,
    /// The error before.
    pub error: TaskError,
    /// When the task had failed for good before.
    pub fail_time: Micros,
}

/// What decisions about an entry look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When its task failed; none while it is not FAILED, and the entry neither OPEN nor PROCESSED.
    pub fail_time: Option<Micros>,
    /// Why it was not tried again.
    pub reason: Option<DeadLetterReason>,
    /// When it was put aside, if it was.
    pub process_time: Option<Micros>,
    /// How often it was retried.
    pub replay_count: i32,
}

impl Standing {
    /// Whether somebody said that it is dealt with.
    pub fn is_processed(&self) -> bool {
        self.process_time.is_some()
    }

    /// The entry's etag.
    pub fn etag(&self, task: TaskId) -> String {
        etag::of(&(task.0, self.fail_time, self.process_time, self.replay_count))
    }

    /// Refuses unless the etag asked for, if one was, is the entry's.
    pub fn require_etag(&self, project: &ProjectId, task: TaskId, asked: Option<&str>) -> Result<()> {
        let current = self.etag(task);
        if asked.is_none_or(|asked| asked == current) {
            return Ok(());
        }
        Err(Error::EtagMismatch { name: dead_letter_name(project, task), current })
    }

    /// The entry retried once more. Refused when that was done often enough.
    pub fn replayed(&self, project: &ProjectId, task: TaskId) -> Result<Self> {
        if self.replay_count >= MAX_REPLAYS {
            let name = dead_letter_name(project, task);
            return Err(Error::ReplayLimit { name, count: self.replay_count, limit: MAX_REPLAYS });
        }
        Ok(Self { replay_count: self.replay_count + 1, ..*self })
    }

    /// The entry after its task failed for good again.
    #[must_use]
    pub fn failed_again(&self, reason: DeadLetterReason, now: Micros) -> Self {
        Self { fail_time: Some(now), reason: Some(reason), process_time: None, ..*self }
    }
}

/// Fewer ended tasks than this say nothing about the rest.
const MIN_ENDED: i64 = 10;

/// When a job that retries entries stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRule {
    /// More failures than this among a hundred ended tasks; 0 means never.
    pub max_failure_percent: i32,
    /// Of those retried within this span.
    pub window: Micros,
}

impl StopRule {
    /// Whether the job stops, when of the tasks retried within the window so many ended, and so many of these failed again.
    pub fn stops(&self, ended: i64, failed: i64) -> bool {
        let limit = i64::from(self.max_failure_percent);
        limit > 0 && ended >= MIN_ENDED && failed.saturating_mul(100) > ended.saturating_mul(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_retried_up_to_its_limit_and_each_step_has_an_etag() {
        let (project, task) = (ProjectId::new("p"), TaskId(uuid::Uuid::nil()));
        let reason = DeadLetterReason::Final;
        let mut standing = Standing { fail_time: Some(1), reason: Some(reason), process_time: None, replay_count: 0 };
        let mut etags = std::collections::BTreeSet::new();
        for count in 1..=MAX_REPLAYS {
            etags.insert(standing.etag(task));
            let processed = Standing { process_time: Some(5), ..standing };
            etags.insert(processed.etag(task));
            standing = processed.replayed(&project, task).unwrap().failed_again(reason, i64::from(count) * 10);
            assert_eq!((standing.replay_count, standing.process_time), (count, None));
        }
        assert_eq!(etags.len(), 2 * MAX_REPLAYS as usize);
        let refused = standing.replayed(&project, task).unwrap_err();
        assert!(matches!(refused, Error::ReplayLimit { count: MAX_REPLAYS, limit: MAX_REPLAYS, .. }));

        standing.require_etag(&project, task, None).unwrap();
        standing.require_etag(&project, task, Some(&standing.etag(task))).unwrap();
        let refused = standing.require_etag(&project, task, Some("\"x\"")).unwrap_err();
        assert!(matches!(refused, Error::EtagMismatch { current, .. } if current == standing.etag(task)));
    }

    #[test]
    fn a_job_stops_when_more_than_the_share_failed_of_enough() {
        let rule = |max_failure_percent| StopRule { max_failure_percent, window: 1 };
        for (percent, ended, failed, stops) in [
            (50, 9, 9, false),
            (50, 10, 5, false),
            (50, 10, 6, true),
            (1, 100, 1, false),
            (1, 100, 2, true),
            (99, 1_000, 991, true),
            (0, 1_000, 1_000, false),
            (99, i64::MAX, i64::MAX, false),
        ] {
            assert_eq!(rule(percent).stops(ended, failed), stops, "{failed} of {ended} at {percent} %");
        }
    }
}
