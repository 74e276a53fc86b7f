//! What a batch reads before it decides: the tasks its commands name, locked; ended attempts; unique keys and who holds
//! them. And the inputs of what it grants, once it is known what that is.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    claims::Claims,
    command::{Command, Pending, Reply},
    decide::{UniqueKeys, unique_key_of},
    recent::Recent,
    workset::Workset,
};
use crate::{
    domain::task::{Attempt, Task},
    error::Result,
    ids::{ProjectId, TaskId},
    store::{
        StoreResult, Tx, dead_letters, tasks,
        unique_keys::{self, UniqueKey},
    },
};

/// Locks and reads the tasks the commands name, and the ended attempts that repeated reports are compared with.
pub(super) async fn read_tasks(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &[Option<Result<Reply>>],
    busy: &mut [bool],
    recent: &Recent,
    set: &mut Workset,
) -> StoreResult<HashMap<(TaskId, i64), Attempt>> {
    let mut ids: Vec<TaskId> = Vec::new();
    let mut deep: HashSet<TaskId> = HashSet::new();
    for (p, reply) in pending.iter().zip(replies) {
        if reply.is_some() {
            continue;
        }
        match &p.command {
            Command::Change(items) => {
                ids.extend(items.iter().map(|item| item.task));
                deep.extend(items.iter().filter(|item| item.action.is_deep()).map(|item| item.task));
            }
            // An id that the server made is not taken.
            Command::Submit { tasks, .. } => ids.extend(tasks.iter().filter(|t| t.id_given).map(|t| t.new.id)),
            Command::Lease { .. } | Command::StandBy { .. } | Command::Promote => {}
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut held = tasks::lock(tx, project, &ids, &deep).await?;
    ids.retain(|id| {
        let kept = held.lease(*id).and_then(|(version, lease)| recent.take(project, *id, version, lease));
        let Some(Ok(loaded)) = kept.map(|task| held.complete(task)) else { return true };
        set.insert(loaded.task, loaded.due);
        false
    });
    let mut elsewhere: HashSet<TaskId> = HashSet::new();
    for loaded in tasks::load(tx, project, &ids, &deep, held).await? {
        if !loaded.held {
            elsewhere.insert(loaded.task.id);
        }
        set.insert(loaded.task, loaded.due);
    }
    read_dead_letters(tx, project, pending, replies, set).await?;
    let mut tokens: Vec<(TaskId, i64)> = Vec::new();
    for (p, busy) in pending.iter().zip(busy) {
        let Command::Change(items) = &p.command else { continue };
        *busy = items.iter().any(|item| elsewhere.contains(&item.task));
        tokens.extend(items.iter().filter_map(|item| {
            let epoch = item.action.repeated_epoch()?;
            set.get(item.task).filter(|task| task.lease.is_none() && task.epoch == epoch).map(|_| (item.task, epoch))
        }));
    }
    tasks::last_attempts(tx, project, &tokens).await
}

/// Reads the dead letters of tasks that are to be opened again or deleted. They are ours with the tasks: who changes a dead
/// letter holds its task. And the inputs that are to be replaced, for the journal.
async fn read_dead_letters(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &[Option<Result<Reply>>],
    set: &mut Workset,
) -> StoreResult<()> {
    let mut looked_at: Vec<TaskId> = Vec::new();
    let mut replaced: Vec<TaskId> = Vec::new();
    for (p, _) in pending.iter().zip(replies).filter(|(_, reply)| reply.is_none()) {
        let Command::Change(items) = &p.command else { continue };
        looked_at.extend(items.iter().filter(|item| item.action.looks_at_dead_letter()).map(|item| item.task));
        replaced.extend(items.iter().filter(|item| item.action.replaces_input()).map(|item| item.task));
    }
    if looked_at.is_empty() {
        return Ok(());
    }
    looked_at.sort_unstable();
    looked_at.dedup();
    set.insert_standings(dead_letters::standings(tx, project, &looked_at).await?);
    set.insert_inputs(tasks::inputs(tx, project, replaced.into_iter()).await?);
    Ok(())
}

/// Reads who holds the unique keys the batch is about: those of new tasks, and those of tasks that may let go or take
/// theirs back. The holders are read with them.
pub(super) async fn read_unique_keys(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &[Option<Result<Reply>>],
    set: &mut Workset,
) -> StoreResult<UniqueKeys> {
    let mut keys: HashSet<UniqueKey> = HashSet::new();
    for (p, reply) in pending.iter().zip(replies) {
        match &p.command {
            _ if reply.is_some() => {}
            Command::Submit { tasks, .. } => {
                keys.extend(tasks.iter().filter_map(|task| unique_key_of(&task.new.spec)));
            }
            Command::Change(items) => {
                let tasks = items.iter().filter_map(|item| set.get(item.task));
                keys.extend(tasks.filter_map(|task| unique_key_of(&task.spec)));
            }
            Command::Lease { .. } | Command::StandBy { .. } | Command::Promote => {}
        }
    }
    read_holders(tx, project, keys, set).await
}

/// Reads who holds unique keys, and those tasks.
pub(super) async fn read_holders(
    tx: &mut Tx,
    project: &ProjectId,
    keys: HashSet<UniqueKey>,
    set: &mut Workset,
) -> StoreResult<UniqueKeys> {
    if keys.is_empty() {
        return Ok(UniqueKeys::default());
    }
    let keys: Vec<UniqueKey> = keys.into_iter().collect();
    let found = unique_keys::find(tx, project, &keys).await?;
    let holders: Vec<TaskId> = found.values().map(|holding| holding.task).filter(|id| set.get(*id).is_none()).collect();
    for loaded in tasks::peek(tx, project, holders.into_iter()).await? {
        set.insert(loaded.task, loaded.due);
    }
    Ok(UniqueKeys::new(found))
}

/// Puts the inputs that are still missing into the leases that are granted: only now is it known which, and they are
/// large.
pub(super) async fn read_inputs(
    tx: &mut Tx,
    project: &ProjectId,
    replies: &mut [Option<Result<Reply>>],
    claims: &Claims,
) -> StoreResult<()> {
    let mut leased: Vec<&mut Arc<Task>> = Vec::new();
    for reply in replies.iter_mut().flatten().flatten() {
        if let Reply::Leased(answer) = reply {
            let replayed = answer.replayed;
            leased.extend(answer.value.iter_mut().filter(|task| replayed || claims.lacks_input(task.id)));
        }
    }
    let ids: Vec<TaskId> = leased.iter().map(|task| task.id).collect();
    let mut inputs = tasks::inputs(tx, project, ids.into_iter()).await?;
    for task in leased {
        if let Some(input) = inputs.remove(&task.id) {
            Arc::make_mut(task).input = Some(input);
        }
    }
    Ok(())
}
