//! The rules of retention of each project, with the daily time that was served last: whoever raises `served_time` begins
//! the run of that day, so one replica does.

use sea_orm::QueryResult;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Sql},
};
use crate::{
    domain::{retention::RetentionRule, task::Micros},
    ids::ProjectId,
};

/// The rules of a project as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The rules.
    pub rules: Vec<RetentionRule>,
    /// When they last changed.
    pub update_time: Option<Micros>,
    /// The daily time that was served last; none for a project that is new.
    pub served_time: Option<Micros>,
}

/// The rules of a project. A project that nobody looked at yet has none.
pub async fn get(store: &Store, project: &ProjectId) -> StoreResult<Kept> {
    let statement =
        Sql::new("-- retention::get\nSELECT rules, update_time, served_time FROM retention WHERE project = $1");
    let rows = store.fetch(statement.text(project.as_str())).await?;
    rows.first().map_or(Ok(Kept::default()), kept)
}

/// Locks the rules of a project, making the row first if there is none. None when the project does not exist.
pub async fn lock(tx: &mut Tx, project: &ProjectId) -> StoreResult<Option<Kept>> {
    let make = Sql::new(
        "-- retention::make
         INSERT INTO retention (project, rules, served_time)
         SELECT project, '[]', $2 FROM counter WHERE project = $1 ON CONFLICT DO NOTHING",
    );
    let now = tx.now();
    tx.execute(make.text(project.as_str()).int(now)).await?;
    let statement = Sql::new(if tx.is_postgres() {
        "-- retention::lock\nSELECT rules, update_time, served_time FROM retention WHERE project = $1 FOR UPDATE"
    } else {
        "-- retention::lock\nSELECT rules, update_time, served_time FROM retention WHERE project = $1"
    });
    tx.fetch(statement.text(project.as_str())).await?.first().map(kept).transpose()
}

/// Makes the rows of projects that have none yet: their first daily run is at the next daily time.
pub async fn make_missing(tx: &mut Tx) -> StoreResult<()> {
    let statement = Sql::new(
        "-- retention::make_missing
         INSERT INTO retention (project, rules, served_time)
         SELECT c.project, '[]', $1 FROM counter c
         WHERE NOT EXISTS (SELECT 1 FROM retention r WHERE r.project = c.project) ON CONFLICT DO NOTHING",
    );
    let now = tx.now();
    tx.execute(statement.int(now)).await
}

/// Whether projects have no row yet.
pub async fn is_missing(store: &Store) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- retention::is_missing
         SELECT 1 FROM counter c WHERE NOT EXISTS (SELECT 1 FROM retention r WHERE r.project = c.project) LIMIT 1",
    );
    Ok(!store.fetch(statement).await?.is_empty())
}

/// Projects after one, by id, that were not served for a daily time yet, each with the one it was served for.
pub async fn unserved(
    store: &Store,
    daily_time: Micros,
    after: Option<&ProjectId>,
    limit: i64,
) -> StoreResult<Vec<(ProjectId, Micros)>> {
    let statement = Sql::new(
        "-- retention::unserved
         SELECT project, served_time FROM retention WHERE project > $1 AND served_time < $2 ORDER BY project LIMIT $3",
    );
    let after = after.map_or("", ProjectId::as_str);
    let rows = store.fetch(statement.text(after).int(daily_time).int(limit)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let project: String = r.get()?;
            Ok((ProjectId::new(&project), r.get()?))
        })
        .collect()
}

/// Notes that a project is served for a daily time. The row is locked.
pub async fn set_served(tx: &mut Tx, project: &ProjectId, daily_time: Micros) -> StoreResult<()> {
    let statement = Sql::new("-- retention::set_served\nUPDATE retention SET served_time = $2 WHERE project = $1");
    tx.execute(statement.text(project.as_str()).int(daily_time)).await
}

/// Writes the rules of a project. The row is locked.
pub async fn set_rules(tx: &mut Tx, project: &ProjectId, rules: &[RetentionRule]) -> StoreResult<()> {
    let statement =
        Sql::new("-- retention::set_rules\nUPDATE retention SET rules = $2, update_time = $3 WHERE project = $1");
    let now = tx.now();
    tx.execute(statement.text(project.as_str()).text(&to_json(&rules)?).int(now)).await
}

fn kept(row: &QueryResult) -> StoreResult<Kept> {
    let mut r = Reader::new(row);
    let rules: String = r.get()?;
    Ok(Kept { rules: from_json(&rules)?, update_time: r.get()?, served_time: Some(r.get()?) })
}

pub(super) fn to_json<T: Serialize>(value: &T) -> StoreResult<String> {
    serde_json::to_string(value).map_err(|cause| StoreError::Bug(cause.into()))
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> StoreResult<T> {
    serde_json::from_str(text).map_err(|cause| StoreError::Bug(cause.into()))
}
