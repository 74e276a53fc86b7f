//! The write path: group commit.
//!
//! Every hot command of a project goes to one of a few *lanes*. A lane takes whatever gathered while its last batch was
//! committing, groups it by project, and runs each group as one transaction: lock and read the rows concerned, decide
//! each command with the pure rules, write all rows in a few statements, append the journal, commit; then it answers
//! everybody and publishes. No timer: a lone command commits at once, a burst shares one fsync. On PostgreSQL most batches
//! lock nothing and are one statement, which fails if what they were decided on has changed; such a batch is run again in
//! these steps.
//!
//! Who owns what: a lane owns its transactions, so no caller that goes away can drop one. A command is answered exactly
//! once, after the commit that holds its effect. A refused command, or one the database chokes on, never spoils its
//! batch: the batch is taken apart and the others go on. Rows that another replica holds are waited for by the first
//! batch that meets them, 2 s at most, and skipped by those after it; their commands come back in a later batch until their
//! deadline.
//!
//! On PostgreSQL a project's submits, leases and reports have lanes of their own: they touch different rows, and the
//! journal counter orders their commits. SQLite has one writer, so one lane.

mod announce;
mod batch;
mod claims;
mod command;
mod decide;
mod hints;
mod judging;
mod lane;
mod read;
mod recent;
mod repeat;
mod sabotage;
mod task_writes;
mod workset;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot};

use self::{
    batch::Batcher,
    command::{AnswerTo, Pending},
    judging::Judging,
    lane::Entrance,
};
pub use self::{
    command::{Action, Answer, Command, IdempotencyKey, Item, NewSubmit, ReplayWish, Reply, Submitted},
    task_writes::{TaskNews, TaskWrites},
};
use crate::{
    context::Caller,
    domain::retry_policy::Policies,
    error::{Error, Result},
    ids::ProjectId,
    live::{hub::Hub, sessions::Sessions, wakeups::Wakeups},
    store::Store,
};

/// Memory that waiting commands may hold, in KiB: 64 MiB.
const BUDGET_KIB: usize = 64 * 1024;
/// A call is answered within this, whatever the database does.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);
/// Groups of lanes on PostgreSQL, each with one for submits, one for leases, one for changes.
const POSTGRES_GROUPS: usize = 2;
/// Batches of submits that a lane on PostgreSQL may have under way. Those of leases and changes go one by one: with two of
/// each no gain could be measured.
const SUBMIT_BATCHES: usize = 2;

/// The handle of the write path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Committer(Arc<Lanes>);

#[derive(Debug)]
struct Lanes {
    lanes: Vec<Entrance>,
    groups: usize,
    budget: Arc<Semaphore>,
    store: Store,
    judging: Arc<Judging>,
    /// For what named writes do to tasks.
    batcher: Arc<Batcher>,
}

/// What a lane does different work on.
#[derive(Clone, Copy)]
enum Class {
    Submit = 0,
    Lease = 1,
    Change = 2,
}

const CLASSES: usize = 3;

impl Committer {
    /// Starts the lanes. They end when the last handle is dropped and what is queued is answered.
    pub fn start(store: &Store, hub: &Arc<Hub>, wakeups: &Arc<Wakeups>, sessions: &Arc<Sessions>) -> Self {
        let groups = if store.has_row_locks() { POSTGRES_GROUPS } else { 0 };
        let judging = Arc::<Judging>::default();
        let batcher = Batcher::new(store.clone(), hub.clone(), wakeups.clone(), sessions.clone(), judging.clone());
        let batcher = Arc::new(batcher);
        let lanes = (0..(groups * CLASSES).max(1))
            .map(|lane| {
                let submits = groups > 0 && lane % CLASSES == Class::Submit as usize;
                Entrance::open(batcher.clone(), if submits { SUBMIT_BATCHES } else { 1 })
            })
            .collect();
        let budget = Arc::new(Semaphore::new(BUDGET_KIB));
        Self(Arc::new(Lanes { lanes, groups, budget, store: store.clone(), judging, batcher }))
    }

    /// The retry policies of a project as batches know them, a second old at most.
    pub async fn policies(&self, project: &ProjectId) -> Result<Arc<Policies>> {
        Ok(self.0.judging.policies(&self.0.store, project).await?)
    }

    /// The retry policies of a project have changed: the next batch reads them anew.
    pub fn forget_policies(&self, project: &ProjectId) {
        self.0.judging.forget(project);
    }

    /// Runs a command and answers after its commit. Dropping the future does not stop the command.
    pub async fn run(&self, caller: &Caller, project: &ProjectId, command: Command) -> Result<Reply> {
        let Ok(budget) = self.0.budget.clone().try_acquire_many_owned(command.cost_kib()) else {
            return Err(Error::Overloaded);
        };
        let (answer, answered) = oneshot::channel();
        let lane = self.lane(project, command.class());
        let deadline = Instant::now() + COMMAND_LIMIT;
        let pending = Pending {
            caller: caller.clone(),
            command,
            deadline,
            answer: AnswerTo::Call(answer),
            _budget: Some(budget),
        };
        lane.send(project.clone(), pending)?;
        match tokio::time::timeout_at((deadline + Duration::from_secs(1)).into(), answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Error::internal(anyhow::anyhow!("a batch ended without an answer"))),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    fn lane(&self, project: &ProjectId, class: Class) -> &Entrance {
        let lanes = &self.0.lanes;
        if self.0.groups == 0 {
            return &lanes[0];
        }
        let mut hash = DefaultHasher::new();
        project.hash(&mut hash);
        let group = usize::try_from(hash.finish() % self.0.groups as u64).unwrap_or(0);
        &lanes[group * CLASSES + class as usize]
    }
}

impl Command {
    fn class(&self) -> Class {
        match self {
            Self::Submit { .. } | Self::StandBy { .. } => Class::Submit,
            Self::Lease { .. } | Self::Promote => Class::Lease,
            Self::Change(_) => Class::Change,
        }
    }

    /// How many tasks it is about.
    fn tasks(&self) -> usize {
        match self {
            Self::Submit { tasks, .. } => tasks.len(),
            Self::Lease { limit, .. } | Self::StandBy { limit, .. } => *limit,
            Self::Promote => 1,
            Self::Change(items) => items.len(),
        }
    }

    /// A rough measure of the memory it holds while it waits.
    fn cost_kib(&self) -> u32 {
        let bytes: usize = match self {
            Self::Submit { tasks, .. } => {
                tasks.iter().map(|t| 512 + t.new.input.as_ref().map_or(0, |input| input.data.len())).sum()
            }
            Self::Lease { .. } | Self::StandBy { .. } | Self::Promote => 512,
            Self::Change(items) => items
                .iter()
                .map(|item| match &item.action {
                    Action::Complete { result: Some(result), .. } => 256 + result.data.len(),
                    _ => 256,
                })
                .sum(),
        };
        // More than the whole budget would never be let in; it waits for all of it instead.
        u32::try_from((bytes / 1024 + 1).min(BUDGET_KIB)).unwrap_or(1)
    }
}
