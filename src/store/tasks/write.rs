//! Writes what a batch decided: for each task the difference between how it was read and how it is now, in a few
//! statements over all tasks at once.
//!
//! A task is in exactly one place: `ready`, `lease`, or neither once it is final. Moving it is a delete and an insert of
//! narrow rows; the wide row is touched when the task ends, fails an attempt, is updated, or is opened again.

use std::sync::Arc;

use super::{
    super::{
        Tx,
        error::StoreResult,
        sql::{Rows, Sql},
    },
    decode::verdict_number,
};
use crate::{
    domain::{
        fingerprint,
        task::{Attempt, AttemptOutcome, Micros, Payload, Spec, Task, TaskError},
        task_state::TaskState,
        transition::DeadLetterReason,
    },
    faults::Mutant,
    ids::{BulkJobId, ProjectId},
};

/// What a batch did to one task.
#[derive(Debug, Default)]
pub struct Net {
    /// As it was read; none if it is new.
    pub before: Option<Arc<Task>>,
    /// As it is now; none if it is deleted.
    pub after: Option<Arc<Task>>,
    /// The attempts that ended.
    pub attempts: Vec<Attempt>,
    /// Set when it became FAILED.
    pub dead_letter: Option<DeadLetterReason>,
    /// The times that its dead letter was retried.
    pub replays: Vec<Replayed>,
}

/// How a dead letter was retried.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// 1, 2, 3 …
    pub number: i32,
    /// By whom.
    pub owner: Arc<str>,
    /// The bulk job that did it.
    pub bulk_job: Option<BulkJobId>,
    /// The task's input is another one now.
    pub has_new_input: bool,
    /// The task's epoch.
    pub epoch: i64,
    /// Why the task had not been tried again.
    pub reason: DeadLetterReason,
    /// The error before.
    pub error: TaskError,
    /// When the task had failed for good.
    pub fail_time: Micros,
}

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Absent,
    Ready,
    Lease,
    Final,
}

fn place(task: Option<&Arc<Task>>) -> Place {
    match task.map(|task| task.state) {
        None => Place::Absent,
        Some(TaskState::Running) => Place::Lease,
        Some(state) if state.is_waiting() => Place::Ready,
        Some(_) => Place::Final,
    }
}

/// Writes all of it, with the next statement at the latest. Rows that were locked are changed without waiting. A live row
/// that is not where it was read, or not as it was, fails the batch: then nothing of what was decided on it holds.
pub async fn write(tx: &mut Tx, project: &ProjectId, nets: &[Net]) -> StoreResult<()> {
    let now = tx.now();
    let mut w = Work::default();
    for net in nets {
        w.sort(net);
    }
    let p = project.as_str();
    let checked = |rows: usize| (!Mutant::WritesUnchecked.is_on()).then_some(rows);
    tx.defer(delete_ready(tx, p, &w.ready_delete), checked(w.ready_delete.len()));
    tx.defer(delete_lease(tx, p, &w.lease_delete), checked(w.lease_delete.len()));
    tx.defer(delete_closed(p, &w.closed_delete), None);
    tx.defer(insert_replay(p, &w.replays, now), None);
    tx.defer(delete_dead_letter(p, &w.dead_letter_delete), None);
    tx.defer(insert_task(p, &w.task_insert), None);
    tx.defer(insert_ready(p, &w.ready_insert, now), None);
    tx.defer(insert_lease(p, &w.lease_insert), None);
    tx.defer(update_lease(p, &w.lease_update), Some(w.lease_update.len()));
    tx.defer(update_task_life(p, &w.life_update), None);
    tx.defer(update_task_spec(p, &w.spec_update), None);
    tx.defer(update_task_input(p, &w.input_update), None);
    tx.defer(insert_attempt(p, &w.attempts), None);
    tx.defer(insert_closed(p, &w.closed_insert), None);
    tx.defer(insert_dead_letter(p, &w.dead_letter_insert, now), None);
    tx.defer(delete_attempts(p, &w.task_delete), None);
    tx.defer(delete_replays(p, &w.task_delete), None);
    tx.defer(delete_task(p, &w.task_delete), None);
    if w.may_write_twice() { tx.flush().await } else { Ok(()) }
}

