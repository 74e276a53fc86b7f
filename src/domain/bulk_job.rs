//! Work on every task a filter matches.

use super::{
    dead_letter::StopRule,
    filter::{Node, Test},
    task::Micros,
    task_state::TaskState,
};
use crate::ids::{BulkJobId, ProjectId, TaskId};

/// A bulk job with its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkJob {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub id: BulkJobId,
    /// What it does.
    pub action: BulkAction,
    /// Which tasks, as written.
    pub filter: String,
    /// Why, for the journal and the workers.
    pub reason: String,
    /// How it is.
    pub state: BulkState,
    /// Tasks that matched when it began.
    pub matched_count: i64,
    /// Tasks changed.
    pub done_count: i64,
    /// Tasks left alone, because their state had changed.
    pub skipped_count: i64,
    /// Why it FAILED.
    pub error_message: String,
    /// Who started it.
    pub owner: String,
    /// When it began. Tasks submitted later are left alone.
    pub create_time: Micros,
    /// When it last made progress.
    pub update_time: Micros,
    /// When it ended.
    pub finish_time: Option<Micros>,
    /// How it retries dead letters, if that is what it does.
    pub retry: Option<BulkRetry>,
}

/// How a job retries dead letters, and what came of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkRetry {
    /// Entries a second.
    pub rate: i32,
    /// When it stops by itself.
    pub stop: StopRule,
    /// The entries by their tasks, if they were named; then there is no filter.
    pub named: Option<Vec<TaskId>>,
    /// Of the tasks retried within the window, how many had ended when the job last looked.
    pub ended_count: i64,
    /// Of those, how many had failed for good again.
    pub failed_again_count: i64,
}

/// What a job does to each task. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BulkAction {
    /// Cancel it.
    Cancel = 1,
    /// Delete it.
    Purge = 2,
    /// Retry its dead letter.
    Retry = 3,
}

impl BulkAction {
    /// Which tasks it changes, in parts; the other ones are left alone. Each part is in a table of its own, so that they
    /// are counted apart. None for what walks dead letters.
    pub fn targets(self) -> Vec<Node> {
        let state = |state| Node::Test { negated: false, test: Test::State(state) };
        match self {
            Self::Cancel => vec![
                Node::Or(vec![state(TaskState::Pending), state(TaskState::Retrying)]),
                Node::And(vec![state(TaskState::Running), Node::Test { negated: true, test: Test::CancelRequested }]),
            ],
            Self::Purge => {
                vec![Node::Or(vec![state(TaskState::Failed), state(TaskState::Cancelled)]), state(TaskState::Succeeded)]
            }
            Self::Retry => Vec::new(),
        }
    }

    /// The name as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "CANCEL",
            Self::Purge => "PURGE",
            Self::Retry => "RETRY",
        }
    }
}

impl TryFrom<i16> for BulkAction {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Cancel, Self::Purge, Self::Retry].into_iter().find(|action| *action as i16 == number).ok_or(number)
    }
}

/// The life of a job. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BulkState {
    /// Working.
    Running = 1,
    /// Every matching task was handled.
    Succeeded = 2,
    /// It stopped on an error.
    Failed = 3,
    /// It was cancelled.
    Cancelled = 4,
}

impl BulkState {
    /// The name as people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl TryFrom<i16> for BulkState {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| *state as i16 == number)
            .ok_or(number)
    }
}
