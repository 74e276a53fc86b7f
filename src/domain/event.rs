//! A journal row as its readers see it: what changed, in which project, at which revision, by whom.

use std::sync::Arc;

use super::{
    task::{Micros, Task},
    transition::{Change, EventKind},
};
use crate::ids::ProjectId;

/// One journal row.
#[derive(Clone, Debug)]
pub struct Event {
    /// The project whose journal holds it.
    pub project: ProjectId,
    /// Its place there: 1, 2, 3 … without gaps, in commit order.
    pub revision: i64,
    /// When it happened.
    pub time: Micros,
    /// Who caused it.
    pub actor: Arc<str>,
    /// What changed.
    pub subject: Subject,
}

/// What a journal row is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A task.
    Task {
        /// What happened to it.
        kind: EventKind,
        /// The task before; none for a submit.
        before: Option<Arc<Task>>,
        /// The task after.
        after: Arc<Task>,
    },
    /// Anything else.
    Resource {
        /// What happened to it.
        kind: ResourceKind,
        /// Its resource name.
        name: Arc<str>,
    },
}

impl Event {
    /// The event of a change of a task.
    pub fn of_change(change: &Change, revision: i64, actor: Arc<str>) -> Self {
        Self {
            project: change.after.project.clone(),
            revision,
            time: change.after.update_time,
            actor,
            subject: Subject::Task { kind: change.kind, before: change.before.clone(), after: change.after.clone() },
        }
    }
}

/// What happened to a resource that is not a task. Numbers start at 100 so that they never meet [`EventKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResourceKind {
    /// Something a newer version wrote; it only moves readers on.
    Unknown = 100,
    /// Settings of a queue changed.
    QueueUpdated = 101,
    /// A queue was paused.
    QueuePaused = 102,
    /// A queue was resumed.
    QueueResumed = 103,
    /// A worker was told to drain.
    WorkerDrained = 104,
    /// A bulk job was started.
    BulkJobStarted = 105,
    /// A bulk job ended.
    BulkJobEnded = 106,
    /// A project was created.
    ProjectCreated = 107,
    /// A project was changed.
    ProjectUpdated = 108,
    /// A project was deleted.
    ProjectDeleted = 109,
    /// A deletion of a project was taken back.
    ProjectUndeleted = 160,
    /// A principal got a role.
    MemberSet = 161,
    /// A principal lost its role.
    MemberRemoved = 162,
    /// A retry policy was created.
    RetryPolicyCreated = 110,
    /// A retry policy was changed.
    RetryPolicyUpdated = 111,
    /// A retry policy was deleted.
    RetryPolicyDeleted = 112,
    /// A dead letter was marked processed.
    DeadLetterProcessed = 120,
    /// A processed dead letter was opened again.
    DeadLetterReopened = 121,
    /// A schedule was created.
    ScheduleCreated = 130,
    /// Settings of a schedule changed.
    ScheduleUpdated = 131,
    /// A schedule was deleted.
    ScheduleDeleted = 132,
    /// A schedule was paused.
    SchedulePaused = 133,
    /// A schedule was resumed.
    ScheduleResumed = 134,
    /// Ticks of a schedule were decided.
    ScheduleRan = 135,
    /// Past ticks of a schedule got their tasks.
    ScheduleBackfilled = 136,
    /// Rules of retention changed.
    RetentionUpdated = 140,
    /// A run of retention began.
    RetentionRunStarted = 141,
    /// Retention deleted a batch of tasks.
    RetentionPurged = 142,
    /// Retention deleted a batch of journal rows.
    RetentionTrimmed = 143,
    /// A run of retention ended.
    RetentionRunEnded = 144,
    /// An API key was created.
    ApiKeyCreated = 150,
    /// An API key was changed.
    ApiKeyUpdated = 151,
    /// An API key got a new secret.
    ApiKeyRotated = 152,
    /// An API key was revoked.
    ApiKeyRevoked = 153,
    /// Note: a call was refused, because its caller may not do that.
    CallRefused = 175,
    /// Note: a call was refused, because its caller is not known.
    CallUnauthenticated = 176,
    /// Note: a person read inputs or results.
    PayloadRead = 177,
}

impl ResourceKind {
    /// All that this version knows.
    pub const ALL: &[Self] = {
        use ResourceKind::*;
        &[
            QueueUpdated,
            QueuePaused,
            QueueResumed,
            WorkerDrained,
            BulkJobStarted,
            BulkJobEnded,
            ProjectCreated,
            ProjectUpdated,
            ProjectDeleted,
            ProjectUndeleted,
            MemberSet,
            MemberRemoved,
            RetryPolicyCreated,
            RetryPolicyUpdated,
            RetryPolicyDeleted,
            DeadLetterProcessed,
            DeadLetterReopened,
            ScheduleCreated,
            ScheduleUpdated,
            ScheduleDeleted,
            SchedulePaused,
            ScheduleResumed,
            ScheduleRan,
            ScheduleBackfilled,
            RetentionUpdated,
            RetentionRunStarted,
            RetentionPurged,
            RetentionTrimmed,
            RetentionRunEnded,
            ApiKeyCreated,
            ApiKeyUpdated,
            ApiKeyRotated,
            ApiKeyRevoked,
            CallRefused,
            CallUnauthenticated,
            PayloadRead,
        ]
    };

    /// What happened, as the audit calls it.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Unknown => UNKNOWN_ACTION,
            Self::QueueUpdated => "queue.updated",
            Self::QueuePaused => "queue.paused",
            Self::QueueResumed => "queue.resumed",
            Self::WorkerDrained => "worker.drained",
            Self::BulkJobStarted => "bulk_job.started",
            Self::BulkJobEnded => "bulk_job.ended",
            Self::ProjectCreated => "project.created",
            Self::ProjectUpdated => "project.updated",
            Self::ProjectDeleted => "project.deleted",
            Self::ProjectUndeleted => "project.undeleted",
            Self::MemberSet => "member.set",
            Self::MemberRemoved => "member.removed",
            Self::RetryPolicyCreated => "retry_policy.created",
            Self::RetryPolicyUpdated => "retry_policy.updated",
            Self::RetryPolicyDeleted => "retry_policy.deleted",
            Self::DeadLetterProcessed => "dead_letter.processed",
            Self::DeadLetterReopened => "dead_letter.reopened",
            Self::ScheduleCreated => "schedule.created",
            Self::ScheduleUpdated => "schedule.updated",
            Self::ScheduleDeleted => "schedule.deleted",
            Self::SchedulePaused => "schedule.paused",
            Self::ScheduleResumed => "schedule.resumed",
            Self::ScheduleRan => "schedule.ran",
            Self::ScheduleBackfilled => "schedule.backfilled",
            Self::RetentionUpdated => "retention.updated",
            Self::RetentionRunStarted => "retention.started",
            Self::RetentionPurged => "retention.purged",
            Self::RetentionTrimmed => "retention.trimmed",
            Self::RetentionRunEnded => "retention.ended",
            Self::ApiKeyCreated => "api_key.created",
            Self::ApiKeyUpdated => "api_key.updated",
            Self::ApiKeyRotated => "api_key.rotated",
            Self::ApiKeyRevoked => "api_key.revoked",
            Self::CallRefused => "call.refused",
            Self::CallUnauthenticated => "call.unauthenticated",
            Self::PayloadRead => "payload.read",
        }
    }
}

/// What the audit calls something a newer version wrote.
pub const UNKNOWN_ACTION: &str = "unknown";

impl TryFrom<i16> for ResourceKind {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        Self::ALL.iter().copied().find(|kind| *kind as i16 == number).ok_or(number)
    }
}
