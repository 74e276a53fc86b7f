//! Dead letters in the database. A row of `dead_letter` is there exactly while its task is FAILED: `process_time IS NULL` is
//! an OPEN entry. `tasks::write` inserts it with the failure and deletes it when the task is opened again or deleted; then
//! a row of `replay` keeps what it said. What is changed here is who put it aside, under the lock of the task's row.

use std::collections::HashMap;

use sea_orm::{
    ConnectionTrait, QueryResult,
    sea_query::{Condition, Expr, ExprTrait, JoinType, Order, Query, SelectStatement},
};
use uuid::Uuid;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    filter,
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        dead_letter::{DeadLetter, DeadLetterState, Group, Processed, Replay, Standing},
        filter::Filter,
        fingerprint,
        task::{Micros, TaskError},
        task_list::Position,
        transition::DeadLetterReason,
    },
    ids::{BulkJobId, ProjectId, TaskId},
};

/// Counting stops here: nobody decides differently on two million than on one.
const COUNT_LIMIT: u64 = 1_000_000;
/// An analysis looks at so many entries: a few tenths of a second.
pub const SCAN_LIMIT: i64 = 100_000;

/// Of `dead_letter d`.
macro_rules! letter_columns {
    () => {
        "d.task_id, d.queue, d.type, d.reason, d.error_type, d.error_message, d.fingerprint, d.attempt_count, \
         d.crash_count, d.create_time, d.process_time, d.processed_by, d.process_reason, \
         (SELECT COALESCE(MAX(y.number), 0) FROM replay y WHERE y.project = d.project AND y.task_id = d.task_id), \
         (SELECT MIN(y.fail_time) FROM replay y WHERE y.project = d.project AND y.task_id = d.task_id)"
    };
}

/// One entry with its replays, whatever its state is. None if the task does not exist or never failed for good.
pub async fn get(store: &Store, project: &ProjectId, task: TaskId) -> StoreResult<Option<(DeadLetter, Vec<Replay>)>> {
    // The entry first: when it goes, its replay is there.
    let statement = Sql::new(concat!(
        "-- dead_letters::get\nSELECT ",
        letter_columns!(),
        " FROM dead_letter d WHERE d.project = $1 AND d.task_id = $2"
    ));
    let rows = store.fetch(statement.text(project.as_str()).id(task.0)).await?;
    let letter = rows.first().map(|row| decode(project, &mut Reader::new(row))).transpose()?;
    let replays = replays(store, project, task).await?;
    let letter = match (letter, replays.first(), replays.last()) {
        (Some(letter), ..) => Some(letter),
        (None, Some(first), Some(last)) => replayed(store, project, task, first, last).await?,
        _ => None,
    };
    Ok(letter.map(|letter| (letter, replays)))
}

/// The times that the dead letter of a task was retried, the first one first.
pub async fn replays(store: &Store, project: &ProjectId, task: TaskId) -> StoreResult<Vec<Replay>> {
    let statement = Sql::new(
        "-- dead_letters::replays
         SELECT number, time, owner, bulk_job, epoch, input_changed, reason, error_type, error_message, fail_time
         FROM replay WHERE project = $1 AND task_id = $2 ORDER BY number",
    );
    let rows = store.fetch(statement.text(project.as_str()).id(task.0)).await?;
    rows.iter().map(|row| decode_replay(&mut Reader::new(row))).collect()
}

/// The epoch of a task when its dead letter was first retried; none if it never was.
pub async fn first_replay(store: &Store, project: &ProjectId, task: TaskId) -> StoreResult<Option<i64>> {
    let statement =
        Sql::new("-- dead_letters::first_replay\nSELECT MIN(epoch) FROM replay WHERE project = $1 AND task_id = $2");
    let rows = store.fetch(statement.text(project.as_str()).id(task.0)).await?;
    rows.first().map_or(Ok(None), |row| Reader::new(row).get())
}

