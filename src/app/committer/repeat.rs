//! Commands that came with an idempotency key: the answer of the first time is kept in the transaction of the effect, and
//! a repeat is answered from there. Refusals are not kept.

use std::{collections::HashMap, sync::Arc};

use super::command::{Answer, Command, IdempotencyKey, Pending, Reply, Submitted};
use crate::{
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    store::{
        StoreError, StoreResult, Tx,
        idempotency::{self, Answered, NewAnswer, RequestKey},
        tasks,
    },
};

pub(super) fn key_of(command: &Command) -> Option<&IdempotencyKey> {
    match command {
        Command::Submit { key, .. } | Command::Lease { key, .. } => key.as_ref(),
        Command::StandBy { .. } | Command::Promote | Command::Change(_) => None,
    }
}

pub(super) fn request_key(pending: &Pending, key: &IdempotencyKey) -> RequestKey {
    RequestKey { principal: pending.caller.principal.clone(), method: key.method, key: key.key.clone() }
}

/// Answers the commands whose key was seen before. Of two with the same key in one batch the second is told that the first
/// is still running.
///
/// With `blind` it does not look, because few were seen: the write fails when a key is taken, and what is then run in
/// steps finds the answer here.
pub(super) async fn replay(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    blind: bool,
    replies: &mut [Option<Result<Reply>>],
) -> StoreResult<Vec<Option<RequestKey>>> {
    let ids: Vec<Option<RequestKey>> =
        pending.iter().map(|p| key_of(&p.command).map(|key| request_key(p, key))).collect();
    let asked: Vec<RequestKey> = ids.iter().flatten().cloned().collect();
    if asked.is_empty() {
        return Ok(ids);
    }
    let found = if blind { HashMap::new() } else { idempotency::find(tx, project, &asked).await? };
    let mut first_in_batch: HashMap<&RequestKey, [u8; 32]> = HashMap::new();
    for (number, (p, id)) in pending.iter().zip(&ids).enumerate() {
        let (Some(id), Some(key)) = (id, key_of(&p.command)) else { continue };
        if let Some(answered) = found.get(id) {
            replies[number] = Some(if answered.fingerprint == key.fingerprint {
                replayed(tx, project, &p.command, answered).await?
            } else {
                Err(Error::IdempotencyKeyReused { key: key.key.clone() })
            });
        } else if let Some(fingerprint) = first_in_batch.insert(id, key.fingerprint) {
            replies[number] = Some(Err(if fingerprint == key.fingerprint {
                Error::IdempotencyInProgress { key: key.key.clone() }
            } else {
                Error::IdempotencyKeyReused { key: key.key.clone() }
            }));
        }
    }
    Ok(ids)
}

/// The answer as it was given the first time; of leases, those that are still held.
pub(super) async fn replayed(
    tx: &mut Tx,
    project: &ProjectId,
    command: &Command,
    answered: &Answered,
) -> StoreResult<Result<Reply>> {
    let Answered { response, base_revision, .. } = answered;
    let damaged = |cause: serde_json::Error| StoreError::Bug(cause.into());
    if let Command::Submit { .. } = command {
        let mut value: Vec<Submitted> = serde_json::from_slice(response).map_err(damaged)?;
        for submitted in value.iter_mut().filter(|submitted| !submitted.existing) {
            submitted.revision += base_revision;
        }
        return Ok(Ok(Reply::Submitted(Answer { value, replayed: true })));
    }
    let tokens: Vec<(uuid::Uuid, i64)> = serde_json::from_slice(response).map_err(damaged)?;
    let mut value = Vec::new();
    for loaded in tasks::peek(tx, project, tokens.iter().map(|(id, _)| TaskId(*id))).await? {
        let task = loaded.task;
        if task.lease.is_some() && tokens.contains(&(task.id.0, task.epoch)) {
            value.push(Arc::new(task));
        }
    }
    Ok(Ok(Reply::Leased(Answer { value, replayed: true })))
}

/// The answers to be kept of the commands that came with a key. Refusals are not kept.
pub(super) fn answers(
    pending: &[Pending],
    ids: &[Option<RequestKey>],
    replies: &[Option<Result<Reply>>],
) -> StoreResult<Vec<NewAnswer>> {
    let damaged = |cause: serde_json::Error| StoreError::Bug(cause.into());
    let mut answers = Vec::new();
    for ((p, id), reply) in pending.iter().zip(ids).zip(replies) {
        let (Some(id), Some(key), Some(Ok(reply))) = (id, key_of(&p.command), reply) else { continue };
        let response = match reply {
            Reply::Submitted(Answer { value, replayed: false }) => serde_json::to_vec(value).map_err(damaged)?,
            // An empty answer has no effect to protect: asking again may find something.
            Reply::Leased(Answer { value, replayed: false }) if !value.is_empty() => {
                let tokens: Vec<_> = value.iter().map(|task| (task.id.0, task.epoch)).collect();
                serde_json::to_vec(&tokens).map_err(damaged)?
            }
            _ => continue,
        };
        answers.push(NewAnswer { key: id.clone(), fingerprint: key.fingerprint, response: response.into() });
    }
    Ok(answers)
}
