//! The one error type of the service. Variants are named by what the caller can do about them; `api/status.rs` is the one
//! place that turns them into gRPC codes and details. Text here is for clients: no SQL, no driver text, no secrets. The
//! cause of an [`Error::Internal`] goes to the log where it is made, once.

use std::{fmt, sync::Arc, time::Duration};

/// The result of everything that can fail towards a client.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call is refused. Cheap to clone: one failure may answer a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Fields are wrong; all of them at once.
    #[error("{}", violations_text(.0))]
    Invalid(Vec<Violation>),
    /// The filter does not parse.
    #[error("filter, column {column}: {message}")]
    Filter {
        /// 1-based column of the fault.
        column: usize,
        /// What is wrong and what to do.
        message: String,
    },
    /// The page token is foreign, damaged or of another request.
    #[error("page_token is not of this request; list again from the start")]
    PageToken,
    /// The idempotency key was used for another request.
    #[error("the idempotency key {key:?} was used with another request; choose a new one")]
    IdempotencyKeyReused {
        /// The key.
        key: String,
    },
    /// The resume token cannot be resumed from.
    #[error("resume_token {reason}; start again with initial_state")]
    ResumeInvalid {
        /// Why not.
        reason: &'static str,
    },
    /// The resume token is older than the journal.
    #[error("resume_token is at revision {revision}, the history begins at {oldest}; start again with initial_state")]
    ResumeExpired {
        /// Where the token stands.
        revision: i64,
        /// The first revision still kept.
        oldest: i64,
    },
    /// The caller may not do this, or must not know whether there is anything to do it to. Always in the same words.
    #[error("permission {permission} is missing for this resource (or it might not exist)")]
    PermissionDenied {
        /// What would be needed, as the proto spells it: `TASKS_READ`.
        permission: &'static str,
        /// What it was asked for, as the caller named it, for the audit; empty if it is about no one thing.
        resource: String,
    },
    /// The project was deleted.
    #[error("{name} was deleted; undelete it first")]
    ProjectDeleted {
        /// The project.
        name: String,
    },
    /// The resource does not exist.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// What kind of resource.
        kind: &'static str,
        /// Its name as asked for.
        name: String,
    },
    /// The id is taken.
    #[error("{kind} {name} exists already")]
    Exists {
        /// What kind of resource.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The resource changed since the caller read it.
    #[error("the etag is not the current one ({current}); read {name} again and repeat the change")]
    EtagMismatch {
        /// The resource.
        name: String,
        /// Its etag now.
        current: String,
    },
    /// The lease token is not the current one.
    #[error("the lease of {task} with epoch {epoch} is lost; stop the attempt")]
    LeaseLost {
        /// The task.
        task: String,
        /// The epoch the caller holds.
        epoch: i64,
    },
    /// A request with the same idempotency key is under way.
    #[error("a request with the idempotency key {key:?} is still running; repeat shortly")]
    IdempotencyInProgress {
        /// The key.
        key: String,
    },
    /// The state does not allow the call.
    #[error("{name} is {state}; {hint}")]
    StateConflict {
        /// The resource.
        name: String,
        /// Its state.
        state: &'static str,
        /// What would be allowed.
        hint: &'static str,
    },
    /// Something else needs it.
    #[error("{name} is used by {by}; change that first")]
    InUse {
        /// The resource.
        name: String,
        /// What needs it.
        by: String,
    },
    /// There may be no more of them.
    #[error("{project} has {limit} {what}, which is the limit; delete one first")]
    QuotaExceeded {
        /// Whose quota it is.
        project: String,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: i64,
    },
    /// The dead letter was retried as often as it may be.
    #[error(
        "{name} was retried {count} times, the limit is {limit}; mark it processed, and submit a new task if the work \
         is still wanted"
    )]
    ReplayLimit {
        /// The dead letter.
        name: String,
        /// How often it was retried.
        count: i32,
        /// How often it may be.
        limit: i32,
    },
    /// Who calls is not known.
    #[error("{}", refusal_text(*.0))]
    Unauthenticated(Refusal),
    /// Too many credentials from one address were not taken.
    #[error("too many credentials from this address were not taken; repeat in {}s", .0.as_secs().max(1))]
    TooManyAttempts(Duration),
    /// Too many streams are open.
    #[error("{limit} streams are open, which is the limit; close some")]
    TooManyStreams {
        /// The limit.
        limit: usize,
    },
    /// The server takes no new work for the moment.
    #[error("the server is busy; repeat shortly")]
    Overloaded,
    /// The database has no space left.
    #[error("the database has no space left; reads work, writes do once space is made")]
    StorageFull,
    /// The watcher reads too slowly.
    #[error("the watcher could not keep up for {}s; resume with the last token", .0.as_secs())]
    SlowConsumer(Duration),
    /// The stream reached its age.
    #[error("the stream reached its age; resume with the last token")]
    Reconnect,
    /// The outcome of the commit is not known.
    #[error("the connection to the database broke during the commit; repeat with the same request_id to be safe")]
    CommitUnknown,
    /// The database does not answer.
    #[error("the database does not answer; repeat shortly")]
    DatabaseUnavailable,
    /// This server is stopping.
    #[error("this server is stopping; repeat on another one")]
    ShuttingDown,
    /// The deadline passed.
    #[error("the deadline passed on the server")]
    DeadlineExceeded,
    /// A list looked at tasks for as long as it may and was not done.
    #[error("the filter makes the service look at too many tasks; narrow it by state, queue or create_time")]
    ListTooSlow,
    /// A fault of ours. The cause is in the log.
    #[error("internal fault")]
    Internal(#[source] Arc<anyhow::Error>),
}

impl Error {
    /// One wrong field.
    pub fn field(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(path, description)])
    }

    /// A fault of ours, logged here, once.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let cause = cause.into();
        tracing::error!(cause = format!("{cause:#}"), "internal fault");
        Self::Internal(Arc::new(cause))
    }

    /// A task that does not exist.
    pub fn task_not_found(project: &crate::ids::ProjectId, task: crate::ids::TaskId) -> Self {
        Self::NotFound { kind: "task", name: crate::ids::task_name(project, task) }
    }
}

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path as in the proto: `task.retry.max_attempts`, `requests[3].task.type`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub description: String,
}

impl Violation {
    /// A violation at a path.
    pub fn new(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self { path: path.into(), description: description.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.description)
    }
}

fn violations_text(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Always the same words, whatever part of a credential was good.
fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Missing => "no credential; send an API key as x-api-key, or a token as authorization: Bearer",
        Refusal::Invalid => "the credential is not valid",
        Refusal::Expired => "the time of the credential is over; get a new one",
        Refusal::Revoked => "the credential was revoked; get another one",
    }
}

/// What a caller is told of a credential that is not taken: nothing about which part of it matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    Missing,
    /// It is not one of ours.
    Invalid,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}
