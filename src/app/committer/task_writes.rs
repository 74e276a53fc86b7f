//! Changes of tasks that are part of a named write: a schedule that fires submits and cancels tasks in the transaction that
//! moves it on. They are decided, written and told as those of a batch are, with the same functions; what differs is that
//! the named write owns the transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Committer,
    command::{NewSubmit, Submitted},
    decide::{self, Facts, UniqueKeys, unique_key_of},
    read::read_holders,
    workset::Workset,
};
use crate::{
    context::Caller,
    domain::{
        retry_policy::Policies,
        task::{Micros, Spec},
        transition::{self, NewTask},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    store::{
        StoreResult, Tx,
        journal::{self, Entry},
        queues::{self, StatDelta},
        tasks,
        unique_keys::{self, UniqueKey},
    },
};

/// The tasks of one named write, of one project.
#[derive(Debug)]
pub struct TaskWrites {
    project: ProjectId,
    now: Micros,
    set: Workset,
    keys: UniqueKeys,
    /// Tasks to be cancelled that another transaction holds.
    busy: HashSet<TaskId>,
}

impl TaskWrites {
    /// Reads what decisions need: the tasks that may be cancelled, locked; those that are only looked at; and who holds the
    /// unique keys of those to be submitted.
    pub async fn read(
        tx: &mut Tx,
        project: &ProjectId,
        mut to_cancel: Vec<TaskId>,
        to_look_at: Vec<TaskId>,
        to_submit: impl Iterator<Item = &Spec>,
    ) -> StoreResult<Self> {
        let now = tx.now();
        let mut set = Workset::new(now);
        let mut busy = HashSet::new();
        to_cancel.sort_unstable();
        to_cancel.dedup();
        let nothing_final = HashSet::new();
        let held = tasks::lock(tx, project, &to_cancel, &nothing_final).await?;
        for loaded in tasks::load(tx, project, &to_cancel, &nothing_final, held).await? {
            if !loaded.held {
                busy.insert(loaded.task.id);
            }
            set.insert(loaded.task, loaded.due);
        }
        for loaded in tasks::peek(tx, project, to_look_at.into_iter()).await? {
            set.insert(loaded.task, loaded.due);
        }
        let mut keys: HashSet<UniqueKey> = to_submit.filter_map(unique_key_of).collect();
        keys.extend(to_cancel.iter().filter_map(|id| set.get(*id)).filter_map(|task| unique_key_of(&task.spec)));
        let keys = read_holders(tx, project, keys, &mut set).await?;
        Ok(Self { project: project.clone(), now, set, keys, busy })
    }

    /// Whether a task that was read is there and not final.
    pub fn is_open(&self, task: TaskId) -> bool {
        self.set.get(task).is_some_and(|task| !task.state.is_final())
    }

    /// Whether another transaction holds a task that is to be cancelled.
    pub fn is_busy(&self, task: TaskId) -> bool {
        self.busy.contains(&task)
    }

    /// Submits a task under an id that the server made. `caller` is the place of who does so in the callers of
    /// [`write`](Self::write).
    pub fn submit(&mut self, caller: usize, new: NewTask) -> Result<Submitted> {
        // Nobody asks them about a submit.
        let (last_attempts, policies) = (HashMap::new(), Policies::default());
        let facts = Facts { project: &self.project, now: self.now, last_attempts: &last_attempts, policies: &policies };
        let submit = [NewSubmit { new, id_given: false }];
        let mut submitted = decide::submit(&submit, caller, &facts, &mut self.set, &mut self.keys)?;
        submitted.pop().ok_or_else(|| Error::internal(anyhow::anyhow!("a submit without an answer")))
    }

    /// Cancels an open task that was read for that.
    pub fn cancel(&mut self, caller: usize, task: TaskId, reason: &str) -> Result<()> {
        let Some(found) = self.set.get(task) else { return Err(Error::task_not_found(&self.project, task)) };
        if let Some(change) = transition::cancel(found, reason, self.now)? {
            self.keys.follow(&change, self.now);
            self.set.apply(caller, change);
        }
        Ok(())
    }

    /// Writes the tasks, then one journal row for each change, and `others` after them: the last writes before COMMIT. None
    /// when the project does not exist.
    pub async fn write(self, tx: &mut Tx, callers: &[Caller], others: Vec<Entry<'_>>) -> StoreResult<Option<TaskNews>> {
        let stats: Vec<StatDelta> =
            self.set.stats().into_iter().map(|(name, stat)| StatDelta { name: name.to_owned(), ..stat }).collect();
        let queues: Vec<String> = stats.iter().map(|stat| stat.name.clone()).collect();
        queues::ensure(tx, &self.project, &queues, self.now).await?;
        tasks::write(tx, &self.project, &self.set.nets()).await?;
        unique_keys::release(tx, &self.project, &self.keys.released()).await?;
        unique_keys::take(tx, &self.project, &self.keys.taken()).await?;
        let changes = self.set.changes().iter();
        let mut entries: Vec<Entry<'_>> =
            changes.map(|(caller, change)| Entry::of_change(change, &callers[*caller])).collect();
        entries.extend(others);
        let Some(first_revision) = journal::append_batch(tx, &self.project, &entries, &stats).await? else {
            return Ok(None);
        };
        let principals = callers.iter().map(|caller| caller.principal.clone()).collect();
        Ok(Some(TaskNews { project: self.project, set: self.set, first_revision, principals }))
    }
}

/// What watchers and leasers are told of after COMMIT.
#[derive(Debug)]
pub struct TaskNews {
    project: ProjectId,
    set: Workset,
    first_revision: i64,
    principals: Vec<std::sync::Arc<str>>,
}

impl Committer {
    /// Tells those who listen in this process what a named write did to tasks.
    pub fn tell(&self, news: &TaskNews) {
        let TaskNews { project, set, first_revision, principals } = news;
        let batcher = &self.0.batcher;
        batcher.announcer.publish(project, set, Some(*first_revision), principals);
        batcher.announcer.hub.journal_moved(project);
        batcher.announcer.wake(project, &batcher.hints, set, &BTreeMap::new(), Vec::new());
    }
}