/// The tasks each statement is about.
#[derive(Default)]
struct Work<'a> {
    ready_delete: Vec<&'a Task>,
    lease_delete: Vec<&'a Task>,
    task_insert: Vec<&'a Task>,
    ready_insert: Vec<&'a Task>,
    lease_insert: Vec<&'a Task>,
    lease_update: Vec<&'a Task>,
    /// With the attempt that succeeded, if one did.
    life_update: Vec<(&'a Task, Option<&'a Attempt>)>,
    spec_update: Vec<&'a Task>,
    input_update: Vec<&'a Task>,
    attempts: Vec<(&'a Task, &'a Attempt)>,
    closed_delete: Vec<&'a Task>,
    closed_insert: Vec<&'a Task>,
    dead_letter_delete: Vec<&'a Task>,
    dead_letter_insert: Vec<(&'a Task, DeadLetterReason)>,
    replays: Vec<(&'a Task, &'a Replayed)>,
    task_delete: Vec<&'a Task>,
}

impl<'a> Work<'a> {
    fn sort(&mut self, net: &'a Net) {
        let (before, after) = (net.before.as_deref(), net.after.as_deref());
        let (from, to) = (place(net.before.as_ref()), place(net.after.as_ref()));
        // A ready row is small: a change of one is a delete and an insert.
        if let (Place::Ready, Some(before)) = (from, before) {
            self.ready_delete.push(before);
        }
        if let (Place::Ready, Some(after)) = (to, after) {
            self.ready_insert.push(after);
        }
        match (from, to, before, after) {
            (Place::Lease, Place::Lease, Some(b), Some(a)) if b.epoch == a.epoch => self.lease_update.push(a),
            // Ended and leased again within one batch.
            (Place::Lease, Place::Lease, Some(b), Some(a)) => {
                self.lease_delete.push(b);
                self.insert_lease(a);
            }
            (Place::Lease, _, Some(b), _) => self.lease_delete.push(b),
            (_, Place::Lease, _, Some(a)) => self.insert_lease(a),
            _ => {}
        }
        if let Some(task) = after.or(before) {
            self.attempts.extend(net.attempts.iter().filter(|a| !succeeded(a)).map(|attempt| (task, attempt)));
        }
        if is_closed(before) {
            self.closed_delete.extend(before);
        }
        if is_closed(after) {
            self.closed_insert.extend(after);
        }
        if before.is_some_and(|t| t.state == TaskState::Failed) {
            self.dead_letter_delete.extend(before);
        }
        if let Some(task) = after {
            self.replays.extend(net.replays.iter().map(|replay| (task, replay)));
            self.input_update.extend(net.replays.iter().any(|replay| replay.has_new_input).then_some(task));
        }
        if let (Some(task), Some(reason)) = (after.filter(|t| t.state == TaskState::Failed), net.dead_letter) {
            self.dead_letter_insert.push((task, reason));
        }
        let success = net.attempts.iter().find(|attempt| succeeded(attempt));
        match (before, after) {
            (None, Some(after)) => {
                self.task_insert.push(after);
                // Submitted and changed within one batch. A lease leaves the wide row as it is.
                if after.version > 1 && (to != Place::Lease || after.error.is_some()) {
                    self.life_update.push((after, success));
                }
            }
            (Some(before), None) => self.task_delete.push(before),
            (Some(before), Some(after)) => {
                if from == Place::Final || to == Place::Final || before.error != after.error {
                    self.life_update.push((after, success));
                }
                if !Arc::ptr_eq(&before.spec, &after.spec) || (from, to) == (Place::Ready, Place::Ready) {
                    self.spec_update.push(after);
                }
            }
            (None, None) => {}
        }
    }
}

impl<'a> Work<'a> {
    /// Whether two of the statements may be about one row: then they must run one after the other.
    fn may_write_twice(&self) -> bool {
        fn both<A, B>(a: &[A], b: &[B]) -> bool {
            !a.is_empty() && !b.is_empty()
        }
        both(&self.ready_delete, &self.ready_insert)
            || both(&self.lease_delete, &self.lease_insert)
            || both(&self.lease_insert, &self.lease_update)
            || both(&self.task_insert, &self.life_update)
            || both(&self.task_insert, &self.spec_update)
            || both(&self.life_update, &self.spec_update)
            || !self.input_update.is_empty()
            || both(&self.closed_delete, &self.closed_insert)
            || both(&self.dead_letter_delete, &self.dead_letter_insert)
            || !self.task_delete.is_empty()
    }

