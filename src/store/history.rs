//! The old end of the journal: where it is, and how it is cut off.
//!
//! Rows go from the oldest on, in order, so that what is kept has no hole; `counter.oldest` is where it begins. Revisions
//! are in commit order and times nearly so: a row stays until it and all before it are old enough.

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    seals,
    sql::{Reader, Sql},
};
use crate::{domain::task::Micros, ids::ProjectId};

/// When a change was made; none if its row is gone, or not there yet.
pub async fn time_of(store: &Store, project: &ProjectId, revision: i64) -> StoreResult<Option<Micros>> {
    let statement = Sql::new("-- history::time_of\nSELECT time FROM journal WHERE project = $1 AND revision = $2");
    let rows = store.fetch_by_key(statement.text(project.as_str()).int(revision)).await?;
    rows.first().map(|row| Reader::new(row).get()).transpose()
}

/// The first revision of a time or later, of those that are kept; the next one to come if there is none. Halves the
/// journal until one row is left, so it reads a few dozen rows however long the journal is.
pub async fn first_since(store: &Store, project: &ProjectId, time: Micros) -> StoreResult<i64> {
    let statement = Sql::new(
        "-- history::first_since
         WITH RECURSIVE half(low, high) AS (
            SELECT oldest, revision + 1 FROM counter WHERE project = $1
            UNION ALL
            SELECT CASE WHEN j.time < $2 THEN (h.low + h.high) / 2 + 1 ELSE h.low END,
                CASE WHEN j.time < $2 THEN h.high ELSE (h.low + h.high) / 2 END
            FROM half h JOIN journal j ON j.project = $1 AND j.revision = (h.low + h.high) / 2
            WHERE h.low < h.high
         )
         SELECT low FROM half ORDER BY high - low LIMIT 1",
    );
    let rows = store.fetch(statement.text(project.as_str()).int(time)).await?;
    Ok(rows.first().map(|row| Reader::new(row).get()).transpose()?.unwrap_or(1))
}

/// Rows at the old end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first of them.
    pub first: i64,
    /// The first that is kept.
    pub end: i64,
}

/// Up to `limit` rows that are older than a time. None when the oldest row is not that old.
pub async fn look(tx: &mut Tx, project: &ProjectId, before: Micros, limit: i64) -> StoreResult<Option<Cut>> {
    let statement = Sql::new(
        "-- history::look
         SELECT c.oldest, COALESCE(
            (SELECT min(j.revision) FROM journal j WHERE j.project = $1 AND j.revision >= c.oldest
                AND j.revision < c.oldest + $3 AND j.time >= $2),
            CASE WHEN c.oldest + $3 > c.revision THEN c.revision + 1 ELSE c.oldest + $3 END)
         FROM counter c WHERE c.project = $1",
    );
    let rows = tx.fetch(statement.text(project.as_str()).int(before).int(limit)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut r = Reader::new(row);
    let cut = Cut { first: r.get()?, end: r.get()? };
    Ok(Some(cut).filter(|cut| cut.first < cut.end))
}

/// Cuts rows off, and the seals that are about nothing else. Raises `counter.oldest`, and so holds the counter from then until the transaction ends.
pub async fn cut(tx: &mut Tx, project: &ProjectId, cut: Cut) -> StoreResult<()> {
    let delete =
        Sql::new("-- history::delete\nDELETE FROM journal WHERE project = $1 AND revision >= $2 AND revision < $3");
    tx.execute(delete.text(project.as_str()).int(cut.first).int(cut.end)).await?;
    seals::forget(tx, project, cut.end).await?;
    let raise =
        Sql::new("-- history::raise\nUPDATE counter SET oldest = $3 WHERE project = $1 AND oldest = $2 RETURNING 1");
    let raised = tx.fetch(raise.text(project.as_str()).int(cut.first).int(cut.end)).await?;
    // Another replica cut here meanwhile.
    if raised.is_empty() { Err(StoreError::Conflict) } else { Ok(()) }
}
