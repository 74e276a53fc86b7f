//! Bulk jobs in the database: what to do, how far it is, and which replica works on it.
//!
//! A replica works on a job while it holds the claim: the exact `claim_time` it wrote. Every save renews it. A job whose
//! claim is older than [`CLAIM_KEPT`] belongs to nobody, and the next replica goes on from its cursor; the one that lost
//! it finds out at its next save, which then changes nothing.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkRetry, BulkState},
        dead_letter::StopRule,
        task::{Micros, SECOND},
        task_list::Position,
    },
    ids::{BulkJobId, ProjectId, TaskId},
};

/// A claim not renewed for this long is free: far longer than one batch takes.
const CLAIM_KEPT: Micros = 30 * SECOND;

macro_rules! job_columns {
    () => {
        "project, id, action, filter, reason, state, matched_count, done_count, skipped_count, error_message, owner, \
         create_time, update_time, finish_time, rate, max_failure_percent, failure_window, task_ids, ended_count, \
         failed_again_count"
    };
}

/// What a replica claims. Each has a loop of its own, so that jobs with a pace are not kept from it by those without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Jobs that go as fast as they can.
    Swift,
    /// Jobs with a pace, when their next piece is due.
    Paced,
}

/// A job this replica works on.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job.
    pub job: BulkJob,
    /// The last task handled.
    pub cursor: Option<Position>,
    /// When the next piece of a job with a pace is due; none before its first.
    pub next_time: Option<Micros>,
    /// Proves that the claim is ours.
    claim_time: Micros,
}

/// Keeps a new job; the next claim takes it.
pub async fn create(tx: &mut Tx, job: &BulkJob) -> StoreResult<()> {
    let statement = Sql::new(
        "-- bulk_jobs::create
         INSERT INTO bulk_job (project, id, action, filter, reason, state, matched_count, done_count, skipped_count,
            error_message, owner, create_time, update_time, finish_time, rate, max_failure_percent, failure_window,
            task_ids, ended_count, failed_again_count, claim_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, NULLIF($18, ''), $19, $20, 0)",
    )
    .text(job.project.as_str())
    .id(job.id.0)
    .int(job.action as i64)
    .text(&job.filter)
    .text(&job.reason)
    .int(job.state as i64)
    .int(job.matched_count)
    .int(job.done_count)
    .int(job.skipped_count)
    .text(&job.error_message)
    .text(&job.owner)
    .int(job.create_time)
    .int(job.update_time)
    .opt_int(job.finish_time)
    .opt_int(job.retry.as_ref().map(|retry| retry.rate.into()))
    .opt_int(job.retry.as_ref().map(|retry| retry.stop.max_failure_percent.into()))
    .opt_int(job.retry.as_ref().map(|retry| retry.stop.window))
    .text(&job.retry.as_ref().and_then(|retry| retry.named.as_deref()).map(encode_ids).unwrap_or_default())
    .opt_int(job.retry.as_ref().map(|retry| retry.ended_count))
    .opt_int(job.retry.as_ref().map(|retry| retry.failed_again_count));
    tx.execute(statement).await
}

/// Ids as they are kept: 32 digits each, one after the other.
fn encode_ids(ids: &[TaskId]) -> String {
    ids.iter().map(|id| id.0.simple().to_string()).collect()
}

fn decode_ids(text: &str) -> StoreResult<Vec<TaskId>> {
    let ids = text.as_bytes().chunks(uuid::fmt::Simple::LENGTH).map(uuid::Uuid::try_parse_ascii);
    ids.map(|id| id.map(TaskId).map_err(|cause| StoreError::Bug(cause.into()))).collect()
}

/// One job.
pub async fn get(store: &Store, project: &ProjectId, id: BulkJobId) -> StoreResult<Option<BulkJob>> {
    let statement = Sql::new(concat!(
        "-- bulk_jobs::get\nSELECT ",
        job_columns!(),
        " FROM bulk_job WHERE project = $1 AND id = $2"
    ));
    first(&store.fetch(statement.text(project.as_str()).id(id.0)).await?)
}

/// Jobs older than a place in the list, newest first; those of actions that this version knows.
pub async fn list(
    store: &Store,
    project: &ProjectId,
    after: Option<(Micros, BulkJobId)>,
    limit: i64,
) -> StoreResult<Vec<BulkJob>> {
    let statement = Sql::new(concat!(
        "-- bulk_jobs::list\nSELECT ",
        job_columns!(),
        " FROM bulk_job WHERE project = $1 AND (create_time, id) < ($2, $3) AND action IN (1, 2, 3)
         ORDER BY create_time DESC, id DESC LIMIT $4"
    ));
    let (time, id) = after.unwrap_or((i64::MAX, BulkJobId(uuid::Uuid::max())));
    let rows = store.fetch(statement.text(project.as_str()).int(time).id(id.0).int(limit)).await?;
    rows.iter().map(|row| decode(&mut Reader::new(row))).collect()
}

