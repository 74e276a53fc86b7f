//! Lock the tasks a batch decides on, then read them.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        Tx,
        error::StoreResult,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, attempt_columns, payload_columns, task_columns, task_joins},
};
use crate::{
    domain::task::{Attempt, Task},
    ids::{ProjectId, TaskId},
};

/// A task as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The task, FULL.
    pub task: Task,
    /// Whether its `ready` row is marked due.
    pub due: bool,
}

/// The rows this transaction holds.
#[derive(Debug, Default)]
pub struct Held {
    /// Tasks whose live row, `ready` or `lease`, we hold: nobody else moves them.
    pub live: HashSet<TaskId>,
    /// Tasks whose wide row we hold. While a task is final nobody else changes it then; while it waits or runs this says
    /// nothing, because a claim locks the live row only.
    pub wide: HashSet<TaskId>,
}

/// Locks the live rows of tasks, and the wide rows of those in `deep` (changes of final tasks). Never waits: what another
/// replica holds is left out, the caller comes back to it later.
///
/// Reading follows in a second statement, so that it sees what the holders before us committed. SQLite has one writer
/// and needs no locks; everything counts as held there.
pub async fn lock(
    tx: &mut Tx,
    project: &ProjectId,
    ids: &[TaskId],
    deep: &HashSet<TaskId>,
) -> StoreResult<Option<Held>> {
    if !tx.is_postgres() {
        return Ok(None);
    }
    let statement = Sql::new(
        "-- tasks::lock
         WITH {x},
         l AS (SELECT id FROM lease WHERE project = $1 AND id IN (SELECT x.id FROM x) FOR UPDATE SKIP LOCKED),
         r AS (SELECT id FROM ready WHERE project = $1 AND id IN (SELECT x.id FROM x) FOR UPDATE SKIP LOCKED),
         t AS (SELECT id FROM task WHERE project = $1 AND id IN (SELECT x.id FROM x WHERE x.deep) FOR UPDATE SKIP LOCKED)
         SELECT id, true FROM l UNION ALL SELECT id, true FROM r UNION ALL SELECT id, false FROM t",
    )
    .text(project.as_str())
    .rows(
        Rows::new(ids.len())
            .id("id", ids.iter().map(|id| id.0))
            .flag("deep", ids.iter().map(|id| deep.contains(id))),
    );
    let mut held = Held::default();
    for row in &tx.fetch(statement).await? {
        let mut r = Reader::new(row);
        let id = TaskId(r.get()?);
        if r.get()? {
            held.live.insert(id)
        } else {
            held.wide.insert(id)
        };
    }
    Ok(Some(held))
}

/// Reads tasks, FULL. Those that do not exist are left out.
pub async fn load(
    tx: &mut Tx,
    project: &ProjectId,
    ids: impl ExactSizeIterator<Item = TaskId>,
) -> StoreResult<Vec<Loaded>> {
    let statement = Sql::new(concat!(
        "-- tasks::load\nWITH {x} SELECT ",
        task_columns!(),
        ", ",
        payload_columns!(),
        " FROM x JOIN task t ON t.project = $1 AND t.id = x.id ",
        task_joins!()
    ))
    .text(project.as_str())
    .rows(Rows::ids(ids.map(|id| id.0)));
    let rows = tx.fetch(statement).await?;
    rows.iter()
        .map(|row| decode::task(project, row, true).map(|decoded| Loaded { task: decoded.task, due: decoded.due }))
        .collect()
}

/// The attempts that ended with the given epochs: what a repeated report is compared with.
pub async fn last_attempts(
    tx: &mut Tx,
    project: &ProjectId,
    tokens: &[(TaskId, i64)],
) -> StoreResult<HashMap<(TaskId, i64), Attempt>> {
    let statement = Sql::new(concat!(
        "-- tasks::last_attempts\nWITH {x} SELECT ",
        attempt_columns!(),
        ", a.task_id FROM x JOIN attempt a ON a.project = $1 AND a.task_id = x.id AND a.epoch = x.epoch"
    ))
    .text(project.as_str())
    .rows(
        Rows::new(tokens.len())
            .id("id", tokens.iter().map(|(id, _)| id.0))
            .int("epoch", tokens.iter().map(|(_, epoch)| *epoch)),
    );
    let mut found = HashMap::new();
    for row in &tx.fetch(statement).await? {
        let mut r = Reader::new(row);
        let attempt = decode::attempt(&mut r)?;
        found.insert((TaskId(r.get()?), attempt.epoch), attempt);
    }
    Ok(found)
}
