//! What is due: which waiting tasks to lease next, and which tasks ran out of time.

use std::collections::HashMap;

use super::{
    super::{
        Store, Tx,
        error::{StoreError, StoreResult},
        queues::SeenQueue,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, ready_columns, wide_columns},
};
use crate::{
    domain::task::{Micros, Task},
    faults::Mutant,
    ids::{ProjectId, TaskId},
};

/// Most tasks marked due in one transaction, so that a million that become due together do not hold up a commit.
const PROMOTE_LIMIT: i64 = 1_000;

/// Inputs up to this many bytes come with the tasks that are claimed; larger ones are read when it is known that they are
/// granted.
macro_rules! small_input {
    () => {
        8192
    };
}

/// A queue and a type a worker asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The queue.
    pub queue: String,
    /// The task type.
    pub task_type: String,
    /// Most tasks to take from it.
    pub limit: usize,
}

/// Marks waiting tasks whose `run_time` has come, and returns the queue and type of each.
pub async fn promote(tx: &mut Tx, project: &ProjectId) -> StoreResult<Vec<(String, String)>> {
    let now = tx.now();
    let text = if tx.is_postgres() {
        "-- tasks::promote
         UPDATE ready SET due = true WHERE project = $1 AND id = ANY (ARRAY(
            SELECT id FROM ready WHERE project = $1 AND NOT due AND run_time <= $2
            ORDER BY run_time LIMIT $3 FOR UPDATE SKIP LOCKED
         )) RETURNING queue, type"
    } else {
        "-- tasks::promote
         UPDATE ready SET due = true WHERE project = $1 AND id IN (
            SELECT id FROM ready WHERE project = $1 AND NOT due AND run_time <= $2 ORDER BY run_time LIMIT $3
         ) RETURNING queue, type"
    };
    let rows = tx.fetch(Sql::new(text).text(project.as_str()).int(now).int(PROMOTE_LIMIT)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, r.get()?))
        })
        .collect()
}

/// A task that may be leased.
#[derive(Debug)]
pub struct Claimed {
    /// The task, with its input if that is small.
    pub task: Task,
    /// How large its input is, in bytes.
    pub input_bytes: usize,
    place: Place,
}

/// Where a waiting task stands in the order of its lanes.
type Place = (i32, Micros, TaskId);

/// The next `limit` due tasks of some lanes, locked: highest priority first, then longest due. Each lane is read from its
/// own stretch of the index, so a type nobody asks for blocks nothing. More than a lane's limit may come back.
///
/// Several lanes are first looked at without locks, and only what is wanted is locked. When another claimer was faster
/// with some of it, every lane is locked as far as it may be needed: slower, but nothing that is free is passed over.
pub async fn claim(tx: &mut Tx, project: &ProjectId, lanes: &[Lane], limit: usize) -> StoreResult<Vec<Claimed>> {
    let mut claimed = if !tx.is_postgres() {
        claimed(tx, project, of_lanes(tx, project, lanes, limit, SQLITE_CLAIM)).await?
    } else if lanes.len() == 1 {
        claimed(tx, project, of_lanes(tx, project, lanes, limit, CLAIM)).await?
    } else {
        let seen = look(tx, project, lanes, limit).await?;
        let locked = claimed(tx, project, lock_due(project, &seen)).await?;
        if locked.len() == seen.len() {
            locked
        } else {
            claimed(tx, project, of_lanes(tx, project, lanes, limit, CLAIM)).await?
        }
    };
    claimed.sort_unstable_by_key(|claimed| claimed.place);
    Ok(claimed)
}

/// What is read of `ready r` and `task t`.
macro_rules! claimed_columns {
    () => {
        concat!(
            "r.rank, r.run_time, r.id, ",
            ready_columns!(),
            ", ",
            wide_columns!(),
            ", CASE WHEN octet_length(t.input) <= ",
            small_input!(),
            " THEN t.input END, t.input_type, octet_length(t.input)"
        )
    };
}

/// The wide row of `r`. It is as old as `r` even if it is read a moment sooner: whoever changes one while the task waits
/// puts a new row in the place of the other, and then `r` is not there to be locked.
macro_rules! wide_row {
    () => {
        " CROSS JOIN LATERAL (SELECT * FROM task k WHERE k.project = $1 AND k.id = r.id OFFSET 0) t"
    };
}

macro_rules! due_rows {
    ($lock:literal) => {
        concat!(
            " CROSS JOIN LATERAL (
                SELECT r.* FROM ready r
                WHERE r.project = $1 AND r.queue = x.queue AND r.type = x.type AND r.due
                ORDER BY r.rank, r.run_time, r.id LIMIT x.most ",
            $lock,
            ") r"
        )
    };
}

/// What may be leased, as an optimistic transaction sees it.
#[derive(Debug)]
pub struct Due {
    /// Whether tasks whose `run_time` has come are still to be marked due ([`promote`]).
    pub is_overdue: bool,
    /// The tasks, in the order of their lanes.
    pub claimed: Vec<Claimed>,
    /// The queue of each of them, by name.
    pub queues: HashMap<String, SeenQueue>,
}