/// The entry of a task that was opened again.
async fn replayed(
    store: &Store,
    project: &ProjectId,
    task: TaskId,
    first: &Replay,
    last: &Replay,
) -> StoreResult<Option<DeadLetter>> {
    let statement = Sql::new("-- dead_letters::replayed\nSELECT queue, type FROM task WHERE project = $1 AND id = $2");
    let rows = store.fetch(statement.text(project.as_str()).id(task.0)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut r = Reader::new(row);
    Ok(Some(DeadLetter {
        project: project.clone(),
        task,
        queue: r.get()?,
        task_type: r.get()?,
        state: DeadLetterState::Replayed,
        reason: last.reason,
        fingerprint: fingerprint::of(&last.error.error_type, &last.error.message),
        error: last.error.clone(),
        attempt_count: None,
        crash_count: None,
        fail_time: last.fail_time,
        first_fail_time: first.fail_time,
        replay_count: last.number,
        processed: None,
    }))
}

/// A page of entries that are OPEN or PROCESSED, those that failed last first.
pub async fn list(
    store: &Store,
    project: &ProjectId,
    filter: &Filter,
    after: Option<Position>,
    limit: u64,
) -> StoreResult<Vec<DeadLetter>> {
    let mut select = matching(store, project, filter);
    select.expr(Expr::cust(letter_columns!()));
    if let Some(after) = after {
        select.and_where(place().lt(place_of(after)));
    }
    select.order_by(("d", "create_time"), Order::Desc).order_by(("d", "task_id"), Order::Desc).limit(limit);
    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    rows.iter().map(|row| decode(project, &mut Reader::new(row))).collect()
}

/// How many entries match, counted up to a million.
pub async fn count(store: &Store, project: &ProjectId, filter: &Filter) -> StoreResult<i64> {
    let mut found = matching(store, project, filter);
    found.expr(Expr::val(1)).limit(COUNT_LIMIT);
    let select = Query::select().expr(Expr::cust("count(*)")).from_subquery(found, "found").to_owned();
    let row = store.in_time_for_a_list(store.reader().query_one(&select)).await?;
    row.map_or(Ok(0), |row| Reader::new(&row).get())
}

/// The largest groups among the newest [`SCAN_LIMIT`] entries that match, and how many entries were looked at.
pub async fn analyze(
    store: &Store,
    project: &ProjectId,
    filter: &Filter,
    max_groups: u64,
) -> StoreResult<(Vec<Group>, i64)> {
    let mut scanned = matching(store, project, filter);
    scanned.columns([("d", "task_id"), ("d", "fingerprint"), ("d", "create_time")]);
    scanned.order_by(("d", "create_time"), Order::Desc).order_by(("d", "task_id"), Order::Desc);
    scanned.limit(SCAN_LIMIT.unsigned_abs());
    let mut grouped = Query::select();
    grouped
        .expr(Expr::cust(
            "s.task_id, count(*) OVER (PARTITION BY s.fingerprint) AS group_count, \
             min(s.create_time) OVER (PARTITION BY s.fingerprint) AS first_time, count(*) OVER () AS scanned, \
             row_number() OVER (PARTITION BY s.fingerprint ORDER BY s.create_time DESC, s.task_id DESC) AS place",
        ))
        .from_subquery(scanned, "s");
    let mut select = Query::select();
    let same = Condition::all()
        .add(Expr::col(("d", "project")).eq(project.as_str()))
        .add(Expr::col(("d", "task_id")).equals(("g", "task_id")));
    select
        .expr(Expr::cust(letter_columns!()))
        .columns([("g", "group_count"), ("g", "first_time"), ("g", "scanned")])
        .from_subquery(grouped, "g")
        .join_as(JoinType::InnerJoin, "dead_letter", "d", same)
        .and_where(Expr::col(("g", "place")).eq(1))
        .order_by(("g", "group_count"), Order::Desc)
        .order_by(("d", "create_time"), Order::Desc)
        .order_by(("d", "task_id"), Order::Desc)
        .limit(max_groups);
    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    let (mut groups, mut scanned) = (Vec::with_capacity(rows.len()), 0);
    for row in &rows {
        let mut r = Reader::new(row);
        let sample = decode(project, &mut r)?;
        groups.push(Group { sample, count: r.get()?, first_fail_time: r.get()? });
        scanned = r.get()?;
    }
    Ok((groups, scanned))
}

/// Which entries a bulk retry is about: OPEN ones only.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Those that match. The filter asks for the state too.
    Matching(Filter),
    /// These.
    Named(Vec<TaskId>),
}

