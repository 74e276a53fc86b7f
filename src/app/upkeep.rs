//! What the background loops do: end what ran out of time, find what nobody was told of. Each may run on any number of
//! replicas at once and any number of times; what one did the others find done.

use std::collections::HashMap;

use super::{
    App,
    committer::{Action, Command, Item},
};
use crate::{
    context::Caller,
    domain::authority::Share,
    error::Result,
    ids::{ProjectId, TaskId},
    store::{journal, tasks},
};

/// Tasks ended in one transaction.
const SWEEP_BATCH: i64 = 200;
/// Journal rows handed to the hub at once.
const TAIL_PAGE: i64 = 1_000;
/// Most tasks a lane is looked at for: more leasers than this are woken in the next round.
const LANE_LOOK: i64 = 100;

impl App {
    /// Ends attempts past their deadline, leases past their time, and waiting tasks past their `expire_time`. Returns how
    /// many tasks it looked at.
    pub async fn sweep(&self) -> Result<usize> {
        let caller = Caller::system("system:lease-sweep");
        let mut seen = 0;
        loop {
            let mut found = tasks::expired_running(self.store(), SWEEP_BATCH).await?;
            found.extend(tasks::expired_waiting(self.store(), SWEEP_BATCH).await?);
            let mut by_project: HashMap<ProjectId, Vec<TaskId>> = HashMap::new();
            let count = found.len();
            seen += count;
            for (project, task) in found {
                by_project.entry(project).or_default().push(task);
            }
            for (project, tasks) in by_project {
                self.sweep_project(&caller, &project, &tasks).await?;
            }
            if count < usize::try_from(SWEEP_BATCH).unwrap_or(usize::MAX) {
                return Ok(seen);
            }
        }
    }

    /// Hands the hub what other replicas, and named writes of this one, put into the journals that are watched here.
    pub async fn tail_journals(&self) -> Result<()> {
        let watched: HashMap<ProjectId, i64> = self.hub().watched().into_iter().collect();
        if watched.is_empty() {
            return Ok(());
        }
        let projects: Vec<ProjectId> = watched.keys().cloned().collect();
        for (project, last) in journal::positions(self.store(), &projects).await? {
            let position = watched.get(&project).copied().unwrap_or(last);
            if let Err(error) = self.tail_journal(&project, position, last).await {
                // The others are not kept waiting for it.
                tracing::warn!(%project, %error, "a journal could not be read");
            }
        }
        Ok(())
    }

    async fn tail_journal(&self, project: &ProjectId, mut position: i64, last: i64) -> Result<()> {
        while position < last {
            let events = journal::read(self.store(), project, position, TAIL_PAGE).await?;
            let Some(newest) = events.last() else { break };
            position = newest.revision;
            self.hub().publish(project, events.into_iter().map(std::sync::Arc::new));
        }
        Ok(())
    }

    /// One bad row never stops a sweep: what fails together is tried one by one.
    async fn sweep_project(&self, caller: &Caller, project: &ProjectId, tasks: &[TaskId]) -> Result<()> {
        let item = |task: &TaskId| Item { task: *task, share: Share::All, action: Action::Sweep, etag: None };
        let outcomes = match self.change(caller, project, tasks.iter().map(item).collect()).await {
            Ok(outcomes) => outcomes,
            Err(error) if tasks.len() == 1 => vec![Err(error)],
            Err(_) => {
                let mut outcomes = Vec::with_capacity(tasks.len());
                for task in tasks {
                    outcomes.push(
                        self.change(caller, project, vec![item(task)])
                            .await
                            .and_then(|mut one| one.pop().unwrap_or_else(|| Err(super::task::wrong_reply()))),
                    );
                }
                outcomes
            }
        };
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::warn!(%project, %error, "a task could not be swept; it is looked at again");
        }
        Ok(())
    }

    /// Marks tasks whose `run_time` has come, also where nobody asks for them, so that the figures of the queues are right.
    pub async fn promote(&self) -> Result<()> {
        let caller = Caller::system("system:promote");
        for project in tasks::overdue_projects(self.store()).await? {
            self.committer().run(&caller, &project, Command::Promote).await?;
        }
        Ok(())
    }

    /// Wakes leasers for tasks that became due without a word to this process: another replica made them due, or their
    /// queue was resumed.
    pub async fn wake_leasers(&self) -> Result<()> {
        for (project, lanes) in self.wakeups().wanted() {
            for (queue, task_type, count) in tasks::due_lanes(self.store(), &project, &lanes, LANE_LOOK).await? {
                self.wakeups().ready(&project, &queue, &task_type, count);
            }
        }
        Ok(())
    }
}