/// Claims one job of some actions. The subquery stands after an equals sign, so it runs once: its LIMIT would not hold if it
/// ran for each row. A job of an action that this version does not know is left to those that do.
macro_rules! claim_next {
    ($actions:literal, $lock:literal) => {
        concat!(
            "-- bulk_jobs::claim_next
             UPDATE bulk_job SET claim_time = $1 WHERE (project, id) = (
                SELECT project, id FROM bulk_job WHERE state = 1 AND claim_time < $2 AND ",
            $actions,
            " ORDER BY update_time, id LIMIT 1",
            $lock,
            ") RETURNING ",
            job_columns!(),
            ", cursor_time, cursor_id, next_time"
        )
    };
}

/// Takes the job that nobody works on and that made no progress for longest, of any project.
pub async fn claim_next(tx: &mut Tx, kind: Kind) -> StoreResult<Option<Claimed>> {
    let now = tx.now();
    let statement = Sql::new(match (kind, tx.is_postgres()) {
        (Kind::Swift, true) => claim_next!("action IN (1, 2)", " FOR UPDATE SKIP LOCKED"),
        (Kind::Swift, false) => claim_next!("action IN (1, 2)", ""),
        (Kind::Paced, true) => {
            claim_next!("action = 3 AND (next_time IS NULL OR next_time <= $1)", " FOR UPDATE SKIP LOCKED")
        }
        (Kind::Paced, false) => claim_next!("action = 3 AND (next_time IS NULL OR next_time <= $1)", ""),
    });
    let rows = tx.fetch(statement.int(now).int(now - CLAIM_KEPT)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut r = Reader::new(row);
    let job = decode(&mut r)?;
    let (time, id): (Option<Micros>, Option<uuid::Uuid>) = (r.get()?, r.get()?);
    let cursor = time.zip(id).map(|(create_time, id)| Position { create_time, id: TaskId(id) });
    Ok(Some(Claimed { job, cursor, next_time: r.get()?, claim_time: now }))
}

/// Saves how far a job is and renews the claim. Answers the state the job is in now: another than RUNNING when it was
/// cancelled, none when the claim is lost and nothing was saved.
pub async fn save(tx: &mut Tx, claimed: &mut Claimed) -> StoreResult<Option<BulkState>> {
    let renewed = tx.now();
    update(tx, claimed, renewed).await
}

/// Saves how far a job is and lets go of it, so that any replica may take it at once.
pub async fn release(tx: &mut Tx, claimed: &mut Claimed) -> StoreResult<()> {
    update(tx, claimed, 0).await.map(|_| ())
}

async fn update(tx: &mut Tx, claimed: &mut Claimed, claim_time: Micros) -> StoreResult<Option<BulkState>> {
    let statement = Sql::new(
        "-- bulk_jobs::save
         UPDATE bulk_job SET done_count = $4, skipped_count = $5, cursor_time = $6, cursor_id = $7, update_time = $8,
            claim_time = $9, next_time = $10, ended_count = $11, failed_again_count = $12
         WHERE project = $1 AND id = $2 AND claim_time = $3 RETURNING state",
    );
    let cursor = claimed.cursor;
    let (job, now) = (&mut claimed.job, tx.now());
    let statement = statement
        .text(job.project.as_str())
        .id(job.id.0)
        .int(claimed.claim_time)
        .int(job.done_count)
        .int(job.skipped_count)
        .opt_int(cursor.map(|c| c.create_time))
        .opt_id(cursor.map(|c| c.id.0))
        .int(now)
        .int(claim_time)
        .opt_int(claimed.next_time)
        .opt_int(job.retry.as_ref().map(|retry| retry.ended_count))
        .opt_int(job.retry.as_ref().map(|retry| retry.failed_again_count));
    let rows = tx.fetch(statement).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    job.state = state(Reader::new(row).get()?)?;
    job.update_time = now;
    claimed.claim_time = claim_time;
    Ok(Some(job.state))
}

/// Ends a job of ours. None when it is final already, or the claim is lost.
pub async fn finish(
    tx: &mut Tx,
    claimed: &Claimed,
    end: BulkState,
    error_message: &str,
) -> StoreResult<Option<BulkJob>> {
    let now = tx.now();
    let statement = Sql::new(concat!(
        "-- bulk_jobs::finish
         UPDATE bulk_job SET state = $4, error_message = $5, update_time = $6, finish_time = $6
         WHERE project = $1 AND id = $2 AND claim_time = $3 AND state = 1 RETURNING ",
        job_columns!()
    ));
    let job = &claimed.job;
    let statement = statement.text(job.project.as_str()).id(job.id.0).int(claimed.claim_time);
    first(&tx.fetch(statement.int(end as i64).text(error_message).int(now)).await?)
}

/// Cancels a job that runs; whoever works on it stops after its batch. None when it is final already or does not exist.
pub async fn cancel(tx: &mut Tx, project: &ProjectId, id: BulkJobId) -> StoreResult<Option<BulkJob>> {
    let now = tx.now();
    let statement = Sql::new(concat!(
        "-- bulk_jobs::cancel
         UPDATE bulk_job SET state = 4, update_time = $3, finish_time = $3
         WHERE project = $1 AND id = $2 AND state = 1 RETURNING ",
        job_columns!()
    ));
    first(&tx.fetch(statement.text(project.as_str()).id(id.0).int(now)).await?)
}

/// Cancels all jobs of a project that run; of one owner, if one is given.
pub async fn cancel_all(tx: &mut Tx, project: &ProjectId, owner: Option<&str>) -> StoreResult<Vec<BulkJob>> {
    let now = tx.now();
    let statement = Sql::new(concat!(
        "-- bulk_jobs::cancel_all
         UPDATE bulk_job SET state = 4, update_time = $3, finish_time = $3
         WHERE project = $1 AND state = 1 AND ($2 = '' OR owner = $2) RETURNING ",
        job_columns!()
    ));
    let rows = tx.fetch(statement.text(project.as_str()).text(owner.unwrap_or_default()).int(now)).await?;
    rows.iter().map(|row| decode(&mut Reader::new(row))).collect()
}

/// The time up to which the next `rows` tasks after a place were submitted; none when fewer are left. A job looks at its
/// tasks in stretches of that size, so that each statement is short however few of them match.
pub async fn stretch(
    store: &Store,
    project: &ProjectId,
    after: Option<Position>,
    rows: i64,
) -> StoreResult<Option<Micros>> {
    let statement = Sql::new(
        "-- bulk_jobs::stretch
         SELECT create_time FROM task WHERE project = $1 AND (create_time, id) > ($2, $3)
         ORDER BY create_time, id LIMIT 1 OFFSET $4",
    );
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(uuid::Uuid::nil()) });
    let statement = statement.text(project.as_str()).int(after.create_time).id(after.id.0).int(rows);
    store.fetch(statement).await?.first().map(|row| Reader::new(row).get()).transpose()
}

