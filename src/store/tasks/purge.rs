//! Tasks that are final and old: find them, lock them, and take them away with all that is kept of them.
//!
//! They are found in order of submit: what became final before a time was submitted before it, too. So no index names a
//! column that changes when a task ends. While a task is open, its wide row says PENDING, so the wide row alone tells
//! whether it is final.

use std::collections::HashSet;

use uuid::Uuid;

use super::super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{retention::Candidate, task::Micros, task_list::Position, task_state::TaskState},
    ids::{ProjectId, TaskId},
};

/// The dead letters of the project that wait for somebody, as `d`.
macro_rules! open_dead_letters {
    () => {
        "dead_letter d WHERE d.project = $1 AND d.process_time IS NULL"
    };
}

/// Of `task t`.
macro_rules! candidate_columns {
    () => {
        "t.id, t.create_time, t.type, t.queue, t.state, t.finish_time"
    };
}

/// The next tasks after a place, oldest first, that were submitted before a time; final or not.
pub async fn candidates(
    store: &Store,
    project: &ProjectId,
    after: Option<Position>,
    before: Micros,
    limit: i64,
) -> StoreResult<Vec<Candidate>> {
    // Dead letters are looked up one by one, and only for tasks that may have one: joined, all of a project might be read.
    let statement = Sql::new(concat!(
        "-- purge::candidates\nSELECT ",
        candidate_columns!(),
        ", CASE WHEN t.state = 5 THEN (SELECT 1 FROM ",
        open_dead_letters!(),
        " AND d.task_id = t.id LIMIT 1) IS NOT NULL ELSE false END
         FROM task t
         WHERE t.project = $1 AND t.create_time IS NOT NULL AND (t.create_time, t.id) > ($2, $3) AND t.create_time < $4
         ORDER BY t.create_time, t.id LIMIT $5"
    ));
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(Uuid::nil()) });
    let statement = statement.text(project.as_str()).int(after.create_time).id(after.id.0).int(before).int(limit);
    let rows = store.fetch(statement).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let candidate = decode(&mut r)?;
            Ok(Candidate { has_open_dead_letter: r.get()?, ..candidate })
        })
        .collect()
}

/// Locks tasks and reads them again. Those that somebody else is changing are left out, and so are those that are gone.
pub async fn lock_candidates(tx: &mut Tx, project: &ProjectId, ids: &[TaskId]) -> StoreResult<Vec<Candidate>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- purge::lock\nWITH {x} SELECT ",
                candidate_columns!(),
                " FROM task t WHERE t.project = $1 AND t.id {in_x}",
                $lock
            )
        };
    }
    let lock = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE SKIP LOCKED") } else { select!("") });
    let found = tx.fetch(lock.text(project.as_str()).rows(Rows::ids(ids.iter().map(|id| id.0)))).await?;
    // Another statement, so that it sees what those committed who had the tasks before us. A letter that was dealt with is
    // locked, too, so that nobody opens it again meanwhile; one that somebody is at counts as open.
    let letters = Sql::new(if tx.is_postgres() {
        "-- purge::open_dead_letters
         WITH {x}, h AS (
            SELECT d.task_id FROM dead_letter d WHERE d.project = $1 AND d.task_id {in_x} AND d.process_time IS NOT NULL
            FOR UPDATE SKIP LOCKED
         )
         SELECT d.task_id FROM dead_letter d
         WHERE d.project = $1 AND d.task_id {in_x} AND d.task_id NOT IN (SELECT h.task_id FROM h)"
    } else {
        concat!(
            "-- purge::open_dead_letters\nWITH {x} SELECT d.task_id FROM ",
            open_dead_letters!(),
            " AND d.task_id {in_x}"
        )
    });
    let letters = tx.fetch(letters.text(project.as_str()).rows(Rows::ids(ids.iter().map(|id| id.0)))).await?;
    let letters = letters.iter().map(|row| Reader::new(row).get()).collect::<StoreResult<HashSet<Uuid>>>()?;
    found
        .iter()
        .map(|row| {
            let candidate = decode(&mut Reader::new(row))?;
            Ok(Candidate { has_open_dead_letter: letters.contains(&candidate.place.id.0), ..candidate })
        })
        .collect()
}

/// Takes away tasks that are locked and final, with the next statement at the latest.
pub fn purge(tx: &mut Tx, project: &ProjectId, tasks: &[Candidate]) {
    let ids = || Rows::ids(tasks.iter().map(|task| task.place.id.0));
    let closed: Vec<&Candidate> = tasks.iter().filter(|task| task.state != TaskState::Succeeded).collect();
    let closed = Rows::ids(closed.iter().map(|task| task.place.id.0))
        .int("state", closed.iter().map(|task| task.state.number().into()))
        .int("create_time", closed.iter().map(|task| task.place.create_time));
    for (text, rows) in [
        (
            "-- purge::closed
             WITH {x} DELETE FROM closed WHERE project = $1
                AND id {in_x} AND (state, create_time, id) IN (SELECT x.state, x.create_time, x.id FROM x)",
            closed,
        ),
        ("-- purge::dead_letter\nWITH {x} DELETE FROM dead_letter WHERE project = $1 AND task_id {in_x}", ids()),
        ("-- purge::replay\nWITH {x} DELETE FROM replay WHERE project = $1 AND task_id {in_x}", ids()),
        ("-- purge::attempt\nWITH {x} DELETE FROM attempt WHERE project = $1 AND task_id {in_x}", ids()),
        ("-- purge::task\nWITH {x} DELETE FROM task WHERE project = $1 AND id {in_x}", ids()),
    ] {
        tx.defer(Sql::new(text).text(project.as_str()).rows(rows), None);
    }
}

/// Reads [`candidate_columns`].
fn decode(r: &mut Reader<'_>) -> StoreResult<Candidate> {
    let (id, create_time) = (TaskId(r.get()?), r.get()?);
    let (task_type, queue) = (r.get()?, r.get()?);
    let state = TaskState::try_from(r.get::<i16>()?).map_err(|cause| StoreError::Bug(cause.into()))?;
    Ok(Candidate {
        place: Position { create_time, id },
        task_type,
        queue,
        state,
        finish_time: r.get()?,
        has_open_dead_letter: false,
    })
}