/// Places of the next entries behind a place, up to a time, the oldest first.
pub async fn next(
    store: &Store,
    project: &ProjectId,
    targets: &Targets,
    after: Option<Position>,
    until: Micros,
    limit: usize,
) -> StoreResult<Vec<Position>> {
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(Uuid::nil()) });
    let rows = match targets {
        Targets::Matching(filter) => {
            let mut select = matching(store, project, filter);
            select
                .columns([("d", "create_time"), ("d", "task_id")])
                .and_where(place().gt(place_of(after)))
                .and_where(Expr::col(("d", "create_time")).between(after.create_time, until))
                .order_by(("d", "create_time"), Order::Asc)
                .order_by(("d", "task_id"), Order::Asc)
                .limit(limit as u64);
            store.in_time_for_a_list(store.reader().query_all(&select)).await?
        }
        Targets::Named(ids) => {
            let statement = Sql::new(
                "-- dead_letters::named
                 WITH {x} SELECT d.create_time, d.task_id FROM dead_letter d
                 WHERE d.project = $1 AND d.task_id {in_x} AND d.process_time IS NULL AND d.create_time <= $2
                    AND (d.create_time, d.task_id) > ($3, $4)",
            )
            .text(project.as_str())
            .int(until)
            .int(after.create_time)
            .id(after.id.0)
            .rows(Rows::ids(ids.iter().map(|id| id.0)));
            store.fetch(statement).await?
        }
    };
    let mut places: Vec<Position> = rows.iter().map(position).collect::<StoreResult<_>>()?;
    places.sort_unstable_by_key(|place| (place.create_time, place.id));
    places.truncate(limit);
    Ok(places)
}

/// The time up to which the next `rows` entries after a place failed; none when fewer are left. A job looks at its entries
/// in stretches of that size, so that each statement is short however few of them match.
pub async fn stretch(
    store: &Store,
    project: &ProjectId,
    after: Option<Position>,
    rows: i64,
) -> StoreResult<Option<Micros>> {
    let statement = Sql::new(
        "-- dead_letters::stretch
         SELECT create_time FROM dead_letter WHERE project = $1 AND (create_time, task_id) > ($2, $3)
         ORDER BY create_time, task_id LIMIT 1 OFFSET $4",
    );
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(Uuid::nil()) });
    let statement = statement.text(project.as_str()).int(after.create_time).id(after.id.0).int(rows);
    store.fetch(statement).await?.first().map(|row| Reader::new(row).get()).transpose()
}

/// Of the first `limit` tasks that a job retried since a time: how many ended since, and how many of these failed again.
/// The row of a task says how it ended only once it has.
pub async fn outcomes(
    store: &Store,
    project: &ProjectId,
    job: BulkJobId,
    since: Micros,
    limit: i64,
) -> StoreResult<(i64, i64)> {
    let statement = Sql::new(
        "-- dead_letters::outcomes
         SELECT count(*), COALESCE(SUM(CASE WHEN t.state = 5 THEN 1 ELSE 0 END), 0)
         FROM (SELECT project, task_id FROM replay WHERE project = $1 AND bulk_job = $2 AND time > $3
            ORDER BY time LIMIT $4) y
         JOIN task t ON t.project = y.project AND t.id = y.task_id
         WHERE t.state IN (4, 5, 6)",
    );
    let statement = statement.text(project.as_str()).id(job.0).int(since).int(limit);
    let rows = store.fetch(statement).await?;
    let Some(row) = rows.first() else { return Ok((0, 0)) };
    let mut r = Reader::new(row);
    Ok((r.get()?, r.get()?))
}

