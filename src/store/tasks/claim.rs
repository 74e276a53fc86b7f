//! What is due: which waiting tasks to lease next, and which tasks ran out of time.

use super::super::{
    Store, Tx,
    error::StoreResult,
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::task::Micros,
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

/// Marks waiting tasks whose `run_time` has come, and returns them with their queues.
pub async fn promote(tx: &mut Tx, project: &ProjectId) -> StoreResult<Vec<(TaskId, String)>> {
    let now = tx.now();
    let text = if tx.is_postgres() {
        "-- tasks::promote
         UPDATE ready SET due = true WHERE project = $1 AND id IN (
            SELECT id FROM ready WHERE project = $1 AND NOT due AND run_time <= $2
            ORDER BY run_time LIMIT $3 FOR UPDATE SKIP LOCKED
         ) RETURNING id, queue"
    } else {
        "-- tasks::promote
         UPDATE ready SET due = true WHERE project = $1 AND id IN (
            SELECT id FROM ready WHERE project = $1 AND NOT due AND run_time <= $2 ORDER BY run_time LIMIT $3
         ) RETURNING id, queue"
    };
    let rows = tx.fetch(Sql::new(text).text(project.as_str()).int(now).int(PROMOTE_LIMIT)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((TaskId(r.get()?), r.get()?))
        })
        .collect()
}

/// The next `limit` due tasks of some lanes, locked: highest priority first, then longest due. Each lane is read from its
/// own stretch of the index, so a type nobody asks for blocks nothing. More than a lane's limit may come back.
pub async fn claim(tx: &mut Tx, project: &ProjectId, lanes: &[Lane], limit: usize) -> StoreResult<Vec<TaskId>> {
    // PostgreSQL skips what another replica is claiming; SQLite has no other claimer.
    let text = if tx.is_postgres() {
        "-- tasks::claim
         WITH {x} SELECT c.id, c.rank, c.run_time FROM x CROSS JOIN LATERAL (
            SELECT r.id, r.rank, r.run_time FROM ready r
            WHERE r.project = $1 AND r.queue = x.queue AND r.type = x.type AND r.due
            ORDER BY r.rank, r.run_time, r.id LIMIT x.most FOR UPDATE SKIP LOCKED
         ) c ORDER BY c.rank, c.run_time, c.id LIMIT $2"
    } else {
        "-- tasks::claim
         WITH {x} SELECT r.id, r.rank, r.run_time FROM x JOIN ready r ON r.project = $1 AND r.id IN (
            SELECT c.id FROM ready c
            WHERE c.project = $1 AND c.queue = x.queue AND c.type = x.type AND c.due
            ORDER BY c.rank, c.run_time, c.id LIMIT $2
         )"
    };
    let statement = Sql::new(text).text(project.as_str()).int(i64::try_from(limit).unwrap_or(i64::MAX)).rows(
        Rows::new(lanes.len())
            .text("queue", lanes.iter().map(|lane| lane.queue.as_str()))
            .text("type", lanes.iter().map(|lane| lane.task_type.as_str()))
            .int("most", lanes.iter().map(|lane| i64::try_from(lane.limit).unwrap_or(i64::MAX))),
    );
    let mut found: Vec<(i32, Micros, TaskId)> = Vec::new();
    for row in &tx.fetch(statement).await? {
        let mut r = Reader::new(row);
        let id = TaskId(r.get()?);
        found.push((r.get()?, r.get()?, id));
    }
    // SQLite cannot limit each lane by its own number, and answers each chunk of lanes in its own order: the caller
    // counts what it takes from a queue.
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, _, id)| id).collect())
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
            SELECT 1 FROM ready r WHERE r.project = $1 AND r.queue = x.queue AND r.type = x.type AND r.due LIMIT $2
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

/// Whether the `run_time` of a task has come that is not marked due yet.
pub async fn is_overdue(store: &Store, project: &ProjectId) -> StoreResult<bool> {
    let now = store.now().await?;
    let statement = Sql::new(
        "-- tasks::is_overdue
         SELECT 1 FROM ready WHERE project = $1 AND NOT due AND run_time <= $2 LIMIT 1",
    );
    Ok(!store.fetch(statement.text(project.as_str()).int(now)).await?.is_empty())
}

/// Running tasks whose lease or deadline has passed, in any project, at most `limit`.
pub async fn expired_running(store: &Store, limit: i64) -> StoreResult<Vec<(ProjectId, TaskId)>> {
    let now = store.now().await?;
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
