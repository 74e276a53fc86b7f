//! Identifiers as distinct types, so that a project cannot be passed where a task is meant.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// The id of a project: `[a-z][a-z0-9-]{0,62}`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Arc<str>);

/// The project that exists from the start.
pub const DEFAULT_PROJECT: &str = "default";

/// The journal partition of changes that belong to no project.
pub const SYSTEM_PROJECT: &str = "system";

impl ProjectId {
    /// Takes an id that was checked before (by the conversion layer, or read from the database).
    pub fn new(id: &str) -> Self {
        Self(Arc::from(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that maps by project are asked with the text of a name. It hashes and compares as that text does.
impl std::borrow::Borrow<str> for ProjectId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a task: a UUID, version 7 unless the submitter chose another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// A new id, ordered by time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The id of a bulk job: a UUID, version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BulkJobId(pub Uuid);

impl fmt::Display for BulkJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The id of a run of retention: a UUID, version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RetentionRunId(pub Uuid);

impl fmt::Display for RetentionRunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The resource name of a project.
pub fn project_name(project: &ProjectId) -> String {
    format!("projects/{project}")
}

/// The resource name of a task.
pub fn task_name(project: &ProjectId, task: TaskId) -> String {
    // Put together by hand: every answer about a task has it, and formatting costs more than looking the task up.
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let id: &str = task.0.hyphenated().encode_lower(&mut buffer);
    ["projects/", project.as_str(), "/tasks/", id].concat()
}

/// The resource name of a queue.
pub fn queue_name(project: &ProjectId, queue: &str) -> String {
    format!("projects/{project}/queues/{queue}")
}

/// The resource name of a worker.
pub fn worker_name(project: &ProjectId, worker: &str) -> String {
    format!("projects/{project}/workers/{worker}")
}

/// The resource name of the dead letter of a task.
pub fn dead_letter_name(project: &ProjectId, task: TaskId) -> String {
    format!("projects/{project}/deadLetters/{task}")
}

/// The resource name of a bulk job.
pub fn bulk_job_name(project: &ProjectId, job: BulkJobId) -> String {
    format!("projects/{project}/bulkJobs/{job}")
}

/// The resource name of the rules of retention of a project.
pub fn retention_name(project: &ProjectId) -> String {
    format!("projects/{project}/retention")
}

/// The resource name of a run of retention.
pub fn retention_run_name(project: &ProjectId, run: RetentionRunId) -> String {
    format!("projects/{project}/retentionRuns/{run}")
}

/// The resource name of a retry policy.
pub fn retry_policy_name(project: &ProjectId, policy: &str) -> String {
    format!("projects/{project}/retryPolicies/{policy}")
}

/// The resource name of an API key.
pub fn api_key_name(key: &str) -> String {
    format!("apiKeys/{key}")
}

/// The resource name of a schedule.
pub fn schedule_name(project: &ProjectId, schedule: &str) -> String {
    format!("projects/{project}/schedules/{schedule}")
}

/// The resource name of an audit entry.
pub fn audit_entry_name(project: &ProjectId, revision: i64) -> String {
    format!("projects/{project}/auditEntries/{revision}")
}