/// What decisions about the dead letters of these tasks look at.
pub async fn standings(tx: &mut Tx, project: &ProjectId, tasks: &[TaskId]) -> StoreResult<HashMap<TaskId, Standing>> {
    let statement = Sql::new(
        "-- dead_letters::standings
         WITH {x} SELECT x.id,
            (SELECT d.create_time FROM dead_letter d WHERE d.project = $1 AND d.task_id = x.id),
            (SELECT d.reason FROM dead_letter d WHERE d.project = $1 AND d.task_id = x.id),
            (SELECT d.process_time FROM dead_letter d WHERE d.project = $1 AND d.task_id = x.id),
            (SELECT COALESCE(MAX(y.number), 0) FROM replay y WHERE y.project = $1 AND y.task_id = x.id)
         FROM x",
    )
    .text(project.as_str())
    .rows(Rows::ids(tasks.iter().map(|id| id.0)));
    let mut found = HashMap::new();
    for row in &tx.read(statement).await? {
        let mut r = Reader::new(row);
        let task = TaskId(r.get()?);
        let fail_time = r.get()?;
        let number: Option<i16> = r.get()?;
        let reason = number.map(reason).transpose()?;
        let standing = Standing { fail_time, reason, process_time: r.get()?, replay_count: r.get()? };
        found.insert(task, standing);
    }
    Ok(found)
}

/// Locks the task of an entry, as everybody does who changes the entry. None if there is no entry: the task is not FAILED.
pub async fn lock(tx: &mut Tx, project: &ProjectId, task: TaskId) -> StoreResult<Option<Standing>> {
    let statement = Sql::new(if tx.is_postgres() {
        "-- dead_letters::lock\nSELECT state FROM task WHERE project = $1 AND id = $2 FOR UPDATE"
    } else {
        "-- dead_letters::lock\nSELECT state FROM task WHERE project = $1 AND id = $2"
    });
    tx.fetch(statement.text(project.as_str()).id(task.0)).await?;
    let standing = standings(tx, project, &[task]).await?.remove(&task);
    Ok(standing.filter(|standing| standing.fail_time.is_some()))
}

/// Puts an entry aside.
pub async fn mark(tx: &mut Tx, project: &ProjectId, task: TaskId, processed: &Processed) -> StoreResult<()> {
    let statement = Sql::new(
        "-- dead_letters::mark
         UPDATE dead_letter SET process_time = $3, processed_by = $4, process_reason = $5
         WHERE project = $1 AND task_id = $2",
    );
    let Processed { time, by, reason } = processed;
    tx.execute(statement.text(project.as_str()).id(task.0).int(*time).text(by).text(reason)).await
}

/// Takes that back.
pub async fn unmark(tx: &mut Tx, project: &ProjectId, task: TaskId) -> StoreResult<()> {
    let statement = Sql::new(
        "-- dead_letters::unmark
         UPDATE dead_letter SET process_time = NULL, processed_by = NULL, process_reason = NULL
         WHERE project = $1 AND task_id = $2",
    );
    tx.execute(statement.text(project.as_str()).id(task.0)).await
}

/// Gives a fingerprint to some entries that have none, because an older version wrote them. Answers how many.
pub async fn fill_fingerprints(tx: &mut Tx, limit: i64) -> StoreResult<usize> {
    let statement = Sql::new(
        "-- dead_letters::fill_fingerprints
         SELECT project, task_id, error_type, error_message FROM dead_letter WHERE fingerprint IS NULL
         ORDER BY project, task_id LIMIT $1",
    );
    let mut found: Vec<(String, Uuid, String)> = Vec::new();
    for row in &tx.fetch(statement.int(limit)).await? {
        let mut r = Reader::new(row);
        let (project, task): (String, Uuid) = (r.get()?, r.get()?);
        let (error_type, message): (String, String) = (r.get()?, r.get()?);
        found.push((project, task, fingerprint::of(&error_type, &message)));
    }
    let update = "-- dead_letters::fill_fingerprints
         WITH {x} UPDATE dead_letter SET fingerprint = x.fingerprint {at dead_letter by task_id}";
    for of_project in found.chunk_by(|(a, ..), (b, ..)| a == b) {
        let Some((project, ..)) = of_project.first() else { continue };
        let rows = Rows::new(of_project.len())
            .id("task_id", of_project.iter().map(|(_, task, _)| *task))
            .text("fingerprint", of_project.iter().map(|(.., fingerprint)| fingerprint.as_str()));
        tx.execute(Sql::new(update).text(project).rows(rows)).await?;
    }
    Ok(found.len())
}

