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
        retry::{Cause, Decision, Retry, Verdict},
        retry_policy::PolicyVersion,
        task::{Attempt, AttemptOutcome, Decided, Lease, Micros, Payload, Progress, Spec, Task, TaskError},
        task_state::TaskState,
    },
    ids::{ProjectId, TaskId},
};

/// Of `task t`. While the task is open, what changes with its life is in its narrow row.
macro_rules! wide_columns {
    () => {
        "t.id, t.type, t.queue, t.priority, t.timeout, t.expire_time, t.max_attempts, t.initial_backoff, t.max_backoff, \
         t.retry, t.unique_key, t.unique_ttl, t.labels, t.owner, t.create_time, t.open_time, t.state, t.run_time, t.version, t.epoch, \
         t.attempt_count, t.crash_count, t.update_time, t.finish_time, t.error_type, t.error_message, t.error_details, \
         t.cancel_reason"
    };
}

/// Of `ready r`: where an open task is. In the order of [`lease_columns`].
macro_rules! ready_columns {
    () => {
        "CAST(r.state AS integer), r.run_time, r.version, r.epoch, r.attempt_count, r.crash_count, r.update_time, r.due, NULL, NULL, NULL, \
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
    };
}

/// Of `lease l`: where an open task is.
macro_rules! lease_columns {
    () => {
        "2, l.run_time, l.version, l.epoch, l.attempt_count, l.crash_count, l.update_time, false, l.worker, \
         l.incarnation, l.waiting_state, l.start_time, l.expire_time, l.deadline_time, l.lease_duration, l.cancel_time, \
         l.cancel_reason, l.progress_percent, l.progress_message, l.progress_time, l.progress_pending"
    };
}

/// Of `task t LEFT JOIN ready r LEFT JOIN lease l`: the wide row, then the narrow one if there is one.
macro_rules! task_columns {
    () => {
        concat!(
            $crate::store::tasks::decode::wide_columns!(),
            ", CASE WHEN l.id IS NOT NULL THEN 2 ELSE r.state END, COALESCE(l.run_time, r.run_time), \
             COALESCE(l.version, r.version), COALESCE(l.epoch, r.epoch), COALESCE(l.attempt_count, r.attempt_count), \
             COALESCE(l.crash_count, r.crash_count), COALESCE(l.update_time, r.update_time), COALESCE(r.due, false), \
             l.worker, l.incarnation, l.waiting_state, l.start_time, l.expire_time, l.deadline_time, l.lease_duration, \
             l.cancel_time, l.cancel_reason, l.progress_percent, l.progress_message, l.progress_time, l.progress_pending"
        )
    };
}

/// What the FULL view adds.
macro_rules! payload_columns {
    () => {
        "t.input, t.input_type, t.result, t.result_type"
    };
}

/// The rows that [`task_columns`] reads from: those the statement names with `{x}`.
macro_rules! named_tasks {
    () => {
        "task t LEFT JOIN ready r ON r.project = t.project AND r.id = t.id {and r.id in_x} \
         LEFT JOIN lease l ON l.project = t.project AND l.id = t.id {and l.id in_x} WHERE t.project = $1 AND t.id {in_x}"
    };
}

/// How many columns they name.
pub(super) const COLUMNS: usize = 49;
pub(super) const PAYLOAD_COLUMNS: usize = 4;
/// Columns of a narrow row.
const LIVE_COLUMNS: usize = 21;
/// Of these, the ones that only a running task has; the worker is the first.
const LEASE_COLUMNS: usize = 13;

pub(in crate::store) use {lease_columns, named_tasks, payload_columns, ready_columns, task_columns, wide_columns};

/// Where an open task is, as its narrow row says.
#[derive(Debug)]
pub struct Live {
    state: TaskState,
    run_time: Micros,
    version: i64,
    epoch: i64,
    attempt_count: i32,
    crash_count: i32,
    update_time: Micros,
    lease: Option<Lease>,
    /// Whether it is marked due.
    pub(super) due: bool,
}

