//! Tasks: submit, read, change, wait.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use super::committer::{Action, Answer, IdempotencyKey, NewSubmit, ReplayWish, Submitted};
use super::{
    App,
    committer::{Command, Item, Reply},
    long_poll,
    page::{cut, one_more},
};
use crate::{
    context::Caller,
    domain::{
        authority::Share,
        event::Subject,
        permission::Permission,
        retry::Retry,
        task::{Attempt, Task},
        task_list::{ListQuery, Position},
        transition::Patch,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, task_name},
    store::{dead_letters, journal, tasks},
};

/// A page of tasks.
#[derive(Debug)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The revision of the project when it was read.
    pub revision: i64,
    /// Where the next page goes on; none at the end.
    pub next: Option<Position>,
}

/// A page of attempts.
#[derive(Debug)]
pub struct AttemptPage {
    /// The attempts, the first one first.
    pub attempts: Vec<Attempt>,
    /// The epoch after which the next page goes on; none at the end.
    pub next: Option<i64>,
    /// Attempts with a higher epoch came of a replay of the dead letter; none if it was never retried.
    pub replayed_at: Option<i64>,
}

/// What an operator does to a task.
#[derive(Clone, Debug)]
pub enum TaskChange {
    /// Cancel it.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Open it again.
    Retry,
    /// Retry its dead letter.
    Replay(ReplayWish),
    /// Make it due now.
    RunNow,
    /// Change what may change.
    Update(Patch),
    /// Delete it.
    Delete {
        /// It may be gone already.
        allow_missing: bool,
    },
    /// Delete it, with an open dead letter too.
    Purge,
}

impl App {
    /// Submits tasks, all or none.
    pub async fn submit(
        &self,
        caller: &Caller,
        project: &ProjectId,
        tasks: Vec<NewSubmit>,
        key: Option<IdempotencyKey>,
    ) -> Result<Answer<Vec<Submitted>>> {
        self.require_live_project(project).await?;
        for task in &tasks {
            self.require_named_policy(project, &task.new.spec.retry).await?;
        }
        match self.committer().run(caller, project, Command::Submit { tasks, key }).await? {
            Reply::Submitted(answer) => Ok(answer),
            _ => Err(wrong_reply()),
        }
    }

    /// Refuses a task that names a retry policy that does not exist.
    pub(super) async fn require_named_policy(&self, project: &ProjectId, retry: &Retry) -> Result<()> {
        match retry {
            Retry::Policy(id) => Box::pin(self.require_retry_policy(project, id)).await,
            Retry::Unsaid | Retry::Settings(_) => Ok(()),
        }
    }

    /// One task.
    pub async fn get_task(&self, project: &ProjectId, id: TaskId, share: &Share, full: bool) -> Result<Task> {
        reached(share, self.find_task(project, id, full).await, || task_name(project, id))
    }

    async fn find_task(&self, project: &ProjectId, id: TaskId, full: bool) -> Result<Task> {
        match self.0.lookups.get(project, id, full).await? {
            // Shared only when two callers asked for the same task at once.
            Some(task) => Ok(Arc::unwrap_or_clone(task)),
            None => {
                self.require_project(project).await?;
                Err(Error::task_not_found(project, id))
            }
        }
    }

    /// Some tasks, in the order asked; all of them must exist.
    pub async fn batch_get_tasks(
        &self,
        project: &ProjectId,
        ids: &[TaskId],
        share: &Share,
        full: bool,
    ) -> Result<Vec<Task>> {
        self.require_project(project).await?;
        let found = tasks::get(&mut self.store().key_reader().await?, project, ids, full).await?;
        let by_id: std::collections::HashMap<TaskId, Task> = found.into_iter().map(|task| (task.id, task)).collect();
        let one = |id: &TaskId| by_id.get(id).cloned().ok_or_else(|| Error::task_not_found(project, *id));
        ids.iter().map(|id| reached(share, one(id), || task_name(project, *id))).collect()
    }

    /// A page of tasks.
    pub async fn list_tasks(&self, project: &ProjectId, query: ListQuery) -> Result<TaskPage> {
        self.require_project(project).await?;
        let limit = query.limit;
        let (found, revision) = tasks::list(self.store(), project, &ListQuery { limit: limit + 1, ..query }).await?;
        let (found, next) = cut(found, limit, |task| Position { create_time: task.spec.create_time, id: task.id });
        let revision = match revision {
            Some(revision) => revision,
            None => journal::position(self.store(), project).await?.map_or(0, |position| position.last),
        };
        Ok(TaskPage { tasks: found, revision, next })
    }

    /// A page of the attempts of a task, those with an epoch beyond `after`. The running one is the last.
    pub async fn list_attempts(
        &self,
        project: &ProjectId,
        id: TaskId,
        share: &Share,
        after: i64,
        limit: i64,
    ) -> Result<AttemptPage> {
        let task = self.get_task(project, id, share, false).await?;
        let mut attempts = tasks::attempts(self.store(), project, id, after, one_more(limit)).await?;
        // Both were read at their own time: an attempt that ended in between is among the ended ones.
        if let Some(running) = Attempt::running(&task)
            && running.epoch > after
            && attempts.iter().all(|attempt| attempt.epoch < running.epoch)
        {
            attempts.push(running);
        }
        let (attempts, next) = cut(attempts, limit, |attempt| attempt.epoch);
        let replayed_at = dead_letters::first_replay(self.store(), project, id).await?;
        Ok(AttemptPage { attempts, next, replayed_at })
    }