/// [`claim`] without locks, for PostgreSQL, and with what must be known of the queues: all in one statement. Paused queues
/// are left out. Whoever leases what it answers must write that with `queues::check`.
pub async fn find_due(
    tx: &mut Tx,
    project: &ProjectId,
    lanes: &[Lane],
    limit: usize,
    overdue_at: Micros,
) -> StoreResult<Due> {
    let rows = tx.read(of_lanes(tx, project, lanes, limit, FIND_DUE).int(overdue_at)).await?;
    let mut due = Due { is_overdue: false, claimed: Vec::with_capacity(rows.len()), queues: HashMap::new() };
    for row in &rows {
        let mut r = Reader::new(row);
        due.is_overdue = r.get()?;
        let (update_time, is_limited): (Option<Micros>, Option<bool>) = (r.get()?, r.get()?);
        let lease_duration = r.get()?;
        let Some(claimed) = claimed_of(project, &mut r)? else { continue };
        // The row of a queue is made with the first of its tasks.
        let (Some(update_time), Some(is_limited)) = (update_time, is_limited) else { return Err(StoreError::Conflict) };
        let name = &claimed.task.spec.queue;
        if !due.queues.contains_key(name) {
            due.queues.insert(name.clone(), SeenQueue { update_time, is_limited, lease_duration });
        }
        due.claimed.push(claimed);
    }
    Ok(due)
}

/// One row at least, to say whether something is overdue. The wide rows come last, because they are wanted of those only
/// that are left.
const FIND_DUE: &str = concat!(
    "-- tasks::find_due\nWITH {x}, d AS (
        SELECT r.*, q.update_time AS queue_time, q.max_running > 0 OR q.rate_count > 0 AS is_limited, q.lease_duration",
    " FROM x LEFT JOIN LATERAL (SELECT * FROM queue k WHERE k.project = $1 AND k.name = x.queue OFFSET 0) q ON true",
    due_rows!(""),
    " WHERE q.paused IS NOT TRUE ORDER BY r.rank, r.run_time, r.id LIMIT $2
    ) SELECT o.is_overdue, r.queue_time, r.is_limited, r.lease_duration, ",
    claimed_columns!(),
    " FROM (SELECT EXISTS (SELECT FROM ready WHERE project = $1 AND NOT due AND run_time <= $3) AS is_overdue) o
    LEFT JOIN (d r",
    wide_row!(),
    ") ON true ORDER BY r.rank, r.run_time, r.id"
);

/// PostgreSQL skips what another transaction is claiming.
const CLAIM: &str = concat!(
    "-- tasks::claim\nWITH {x} SELECT ",
    claimed_columns!(),
    " FROM x",
    due_rows!("FOR UPDATE SKIP LOCKED"),
    wide_row!(),
    " ORDER BY r.rank, r.run_time, r.id LIMIT $2"
);
/// SQLite has no other claimer. It cannot limit each lane by its own number, and answers each chunk of lanes in its own
/// order: the caller counts what it takes from a queue.
const SQLITE_CLAIM: &str = concat!(
    "-- tasks::claim\nWITH {x} SELECT ",
    claimed_columns!(),
    " FROM x CROSS JOIN ready r ON r.project = $1 AND r.id IN (
        SELECT c.id FROM ready c
        WHERE c.project = $1 AND c.queue = x.queue AND c.type = x.type AND c.due
        ORDER BY c.rank, c.run_time, c.id LIMIT $2
    ) CROSS JOIN task t ON t.project = $1 AND t.id = r.id"
);

fn of_lanes(tx: &Tx, project: &ProjectId, lanes: &[Lane], limit: usize, text: &'static str) -> Sql {
    let mut rows = Rows::new(lanes.len())
        .text("queue", lanes.iter().map(|lane| lane.queue.as_str()))
        .text("type", lanes.iter().map(|lane| lane.task_type.as_str()));
    if tx.is_postgres() {
        rows = rows.int("most", lanes.iter().map(|lane| i64::try_from(lane.limit).unwrap_or(i64::MAX)));
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Sql::new(text).text(project.as_str()).int(limit).rows(rows)
}

/// What would be claimed, without locks.
async fn look(tx: &mut Tx, project: &ProjectId, lanes: &[Lane], limit: usize) -> StoreResult<Vec<TaskId>> {
    const LOOK: &str = concat!(
        "-- tasks::look\nWITH {x} SELECT r.id FROM x",
        due_rows!(""),
        " ORDER BY r.rank, r.run_time, r.id LIMIT $2"
    );
    let rows = tx.fetch(of_lanes(tx, project, lanes, limit, LOOK)).await?;
    rows.iter().map(|row| Ok(TaskId(Reader::new(row).get()?))).collect()
}

/// Locks those of some tasks that are still due and free.
fn lock_due(project: &ProjectId, seen: &[TaskId]) -> Sql {
    let text = concat!(
        "-- tasks::lock_due
         WITH {x}, r AS (SELECT * FROM ready WHERE project = $1 AND id {in_x} AND due FOR UPDATE SKIP LOCKED) SELECT ",
        claimed_columns!(),
        " FROM r",
        wide_row!()
    );
    let ids = Rows::ids(seen.iter().map(|id| id.0));
    Sql::new(text).text(project.as_str()).rows(ids)
}

async fn claimed(tx: &mut Tx, project: &ProjectId, statement: Sql) -> StoreResult<Vec<Claimed>> {
    let rows = tx.fetch(statement).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.extend(claimed_of(project, &mut Reader::new(row))?);
    }
    Ok(found)
}

