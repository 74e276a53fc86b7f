//! Dead letters in the database. A row of `dead_letter` is there exactly while its task is FAILED: `process_time IS NULL` is
//! an OPEN entry. `tasks::write` inserts it with the failure and deletes it when the task is opened again or deleted; then
//! a row of `replay` keeps what it said. What is changed here is who put it aside, under the lock of the task's row.

mod changes;
mod lists;

use uuid::Uuid;

pub use self::{
    changes::{fill_fingerprints, lock, mark, standings, unmark},
    lists::{SCAN_LIMIT, Targets, analyze, count, list, next, outcomes, stretch},
};
use super::{
    Store,
    error::{StoreError, StoreResult},
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        dead_letter::{DeadLetter, DeadLetterState, Processed, Replay},
        fingerprint,
        task::{Micros, TaskError},
        transition::DeadLetterReason,
    },
    ids::{BulkJobId, ProjectId, TaskId},
};

/// Of `dead_letter d`.
macro_rules! letter_columns {
    () => {
        "d.task_id, d.queue, d.type, d.reason, d.error_type, d.error_message, d.fingerprint, d.attempt_count, \
         d.crash_count, d.create_time, d.process_time, d.processed_by, d.process_reason, \
         (SELECT COALESCE(MAX(y.number), 0) FROM replay y WHERE y.project = d.project AND y.task_id = d.task_id), \
         (SELECT MIN(y.fail_time) FROM replay y WHERE y.project = d.project AND y.task_id = d.task_id)"
    };
}
use letter_columns;

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
async fn replays(store: &Store, project: &ProjectId, task: TaskId) -> StoreResult<Vec<Replay>> {
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
