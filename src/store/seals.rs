//! Seals over the journal.
//!
//! Any replica seals. The seals of a project are numbered without a hole, so of two that were made after the same seal the
//! second one to come finds its number taken, and nothing of it is kept.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::StoreResult,
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        audit::{
            head::Head,
            seal::{Hash, Link, Seal},
        },
        task::Micros,
    },
    ids::ProjectId,
};

/// A project with rows that are not sealed.
#[derive(Clone, Debug)]
pub struct Behind {
    /// The project.
    pub project: ProjectId,
    /// The first revision that is kept.
    pub oldest: i64,
    /// The last revision.
    pub last: i64,
    /// The newest seal, and when it was made.
    pub newest: Option<(Link, Micros)>,
}

/// Projects with rows that are not sealed, those after one, by id.
pub async fn behind(store: &Store, after: Option<&ProjectId>, limit: i64) -> StoreResult<Vec<Behind>> {
    let statement = Sql::new(
        "-- seals::behind
         SELECT c.project, c.oldest, c.revision, s.number, s.last_revision, s.hash, s.time
         FROM counter c LEFT JOIN journal_seal s ON s.project = c.project
            AND s.number = (SELECT max(m.number) FROM journal_seal m WHERE m.project = c.project)
         WHERE c.project > $1 AND c.revision > COALESCE(s.last_revision, 0) ORDER BY c.project LIMIT $2",
    );
    let rows = store.fetch(statement.text(after.map_or("", ProjectId::as_str)).int(limit)).await?;
    let decode = |row: &QueryResult| {
        let mut r = Reader::new(row);
        let project: String = r.get()?;
        let (oldest, last) = (r.get()?, r.get()?);
        let (number, sealed): (Option<i64>, Option<i64>) = (r.get()?, r.get()?);
        let (hash, time): (Option<Vec<u8>>, Option<i64>) = (r.get()?, r.get()?);
        let newest = match (number, sealed, hash, time) {
            (Some(number), Some(last), Some(hash), Some(time)) => Some((Link { number, last, hash: cut(&hash) }, time)),
            _ => None,
        };
        Ok(Behind { project: ProjectId::new(&project), oldest, last, newest })
    };
    rows.iter().map(decode).collect()
}

/// Keeps a seal. False when its number is taken: another replica was faster.
pub async fn add(tx: &mut Tx, project: &ProjectId, seal: &Seal) -> StoreResult<bool> {
    let Seal { number, first, last, time, previous, digest, marks, hash } = seal;
    let statement = Sql::new(
        "-- seals::add
         INSERT INTO journal_seal (project, number, first_revision, last_revision, time, previous, digest, marks, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING 1",
    )
    .text(project.as_str())
    .int(*number)
    .int(*first)
    .int(*last)
    .int(*time)
    .blob(previous)
    .blob(digest)
    .blob(marks)
    .blob(hash);
    Ok(!tx.fetch(statement).await?.is_empty())
}

macro_rules! seal_columns {
    () => {
        "number, first_revision, last_revision, time, previous, digest, marks, hash"
    };
}

/// Seals of a project after a number, in order.
pub async fn after(store: &Store, project: &ProjectId, number: i64, limit: i64) -> StoreResult<Vec<Seal>> {
    let statement = Sql::new(concat!(
        "-- seals::after\nSELECT ",
        seal_columns!(),
        " FROM journal_seal WHERE project = $1 AND number > $2 ORDER BY number LIMIT $3"
    ));
    let rows = store.fetch(statement.text(project.as_str()).int(number).int(limit)).await?;
    rows.iter().map(decode).collect()
}

/// The newest seal of a project.
pub async fn newest(store: &Store, project: &ProjectId) -> StoreResult<Option<Head>> {
    let statement = Sql::new(concat!(
        "-- seals::newest\nSELECT ",
        seal_columns!(),
        " FROM journal_seal WHERE project = $1 ORDER BY number DESC LIMIT 1"
    ));
    let rows = store.fetch(statement.text(project.as_str())).await?;
    let seal = rows.first().map(decode).transpose()?;
    Ok(seal.map(|seal| Head { project: project.clone(), link: seal.link() }))
}

/// Deletes the seals that are only about rows before a revision.
pub async fn forget(tx: &mut Tx, project: &ProjectId, before: i64) -> StoreResult<()> {
    let statement = Sql::new("-- seals::forget\nDELETE FROM journal_seal WHERE project = $1 AND last_revision < $2");
    tx.execute(statement.text(project.as_str()).int(before)).await
}

fn decode(row: &QueryResult) -> StoreResult<Seal> {
    let mut r = Reader::new(row);
    let (number, first, last, time) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let (previous, digest, marks, hash): (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) =
        (r.get()?, r.get()?, r.get()?, r.get()?);
    Ok(Seal { number, first, last, time, previous: cut(&previous), digest: cut(&digest), marks, hash: cut(&hash) })
}

/// A hash of the wrong length was tampered with: it is read as some hash, which will be found to be the wrong one.
fn cut(bytes: &[u8]) -> Hash {
    bytes.try_into().unwrap_or_default()
}