    /// Changes one task. Answers it as it is then; none once it is deleted.
    pub async fn change_task(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: TaskId,
        share: &Share,
        change: TaskChange,
        etag: Option<String>,
    ) -> Result<Option<Task>> {
        match &change {
            // Ending what there is goes on in a deleted project.
            TaskChange::Cancel { .. } | TaskChange::Delete { .. } | TaskChange::Purge => {
                self.require_project(project).await?;
            }
            TaskChange::Retry | TaskChange::Replay(_) | TaskChange::RunNow | TaskChange::Update(_) => {
                self.require_live_project(project).await?;
            }
        }
        if let TaskChange::Update(Patch { retry: Some(retry), .. }) = &change {
            self.require_named_policy(project, retry).await?;
        }
        let allow_missing = matches!(change, TaskChange::Delete { allow_missing: true });
        let deletes = matches!(change, TaskChange::Delete { .. } | TaskChange::Purge);
        let items = vec![Item { task: id, share: share.clone(), action: action(caller, change), etag }];
        match self.change(caller, project, items).await?.pop() {
            Some(Err(Error::NotFound { .. })) if allow_missing => Ok(None),
            Some(outcome) => outcome.map(|task| (!deletes).then(|| Arc::unwrap_or_clone(task))),
            None => Err(wrong_reply()),
        }
    }

    /// Changes several tasks, each on its own.
    pub async fn change_tasks(
        &self,
        caller: &Caller,
        project: &ProjectId,
        changes: Vec<(TaskId, TaskChange)>,
    ) -> Result<Vec<Result<Arc<Task>>>> {
        let item = |(task, change)| Item { task, share: Share::All, action: action(caller, change), etag: None };
        let items = changes.into_iter().map(item).collect();
        self.change(caller, project, items).await
    }

    pub(super) async fn change(
        &self,
        caller: &Caller,
        project: &ProjectId,
        items: Vec<Item>,
    ) -> Result<Vec<Result<Arc<Task>>>> {
        match self.committer().run(caller, project, Command::Change(items)).await? {
            Reply::Changed(results) => Ok(results),
            _ => Err(wrong_reply()),
        }
    }

    /// Waits until a task is final, at most `wait`. Answers the task, FULL, and whether it is final.
    pub async fn wait_task(
        &self,
        project: &ProjectId,
        id: TaskId,
        share: &Share,
        wait: Duration,
    ) -> Result<(Task, bool)> {
        long_poll(wait, Box::pin(self.wait_until_final(project, id, share, wait))).await
    }

    async fn wait_until_final(
        &self,
        project: &ProjectId,
        id: TaskId,
        share: &Share,
        wait: Duration,
    ) -> Result<(Task, bool)> {
        let until = Instant::now() + wait;
        'waiting: loop {
            // Subscribed before the look, so that an end right after it is not missed.
            let mut events = self.subscribe(project, Some(id)).await?;
            let task = self.get_task(project, id, share, true).await?;
            if task.state.is_final() {
                return Ok((task, true));
            }
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = tokio::time::sleep_until(until) => break 'waiting,
                    () = self.draining().cancelled() => break 'waiting,
                };
                match event.as_ref().map(|event| &event.subject) {
                    Some(Subject::Task { after, .. }) if after.state.is_final() => break,
                    Some(_) => {}
                    // Cut off: look again.
                    None => break,
                }
            }
        }
        // It may have changed since the last look.
        let task = self.get_task(project, id, share, true).await?;
        let done = task.state.is_final();
        Ok((task, done))
    }
}

/// A task that was looked for, if it may be reached. Who may reach only its own hears the same of others' tasks and of
/// those that do not exist.
fn reached(share: &Share, found: Result<Task>, name: impl FnOnce() -> String) -> Result<Task> {
    let denied = || Error::PermissionDenied { permission: Permission::TasksRead.name(), resource: name() };
    match found {
        Ok(task) if !share.covers(&task.spec.owner) => Err(denied()),
        Err(Error::NotFound { .. }) if *share != Share::All => Err(denied()),
        found => found,
    }
}

fn action(caller: &Caller, change: TaskChange) -> Action {
    match change {
        TaskChange::Cancel { reason } => Action::Cancel { reason },
        TaskChange::Retry => Action::Retry { owner: caller.principal.clone(), replay: None },
        TaskChange::Replay(wish) => Action::Retry { owner: caller.principal.clone(), replay: Some(wish) },
        TaskChange::RunNow => Action::RunNow,
        TaskChange::Update(patch) => Action::Update(patch),
        TaskChange::Delete { .. } => Action::Delete { with_dead_letter: false },
        TaskChange::Purge => Action::Delete { with_dead_letter: true },
    }
}

pub(super) fn wrong_reply() -> Error {
    Error::internal(anyhow::anyhow!("the committer answered another command"))
}