    fn insert_lease(&mut self, task: &'a Task) {
        self.lease_insert.push(task);
        // Leased and told something within one batch.
        if task.lease.as_ref().is_some_and(|l| l.cancel_time.is_some() || l.progress.is_some()) {
            self.lease_update.push(task);
        }
    }
}

/// Such an attempt is the last of its task, and is kept in the row of that.
fn succeeded(attempt: &Attempt) -> bool {
    attempt.outcome == AttemptOutcome::Succeeded
}

fn is_closed(task: Option<&Task>) -> bool {
    task.is_some_and(|t| matches!(t.state, TaskState::Failed | TaskState::Cancelled))
}

fn ids(tasks: &[&Task]) -> Rows {
    Rows::ids(tasks.iter().map(|t| t.id.0))
}

/// As it was read: where nothing was locked, somebody may have changed it since.
fn delete_ready(tx: &Tx, project: &str, tasks: &[&Task]) -> Sql {
    if !tx.is_postgres() {
        return Sql::new("-- tasks::delete_ready\nWITH {x} DELETE FROM ready WHERE project = $1 AND id {in_x}")
            .text(project)
            .rows(ids(tasks));
    }
    Sql::new(
        "-- tasks::delete_ready
         WITH {x} DELETE FROM ready {at ready by id} AND ready.version = x.version",
    )
    .text(project)
    .rows(ids(tasks).int("version", tasks.iter().map(|t| t.version)))
}

/// As it was read. A heartbeat that is no event leaves the version, and moves the time.
fn delete_lease(tx: &Tx, project: &str, tasks: &[&Task]) -> Sql {
    if !tx.is_postgres() {
        return Sql::new("-- tasks::delete_lease\nWITH {x} DELETE FROM lease WHERE project = $1 AND id {in_x}")
            .text(project)
            .rows(ids(tasks));
    }
    Sql::new(
        "-- tasks::delete_lease
         WITH {x} DELETE FROM lease {at lease by id}
            AND lease.version = x.version AND lease.expire_time = x.expire_time",
    )
    .text(project)
    .rows(
        ids(tasks)
            .int("version", tasks.iter().map(|t| t.version))
            .opt_int("expire_time", tasks.iter().map(|t| t.lease.as_ref().map(|lease| lease.expire_time))),
    )
}

fn insert_task(project: &str, tasks: &[&Task]) -> Sql {
    let specs = || tasks.iter().map(|t| &*t.spec);
    Sql::new(
        "-- tasks::insert_task
         WITH {x} INSERT INTO task (project, id, type, queue, priority, run_time, timeout, expire_time, max_attempts,
            initial_backoff, max_backoff, retry, unique_key, unique_ttl, labels, owner, input, input_type, create_time,
            state, version, epoch, attempt_count, crash_count, update_time, finish_time)
         SELECT $1, x.id, x.type, x.queue, x.priority, x.run_time, x.timeout, x.expire_time, x.max_attempts,
            x.initial_backoff, x.max_backoff, x.retry, x.unique_key, x.unique_ttl, x.labels, x.owner, x.input,
            x.input_type, x.create_time, x.state, 1, 0, 0, 0, x.create_time, x.finish_time FROM x",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .text("type", specs().map(|s| s.task_type.as_str()))
            .text("queue", specs().map(|s| s.queue.as_str()))
            .int("priority", specs().map(|s| s.priority.into()))
            .int("run_time", tasks.iter().map(|t| t.run_time))
            .int("timeout", specs().map(|s| s.timeout))
            .opt_int("expire_time", specs().map(|s| s.expire_time))
            .int("max_attempts", specs().map(|s| s.retry.numbers().0.into()))
            .int("initial_backoff", specs().map(|s| s.retry.numbers().1))
            .int("max_backoff", specs().map(|s| s.retry.numbers().2))
            .opt_string("retry", specs().map(retry_more))
            .opt_text("unique_key", specs().map(|s| s.unique_key.as_deref()))
            .opt_int("unique_ttl", specs().map(|s| s.unique_ttl))
            .opt_string("labels", tasks.iter().map(|t| labels(t)))
            .text("owner", specs().map(|s| s.owner.as_str()))
            .blob("input", tasks.iter().map(|t| t.input.as_ref().map(|p| p.data.clone())))
            .opt_text("input_type", tasks.iter().map(|t| media_type(t.input.as_ref())))
            .int("create_time", specs().map(|s| s.create_time))
            .int("state", tasks.iter().map(|t| state_of_wide_row(t)))
            .opt_int("finish_time", tasks.iter().map(|t| t.finish_time)),
    )
}

