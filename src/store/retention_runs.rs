//! Runs of retention in the database: by which rules, how far they are, and which replica works on them.
//!
//! A replica works on a run while it holds the claim, the exact `claim_time` it wrote, as in `bulk_jobs`: every save renews
//! it, and what a batch deleted is saved with the batch. A run whose claim is older than [`CLAIM_KEPT`] goes on from its
//! cursor on whichever replica comes next.

use sea_orm::QueryResult;
use uuid::Uuid;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    retention::{from_json, to_json},
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        retention::{RetentionRun, RunState, Trigger},
        task::{Micros, SECOND},
        task_list::Position,
    },
    ids::{ProjectId, RetentionRunId, TaskId},
};

/// A claim not renewed for this long is free: far longer than a batch and the pause after it take.
const CLAIM_KEPT: Micros = 30 * SECOND;

macro_rules! run_columns {
    () => {
        "project, id, trigger_kind, owner, state, policy, journal_age, counts, error_message, create_time, update_time, \
         finish_time"
    };
}

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Tasks, after this one.
    Tasks(Option<Position>),
    /// The journal, from its oldest row on.
    Journal,
}

/// A run this replica works on.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The run, with what it did so far.
    pub run: RetentionRun,
    /// How far it is.
    pub stage: Stage,
    /// Proves that the claim is ours.
    claim_time: Micros,
}

/// Keeps a new run; the next claim takes it. Fails as [`StoreError::Unique`] when one of the project is under way.
pub async fn create(tx: &mut Tx, run: &RetentionRun) -> StoreResult<()> {
    let statement = Sql::new(
        "-- retention_runs::create
         INSERT INTO retention_run (project, id, trigger_kind, owner, state, policy, journal_age, counts, error_message,
            stage, create_time, update_time, claim_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11, 0)",
    )
    .text(run.project.as_str())
    .id(run.id.0)
    .int(run.trigger as i64)
    .text(&run.owner)
    .int(run.state as i64)
    .text(&to_json(&run.policy)?)
    .int(run.journal_age)
    .text(&to_json(&run.counts)?)
    .text(&run.error_message)
    .int(run.create_time)
    .int(run.update_time);
    tx.execute(statement).await
}

/// One run.
pub async fn get(store: &Store, project: &ProjectId, id: RetentionRunId) -> StoreResult<Option<RetentionRun>> {
    let statement = Sql::new(concat!(
        "-- retention_runs::get\nSELECT ",
        run_columns!(),
        " FROM retention_run WHERE project = $1 AND id = $2"
    ));
    first(&store.fetch(statement.text(project.as_str()).id(id.0)).await?)
}

/// The run of a project that is under way.
pub async fn running(tx: &mut Tx, project: &ProjectId) -> StoreResult<Option<RetentionRun>> {
    let statement = Sql::new(concat!(
        "-- retention_runs::running\nSELECT ",
        run_columns!(),
        " FROM retention_run WHERE project = $1 AND state = 1"
    ));
    first(&tx.fetch(statement.text(project.as_str())).await?)
}

/// Runs older than a place in the list, newest first.
pub async fn list(
    store: &Store,
    project: &ProjectId,
    after: Option<(Micros, RetentionRunId)>,
    limit: i64,
) -> StoreResult<Vec<RetentionRun>> {
    let statement = Sql::new(concat!(
        "-- retention_runs::list\nSELECT ",
        run_columns!(),
        " FROM retention_run WHERE project = $1 AND (create_time, id) < ($2, $3)
         ORDER BY create_time DESC, id DESC LIMIT $4"
    ));
    let (time, id) = after.unwrap_or((i64::MAX, RetentionRunId(Uuid::max())));
    let rows = store.fetch(statement.text(project.as_str()).int(time).id(id.0).int(limit)).await?;
    rows.iter().map(|row| decode(&mut Reader::new(row))).collect()
}