/// Reads [`claimed_columns`]; none if they are null.
fn claimed_of(project: &ProjectId, r: &mut Reader<'_>) -> StoreResult<Option<Claimed>> {
    let rank: Option<i32> = r.get()?;
    let Some(rank) = rank else { return Ok(None) };
    let place = (rank, r.get()?, TaskId(r.get()?));
    let Some(live) = decode::live(r)? else { return Ok(None) };
    let mut task = decode::wide(project, r)?;
    live.put(&mut task);
    task.input = decode::payload(r)?;
    let size: Option<i32> = r.get()?;
    Ok(Some(Claimed { task, input_bytes: usize::try_from(size.unwrap_or(0)).unwrap_or(0), place }))
}

/// Which of some queues and types have due tasks, with how many, counted up to `limit`.
pub async fn due_lanes(
    store: &Store,
    project: &ProjectId,
    lanes: &[(String, String)],
    limit: i64,
) -> StoreResult<Vec<(String, String, usize)>> {
    let statement = Sql::new(
        "-- tasks::due_lanes
         WITH {x} SELECT x.queue, x.type, (SELECT count(*) FROM (
            SELECT 1 FROM ready r WHERE r.project = $1 AND r.queue = x.queue AND r.type = x.type AND r.due
            ORDER BY r.rank, r.run_time, r.id LIMIT $2
         ) AS found) FROM x",
    )
    .text(project.as_str())
    .int(limit)
    .rows(
        Rows::new(lanes.len())
            .text("queue", lanes.iter().map(|(queue, _)| queue.as_str()))
            .text("type", lanes.iter().map(|(_, task_type)| task_type.as_str())),
    );
    let mut found = Vec::new();
    for row in &store.fetch(statement).await? {
        let mut r = Reader::new(row);
        let (queue, task_type) = (r.get()?, r.get()?);
        let count: i64 = r.get()?;
        if count > 0 {
            found.push((queue, task_type, usize::try_from(count).unwrap_or(usize::MAX)));
        }
    }
    Ok(found)
}

/// Projects with tasks whose `run_time` has come and that are not marked due yet.
pub async fn overdue_projects(store: &Store) -> StoreResult<Vec<ProjectId>> {
    let now = store.now().await?;
    let statement = Sql::new(
        "-- tasks::overdue_projects
         SELECT c.project FROM counter c WHERE EXISTS (
            SELECT 1 FROM ready r WHERE r.project = c.project AND NOT r.due AND r.run_time <= $1
         )",
    );
    let rows = store.fetch(statement.int(now)).await?;
    rows.iter()
        .map(|row| {
            let project: String = Reader::new(row).get()?;
            Ok(ProjectId::new(&project))
        })
        .collect()
}

/// Running tasks whose lease or deadline has passed, in any project, at most `limit`.
pub async fn expired_running(store: &Store, limit: i64) -> StoreResult<Vec<(ProjectId, TaskId)>> {
    let now = if Mutant::SweepsEarly.is_on() { Micros::MAX } else { store.now().await? };
    let statement = Sql::new(
        "-- tasks::expired_running
         SELECT project, id FROM lease WHERE expire_time <= $1 OR deadline_time <= $1 LIMIT $2",
    );
    pairs(store, statement.int(now).int(limit)).await
}

/// Waiting tasks whose `expire_time` has passed, in any project, at most `limit`.
pub async fn expired_waiting(store: &Store, limit: i64) -> StoreResult<Vec<(ProjectId, TaskId)>> {
    let now = store.now().await?;
    let statement = Sql::new(
        "-- tasks::expired_waiting
         SELECT r.project, r.id FROM counter c JOIN ready r
         ON r.project = c.project AND r.expire_time IS NOT NULL AND r.expire_time <= $1 LIMIT $2",
    );
    pairs(store, statement.int(now).int(limit)).await
}

async fn pairs(store: &Store, statement: Sql) -> StoreResult<Vec<(ProjectId, TaskId)>> {
    let rows = store.fetch(statement).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let project: String = r.get()?;
            Ok((ProjectId::new(&project), TaskId(r.get()?)))
        })
        .collect()
}