fn insert_ready(project: &str, tasks: &[&Task], now: i64) -> Sql {
    Sql::new(
        "-- tasks::insert_ready
         WITH {x} INSERT INTO ready (project, id, queue, type, rank, run_time, due, state, version, epoch, attempt_count,
            crash_count, update_time, expire_time, create_time)
         SELECT $1, x.id, x.queue, x.type, x.rank, x.run_time, x.due, x.state, x.version, x.epoch, x.attempt_count,
            x.crash_count, x.update_time, x.expire_time, x.create_time FROM x",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .text("queue", tasks.iter().map(|t| t.spec.queue.as_str()))
            .text("type", tasks.iter().map(|t| t.spec.task_type.as_str()))
            .int("rank", tasks.iter().map(|t| (!t.spec.priority).into()))
            .int("run_time", tasks.iter().map(|t| t.run_time))
            .flag("due", tasks.iter().map(|t| t.run_time <= now))
            .int("state", tasks.iter().map(|t| (t.state as u8).into()))
            .int("version", tasks.iter().map(|t| t.version))
            .int("epoch", tasks.iter().map(|t| t.epoch))
            .int("attempt_count", tasks.iter().map(|t| t.attempt_count.into()))
            .int("crash_count", tasks.iter().map(|t| t.crash_count.into()))
            .int("update_time", tasks.iter().map(|t| t.update_time))
            .opt_int("expire_time", tasks.iter().map(|t| t.spec.expire_time))
            .int("create_time", tasks.iter().map(|t| t.spec.create_time)),
    )
}

fn insert_lease(project: &str, tasks: &[&Task]) -> Sql {
    let leases = || tasks.iter().filter_map(|t| t.lease.as_ref());
    Sql::new(
        "-- tasks::insert_lease
         WITH {x} INSERT INTO lease (project, id, queue, worker, incarnation, epoch, version, attempt_count, crash_count,
            waiting_state, run_time, start_time, expire_time, deadline_time, lease_duration, progress_pending,
            update_time)
         SELECT $1, x.id, x.queue, x.worker, x.incarnation, x.epoch, x.version, x.attempt_count, x.crash_count,
            x.waiting_state, x.run_time, x.start_time, x.expire_time, x.deadline_time, x.lease_duration, false,
            x.update_time FROM x",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .text("queue", tasks.iter().map(|t| t.spec.queue.as_str()))
            .text("worker", leases().map(|l| l.worker.as_str()))
            .text("incarnation", leases().map(|l| l.incarnation.as_str()))
            .int("epoch", tasks.iter().map(|t| t.epoch))
            .int("version", tasks.iter().map(|t| t.version))
            .int("attempt_count", tasks.iter().map(|t| t.attempt_count.into()))
            .int("crash_count", tasks.iter().map(|t| t.crash_count.into()))
            .int("waiting_state", leases().map(|l| (l.waiting_state as u8).into()))
            .int("run_time", tasks.iter().map(|t| t.run_time))
            .int("start_time", leases().map(|l| l.start_time))
            .int("expire_time", leases().map(|l| l.expire_time))
            .int("deadline_time", leases().map(|l| l.deadline_time))
            .int("lease_duration", leases().map(|l| l.duration))
            .int("update_time", tasks.iter().map(|t| t.update_time)),
    )
}

fn update_lease(project: &str, tasks: &[&Task]) -> Sql {
    let leases = || tasks.iter().filter_map(|t| t.lease.as_ref());
    let progress = || leases().map(|l| l.progress.as_ref());
    Sql::new(
        "-- tasks::update_lease
         WITH {x} UPDATE lease SET version = x.version, expire_time = x.expire_time, cancel_time = x.cancel_time,
            cancel_reason = x.cancel_reason, progress_percent = x.progress_percent,
            progress_message = x.progress_message, progress_time = x.progress_time,
            progress_pending = x.progress_pending, update_time = x.update_time
         {at lease by id}",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .int("version", tasks.iter().map(|t| t.version))
            .int("expire_time", leases().map(|l| l.expire_time))
            .opt_int("cancel_time", leases().map(|l| l.cancel_time))
            .opt_text("cancel_reason", leases().map(|l| l.cancel_reason.as_deref()))
            .opt_real("progress_percent", progress().map(|p| p.map(|p| p.percent)))
            .opt_text("progress_message", progress().map(|p| p.map(|p| p.message.as_str())))
            .opt_int("progress_time", leases().map(|l| l.progress_time))
            .flag("progress_pending", leases().map(|l| l.progress_pending))
            .int("update_time", tasks.iter().map(|t| t.update_time)),
    )
}

