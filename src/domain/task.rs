//! A task as the rules see it.
//!
//! What was submitted is a [`Spec`], shared and changed only by an update. The rest is where the task is in its life;
//! `lease` is there exactly while the state is RUNNING. Transitions are in `transition.rs`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    retry::{Decision, Retry},
    retry_policy::PolicyVersion,
    task_state::TaskState,
};
use crate::ids::{ProjectId, TaskId};

/// A point in time: microseconds since 1970 UTC, by the database's clock.
pub type Micros = i64;

/// One second, in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// One day, in [`Micros`].
pub const DAY: Micros = 86_400 * SECOND;

/// What was submitted. Times and spans in [`Micros`].
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Which handler runs it.
    pub task_type: String,
    /// The queue it waits in.
    pub queue: String,
    /// Higher runs first.
    pub priority: i32,
    /// The most an attempt may take.
    pub timeout: Micros,
    /// Past this it fails as EXPIRED.
    pub expire_time: Option<Micros>,
    /// What it says about failed attempts.
    pub retry: Retry,
    /// Held while the task is open.
    pub unique_key: Option<String>,
    /// Lets go of the key after this span.
    pub unique_ttl: Option<Micros>,
    /// What the submitter says about it.
    pub labels: BTreeMap<String, String>,
    /// Who submitted it.
    pub owner: String,
    /// When it was submitted.
    pub create_time: Micros,
    /// When it was last opened again by hand; none if it never was.
    pub open_time: Option<Micros>,
}

/// The most an attempt may take unless the submitter says otherwise: 1 h.
pub const DEFAULT_TIMEOUT: Micros = 3600 * SECOND;

/// A value that travels with a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The media type of a blob; none for JSON.
    pub media_type: Option<String>,
    /// JSON text, or the bytes of the blob.
    pub data: Bytes,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    /// The kind of error, as programs see it.
    pub error_type: String,
    /// The error as people read it.
    pub message: String,
    /// Anything else worth keeping.
    pub details: String,
}

impl TaskError {
    /// An error tasktower itself gives.
    pub fn own(error_type: &str, message: impl Into<String>) -> Self {
        Self { error_type: error_type.to_owned(), message: message.into(), details: String::new() }
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: f64,
    /// A line for people.
    pub message: String,
}

/// A task: what was submitted, and where it is in its life.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub id: TaskId,
    /// What was submitted.
    pub spec: Arc<Spec>,
    /// What the handler is given; not loaded in the BASIC view.
    pub input: Option<Payload>,
    /// Not leased before; after a failed attempt the time of the next one.
    pub run_time: Micros,
    /// Where it is in its life.
    pub state: TaskState,
    /// +1 with every journal row of the task.
    pub version: i64,
    /// +1 with every lease; never reset.
    pub epoch: i64,
    /// Attempts that count, the running one included.
    pub attempt_count: i32,
    /// Leases that expired.
    pub crash_count: i32,
    /// There exactly while RUNNING.
    pub lease: Option<Lease>,
    /// The error of the last failed attempt.
    pub error: Option<TaskError>,
    /// What the handler returned; not loaded in the BASIC view.
    pub result: Option<Payload>,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// When it last changed.
    pub update_time: Micros,
    /// When it became final.
    pub finish_time: Option<Micros>,
}

impl Task {
    /// Whether cancellation was asked for while it runs.
    pub fn cancel_requested(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.cancel_time.is_some())
    }

    /// Whether it waits and could be leased at `now`.
    pub fn is_due(&self, now: Micros) -> bool {
        self.state.is_waiting() && self.run_time <= now
    }
}

/// The right of a worker to run the current attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Who holds it.
    pub worker: String,
    /// Which process of the worker.
    pub incarnation: String,
    /// When it was granted.
    pub start_time: Micros,
    /// When others may take over, unless a heartbeat moves it.
    pub expire_time: Micros,
    /// When the attempt ends whatever the heartbeats say.
    pub deadline_time: Micros,
    /// How far each heartbeat moves `expire_time`.
    pub duration: Micros,
    /// The state the task goes back to when the lease is given back or expires.
    pub waiting_state: TaskState,
    /// When cancellation was asked for.
    pub cancel_time: Option<Micros>,
    /// Why.
    pub cancel_reason: Option<String>,
    /// The last progress reported.
    pub progress: Option<Progress>,
    /// When progress last became an event.
    pub progress_time: Option<Micros>,
    /// Whether progress was stored since then that no event told of.
    pub progress_pending: bool,
}

/// An attempt that ended, or (with `outcome` RUNNING) the one under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The epoch of its lease.
    pub epoch: i64,
    /// Who ran it.
    pub worker: String,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// When the lease was granted.
    pub start_time: Micros,
    /// When it ended.
    pub end_time: Option<Micros>,
    /// The error, if it did not succeed.
    pub error: Option<TaskError>,
    /// The last progress reported.
    pub progress: Option<Progress>,
    /// When the next attempt may start.
    pub retry_time: Option<Micros>,
    /// Which attempt it was of those that count: 1, 2, 3 …; 0 if that was not kept.
    pub number: i32,
    /// What was decided about it.
    pub decision: Option<Decided>,
}

/// A decision about an attempt, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// The policy that was asked; none if the task has settings of its own, or none was asked.
    pub policy: Option<PolicyVersion>,
}

impl Attempt {
    /// The attempt under way, if the task runs.
    pub fn running(task: &Task) -> Option<Self> {
        task.lease.as_ref().map(|lease| Self {
            epoch: task.epoch,
            worker: lease.worker.clone(),
            outcome: AttemptOutcome::Running,
            start_time: lease.start_time,
            end_time: None,
            error: None,
            progress: lease.progress.clone(),
            retry_time: None,
            number: task.attempt_count,
            decision: None,
        })
    }
}

/// How an attempt ended. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttemptOutcome {
    /// Still running.
    Running = 1,
    /// Completed.
    Succeeded = 2,
    /// The worker reported a failure.
    Failed = 3,
    /// Given back; does not count.
    Released = 4,
    /// The worker died or hung; counts as a crash.
    LeaseExpired = 5,
    /// Took too long.
    TimedOut = 6,
    /// Ended after cancellation was asked for.
    Cancelled = 7,
}

impl TryFrom<i16> for AttemptOutcome {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Released,
            Self::LeaseExpired,
            Self::TimedOut,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|outcome| *outcome as i16 == number)
        .ok_or(number)
    }
}
