//! Lock the tasks a batch decides on, then read them.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        Tx,
        error::StoreResult,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, COLUMNS, PAYLOAD_COLUMNS, attempt_columns, task_columns, task_joins},
};
use crate::{
    domain::task::{Attempt, Payload, Task},
    ids::{ProjectId, TaskId},
};

/// A task as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The task, without its input.
    pub task: Task,
    /// Whether its `ready` row is marked due.
    pub due: bool,
    /// How large its input is, in bytes.
    pub input_bytes: usize,
}

/// The rows a batch holds.
#[derive(Debug, Default)]
pub struct Held {
    /// Tasks whose `ready` or `lease` row is ours.
    live: HashSet<TaskId>,
    /// Tasks whose wide row is ours.
    wide: HashSet<TaskId>,
    /// On SQLite there is one writer, and everything is ours.
    all: bool,
}

impl Held {
    /// Whether a task may be decided on: what changes with it is ours. A task that is read as live must be held live,
    /// whatever else of it is ours, because its live row is what says where it is.
    pub fn holds(&self, task: &Task, deep: bool) -> bool {
        if self.all {
            return true;
        }
        if task.state.is_final() { !deep || self.wide.contains(&task.id) } else { self.live.contains(&task.id) }
    }
}

/// Locks the live rows of tasks, and the wide rows of those in `deep` (changes of final tasks). Never waits: what another
/// transaction holds is left out, the caller comes back to it later.
///
/// Reading follows in a second statement, so that it sees what the holders before us committed.
pub async fn lock(tx: &mut Tx, project: &ProjectId, ids: &[TaskId], deep: &HashSet<TaskId>) -> StoreResult<Held> {
    if !tx.is_postgres() {
        return Ok(Held { all: true, ..Held::default() });
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
        let (id, is_live) = (TaskId(r.get()?), r.get()?);
        if is_live {
            held.live.insert(id)
        } else {
            held.wide.insert(id)
        };
    }
    Ok(held)
}

/// Reads tasks with their result, and only the size of their input: no decision looks into it, and it may be large. Those
/// that do not exist are left out.
pub async fn load(
    tx: &mut Tx,
    project: &ProjectId,
    ids: impl ExactSizeIterator<Item = TaskId>,
) -> StoreResult<Vec<Loaded>> {
    let statement = Sql::new(concat!(
        "-- tasks::load\nWITH {x} SELECT ",
        task_columns!(),
        ", NULL, NULL, t.result, t.result_type, octet_length(t.input) FROM x \
         JOIN task t ON t.project = $1 AND t.id = x.id ",
        task_joins!()
    ))
    .text(project.as_str())
    .rows(Rows::ids(ids.map(|id| id.0)));
    let rows = tx.fetch(statement).await?;
    rows.iter()
        .map(|row| {
            let decoded = decode::task(project, row, true)?;
            let size: Option<i32> = row.try_get_by_index(COLUMNS + PAYLOAD_COLUMNS)?;
            let input_bytes = usize::try_from(size.unwrap_or(0)).unwrap_or(0);
            Ok(Loaded { task: decoded.task, due: decoded.due, input_bytes })
        })
        .collect()
}

/// Reads the inputs of tasks.
pub async fn inputs(
    tx: &mut Tx,
    project: &ProjectId,
    ids: impl ExactSizeIterator<Item = TaskId>,
) -> StoreResult<HashMap<TaskId, Payload>> {
    let statement = Sql::new(
        "-- tasks::inputs
         WITH {x} SELECT t.id, t.input, t.input_type FROM x JOIN task t ON t.project = $1 AND t.id = x.id
         WHERE t.input IS NOT NULL",
    );
    let mut found = HashMap::new();
    for row in &tx.fetch(statement.text(project.as_str()).rows(Rows::ids(ids.map(|id| id.0)))).await? {
        let mut r = Reader::new(row);
        let id = TaskId(r.get()?);
        if let Some(input) = decode::payload(&mut r)? {
            found.insert(id, input);
        }
    }
    Ok(found)
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
