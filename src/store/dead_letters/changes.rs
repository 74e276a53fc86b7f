//! What decisions about dead letters look at, and who put one aside.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    super::{
        Tx,
        error::StoreResult,
        sql::{Reader, Rows, Sql},
    },
    reason,
};
use crate::{
    domain::{
        dead_letter::{Processed, Standing},
        fingerprint,
    },
    ids::{ProjectId, TaskId},
};

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
