//! What the committer is asked to do, and what it answers.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::COMMAND_LIMIT;
use crate::{
    context::Caller,
    domain::{
        authority::Share,
        task::{Micros, Payload, Progress, Task},
        transition::{Failure, Holder, NewTask, Patch},
    },
    error::Result,
    ids::{BulkJobId, TaskId},
    live::wakeups::{Bell, Want},
};

/// A command with its way back.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) caller: Caller,
    pub(super) command: Command,
    /// After this nobody waits for the answer, so nothing is begun.
    pub(super) deadline: Instant,
    pub(super) answer: AnswerTo,
    /// The share of the memory budget it holds until it is answered.
    pub(super) _budget: Option<OwnedSemaphorePermit>,
}

impl Pending {
    /// Answers it. Returns the leases nobody took, to be given back: the caller went away before it heard of them.
    pub(super) fn answer(self, reply: Result<Reply>) -> Option<Pending> {
        let unheard = self.answer.send(reply);
        // Any other effect stands, and whoever repeats a keyed lease is answered the same leases.
        let is_given_back = matches!(self.command, Command::Lease { key: None, .. } | Command::StandBy { .. });
        if unheard.is_empty() || !is_given_back {
            return None;
        }
        let release = |task: &Arc<Task>| Item {
            task: task.id,
            share: Share::All,
            action: Action::Release { epoch: task.epoch, delay: None },
            etag: None,
        };
        Some(Pending {
            caller: self.caller,
            command: Command::Change(unheard.iter().map(release).collect()),
            deadline: Instant::now() + COMMAND_LIMIT,
            answer: AnswerTo::Nobody,
            _budget: None,
        })
    }
}

/// Who is told what became of a command.
#[derive(Debug)]
pub(super) enum AnswerTo {
    /// A caller.
    Call(oneshot::Sender<Result<Reply>>),
    /// A leaser that stands by. Dropped, it looks itself.
    StandBy(Bell),
    /// Nobody asked: leases of a caller that went away are given back.
    Nobody,
}

impl AnswerTo {
    /// Whether nobody hears it any more.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Call(answer) => answer.is_closed(),
            Self::StandBy(bell) => bell.is_closed(),
            Self::Nobody => false,
        }
    }

    /// Tells it. Answers the leases that were not heard of.
    pub(super) fn send(self, reply: Result<Reply>) -> Vec<Arc<Task>> {
        match self {
            Self::Call(answer) => match answer.send(reply) {
                Err(Ok(Reply::Leased(Answer { value, replayed: false }))) => value,
                _ => Vec::new(),
            },
            Self::StandBy(bell) => match reply {
                Ok(Reply::Leased(answer)) => bell.send(answer.value).err().unwrap_or_default(),
                _ => Vec::new(),
            },
            Self::Nobody => Vec::new(),
        }
    }
}

/// A hot command of one project.
#[derive(Clone, Debug)]
pub enum Command {
    /// Submits tasks, all or none.
    Submit {
        /// The tasks.
        tasks: Vec<NewSubmit>,
        /// Makes it safe to repeat.
        key: Option<IdempotencyKey>,
    },
    /// Leases what is due.
    Lease {
        /// Queues and types.
        want: Want,
        /// Most tasks.
        limit: usize,
        /// Who takes them.
        holder: Holder,
        /// Makes it safe to repeat.
        key: Option<IdempotencyKey>,
    },
    /// Leases what the submits before it in its batch made due, for a leaser that stands by.
    StandBy {
        /// Queues and types.
        want: Want,
        /// Most tasks.
        limit: usize,
        /// Who takes them.
        holder: Holder,
    },
    /// Marks tasks whose `run_time` has come.
    Promote,
    /// Changes tasks, each on its own.
    Change(Vec<Item>),
}

impl Command {
    /// Whether it is decided without a look at the database: no id and no unique key that another task may have.
    pub(super) fn is_decided_blind(&self) -> bool {
        match self {
            Self::Submit { tasks, .. } => tasks.iter().all(|task| !task.id_given && task.new.spec.unique_key.is_none()),
            Self::StandBy { .. } => true,
            Self::Lease { .. } | Self::Promote | Self::Change(_) => false,
        }
    }

    /// Whether retry policies may be asked.
    pub(super) fn may_need_judge(&self) -> bool {
        match self {
            Self::Change(items) => items.iter().any(|item| item.action.may_need_judge()),
            _ => false,
        }
    }

