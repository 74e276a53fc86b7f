//! Lock the tasks a batch decides on, then read them.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        Tx,
        error::StoreResult,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, Live, attempt_columns, lease_columns, named_tasks, ready_columns, task_columns, wide_columns},
};
use crate::{
    domain::task::{Attempt, Lease, Payload, Task},
    ids::{ProjectId, TaskId},
};

/// A task as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The task, without its input.
    pub task: Task,
    /// Whether its `ready` row is marked due.
    pub due: bool,
    /// Whether what changes with it is ours, so that it may be decided on.
    pub held: bool,
}

/// The rows a batch holds, or in an optimistic transaction those that it saw.
#[derive(Debug, Default)]
pub struct Held {
    /// The `ready` and `lease` rows that are ours.
    live: HashMap<TaskId, Live>,
    /// Tasks whose wide row is ours.
    wide: HashSet<TaskId>,
}

impl Held {
    /// The version and the lease of a running task whose row is ours.
    pub fn lease(&self, id: TaskId) -> Option<(i64, &Lease)> {
        self.live.get(&id)?.lease()
    }

    /// Completes a task with what its narrow row says; answers it as it came if that row is not ours.
    pub fn complete(&mut self, mut task: Task) -> Result<Loaded, Box<Task>> {
        let Some(live) = self.live.remove(&task.id) else { return Err(Box::new(task)) };
        let due = live.due;
        live.put(&mut task);
        Ok(Loaded { task, due, held: true })
    }
}

/// Locks and reads the narrow rows of tasks, and locks the wide rows of those in `deep` (changes of final tasks). Never
/// waits: what another transaction holds is left out, the caller comes back to it later. On SQLite there is one writer,
/// and everything is ours. An optimistic transaction locks nothing, and treats what it saw as its own.
///
/// The wide rows are read in a second statement ([`load`]), so that it sees what the holders before us committed.
pub async fn lock(tx: &mut Tx, project: &ProjectId, ids: &[TaskId], deep: &HashSet<TaskId>) -> StoreResult<Held> {
    let postgres = concat!(
        "-- tasks::lock
         WITH {x},
         l AS (SELECT * FROM lease WHERE project = $1 AND id {in_x} FOR UPDATE SKIP LOCKED),
         r AS (SELECT * FROM ready WHERE project = $1
            AND id = ANY (ARRAY(SELECT x.id FROM x WHERE x.id NOT IN (SELECT l.id FROM l))) FOR UPDATE SKIP LOCKED),
         t AS (SELECT id FROM task WHERE project = $1 AND id {in_x} AND id IN (SELECT x.id FROM x WHERE x.deep)
            FOR UPDATE SKIP LOCKED)
         SELECT l.id, ",
        lease_columns!(),
        " FROM l UNION ALL SELECT r.id, ",
        ready_columns!(),
        " FROM r UNION ALL SELECT id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
         NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM t"
    );
    let unlocked = concat!(
        "-- tasks::lock\nWITH {x} SELECT l.id, ",
        lease_columns!(),
        " FROM lease l WHERE l.project = $1 AND l.id {in_x} UNION ALL SELECT r.id, ",
        ready_columns!(),
        " FROM ready r WHERE r.project = $1 AND r.id {in_x}"
    );
    let mut rows = Rows::ids(ids.iter().map(|id| id.0));
    let mut held = Held::default();
    let locks = tx.is_postgres() && !tx.is_optimistic();
    if locks {
        rows = rows.flag("deep", ids.iter().map(|id| deep.contains(id)));
    } else {
        held.wide.clone_from(deep);
    }
    let statement = Sql::new(if locks { postgres } else { unlocked }).text(project.as_str()).rows(rows);
    for row in &tx.read(statement).await? {
        let mut r = Reader::new(row);
        let id = TaskId(r.get()?);
        match decode::live(&mut r)? {
            Some(live) => drop(held.live.insert(id, live)),
            None => drop(held.wide.insert(id)),
        }
    }
    Ok(held)
}

/// Reads tasks with their result, but without their input: no decision looks into it, and it may be large. Those that do
/// not exist are left out.
pub async fn load(
    tx: &mut Tx,
    project: &ProjectId,
    ids: &[TaskId],
    deep: &HashSet<TaskId>,
    mut held: Held,
) -> StoreResult<Vec<Loaded>> {
    let statement = Sql::new(concat!(
        "-- tasks::load\nWITH {x} SELECT ",
        wide_columns!(),
        ", t.result, t.result_type FROM task t WHERE t.project = $1 AND t.id {in_x}"
    ))
    .text(project.as_str())
    .rows(Rows::ids(ids.iter().map(|id| id.0)));
    let rows = tx.read(statement).await?;
    let mut found = Vec::with_capacity(rows.len());
    let mut elsewhere: Vec<TaskId> = Vec::new();
    for row in &rows {
        let mut r = Reader::new(row);
        let mut task = decode::wide(project, &mut r)?;
        task.result = decode::payload(&mut r)?;
        match held.complete(task) {
            Ok(loaded) => found.push(loaded),
            Err(task) if task.state.is_final() => {
                let held = !deep.contains(&task.id) || held.wide.contains(&task.id);
                found.push(Loaded { task: *task, due: false, held });
            }
            Err(task) => elsewhere.push(task.id),
        }
    }
    found.extend(peek(tx, project, elsewhere.into_iter()).await?);
    Ok(found)
}

/// Reads tasks that are not ours, as they are committed. Those that do not exist are left out.
pub async fn peek(
    tx: &mut Tx,
    project: &ProjectId,
    ids: impl ExactSizeIterator<Item = TaskId>,
) -> StoreResult<Vec<Loaded>> {
    let statement = Sql::new(concat!(
        "-- tasks::peek\nWITH {x} SELECT ",
        task_columns!(),
        ", NULL, NULL, t.result, t.result_type FROM ",
        named_tasks!()
    ));
    let rows = tx.read(statement.text(project.as_str()).rows(Rows::ids(ids.map(|id| id.0)))).await?;
    rows.iter()
        .map(|row| {
            let decoded = decode::task(project, row, true)?;
            Ok(Loaded { task: decoded.task, due: decoded.due, held: false })
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
         WITH {x} SELECT id, input, input_type FROM task
         WHERE project = $1 AND id {in_x} AND input IS NOT NULL",
    );
    let mut found = HashMap::new();
    for row in &tx.read(statement.text(project.as_str()).rows(Rows::ids(ids.map(|id| id.0)))).await? {
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
        ", a.task_id FROM {of attempt a by task_id epoch}"
    ))
    .text(project.as_str())
    .rows(
        Rows::new(tokens.len())
            .id("task_id", tokens.iter().map(|(id, _)| id.0))
            .int("epoch", tokens.iter().map(|(_, epoch)| *epoch)),
    );
    let mut found = HashMap::new();
    for row in &tx.read(statement).await? {
        let mut r = Reader::new(row);
        let attempt = decode::attempt(&mut r)?;
        found.insert((TaskId(r.get()?), attempt.epoch), attempt);
    }
    Ok(found)
}
