//! Unique keys of open tasks: at most one task of a type holds a key, until it is final or the key's time is over.
//!
//! Two batches that want the same free key meet at the primary key: the second insert fails with `StoreError::Unique`,
//! its batch is decided again, and finds the holder.

use std::collections::HashMap;

use super::{
    Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::task::Micros,
    ids::{ProjectId, TaskId},
};

/// A key with its scope in the project.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UniqueKey {
    /// The task type.
    pub task_type: String,
    /// The key the submitter chose.
    pub key: String,
}

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The task.
    pub task: TaskId,
    /// Until when; none means until the task is final.
    pub expire_time: Option<Micros>,
}

/// A key to be taken.
#[derive(Clone, Debug)]
pub struct NewHolding {
    /// The key.
    pub key: UniqueKey,
    /// By whom, and until when.
    pub holding: Holding,
    /// Who held it before; that holding has expired. None when the key is free.
    pub from: Option<TaskId>,
}

/// Who holds these keys. Holdings whose time is over are answered too.
pub async fn find(tx: &mut Tx, project: &ProjectId, keys: &[UniqueKey]) -> StoreResult<HashMap<UniqueKey, Holding>> {
    let statement = Sql::new(
        "-- unique_keys::find
         WITH {x} SELECT u.type, u.key, u.task_id, u.expire_time
         FROM {of unique_key u by type key}",
    );
    let rows = tx.read(statement.text(project.as_str()).rows(keys_of(keys.iter(), keys.len()))).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let key = UniqueKey { task_type: r.get()?, key: r.get()? };
            Ok((key, Holding { task: TaskId(r.get()?), expire_time: r.get()? }))
        })
        .collect()
}

/// Takes keys: free ones, and those whose holding has expired. A key that somebody else took meanwhile fails it, with
/// `Unique` or `Conflict`.
pub async fn take(tx: &mut Tx, project: &ProjectId, holdings: &[NewHolding]) -> StoreResult<()> {
    let (expired, free): (Vec<_>, Vec<_>) = holdings.iter().partition(|h| h.from.is_some());
    insert(tx, project, &free).await?;
    take_over(tx, project, &expired).await
}

async fn insert(tx: &mut Tx, project: &ProjectId, holdings: &[&NewHolding]) -> StoreResult<()> {
    // In one order, so that two batches with the same keys do not wait for each other in a circle.
    let statement = Sql::new(
        "-- unique_keys::insert
         WITH {x} INSERT INTO unique_key (project, type, key, task_id, expire_time)
         SELECT $1, x.type, x.key, x.task_id, x.expire_time FROM x ORDER BY x.type, x.key",
    );
    tx.execute(statement.text(project.as_str()).rows(holdings_of(holdings))).await
}

async fn take_over(tx: &mut Tx, project: &ProjectId, holdings: &[&NewHolding]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- unique_keys::take_over
         WITH {x} UPDATE unique_key SET task_id = x.task_id, expire_time = x.expire_time
         {at unique_key by type key} AND unique_key.task_id = x.from_id
         RETURNING 1",
    );
    let rows = holdings_of(holdings).opt_id("from_id", holdings.iter().map(|h| h.from.map(|id| id.0)));
    let taken = tx.fetch(statement.text(project.as_str()).rows(rows)).await?.len();
    // Somebody else took one over, or its task let go of it, since it was read.
    if taken == holdings.len() { Ok(()) } else { Err(StoreError::Conflict) }
}

/// Lets go of keys, each only if this task still holds it.
pub async fn release(tx: &mut Tx, project: &ProjectId, held: &[(UniqueKey, TaskId)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- unique_keys::release
         WITH {x} DELETE FROM unique_key
         WHERE project = $1 AND (type, key, task_id) IN (SELECT x.type, x.key, x.task_id FROM x)",
    );
    let rows = keys_of(held.iter().map(|(key, _)| key), held.len()).id("task_id", held.iter().map(|(_, id)| id.0));
    tx.execute(statement.text(project.as_str()).rows(rows)).await
}

fn holdings_of(holdings: &[&NewHolding]) -> Rows {
    keys_of(holdings.iter().map(|h| &h.key), holdings.len())
        .id("task_id", holdings.iter().map(|h| h.holding.task.0))
        .opt_int("expire_time", holdings.iter().map(|h| h.holding.expire_time))
}

fn keys_of<'a>(keys: impl Iterator<Item = &'a UniqueKey> + Clone, len: usize) -> Rows {
    Rows::new(len).text("type", keys.clone().map(|k| k.task_type.as_str())).text("key", keys.map(|k| k.key.as_str()))
}