    /// Whether it may be decided on rows that are not locked: the write of what it changes says whether they are still as
    /// they were read.
    pub(super) fn may_be_optimistic(&self) -> bool {
        match self {
            Self::Submit { .. } | Self::StandBy { .. } => self.is_decided_blind(),
            Self::Lease { .. } => true,
            Self::Promote => false,
            Self::Change(items) => items.iter().all(|item| item.action.ends_attempt()),
        }
    }
}

/// A task to be submitted.
#[derive(Clone, Debug)]
pub struct NewSubmit {
    /// The task.
    pub new: NewTask,
    /// Whether the caller chose the id, so that it may be taken.
    pub id_given: bool,
}

/// Makes a call safe to repeat: the same key with the same request answers the first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As the caller gave it.
    pub key: String,
    /// The method it counts for.
    pub method: &'static str,
    /// A hash of the request without the key.
    pub fingerprint: [u8; 32],
}

/// A change of one task.
#[derive(Clone, Debug)]
pub struct Item {
    /// The task.
    pub task: TaskId,
    /// The tasks the caller may reach.
    pub share: Share,
    /// What to do.
    pub action: Action,
    /// Refuse unless this is the current etag.
    pub etag: Option<String>,
}

/// What to do with a task.
#[derive(Clone, Debug)]
pub enum Action {
    /// Extend the lease, keep the progress.
    Heartbeat {
        /// The lease.
        epoch: i64,
        /// How far it is.
        progress: Option<Progress>,
    },
    /// Report success.
    Complete {
        /// The lease.
        epoch: i64,
        /// What the handler returned.
        result: Option<Payload>,
    },
    /// Report failure.
    Fail {
        /// The lease.
        epoch: i64,
        /// Why, and what to do.
        failure: Failure,
    },
    /// Give the lease back.
    Release {
        /// The lease.
        epoch: i64,
        /// Not due before this span.
        delay: Option<Micros>,
    },
    /// Cancel.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Open again.
    Retry {
        /// Who wants it, for the dead letter.
        owner: Arc<str>,
        /// Only as the retry of a dead letter.
        replay: Option<ReplayWish>,
    },
    /// Make due now.
    RunNow,
    /// Change what may change.
    Update(Patch),
    /// Delete.
    Delete {
        /// Also with an open dead letter.
        with_dead_letter: bool,
    },
    /// End what ran out of time.
    Sweep,
}

impl Action {
    /// Whether a final task may be changed by it, so that the wide row must be locked as well.
    pub(super) fn is_deep(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Update(_) | Self::Delete { .. })
    }

    /// Whether the dead letter of the task decides on it.
    pub(super) fn looks_at_dead_letter(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Delete { with_dead_letter: false })
    }

    /// Whether the journal is to tell of the input before.
    pub(super) fn replaces_input(&self) -> bool {
        matches!(self, Self::Retry { replay: Some(ReplayWish { input: Some(_), .. }), .. })
    }

    /// Whether it is a worker's last word on an attempt.
    fn ends_attempt(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::Fail { .. } | Self::Release { .. })
    }

    /// Whether it may end an attempt so that somebody must decide whether there is another.
    pub(super) fn may_need_judge(&self) -> bool {
        matches!(self, Self::Fail { .. } | Self::Sweep)
    }

    /// The epoch whose ended attempt a repeated report is compared with.
    pub(super) fn repeated_epoch(&self) -> Option<i64> {
        match self {
            Self::Fail { epoch, .. } | Self::Release { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }
}

/// How a dead letter is to be retried.
#[derive(Clone, Debug, Default)]
pub struct ReplayWish {
    /// Refuse unless this is the current etag of the entry.
    pub etag: Option<String>,
    /// The task's input from now on.
    pub input: Option<Payload>,
    /// The job that does it.
    pub bulk_job: Option<BulkJobId>,
}

/// The answer to a [`Command`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// To a submit, in order.
    Submitted(Answer<Vec<Submitted>>),
    /// To a lease.
    Leased(Answer<Vec<Arc<Task>>>),
    /// To a promote.
    Promoted,
    /// To changes, in order: the task after it.
    Changed(Vec<Result<Arc<Task>>>),
}

/// An answer, and whether it is that of an earlier call.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// It repeats the answer to an earlier call with the same key.
    pub replayed: bool,
}

/// What became of a submitted task. Kept with the idempotency key, so a field, once shipped, keeps its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The task.
    pub id: uuid::Uuid,
    /// An open task held the unique key; this is it.
    pub existing: bool,
    /// The revision that holds the submit; 0 if `existing`.
    pub revision: i64,
    /// When the task was created.
    pub create_time: Micros,
    /// Its etag.
    pub etag: String,
}
