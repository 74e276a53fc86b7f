//! What the background loops do: end what ran out of time, find what nobody was told of. Each may run on any number of
//! replicas at once and any number of times; what one did the others find done.

use std::collections::HashMap;

use super::{
    App,
    committer::{Action, Item},
};
use crate::{
    context::Caller,
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
                let items = tasks.into_iter().map(|task| Item { task, action: Action::Sweep, etag: None }).collect();
                for outcome in self.change(&caller, &project, items).await? {
                    if let Err(error) = outcome {
                        // One bad row never stops a sweep; it is looked at again next time.
                        tracing::warn!(%project, %error, "a task could not be swept");
                    }
                }
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
            let mut position = watched.get(&project).copied().unwrap_or(last);
            while position < last {
                let events = journal::read(self.store(), &project, position, TAIL_PAGE).await?;
                let Some(newest) = events.last() else { break };
                position = newest.revision;
                self.hub().publish(&project, events.into_iter().map(std::sync::Arc::new));
            }
        }
        Ok(())
    }

    /// Wakes leasers for tasks that became due without a word: their `run_time` came, another replica made them due, or
    /// their queue was resumed.
    pub async fn wake_leasers(&self) -> Result<()> {
        for (project, lanes) in self.wakeups().wanted() {
            for (queue, task_type, count) in tasks::due_lanes(self.store(), &project, &lanes, LANE_LOOK).await? {
                self.wakeups().ready(&project, &queue, &task_type, count);
            }
            if tasks::is_overdue(self.store(), &project).await? {
                self.wakeups().ring_one(&project);
            }
        }
        Ok(())
    }
}
