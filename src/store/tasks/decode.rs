//! One list of columns and one function that reads them, for every statement that answers tasks.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use sea_orm::QueryResult;

use super::super::{
    error::{StoreError, StoreResult},
    sql::Reader,
};
use crate::{
    domain::{
        task::{Attempt, AttemptOutcome, Lease, Payload, Progress, RetrySettings, Spec, Task, TaskError},
        task_state::TaskState,
    },
    ids::{ProjectId, TaskId},
};

/// Of `task t LEFT JOIN ready r LEFT JOIN lease l`: the live row wins over the wide one.
macro_rules! task_columns {
    () => {
        "t.id, t.type, t.queue, t.priority, t.timeout, t.expire_time, t.max_attempts, t.initial_backoff, t.max_backoff, \
         t.unique_key, t.unique_ttl, t.labels, t.owner, t.create_time, \
         CASE WHEN l.id IS NOT NULL THEN 2 WHEN r.id IS NOT NULL THEN r.state ELSE t.state END, \
         COALESCE(r.run_time, l.run_time, t.run_time), COALESCE(l.version, r.version, t.version), \
         COALESCE(l.epoch, r.epoch, t.epoch), COALESCE(l.attempt_count, r.attempt_count, t.attempt_count), \
         COALESCE(l.crash_count, r.crash_count, t.crash_count), COALESCE(l.update_time, r.update_time, t.update_time), \
         t.finish_time, t.error_type, t.error_message, t.error_details, t.cancel_reason, r.due, \
         l.worker, l.incarnation, l.waiting_state, l.start_time, l.expire_time, l.deadline_time, l.lease_duration, \
         l.cancel_time, l.cancel_reason, l.progress_percent, l.progress_message, l.progress_time, l.progress_pending"
    };
}

/// What the FULL view adds.
macro_rules! payload_columns {
    () => {
        "t.input, t.input_type, t.result, t.result_type"
    };
}

/// The joins that [`task_columns`] reads from, after `FROM task t`.
macro_rules! task_joins {
    () => {
        "LEFT JOIN ready r ON r.project = t.project AND r.id = t.id LEFT JOIN lease l ON l.project = t.project AND l.id = t.id"
    };
}

/// How many columns they name.
pub(super) const COLUMNS: usize = 40;
pub(super) const PAYLOAD_COLUMNS: usize = 4;

pub(in crate::store) use {payload_columns, task_columns, task_joins};

/// A task and whether its `ready` row is marked due.
pub(super) struct Decoded {
    pub(super) task: Task,
    pub(super) due: bool,
}

/// Reads [`task_columns`], and with `full` also [`payload_columns`].
pub(super) fn task(project: &ProjectId, row: &QueryResult, full: bool) -> StoreResult<Decoded> {
    let mut r = Reader::new(row);
    let id = TaskId(r.get()?);
    let spec = Spec {
        task_type: r.get()?,
        queue: r.get()?,
        priority: r.get()?,
        timeout: r.get()?,
        expire_time: r.get()?,
        retry: RetrySettings { max_attempts: r.get()?, initial_backoff: r.get()?, max_backoff: r.get()? },
        unique_key: r.get()?,
        unique_ttl: r.get()?,
        labels: labels(r.get()?)?,
        owner: r.get()?,
        create_time: r.get()?,
    };
    let state = state(number(&mut r)?)?;
    let run_time = r.get()?;
    let (version, epoch) = (r.get()?, r.get()?);
    let (attempt_count, crash_count) = (r.get()?, r.get()?);
    let (update_time, finish_time) = (r.get()?, r.get()?);
    let error = error(&mut r)?;
    let cancel_reason = r.get()?;
    let due: Option<bool> = r.get()?;
    let lease = lease(&mut r)?;
    let (input, result) = if full { (payload(&mut r)?, payload(&mut r)?) } else { (None, None) };
    let task = Task {
        project: project.clone(),
        id,
        spec: Arc::new(spec),
        input,
        run_time,
        state,
        version,
        epoch,
        attempt_count,
        crash_count,
        lease,
        error,
        result,
        cancel_reason,
        update_time,
        finish_time,
    };
    Ok(Decoded { task, due: due.unwrap_or(false) })
}

