//! Answers kept under the idempotency keys of callers, written with the effect they answer for.
//!
//! An answer is kept for at least 24 h; housekeeping removes it some time after that. Two requests with the same key at
//! once meet at the primary key: the second insert fails with `StoreError::Unique`, its batch is decided again, and finds
//! the answer.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{domain::task::Micros, ids::ProjectId};

/// An idempotency key with its scope in the project.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Who called.
    pub principal: Arc<str>,
    /// Which RPC.
    pub method: &'static str,
    /// The key the caller chose.
    pub key: String,
}

/// The answer a request was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The hash of the request.
    pub fingerprint: Vec<u8>,
    /// The answer, encoded by whoever stored it.
    pub response: Vec<u8>,
    /// The revision before the first one that the answer counts from.
    pub base_revision: i64,
}

/// An answer to be kept.
#[derive(Clone, Debug)]
pub struct NewAnswer {
    /// The key of the request.
    pub key: RequestKey,
    /// The hash of the request.
    pub fingerprint: [u8; 32],
    /// The answer.
    pub response: Bytes,
}

/// The answers given before under these keys.
pub async fn find(tx: &mut Tx, project: &ProjectId, keys: &[RequestKey]) -> StoreResult<HashMap<RequestKey, Answered>> {
    let statement = Sql::new(
        "-- idempotency::find
         WITH {x} SELECT x.place, i.fingerprint, i.response, i.base_revision
         FROM {of idempotency i by principal method key}",
    );
    let rows = keys_of(keys.iter(), keys.len()).int("place", (0..).take(keys.len()));
    let mut found = HashMap::new();
    for row in &tx.read(statement.text(project.as_str()).rows(rows)).await? {
        let mut r = Reader::new(row);
        let place: i64 = r.get()?;
        let key = usize::try_from(place).ok().and_then(|place| keys.get(place)).ok_or_else(foreign_row)?;
        found.insert(key.clone(), Answered { fingerprint: r.get()?, response: r.get()?, base_revision: r.get()? });
    }
    Ok(found)
}

/// The columns of an answer, from `x`.
macro_rules! insert_answers {
    ($base:literal, $from:literal) => {
        concat!(
            "-- idempotency::insert
             WITH {x} INSERT INTO idempotency (project, principal, method, key, fingerprint, response, base_revision,
                create_time)
             SELECT $1, x.principal, x.method, x.key, x.fingerprint, x.response, ",
            $base,
            ", $2 FROM ",
            $from,
            // In one order, so that two batches with the same keys do not wait for each other in a circle.
            " ORDER BY x.principal, x.method, x.key"
        )
    };
}

/// Keeps answers with the revisions they have. A key that is taken meanwhile fails the statement.
pub async fn insert(tx: &mut Tx, project: &ProjectId, answers: &[NewAnswer], now: Micros) -> StoreResult<()> {
    tx.execute(statement_of(insert_answers!("0", "x"), project, answers, now)).await
}

/// [`insert`] as part of a statement that raises the project's counter in `raised`: the revisions of the answers count from
/// there.
pub(super) fn insert_after_raise(project: &ProjectId, answers: &[NewAnswer], now: Micros) -> Sql {
    statement_of(insert_answers!("raised.base", "x, raised"), project, answers, now)
}

fn statement_of(text: &'static str, project: &ProjectId, answers: &[NewAnswer], now: Micros) -> Sql {
    let rows = keys_of(answers.iter().map(|a| &a.key), answers.len())
        .blob("fingerprint", answers.iter().map(|a| Some(Bytes::copy_from_slice(&a.fingerprint))))
        .blob("response", answers.iter().map(|a| Some(a.response.clone())));
    Sql::new(text).text(project.as_str()).int(now).rows(rows)
}

/// Removes up to `limit` answers older than a time, of any project, and returns how many.
pub async fn purge(tx: &mut Tx, older_than: Micros, limit: i64) -> StoreResult<usize> {
    let statement = Sql::new(if tx.is_postgres() {
        "-- idempotency::purge
         DELETE FROM idempotency WHERE (project, principal, method, key) IN (
            SELECT project, principal, method, key FROM idempotency WHERE create_time < $1
            ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED
         ) RETURNING 1"
    } else {
        "-- idempotency::purge
         DELETE FROM idempotency WHERE (project, principal, method, key) IN (
            SELECT project, principal, method, key FROM idempotency WHERE create_time < $1
            ORDER BY create_time LIMIT $2
         ) RETURNING 1"
    });
    Ok(tx.fetch(statement.int(older_than).int(limit)).await?.len())
}

fn keys_of<'a>(keys: impl Iterator<Item = &'a RequestKey> + Clone, len: usize) -> Rows {
    Rows::new(len)
        .text("principal", keys.clone().map(|k| &*k.principal))
        .text("method", keys.clone().map(|k| k.method))
        .text("key", keys.map(|k| k.key.as_str()))
}

fn foreign_row() -> StoreError {
    StoreError::Bug(anyhow::anyhow!("the answer to a key that was not asked for"))
}