/// The entries of a project that match, without what is selected of them.
fn matching(store: &Store, project: &ProjectId, filter: &Filter) -> SelectStatement {
    let mut select = Query::select();
    select
        .from_as("dead_letter", "d")
        .and_where(Expr::col(("d", "project")).eq(project.as_str()))
        .cond_where(filter::dead_letter_condition(filter, store.backend()));
    if let Some(task) = filter.pinned_task() {
        select.and_where(Expr::col(("d", "task_id")).eq(task));
    }
    select
}

fn place() -> Expr {
    Expr::tuple([Expr::col(("d", "create_time")), Expr::col(("d", "task_id"))])
}

fn place_of(position: Position) -> Expr {
    Expr::tuple([Expr::val(position.create_time), Expr::val(position.id.0)])
}

fn position(row: &QueryResult) -> StoreResult<Position> {
    let mut r = Reader::new(row);
    Ok(Position { create_time: r.get()?, id: TaskId(r.get()?) })
}

/// Reads [`letter_columns`].
fn decode(project: &ProjectId, r: &mut Reader<'_>) -> StoreResult<DeadLetter> {
    let task = TaskId(r.get()?);
    let (queue, task_type): (String, String) = (r.get()?, r.get()?);
    let reason = reason(r.get()?)?;
    let error = error(r)?;
    let fingerprint: Option<String> = r.get()?;
    let fingerprint = fingerprint.unwrap_or_else(|| fingerprint::of(&error.error_type, &error.message));
    let (attempt_count, crash_count): (Option<i32>, Option<i32>) = (r.get()?, r.get()?);
    let fail_time: Micros = r.get()?;
    let process_time: Option<Micros> = r.get()?;
    let (by, process_reason): (Option<String>, Option<String>) = (r.get()?, r.get()?);
    let replay_count: i32 = r.get()?;
    let first_fail_time: Option<Micros> = r.get()?;
    Ok(DeadLetter {
        project: project.clone(),
        task,
        queue,
        task_type,
        state: if process_time.is_some() { DeadLetterState::Processed } else { DeadLetterState::Open },
        reason,
        error,
        fingerprint,
        attempt_count,
        crash_count,
        fail_time,
        first_fail_time: first_fail_time.unwrap_or(fail_time),
        replay_count,
        processed: process_time.map(|time| Processed {
            time,
            by: by.unwrap_or_default(),
            reason: process_reason.unwrap_or_default(),
        }),
    })
}

fn decode_replay(r: &mut Reader<'_>) -> StoreResult<Replay> {
    let (number, time): (i32, Micros) = (r.get()?, r.get()?);
    let owner: String = r.get()?;
    let bulk_job: Option<Uuid> = r.get()?;
    let (epoch, input_changed): (i64, bool) = (r.get()?, r.get()?);
    let reason = reason(r.get()?)?;
    let error = error(r)?;
    let bulk_job = bulk_job.map(BulkJobId);
    Ok(Replay { number, time, owner, bulk_job, epoch, input_changed, reason, error, fail_time: r.get()? })
}

fn error(r: &mut Reader<'_>) -> StoreResult<TaskError> {
    Ok(TaskError { error_type: r.get()?, message: r.get()?, details: String::new() })
}

fn reason(number: i16) -> StoreResult<DeadLetterReason> {
    DeadLetterReason::try_from(number)
        .map_err(|number| StoreError::Bug(anyhow::anyhow!("unknown reason {number} of a dead letter")))
}