fn first(rows: &[QueryResult]) -> StoreResult<Option<BulkJob>> {
    rows.first().map(|row| decode(&mut Reader::new(row))).transpose()
}

/// Reads [`job_columns`].
fn decode(r: &mut Reader<'_>) -> StoreResult<BulkJob> {
    let project: String = r.get()?;
    let id = BulkJobId(r.get()?);
    let action: i16 = r.get()?;
    Ok(BulkJob {
        project: ProjectId::new(&project),
        id,
        action: BulkAction::try_from(action)
            .map_err(|number| StoreError::Bug(anyhow::anyhow!("unknown bulk action {number}")))?,
        filter: r.get()?,
        reason: r.get()?,
        state: state(r.get()?)?,
        matched_count: r.get()?,
        done_count: r.get()?,
        skipped_count: r.get()?,
        error_message: r.get()?,
        owner: r.get()?,
        create_time: r.get()?,
        update_time: r.get()?,
        finish_time: r.get()?,
        retry: decode_retry(r)?,
    })
}

fn decode_retry(r: &mut Reader<'_>) -> StoreResult<Option<BulkRetry>> {
    let (rate, max_failure_percent): (Option<i32>, Option<i32>) = (r.get()?, r.get()?);
    let window: Option<Micros> = r.get()?;
    let named: Option<String> = r.get()?;
    let (ended_count, failed_again_count): (Option<i64>, Option<i64>) = (r.get()?, r.get()?);
    let named = named.as_deref().map(decode_ids).transpose()?;
    Ok(rate.map(|rate| BulkRetry {
        rate,
        stop: StopRule { max_failure_percent: max_failure_percent.unwrap_or(0), window: window.unwrap_or(0) },
        named,
        ended_count: ended_count.unwrap_or(0),
        failed_again_count: failed_again_count.unwrap_or(0),
    }))
}

fn state(number: i16) -> StoreResult<BulkState> {
    BulkState::try_from(number).map_err(|number| StoreError::Bug(anyhow::anyhow!("unknown bulk job state {number}")))
}
