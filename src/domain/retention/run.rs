//! A run of retention: what it did so far, and how fast it may go on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Candidate, RetentionPolicy, Verdict};
use crate::{
    domain::task::Micros,
    ids::{ProjectId, RetentionRunId},
};

/// Most tasks, or journal rows, deleted in one transaction.
const MAX_BATCH: usize = 500;
/// Fewer are not worth a transaction: where a commit is slow, it is not for the rows.
const MIN_BATCH: usize = 10;
/// A batch that takes longer makes the next one smaller: about as long as others wait for a commit anyway. On SQLite all
/// others wait while it is written.
const SLOW_BATCH: Duration = Duration::from_millis(3);
/// After a batch there is so many times its time for others.
const PAUSE_FACTOR: u32 = 2;
/// However fast a batch was.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// However slow it was.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The size of the next batch, after one of `size` took `took`; at first ask with a size of 0.
pub fn next_batch(size: usize, took: Duration) -> usize {
    let next = if took > SLOW_BATCH {
        size / 2
    } else if took < SLOW_BATCH / 2 {
        size * 2
    } else {
        size
    };
    if size == 0 { MIN_BATCH } else { next.clamp(MIN_BATCH, MAX_BATCH) }
}

/// How long to leave the database to others after a batch.
pub fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_FACTOR).clamp(MIN_PAUSE, MAX_PAUSE)
}

/// One pass over the tasks and the journal of a project.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionRun {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub id: RetentionRunId,
    /// What began it.
    pub trigger: Trigger,
    /// Who began it.
    pub owner: String,
    /// How it is.
    pub state: RunState,
    /// The rules as they were when it began.
    pub policy: RetentionPolicy,
    /// How long journal rows are kept.
    pub journal_age: Micros,
    /// What it did.
    pub counts: Counts,
    /// The last error about one task.
    pub error_message: String,
    /// When it began: what was too old then goes.
    pub create_time: Micros,
    /// When it last made progress.
    pub update_time: Micros,
    /// When it ended.
    pub finish_time: Option<Micros>,
}

/// What a run did, or what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By rule, the default one last.
    pub tallies: Vec<Tally>,
    /// Kept because of an open dead letter.
    pub open_dead_letters: i64,
    /// Left alone because somebody was changing them.
    pub busy: i64,
    /// Journal rows deleted.
    pub journal_deleted: i64,
    /// Tasks that could not be deleted.
    pub errors: i64,
}

/// What became of the tasks whose age one rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Deleted.
    pub deleted: i64,
    /// Not old enough.
    pub kept: i64,
    /// When the oldest of the deleted became final.
    pub oldest: Option<Micros>,
}

impl Counts {
    /// Nothing yet, by these rules.
    pub fn of(policy: &RetentionPolicy) -> Self {
        Self { tallies: vec![Tally::default(); policy.rules.len() + 1], ..Self::default() }
    }

    /// Counts a task.
    pub fn add(&mut self, candidate: &Candidate, verdict: Verdict) {
        match verdict {
            Verdict::NotFinal => {}
            Verdict::OpenDeadLetter => self.open_dead_letters += 1,
            Verdict::Young { rule } => {
                if let Some(tally) = self.tallies.get_mut(rule) {
                    tally.kept += 1;
                }
            }
            Verdict::Due { rule } => {
                if let Some(tally) = self.tallies.get_mut(rule) {
                    tally.deleted += 1;
                    tally.oldest = [tally.oldest, candidate.finish_time].into_iter().flatten().min();
                }
            }
        }
    }

    /// Tasks deleted.
    pub fn deleted(&self) -> i64 {
        self.tallies.iter().map(|tally| tally.deleted).sum()
    }

    /// Final tasks that were looked at and kept.
    pub fn kept(&self) -> i64 {
        self.open_dead_letters + self.tallies.iter().map(|tally| tally.kept).sum::<i64>()
    }
}

/// What begins a run. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trigger {
    /// The daily time.
    Daily = 1,
    /// A call.
    Call = 2,
}

impl TryFrom<i16> for Trigger {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Daily, Self::Call].into_iter().find(|trigger| *trigger as i16 == number).ok_or(number)
    }
}

/// The life of a run. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// Working.
    Running = 1,
    /// Everything too old is gone.
    Succeeded = 2,
    /// Some of it could not be deleted.
    Failed = 3,
}

impl RunState {
    /// The name as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }
}

impl TryFrom<i16> for RunState {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|state| *state as i16 == number).ok_or(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_when_they_are_slow_and_grow_when_they_are_fast() {
        let fast = Duration::from_millis(1);
        let slow = Duration::from_millis(400);
        assert_eq!(next_batch(0, Duration::ZERO), MIN_BATCH);
        assert_eq!(next_batch(100, fast), 200);
        assert_eq!(next_batch(400, fast), MAX_BATCH);
        assert_eq!(next_batch(400, SLOW_BATCH), 400);
        assert_eq!(next_batch(400, slow), 200);
        assert_eq!(next_batch(MIN_BATCH + 1, slow), MIN_BATCH);
    }

    #[test]
    fn most_of_the_time_is_for_others() {
        assert_eq!(pause_after(Duration::from_millis(30)), Duration::from_millis(60));
        assert_eq!(pause_after(Duration::ZERO), MIN_PAUSE);
        assert_eq!(pause_after(Duration::from_secs(3)), MAX_PAUSE);
    }
}
