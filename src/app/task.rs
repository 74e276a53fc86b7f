//! Stand-in.

use std::{collections::HashSet, sync::Arc};

use super::App;
use crate::{
    context::Caller,
    domain::{task::Task, transition},
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    store::{
        journal::{self, Entry},
        tasks::{self, Net},
    },
};

/// Stand-in.
#[derive(Clone, Debug)]
pub enum TaskChange {
    /// Stand-in.
    Cancel {
        /// Stand-in.
        reason: String,
    },
    /// Stand-in.
    Purge,
}

impl App {
    /// Stand-in.
    pub async fn change_tasks(
        &self,
        caller: &Caller,
        project: &ProjectId,
        changes: Vec<(TaskId, TaskChange)>,
    ) -> Result<Vec<Result<Arc<Task>>>> {
        let mut tx = self.store().begin().await?;
        let ids: Vec<TaskId> = changes.iter().map(|(id, _)| *id).collect();
        tasks::lock(&mut tx, project, &ids, &ids.iter().copied().collect::<HashSet<_>>()).await?;
        let loaded = tasks::load(&mut tx, project, ids.into_iter()).await?;
        let (now, mut results, mut changed) = (tx.now(), Vec::new(), Vec::new());
        for (id, change) in changes {
            let Some(task) = loaded.iter().find(|l| l.task.id == id).map(|l| Arc::new(l.task.clone())) else {
                results.push(Err(Error::task_not_found(project, id)));
                continue;
            };
            let decided = match change {
                TaskChange::Cancel { reason } => transition::cancel(&task, &reason, now),
                TaskChange::Purge => transition::delete(&task, true, now).map(Some),
            };
            results.push(decided.map(|change| match change {
                Some(change) => {
                    let after = change.after.clone();
                    changed.push(change);
                    after
                }
                None => task,
            }));
        }
        let nets: Vec<Net> = changed
            .iter()
            .map(|c| Net {
                before: c.before.clone(),
                after: (c.kind != transition::EventKind::Deleted).then(|| c.after.clone()),
                ..Net::default()
            })
            .collect();
        tasks::write(&mut tx, project, &nets).await?;
        let entries: Vec<Entry<'_>> = changed.iter().map(|c| Entry::of_change(c, caller)).collect();
        journal::append(&mut tx, project, &entries).await?;
        tx.commit().await.map_err(|_| Error::CommitUnknown)?;
        Ok(results)
    }
}