/// Where the task is in its life; touches no indexed column, so it stays HOT on PostgreSQL.
fn update_task_life(project: &str, ended: &[(&Task, Option<&Attempt>)]) -> Sql {
    let tasks = || ended.iter().map(|(task, _)| task);
    let errors = || tasks().map(|t| t.error.as_ref());
    let success = || ended.iter().map(|(_, success)| success);
    let progress = || success().map(|s| s.and_then(|s| s.progress.as_ref()));
    Sql::new(
        "-- tasks::update_task_life
         WITH {x} UPDATE task SET state = x.state, run_time = x.run_time, version = x.version, epoch = x.epoch,
            attempt_count = x.attempt_count, crash_count = x.crash_count, update_time = x.update_time,
            finish_time = x.finish_time, error_type = x.error_type, error_message = x.error_message,
            error_details = x.error_details, result = x.result, result_type = x.result_type,
            cancel_reason = x.cancel_reason, success_worker = x.success_worker,
            success_start_time = x.success_start_time, success_progress_percent = x.success_progress_percent,
            success_progress_message = x.success_progress_message
         {at task by id}",
    )
    .text(project)
    .rows(
        Rows::new(ended.len())
            .id("id", tasks().map(|t| t.id.0))
            .int("state", tasks().map(|t| state_of_wide_row(t)))
            .int("run_time", tasks().map(|t| t.run_time))
            .int("version", tasks().map(|t| t.version))
            .int("epoch", tasks().map(|t| t.epoch))
            .int("attempt_count", tasks().map(|t| t.attempt_count.into()))
            .int("crash_count", tasks().map(|t| t.crash_count.into()))
            .int("update_time", tasks().map(|t| t.update_time))
            .opt_int("finish_time", tasks().map(|t| t.finish_time))
            .opt_text("error_type", errors().map(|e| e.map(|e| e.error_type.as_str())))
            .opt_text("error_message", errors().map(|e| e.map(|e| e.message.as_str())))
            .opt_text("error_details", errors().map(|e| e.map(|e| e.details.as_str())))
            .blob("result", tasks().map(|t| t.result.as_ref().map(|p| p.data.clone())))
            .opt_text("result_type", tasks().map(|t| media_type(t.result.as_ref())))
            .opt_text("cancel_reason", tasks().map(|t| t.cancel_reason.as_deref()))
            .opt_text("success_worker", success().map(|s| s.map(|s| s.worker.as_str())))
            .opt_int("success_start_time", success().map(|s| s.map(|s| s.start_time)))
            .opt_real("success_progress_percent", progress().map(|p| p.map(|p| p.percent)))
            .opt_text("success_progress_message", progress().map(|p| p.map(|p| p.message.as_str()))),
    )
}

fn update_task_spec(project: &str, tasks: &[&Task]) -> Sql {
    let specs = || tasks.iter().map(|t| &*t.spec);
    Sql::new(
        "-- tasks::update_task_spec
         WITH {x} UPDATE task SET priority = x.priority, run_time = x.run_time, timeout = x.timeout,
            expire_time = x.expire_time, max_attempts = x.max_attempts, initial_backoff = x.initial_backoff,
            max_backoff = x.max_backoff, retry = x.retry, labels = x.labels, open_time = x.open_time
         {at task by id}",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .int("priority", specs().map(|s| s.priority.into()))
            .int("run_time", tasks.iter().map(|t| t.run_time))
            .int("timeout", specs().map(|s| s.timeout))
            .opt_int("expire_time", specs().map(|s| s.expire_time))
            .int("max_attempts", specs().map(|s| s.retry.numbers().0.into()))
            .int("initial_backoff", specs().map(|s| s.retry.numbers().1))
            .int("max_backoff", specs().map(|s| s.retry.numbers().2))
            .opt_string("retry", specs().map(retry_more))
            .opt_string("labels", tasks.iter().map(|t| labels(t)))
            .opt_int("open_time", specs().map(|s| s.open_time)),
    )
}

