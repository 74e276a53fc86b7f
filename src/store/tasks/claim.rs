//! What is due: which waiting tasks to lease next, and which tasks ran out of time.

use super::{
    super::{
        Store, Tx,
        error::StoreResult,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, Live, ready_columns},
};
use crate::{
    domain::task::Micros,
    faults::Mutant,
    ids::{ProjectId, TaskId},
};

/// Most tasks marked due in one transaction, so that a million that become due together do not hold up a commit.
const PROMOTE_LIMIT: i64 = 1_000;

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
         UPDATE ready SET due = true WHERE project = $1 AND id IN (
            SELECT id FROM ready WHERE project = $1 AND NOT due AND run_time <= $2
            ORDER BY run_time LIMIT $3 FOR UPDATE SKIP LOCKED
         ) RETURNING queue, type"
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

/// A claimed task: where it stands in the order of its lanes, and its `ready` row.
type Pick = ((i32, Micros, TaskId), Option<Live>);

/// The next `limit` due tasks of some lanes, locked: highest priority first, then longest due. Each lane is read from its
/// own stretch of the index, so a type nobody asks for blocks nothing. More than a lane's limit may come back.
///
/// Several lanes are first looked at without locks, and only what is wanted is locked. When another claimer was faster
/// with some of it, every lane is locked as far as it may be needed: slower, but nothing that is free is passed over.
pub async fn claim(tx: &mut Tx, project: &ProjectId, lanes: &[Lane], limit: usize) -> StoreResult<Vec<(TaskId, Live)>> {
    let picks = if !tx.is_postgres() {
        pick(tx, project, lanes, limit, SQLITE_CLAIM).await?
    } else if lanes.len() == 1 {
        pick(tx, project, lanes, limit, CLAIM).await?
    } else {
        let seen = pick(tx, project, lanes, limit, LOOK).await?;
        let locked = lock_due(tx, project, &seen).await?;
        if locked.len() == seen.len() { locked } else { pick(tx, project, lanes, limit, CLAIM).await? }
    };
    Ok(picks.into_iter().filter_map(|((_, _, id), live)| Some((id, live?))).collect())
}

macro_rules! postgres_claim {
    ($name:literal, $columns:expr, $lock:literal) => {
        concat!(
            "-- tasks::",
            $name,
            "
             WITH {x} SELECT r.rank, r.run_time, r.id",
            $columns,
            " FROM x CROSS JOIN LATERAL (
                SELECT r.* FROM ready r
                WHERE r.project = $1 AND r.queue = x.queue AND r.type = x.type AND r.due
                ORDER BY r.rank, r.run_time, r.id LIMIT x.most ",
            $lock,
            ") r ORDER BY r.rank, r.run_time, r.id LIMIT $2"
        )
    };
}

/// PostgreSQL skips what another transaction is claiming.
const CLAIM: &str = postgres_claim!("claim", concat!(", ", ready_columns!()), "FOR UPDATE SKIP LOCKED");
const LOOK: &str = postgres_claim!("look", ", NULL::integer", "");
/// SQLite has no other claimer. It cannot limit each lane by its own number, and answers each chunk of lanes in its own
/// order: the caller counts what it takes from a queue.
const SQLITE_CLAIM: &str = concat!(
    "-- tasks::claim
    WITH {x} SELECT r.rank, r.run_time, r.id, ",
    ready_columns!(),
    " FROM x JOIN ready r ON r.project = $1 AND r.id IN (
        SELECT c.id FROM ready c
        WHERE c.project = $1 AND c.queue = x.queue AND c.type = x.type AND c.due
        ORDER BY c.rank, c.run_time, c.id LIMIT $2
    )"
);

async fn pick(
    tx: &mut Tx,
    project: &ProjectId,
    lanes: &[Lane],
    limit: usize,
    text: &'static str,
) -> StoreResult<Vec<Pick>> {
    let mut rows = Rows::new(lanes.len())
        .text("queue", lanes.iter().map(|lane| lane.queue.as_str()))
        .text("type", lanes.iter().map(|lane| lane.task_type.as_str()));
    if tx.is_postgres() {
        rows = rows.int("most", lanes.iter().map(|lane| i64::try_from(lane.limit).unwrap_or(i64::MAX)));
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    picks(tx, Sql::new(text).text(project.as_str()).int(limit).rows(rows)).await
}

/// Locks those of some tasks that are still due and free.
async fn lock_due(tx: &mut Tx, project: &ProjectId, seen: &[Pick]) -> StoreResult<Vec<Pick>> {
    let statement = Sql::new(concat!(
        "-- tasks::lock_due
         WITH {x} SELECT r.rank, r.run_time, r.id, ",
        ready_columns!(),
        " FROM ready r WHERE r.project = $1 AND r.id {in_x} AND r.due FOR UPDATE SKIP LOCKED"
    ));
    let ids = Rows::ids(seen.iter().map(|((_, _, id), _)| id.0));
    picks(tx, statement.text(project.as_str()).rows(ids)).await
}

async fn picks(tx: &mut Tx, statement: Sql) -> StoreResult<Vec<Pick>> {
    let rows = tx.fetch(statement).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut r = Reader::new(row);
        let place = (r.get()?, r.get()?, TaskId(r.get()?));
        found.push((place, decode::live(&mut r)?));
    }
    found.sort_unstable_by_key(|(place, _)| *place);
    Ok(found)
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