impl Live {
    /// The version and the lease, if the task runs.
    pub(super) fn lease(&self) -> Option<(i64, &Lease)> {
        self.lease.as_ref().map(|lease| (self.version, lease))
    }

    /// Completes a task that was read from its wide row.
    pub(super) fn put(self, task: &mut Task) {
        task.state = self.state;
        task.run_time = self.run_time;
        task.version = self.version;
        task.epoch = self.epoch;
        task.attempt_count = self.attempt_count;
        task.crash_count = self.crash_count;
        task.update_time = self.update_time;
        task.lease = self.lease;
    }
}

/// Reads [`ready_columns`] or [`lease_columns`]. None if the first is null: there is no narrow row.
pub(super) fn live(r: &mut Reader<'_>) -> StoreResult<Option<Live>> {
    let state: Option<i32> = r.get()?;
    let Some(state) = state else {
        r.skip(LIVE_COLUMNS - 1);
        return Ok(None);
    };
    Ok(Some(Live {
        state: self::state(i16::try_from(state).map_err(|cause| StoreError::Bug(cause.into()))?)?,
        run_time: r.get()?,
        version: r.get()?,
        epoch: r.get()?,
        attempt_count: r.get()?,
        crash_count: r.get()?,
        update_time: r.get()?,
        due: r.get()?,
        lease: lease(r)?,
    }))
}

/// A task and whether its `ready` row is marked due.
pub(super) struct Decoded {
    pub(super) task: Task,
    pub(super) due: bool,
}

/// Reads [`task_columns`], and with `full` also [`payload_columns`].
pub(super) fn task(project: &ProjectId, row: &QueryResult, full: bool) -> StoreResult<Decoded> {
    let mut r = Reader::new(row);
    let mut task = wide(project, &mut r)?;
    let mut due = false;
    if let Some(live) = live(&mut r)? {
        due = live.due;
        live.put(&mut task);
    }
    if full {
        task.input = payload(&mut r)?;
        task.result = payload(&mut r)?;
    }
    Ok(Decoded { task, due })
}

/// Reads [`wide_columns`]. While the task is open, what its narrow row says is missing.
pub(super) fn wide(project: &ProjectId, r: &mut Reader<'_>) -> StoreResult<Task> {
    let id = TaskId(r.get()?);
    let spec = Spec {
        task_type: r.get()?,
        queue: r.get()?,
        priority: r.get()?,
        timeout: r.get()?,
        expire_time: r.get()?,
        retry: retry((r.get()?, r.get()?, r.get()?), r.get()?),
        unique_key: r.get()?,
        unique_ttl: r.get()?,
        labels: labels(r.get()?)?,
        owner: r.get()?,
        create_time: r.get()?,
        open_time: r.get()?,
    };
    Ok(Task {
        project: project.clone(),
        id,
        spec: Arc::new(spec),
        input: None,
        state: state(r.get()?)?,
        run_time: r.get()?,
        version: r.get()?,
        epoch: r.get()?,
        attempt_count: r.get()?,
        crash_count: r.get()?,
        update_time: r.get()?,
        finish_time: r.get()?,
        error: error(r)?,
        cancel_reason: r.get()?,
        lease: None,
        result: None,
    })
}

fn lease(r: &mut Reader<'_>) -> StoreResult<Option<Lease>> {
    let worker: Option<String> = r.get()?;
    let Some(worker) = worker else {
        r.skip(LEASE_COLUMNS - 1);
        return Ok(None);
    };
    let incarnation: Option<String> = r.get()?;
    let waiting_state: Option<i16> = r.get()?;
    let times: [Option<i64>; 5] = [r.get()?, r.get()?, r.get()?, r.get()?, r.get()?];
    let cancel_reason = r.get()?;
    let progress = progress(r)?;
    let progress_time = r.get()?;
    let progress_pending: Option<bool> = r.get()?;
    let [start_time, expire_time, deadline_time, duration, cancel_time] = times;
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
         a.progress_percent, a.progress_message, a.retry_time, a.number, a.verdict, a.cause, a.rule, a.policy, \
         a.policy_version"
    };
}
pub(super) use attempt_columns;