/// The input of tasks that are opened again with another one.
fn update_task_input(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::update_task_input
         WITH {x} UPDATE task SET input = x.input, input_type = x.input_type {at task by id}",
    )
    .text(project)
    .rows(
        Rows::new(tasks.len())
            .id("id", tasks.iter().map(|t| t.id.0))
            .blob("input", tasks.iter().map(|t| t.input.as_ref().map(|p| p.data.clone())))
            .opt_text("input_type", tasks.iter().map(|t| media_type(t.input.as_ref()))),
    )
}

fn insert_attempt(project: &str, attempts: &[(&Task, &Attempt)]) -> Sql {
    let each = || attempts.iter().map(|(_, a)| a);
    let decisions = || each().map(|a| a.decision.as_ref());
    let policies = || decisions().map(|d| d.and_then(|d| d.policy.as_ref()));
    Sql::new(
        "-- tasks::insert_attempt
         WITH {x} INSERT INTO attempt (project, task_id, epoch, worker, outcome, start_time, end_time, error_type,
            error_message, error_details, progress_percent, progress_message, retry_time, number, verdict, cause, rule,
            policy, policy_version)
         SELECT $1, x.id, x.epoch, x.worker, x.outcome, x.start_time, x.end_time, x.error_type, x.error_message,
            x.error_details, x.progress_percent, x.progress_message, x.retry_time, x.number, x.verdict, x.cause,
            x.rule, x.policy, x.policy_version FROM x",
    )
    .text(project)
    .rows(
        Rows::new(attempts.len())
            .id("id", attempts.iter().map(|(t, _)| t.id.0))
            .int("epoch", each().map(|a| a.epoch))
            .text("worker", each().map(|a| a.worker.as_str()))
            .int("outcome", each().map(|a| (a.outcome as u8).into()))
            .int("start_time", each().map(|a| a.start_time))
            .opt_int("end_time", each().map(|a| a.end_time))
            .opt_text("error_type", each().map(|a| a.error.as_ref().map(|e| e.error_type.as_str())))
            .opt_text("error_message", each().map(|a| a.error.as_ref().map(|e| e.message.as_str())))
            .opt_text("error_details", each().map(|a| a.error.as_ref().map(|e| e.details.as_str())))
            .opt_real("progress_percent", each().map(|a| a.progress.as_ref().map(|p| p.percent)))
            .opt_text("progress_message", each().map(|a| a.progress.as_ref().map(|p| p.message.as_str())))
            .opt_int("retry_time", each().map(|a| a.retry_time))
            .int("number", each().map(|a| a.number.into()))
            .opt_int("verdict", decisions().map(|d| d.map(|d| verdict_number(d.decision.verdict).into())))
            .opt_int("cause", decisions().map(|d| d.map(|d| (d.decision.cause as u8).into())))
            .opt_int("rule", decisions().map(|d| d.map(|d| d.decision.rule.into())))
            .opt_text("policy", policies().map(|p| p.map(|p| &*p.id)))
            .opt_int("policy_version", policies().map(|p| p.map(|p| p.version))),
    )
}

fn closed_rows(tasks: &[&Task]) -> Rows {
    Rows::new(tasks.len())
        .id("id", tasks.iter().map(|t| t.id.0))
        .int("state", tasks.iter().map(|t| (t.state as u8).into()))
        .int("create_time", tasks.iter().map(|t| t.spec.create_time))
}

fn insert_closed(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::insert_closed
         WITH {x} INSERT INTO closed (project, state, create_time, id) SELECT $1, x.state, x.create_time, x.id FROM x",
    )
    .text(project)
    .rows(closed_rows(tasks))
}

fn delete_closed(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::delete_closed
         WITH {x} DELETE FROM closed WHERE project = $1
            AND id {in_x} AND (state, create_time, id) IN (SELECT x.state, x.create_time, x.id FROM x)",
    )
    .text(project)
    .rows(closed_rows(tasks))
}