fn lease(r: &mut Reader<'_>) -> StoreResult<Option<Lease>> {
    let worker: Option<String> = r.get()?;
    let incarnation: Option<String> = r.get()?;
    let waiting_state: Option<i16> = r.get()?;
    let times: [Option<i64>; 5] = [r.get()?, r.get()?, r.get()?, r.get()?, r.get()?];
    let cancel_reason = r.get()?;
    let progress = progress(r)?;
    let progress_time = r.get()?;
    let progress_pending: Option<bool> = r.get()?;
    let [start_time, expire_time, deadline_time, duration, cancel_time] = times;
    let Some(worker) = worker else { return Ok(None) };
    Ok(Some(Lease {
        worker,
        incarnation: incarnation.unwrap_or_default(),
        start_time: start_time.unwrap_or_default(),
        expire_time: expire_time.unwrap_or_default(),
        deadline_time: deadline_time.unwrap_or_default(),
        duration: duration.unwrap_or_default(),
        waiting_state: state(waiting_state.unwrap_or_default())?,
        cancel_time,
        cancel_reason,
        progress,
        progress_time,
        progress_pending: progress_pending.unwrap_or(false),
    }))
}

/// Columns of an ended attempt.
macro_rules! attempt_columns {
    () => {
        "a.epoch, a.worker, a.outcome, a.start_time, a.end_time, a.error_type, a.error_message, a.error_details, \
         a.progress_percent, a.progress_message, a.retry_time"
    };
}
pub(super) use attempt_columns;

/// Reads [`attempt_columns`].
pub(super) fn attempt(r: &mut Reader<'_>) -> StoreResult<Attempt> {
    let (epoch, worker) = (r.get()?, r.get()?);
    let outcome: i16 = r.get()?;
    Ok(Attempt {
        epoch,
        worker,
        outcome: AttemptOutcome::try_from(outcome).map_err(|n| unknown("attempt outcome", n))?,
        start_time: r.get()?,
        end_time: r.get()?,
        error: error(r)?,
        progress: progress(r)?,
        retry_time: r.get()?,
    })
}

fn error(r: &mut Reader<'_>) -> StoreResult<Option<TaskError>> {
    let parts: [Option<String>; 3] = [r.get()?, r.get()?, r.get()?];
    let [error_type, message, details] = parts;
    Ok(error_type.map(|error_type| TaskError {
        error_type,
        message: message.unwrap_or_default(),
        details: details.unwrap_or_default(),
    }))
}

fn progress(r: &mut Reader<'_>) -> StoreResult<Option<Progress>> {
    let percent: Option<f64> = r.get()?;
    let message: Option<String> = r.get()?;
    Ok(percent.map(|percent| Progress { percent, message: message.unwrap_or_default() }))
}

pub(super) fn payload(r: &mut Reader<'_>) -> StoreResult<Option<Payload>> {
    let data: Option<Vec<u8>> = r.get()?;
    let media_type = r.get()?;
    Ok(data.map(|data| Payload { media_type, data: Bytes::from(data) }))
}

fn labels(text: Option<String>) -> StoreResult<BTreeMap<String, String>> {
    match text {
        None => Ok(BTreeMap::new()),
        Some(text) => serde_json::from_str(&text).map_err(|cause| StoreError::Bug(cause.into())),
    }
}

/// The CASE over smallint columns and literals is an integer on PostgreSQL and anything on SQLite.
fn number(r: &mut Reader<'_>) -> StoreResult<i16> {
    let wide: i32 = r.get()?;
    i16::try_from(wide).map_err(|cause| StoreError::Bug(cause.into()))
}

fn state(number: i16) -> StoreResult<TaskState> {
    TaskState::try_from(number).map_err(|cause| StoreError::Bug(cause.into()))
}

fn unknown(what: &str, number: i16) -> StoreError {
    StoreError::Bug(anyhow::anyhow!("unknown {what} {number}"))
}