/// Takes the run that nobody works on and that made no progress for longest, of any project.
pub async fn claim_next(tx: &mut Tx) -> StoreResult<Option<Claimed>> {
    macro_rules! claim {
        ($lock:literal) => {
            concat!(
                // The subquery stands after an equals sign, so it runs once.
                "-- retention_runs::claim_next
                 UPDATE retention_run SET claim_time = $1 WHERE (project, id) = (
                    SELECT project, id FROM retention_run WHERE state = 1 AND claim_time < $2
                    ORDER BY update_time, id LIMIT 1",
                $lock,
                ") RETURNING ",
                run_columns!(),
                ", stage, cursor_time, cursor_id"
            )
        };
    }
    let now = tx.now();
    let statement = Sql::new(if tx.is_postgres() { claim!(" FOR UPDATE SKIP LOCKED") } else { claim!("") });
    let rows = tx.fetch(statement.int(now).int(now - CLAIM_KEPT)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut r = Reader::new(row);
    let run = decode(&mut r)?;
    let stage: i16 = r.get()?;
    let (time, id): (Option<Micros>, Option<Uuid>) = (r.get()?, r.get()?);
    let cursor = time.zip(id).map(|(create_time, id)| Position { create_time, id: TaskId(id) });
    let stage = if stage == 1 { Stage::Tasks(cursor) } else { Stage::Journal };
    Ok(Some(Claimed { run, stage, claim_time: now }))
}

/// Saves what a run did and renews the claim. False when the claim is lost: then nothing was saved.
pub async fn save(tx: &mut Tx, claimed: &mut Claimed) -> StoreResult<bool> {
    let renewed = tx.now();
    update(tx, claimed, renewed).await
}

/// Saves what a run did and lets go of it, so that any replica may take it at once.
pub async fn release(tx: &mut Tx, claimed: &mut Claimed) -> StoreResult<bool> {
    update(tx, claimed, 0).await
}

/// Saves what a run did, and that it is over. False when the claim is lost.
pub async fn finish(tx: &mut Tx, claimed: &mut Claimed) -> StoreResult<bool> {
    claimed.run.state = if claimed.run.counts.errors == 0 { RunState::Succeeded } else { RunState::Failed };
    claimed.run.finish_time = Some(tx.now());
    update(tx, claimed, 0).await
}

async fn update(tx: &mut Tx, claimed: &mut Claimed, claim_time: Micros) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- retention_runs::save
         UPDATE retention_run SET state = $4, counts = $5, error_message = $6, stage = $7, cursor_time = $8,
            cursor_id = $9, update_time = $10, finish_time = $11, claim_time = $12
         WHERE project = $1 AND id = $2 AND claim_time = $3 AND state = 1 RETURNING 1",
    );
    let (stage, cursor) = match claimed.stage {
        Stage::Tasks(cursor) => (1, cursor),
        Stage::Journal => (2, None),
    };
    let (run, now) = (&mut claimed.run, tx.now());
    let statement = statement
        .text(run.project.as_str())
        .id(run.id.0)
        .int(claimed.claim_time)
        .int(run.state as i64)
        .text(&to_json(&run.counts)?)
        .text(&run.error_message)
        .int(stage)
        .opt_int(cursor.map(|cursor| cursor.create_time))
        .opt_id(cursor.map(|cursor| cursor.id.0))
        .int(now)
        .opt_int(run.finish_time)
        .int(claim_time);
    let is_saved = !tx.fetch(statement).await?.is_empty();
    if is_saved {
        run.update_time = now;
        claimed.claim_time = claim_time;
    }
    Ok(is_saved)
}

/// Removes up to `limit` runs of a project that ended and began before a time, or are not among its newest `most`.
pub async fn forget(tx: &mut Tx, project: &ProjectId, before: Micros, most: i64, limit: i64) -> StoreResult<()> {
    let newest = Sql::new(
        "-- retention_runs::newest
         SELECT create_time FROM retention_run WHERE project = $1
         ORDER BY create_time DESC, id DESC LIMIT 1 OFFSET $2",
    );
    let rows = tx.fetch(newest.text(project.as_str()).int(most - 1)).await?;
    let oldest_of_newest = rows.first().map(|row| Reader::new(row).get()).transpose()?;
    let before = oldest_of_newest.map_or(before, |time: Micros| time.max(before));
    let statement = Sql::new(
        "-- retention_runs::forget
         DELETE FROM retention_run WHERE (project, id) IN (
            SELECT project, id FROM retention_run WHERE project = $1 AND create_time < $2 AND state <> 1
            ORDER BY create_time, id LIMIT $3
         )",
    );
    tx.execute(statement.text(project.as_str()).int(before).int(limit)).await
}

fn first(rows: &[QueryResult]) -> StoreResult<Option<RetentionRun>> {
    rows.first().map(|row| decode(&mut Reader::new(row))).transpose()
}

/// Reads [`run_columns`].
fn decode(r: &mut Reader<'_>) -> StoreResult<RetentionRun> {
    let project: String = r.get()?;
    let id = RetentionRunId(r.get()?);
    let number =
        |what: &str, number: i16| StoreError::Bug(anyhow::anyhow!("unknown {what} {number} of a retention run"));
    let trigger = Trigger::try_from(r.get::<i16>()?).map_err(|found| number("trigger", found))?;
    let owner = r.get()?;
    let state = RunState::try_from(r.get::<i16>()?).map_err(|found| number("state", found))?;
    let policy: String = r.get()?;
    let journal_age = r.get()?;
    let counts: String = r.get()?;
    Ok(RetentionRun {
        project: ProjectId::new(&project),
        id,
        trigger,
        owner,
        state,
        policy: from_json(&policy)?,
        journal_age,
        counts: from_json(&counts)?,
        error_message: r.get()?,
        create_time: r.get()?,
        update_time: r.get()?,
        finish_time: r.get()?,
    })
}