fn insert_dead_letter(project: &str, letters: &[(&Task, DeadLetterReason)], now: i64) -> Sql {
    let errors = || letters.iter().map(|(t, _)| t.error.as_ref());
    Sql::new(
        "-- tasks::insert_dead_letter
         WITH {x} INSERT INTO dead_letter (project, task_id, queue, type, reason, error_type, error_message, create_time,
            fingerprint, attempt_count, crash_count)
         SELECT $1, x.id, x.queue, x.type, x.reason, x.error_type, x.error_message, $2, x.fingerprint, x.attempt_count,
            x.crash_count FROM x",
    )
    .text(project)
    .int(now)
    .rows(
        Rows::new(letters.len())
            .id("id", letters.iter().map(|(t, _)| t.id.0))
            .text("queue", letters.iter().map(|(t, _)| t.spec.queue.as_str()))
            .text("type", letters.iter().map(|(t, _)| t.spec.task_type.as_str()))
            .int("reason", letters.iter().map(|(_, reason)| (*reason as u8).into()))
            .text("error_type", errors().map(|e| e.map_or("", |e| e.error_type.as_str())))
            .text("error_message", errors().map(|e| e.map_or("", |e| e.message.as_str())))
            .opt_string(
                "fingerprint",
                errors().map(|e| Some(e.map_or_else(String::new, |e| fingerprint::of(&e.error_type, &e.message)))),
            )
            .int("attempt_count", letters.iter().map(|(t, _)| t.attempt_count.into()))
            .int("crash_count", letters.iter().map(|(t, _)| t.crash_count.into())),
    )
}

fn insert_replay(project: &str, replays: &[(&Task, &Replayed)], now: i64) -> Sql {
    let each = || replays.iter().map(|(_, replay)| replay);
    Sql::new(
        "-- tasks::insert_replay
         WITH {x} INSERT INTO replay (project, task_id, number, time, owner, bulk_job, epoch, input_changed, reason,
            error_type, error_message, fail_time)
         SELECT $1, x.task_id, x.number, $2, x.owner, x.bulk_job, x.epoch, x.input_changed, x.reason, x.error_type,
            x.error_message, x.fail_time FROM x",
    )
    .text(project)
    .int(now)
    .rows(
        Rows::new(replays.len())
            .id("task_id", replays.iter().map(|(t, _)| t.id.0))
            .int("number", each().map(|r| r.number.into()))
            .text("owner", each().map(|r| &*r.owner))
            .opt_id("bulk_job", each().map(|r| r.bulk_job.map(|job| job.0)))
            .int("epoch", each().map(|r| r.epoch))
            .flag("input_changed", each().map(|r| r.has_new_input))
            .int("reason", each().map(|r| (r.reason as u8).into()))
            .text("error_type", each().map(|r| r.error.error_type.as_str()))
            .text("error_message", each().map(|r| r.error.message.as_str()))
            .int("fail_time", each().map(|r| r.fail_time)),
    )
}

fn delete_replays(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::delete_replays
         WITH {x} DELETE FROM replay WHERE project = $1 AND task_id {in_x}",
    )
    .text(project)
    .rows(ids(tasks))
}

fn delete_dead_letter(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::delete_dead_letter
         WITH {x} DELETE FROM dead_letter WHERE project = $1 AND task_id {in_x}",
    )
    .text(project)
    .rows(ids(tasks))
}

fn delete_attempts(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new(
        "-- tasks::delete_attempts
         WITH {x} DELETE FROM attempt WHERE project = $1 AND task_id {in_x}",
    )
    .text(project)
    .rows(ids(tasks))
}

fn delete_task(project: &str, tasks: &[&Task]) -> Sql {
    Sql::new("-- tasks::delete_task\nWITH {x} DELETE FROM task WHERE project = $1 AND id {in_x}")
        .text(project)
        .rows(ids(tasks))
}

/// While a task is open its state is that of its live row; the wide row says PENDING.
fn state_of_wide_row(task: &Task) -> i64 {
    let state = if task.state.is_final() { task.state } else { TaskState::Pending };
    i64::from(state as u8)
}

fn labels(task: &Task) -> Option<String> {
    let labels = &task.spec.labels;
    // A map of strings always serialises.
    (!labels.is_empty()).then(|| serde_json::to_string(labels).unwrap_or_default())
}

/// What the numbers do not say; settings always serialise.
fn retry_more(spec: &Spec) -> Option<String> {
    spec.retry.more().map(|more| serde_json::to_string(&more).unwrap_or_default())
}

fn media_type(payload: Option<&Payload>) -> Option<&str> {
    payload.and_then(|p| p.media_type.as_deref())
}