/// Those of them that [`decision`] reads.
macro_rules! decision_columns {
    () => {
        "a.verdict, a.cause, a.rule, a.policy, a.policy_version"
    };
}
pub(in crate::store) use decision_columns;

/// Reads [`attempt_columns`].
pub(super) fn attempt(r: &mut Reader<'_>) -> StoreResult<Attempt> {
    let (epoch, worker) = (r.get()?, r.get()?);
    let outcome: i16 = r.get()?;
    let mut attempt = Attempt {
        epoch,
        worker,
        outcome: AttemptOutcome::try_from(outcome).map_err(|n| unknown("attempt outcome", n))?,
        start_time: r.get()?,
        end_time: r.get()?,
        error: error(r)?,
        progress: progress(r)?,
        retry_time: r.get()?,
        number: r.get::<Option<i32>>()?.unwrap_or(0),
        decision: None,
    };
    let wait = attempt.retry_time.zip(attempt.end_time).map_or(0, |(retry, end)| retry - end);
    attempt.decision = decision(r, wait)?;
    Ok(attempt)
}

/// Reads [`decision_columns`]; `wait` is how long after the attempt the next one may start.
pub(in crate::store) fn decision(r: &mut Reader<'_>, wait: Micros) -> StoreResult<Option<Decided>> {
    let (verdict, cause): (Option<i16>, Option<i16>) = (r.get()?, r.get()?);
    let rule: Option<i32> = r.get()?;
    let (policy, version): (Option<String>, Option<i64>) = (r.get()?, r.get()?);
    let Some((verdict, cause)) = verdict.zip(cause) else { return Ok(None) };
    let decision = Decision {
        verdict: match verdict {
            RETRY => Verdict::Retry(wait),
            SNOOZE => Verdict::Snooze(wait),
            DEAD_LETTER => Verdict::DeadLetter,
            other => return Err(unknown("verdict", other)),
        },
        cause: Cause::try_from(cause).map_err(|n| unknown("cause", n))?,
        rule: rule.unwrap_or(0),
    };
    let policy = policy.zip(version).map(|(id, version)| PolicyVersion { id: id.into(), version });
    Ok(Some(Decided { decision, policy }))
}

// The verdicts as they are kept; the numbers are those of the wire.
const RETRY: i16 = 1;
const SNOOZE: i16 = 2;
const DEAD_LETTER: i16 = 3;

/// A verdict as it is kept.
pub(super) fn verdict_number(verdict: Verdict) -> i16 {
    match verdict {
        Verdict::Retry(_) => RETRY,
        Verdict::Snooze(_) => SNOOZE,
        Verdict::DeadLetter => DEAD_LETTER,
    }
}

/// What a task says about retries. What a later version of the server added to the settings is passed over.
fn retry(numbers: (i32, Micros, Micros), more: Option<String>) -> Retry {
    Retry::restore(numbers, more.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Columns of an error; its type is the first.
const ERROR_COLUMNS: usize = 3;

fn error(r: &mut Reader<'_>) -> StoreResult<Option<TaskError>> {
    let error_type: Option<String> = r.get()?;
    let Some(error_type) = error_type else {
        r.skip(ERROR_COLUMNS - 1);
        return Ok(None);
    };
    let [message, details]: [Option<String>; 2] = [r.get()?, r.get()?];
    Ok(Some(TaskError { error_type, message: message.unwrap_or_default(), details: details.unwrap_or_default() }))
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

fn state(number: i16) -> StoreResult<TaskState> {
    TaskState::try_from(number).map_err(|cause| StoreError::Bug(cause.into()))
}

fn unknown(what: &str, number: i16) -> StoreError {
    StoreError::Bug(anyhow::anyhow!("unknown {what} {number}"))
}
