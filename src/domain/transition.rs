//! The state machine: every way a task changes, as functions from a task and a time to a [`Change`].
//!
//! ```text
//!            lease                complete
//!  PENDING ─────────► RUNNING ───────────────► SUCCEEDED
//!   ▲  │ ▲  release /   │ │ │  fail, time-out; attempts left
//!   │  │ └─ lease expiry┘ │ └────────────► RETRYING ──lease──► RUNNING
//!   │  │                  │ fail for good, too many crashes
//!   │  │ expire_time      ├────────────► FAILED
//!   │  └──────────────────┼────────────► FAILED
//!   │    cancel           │ any end but success, once cancellation was asked for
//!   │  ┌──────────────────┴────────────► CANCELLED
//!   └──┴─ retry by hand, from FAILED and CANCELLED
//! ```
//!
//! RPC handlers and background sweeps go through the same functions. They decide; the committer writes. A refusal is an
//! error value and changes nothing. Each change raises the task's version by one and becomes one journal row.

use std::sync::Arc;

use super::{
    retry::{Cause, Decision, Retry, Verdict},
    retry_policy::Judge,
    task::{Attempt, AttemptOutcome, Decided, Lease, Micros, Payload, Progress, SECOND, Spec, Task, TaskError},
    task_state::TaskState,
};
use crate::{
    error::{Error, Result},
    ids::{ProjectId, TaskId, task_name},
};

/// Progress becomes an event at most this often per attempt; the latest value is stored always.
const PROGRESS_EVENT_INTERVAL: Micros = SECOND;

/// What happened to a task. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    Submitted = 1,
    Leased = 2,
    Progressed = 3,
    Completed = 4,
    Failed = 5,
    Released = 6,
    LeaseExpired = 7,
    TimedOut = 8,
    Expired = 9,
    Updated = 10,
    CancelRequested = 11,
    Cancelled = 12,
    Retried = 13,
    RunNow = 14,
    Deleted = 15,
}

impl EventKind {
    /// All that this version knows.
    pub const ALL: [Self; 15] = [
        Self::Submitted,
        Self::Leased,
        Self::Progressed,
        Self::Completed,
        Self::Failed,
        Self::Released,
        Self::LeaseExpired,
        Self::TimedOut,
        Self::Expired,
        Self::Updated,
        Self::CancelRequested,
        Self::Cancelled,
        Self::Retried,
        Self::RunNow,
        Self::Deleted,
    ];

    /// What happened, as the audit calls it.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Submitted => "task.submitted",
            Self::Leased => "task.leased",
            Self::Progressed => "task.progressed",
            Self::Completed => "task.completed",
            Self::Failed => "task.failed",
            Self::Released => "task.released",
            Self::LeaseExpired => "task.lease_expired",
            Self::TimedOut => "task.timed_out",
            Self::Expired => "task.expired",
            Self::Updated => "task.updated",
            Self::CancelRequested => "task.cancel_requested",
            Self::Cancelled => "task.cancelled",
            Self::Retried => "task.retried",
            Self::RunNow => "task.run_now",
            Self::Deleted => "task.deleted",
        }
    }
}

impl TryFrom<i16> for EventKind {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == number).ok_or(number)
    }
}

/// Why a task will not be tried again. The numbers are those of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeadLetterReason {
    /// All attempts are used up.
    Exhausted = 1,
    /// The worker said not to repeat.
    Final = 2,
    /// Its workers died too often.
    Poison = 3,
    /// Its `expire_time` passed.
    Expired = 4,
    /// A rule for its error said so.
    Rule = 5,
    /// The next attempt would have come after the `max_age` of its retry settings.
    MaxAge = 6,
}

impl DeadLetterReason {
    fn of(cause: Cause) -> Self {
        match cause {
            Cause::Rule => Self::Rule,
            Cause::Default | Cause::MaxAttempts => Self::Exhausted,
            Cause::MaxAge => Self::MaxAge,
            Cause::Final => Self::Final,
            Cause::MaxCrashes => Self::Poison,
            Cause::Expired => Self::Expired,
        }
    }
}

/// One accepted change of one task.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened.
    pub kind: EventKind,
    /// The task before; none for a submit.
    pub before: Option<Arc<Task>>,
    /// The task after; for DELETED as it was, with its last version.
    pub after: Arc<Task>,
    /// The attempt this change ended.
    pub attempt: Option<Attempt>,
    /// Set when the change made the task FAILED.
    pub dead_letter: Option<DeadLetterReason>,
}

/// What a report on a lease comes to.
#[derive(Clone, Debug)]
pub enum Reported {
    /// The task changed.
    Changed(Box<Change>),
    /// The same report was accepted before; nothing changes.
    Repeated,
}

/// A task to be submitted.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// What it is; `create_time` is filled in by [`submit`].
    pub spec: Spec,
    /// What the handler is given.
    pub input: Option<Payload>,
    /// Not leased before; none means at once.
    pub run_time: Option<Micros>,
}

/// Nothing → PENDING.
pub fn submit(project: &ProjectId, new: NewTask, now: Micros) -> Change {
    let task = Task {
        project: project.clone(),
        id: new.id,
        spec: Arc::new(Spec { create_time: now, ..new.spec }),
        input: new.input,
        // A time in the past is due since now: "oldest waiting" would otherwise lie.
        run_time: new.run_time.unwrap_or(now).max(now),
        state: TaskState::Pending,
        version: 1,
        epoch: 0,
        attempt_count: 0,
        crash_count: 0,
        lease: None,
        error: None,
        result: None,
        cancel_reason: None,
        update_time: now,
        finish_time: None,
    };
    Change { kind: EventKind::Submitted, before: None, after: Arc::new(task), attempt: None, dead_letter: None }
}

/// Who takes a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The worker's name.
    pub worker: String,
    /// Which process of it.
    pub incarnation: String,
}

/// PENDING or RETRYING → RUNNING. None when the task cannot be leased now; that is no error, somebody was faster.
pub fn lease(task: &Arc<Task>, holder: &Holder, duration: Micros, now: Micros) -> Option<Change> {
    if !task.is_due(now) || task.spec.expire_time.is_some_and(|t| t <= now) {
        return None;
    }
    let deadline = now.saturating_add(task.spec.timeout);
    let after = Task {
        state: TaskState::Running,
        epoch: task.epoch + 1,
        attempt_count: task.attempt_count + 1,
        lease: Some(Lease {
            worker: holder.worker.clone(),
            incarnation: holder.incarnation.clone(),
            start_time: now,
            expire_time: now + duration,
            deadline_time: task.spec.expire_time.map_or(deadline, |t| t.min(deadline)),
            duration,
            waiting_state: task.state,
            cancel_time: None,
            cancel_reason: None,
            progress: None,
            progress_time: None,
            progress_pending: false,
        }),
        ..next(task, now)
    };
    Some(change(EventKind::Leased, task, after))
}

/// What a heartbeat comes to.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The task with its lease extended.
    pub task: Arc<Task>,
    /// Set when progress became an event.
    pub change: Option<Box<Change>>,
}

/// Extends the lease of the current epoch and keeps the progress. The deadline of the attempt stays.
pub fn heartbeat(task: &Arc<Task>, epoch: i64, progress: Option<Progress>, now: Micros) -> Result<Heartbeat> {
    let held = held(task, epoch)?;
    let mut lease = held.clone();
    lease.expire_time = now + lease.duration;
    if progress.is_some() && progress != lease.progress {
        lease.progress = progress;
        lease.progress_pending = true;
    }
    let is_time = lease.progress_time.is_none_or(|last| now - last >= PROGRESS_EVENT_INTERVAL);
    let is_event = lease.progress_pending && is_time;
    if !is_event {
        let task = Arc::new(Task { lease: Some(lease), ..(**task).clone() });
        return Ok(Heartbeat { task, change: None });
    }
    lease.progress_time = Some(now);
    lease.progress_pending = false;
    let change = change(EventKind::Progressed, task, Task { lease: Some(lease), ..next(task, now) });
    Ok(Heartbeat { task: change.after.clone(), change: Some(Box::new(change)) })
}

/// RUNNING → SUCCEEDED, with the current token. Accepted after the lease's time too, if nobody took over, and after
/// cancellation was asked for: the work is done.
pub fn complete(task: &Arc<Task>, epoch: i64, result: Option<Payload>, now: Micros) -> Result<Reported> {
    if task.state == TaskState::Succeeded && task.epoch == epoch && task.result == result {
        return Ok(Reported::Repeated);
    }
    let lease = held(task, epoch)?;
    let attempt = ended(task, lease, AttemptOutcome::Succeeded, now);
    let after = Task {
        state: TaskState::Succeeded,
        lease: None,
        result,
        error: None,
        finish_time: Some(now),
        ..next(task, now)
    };
    Ok(Reported::Changed(Box::new(Change { attempt: Some(attempt), ..change(EventKind::Completed, task, after) })))
}

/// A failure as reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why.
    pub error: TaskError,
    /// Do not repeat.
    pub is_final: bool,
    /// Not before this span, whatever the back-off says.
    pub retry_after: Option<Micros>,
}

/// RUNNING → RETRYING, FAILED, or CANCELLED when that was asked for. `last` is the attempt of this epoch if it ended
/// before; `random` in [0, 1) draws the back-off.
pub fn fail(
    task: &Arc<Task>,
    epoch: i64,
    failure: &Failure,
    last: Option<&Attempt>,
    judge: &mut Judge<'_>,
    now: Micros,
) -> Result<Reported> {
    let same = |a: &&Attempt| {
        matches!(a.outcome, AttemptOutcome::Failed | AttemptOutcome::Cancelled)
            && a.error.as_ref() == Some(&failure.error)
    };
    if task.epoch == epoch && task.lease.is_none() && last.filter(same).is_some() {
        return Ok(Reported::Repeated);
    }
    let lease = held(task, epoch)?;
    let end = End { outcome: AttemptOutcome::Failed, kind: EventKind::Failed, error: failure.error.clone() };
    let decision = if failure.is_final {
        Decision::end(Cause::Final)
    } else {
        judge.decide(task, &failure.error, failure.retry_after, now)
    };
    Ok(Reported::Changed(Box::new(end_without_success(task, lease, end, decision, judge, now))))
}

/// RUNNING → the state it waited in before, uncounted, due after `delay`. `last` as in [`fail`].
pub fn release(
    task: &Arc<Task>,
    epoch: i64,
    delay: Option<Micros>,
    last: Option<&Attempt>,
    now: Micros,
) -> Result<Reported> {
    if task.epoch == epoch && task.lease.is_none() && last.is_some_and(|a| a.outcome == AttemptOutcome::Released) {
        return Ok(Reported::Repeated);
    }
    let lease = held(task, epoch)?;
    let change = back_to_waiting(
        task,
        lease,
        End {
            outcome: AttemptOutcome::Released,
            kind: EventKind::Released,
            error: TaskError::own("CANCELLED", "released after cancellation was asked for"),
        },
        now.saturating_add(delay.unwrap_or(0)),
        now,
    );
    Ok(Reported::Changed(Box::new(change)))
}

/// Ends what ran out: an attempt past its deadline, or a lease past its time. None when neither did.
pub fn sweep_running(task: &Arc<Task>, judge: &mut Judge<'_>, now: Micros) -> Option<Change> {
    let lease = task.lease.as_ref()?;
    if lease.deadline_time <= now {
        if task.spec.expire_time.is_some_and(|t| t <= now) {
            let end = End {
                outcome: AttemptOutcome::TimedOut,
                kind: EventKind::TimedOut,
                error: TaskError::own("EXPIRED", "the task reached its expire_time while it ran"),
            };
            return Some(end_without_success(task, lease, end, Decision::end(Cause::Expired), judge, now));
        }
        let seconds = task.spec.timeout as f64 / SECOND as f64;
        let end = End {
            outcome: AttemptOutcome::TimedOut,
            kind: EventKind::TimedOut,
            error: TaskError::own("TIMEOUT", format!("the attempt took longer than its timeout of {seconds}s")),
        };
        let decision = judge.decide(task, &end.error, None, now);
        return Some(end_without_success(task, lease, end, decision, judge, now));
    }
    if lease.expire_time > now {
        return None;
    }
    let message = format!("no heartbeat from worker {} within the lease", lease.worker);
    let error = TaskError::own("LEASE_EXPIRED", message);
    let end = End { outcome: AttemptOutcome::LeaseExpired, kind: EventKind::LeaseExpired, error };
    let crashes = task.crash_count + 1;
    if crashes < judge.decider.settings.max_crashes {
        return Some(back_to_waiting(task, lease, end, now, now));
    }
    let leases = if crashes == 1 { "lease" } else { "leases" };
    let message = format!("{crashes} {leases} expired: the task kills or hangs its workers");
    let end = End { error: TaskError::own("POISON", message), ..end };
    Some(end_without_success(task, lease, end, Decision::end(Cause::MaxCrashes), judge, now))
}

/// PENDING or RETRYING past its `expire_time` → FAILED. None when it is not.
pub fn sweep_waiting(task: &Arc<Task>, now: Micros) -> Option<Change> {
    if !task.state.is_waiting() || task.spec.expire_time.is_none_or(|t| t > now) {
        return None;
    }
    let after = Task {
        state: TaskState::Failed,
        error: Some(TaskError::own("EXPIRED", "the task reached its expire_time while it waited")),
        finish_time: Some(now),
        ..next(task, now)
    };
    Some(Change { dead_letter: Some(DeadLetterReason::Expired), ..change(EventKind::Expired, task, after) })
}

/// Waiting → CANCELLED; RUNNING stays, with the wish recorded. None when there is nothing left to record.
pub fn cancel(task: &Arc<Task>, reason: &str, now: Micros) -> Result<Option<Change>> {
    let reason = Some(reason.to_owned()).filter(|r| !r.is_empty());
    match (task.state, &task.lease) {
        (TaskState::Cancelled, _) => Ok(None),
        (TaskState::Succeeded | TaskState::Failed, _) => {
            Err(conflict(task, "only a task that is not final can be cancelled"))
        }
        (_, Some(lease)) if lease.cancel_time.is_some() => Ok(None),
        (_, Some(lease)) => {
            let lease = Lease { cancel_time: Some(now), cancel_reason: reason, ..lease.clone() };
            let after = Task { lease: Some(lease), ..next(task, now) };
            Ok(Some(change(EventKind::CancelRequested, task, after)))
        }
        (_, None) => {
            let after =
                Task { state: TaskState::Cancelled, cancel_reason: reason, finish_time: Some(now), ..next(task, now) };
            Ok(Some(change(EventKind::Cancelled, task, after)))
        }
    }
}

/// FAILED or CANCELLED → PENDING, attempts counted afresh, the epoch going on. With an `input` the task has that from now on.
pub fn retry(task: &Arc<Task>, input: Option<&Payload>, now: Micros) -> Result<Change> {
    if !matches!(task.state, TaskState::Failed | TaskState::Cancelled) {
        return Err(conflict(task, "only a FAILED or CANCELLED task can be retried"));
    }
    if task.spec.expire_time.is_some_and(|t| t <= now) {
        return Err(conflict(task, "its expire_time has passed; submit it again with a later one"));
    }
    let after = Task {
        spec: Arc::new(Spec { open_time: Some(now), ..(*task.spec).clone() }),
        state: TaskState::Pending,
        run_time: now,
        input: input.or(task.input.as_ref()).cloned(),
        attempt_count: 0,
        crash_count: 0,
        error: None,
        cancel_reason: None,
        finish_time: None,
        ..next(task, now)
    };
    Ok(change(EventKind::Retried, task, after))
}

/// A waiting task becomes due now. None when it is due already.
pub fn run_now(task: &Arc<Task>, now: Micros) -> Result<Option<Change>> {
    if !task.state.is_waiting() {
        return Err(conflict(task, "only a waiting task can be run now"));
    }
    if task.is_due(now) {
        return Ok(None);
    }
    Ok(Some(change(EventKind::RunNow, task, Task { run_time: now, ..next(task, now) })))
}

/// New values for what may change. None leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Higher runs first.
    pub priority: Option<i32>,
    /// Not leased before.
    pub run_time: Option<Micros>,
    /// The most an attempt may take.
    pub timeout: Option<Micros>,
    /// Past this it fails as EXPIRED; the inner none means never.
    pub expire_time: Option<Option<Micros>>,
    /// How failed attempts are repeated.
    pub retry: Option<Retry>,
    /// All labels.
    pub labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Changes a waiting task; labels in every state. None when nothing differs.
pub fn update(task: &Arc<Task>, patch: Patch, now: Micros) -> Result<Option<Change>> {
    let only_labels = Patch { labels: None, ..patch.clone() } == Patch::default();
    if !only_labels && !task.state.is_waiting() {
        return Err(conflict(task, "only labels can change unless the task waits"));
    }
    if task.spec.expire_time.is_some_and(|t| t <= now) && task.state.is_waiting() {
        return Err(conflict(task, "its expire_time has passed"));
    }
    let old = &*task.spec;
    let spec = Spec {
        priority: patch.priority.unwrap_or(old.priority),
        timeout: patch.timeout.unwrap_or(old.timeout),
        expire_time: patch.expire_time.unwrap_or(old.expire_time),
        retry: patch.retry.unwrap_or_else(|| old.retry.clone()),
        labels: patch.labels.unwrap_or_else(|| old.labels.clone()),
        ..old.clone()
    };
    let run_time = patch.run_time.map_or(task.run_time, |t| t.max(now));
    if spec == *old && run_time == task.run_time {
        return Ok(None);
    }
    let after = Task { spec: Arc::new(spec), run_time, ..next(task, now) };
    Ok(Some(change(EventKind::Updated, task, after)))
}

/// A final task goes away. One with an open dead letter stays.
pub fn delete(task: &Arc<Task>, has_open_dead_letter: bool, now: Micros) -> Result<Change> {
    if !task.state.is_final() {
        return Err(conflict(task, "only a final task can be deleted; cancel it first"));
    }
    if has_open_dead_letter {
        return Err(conflict(task, "its dead letter is open; retry it, mark it processed, or purge the task in bulk"));
    }
    Ok(change(EventKind::Deleted, task, next(task, now)))
}

/// The lease, if the token is the current one.
fn held(task: &Task, epoch: i64) -> Result<&Lease> {
    task.lease
        .as_ref()
        .filter(|_| task.epoch == epoch)
        .ok_or_else(|| Error::LeaseLost { task: task_name(&task.project, task.id), epoch })
}

/// The task with what every change changes.
fn next(task: &Task, now: Micros) -> Task {
    Task { version: task.version + 1, update_time: now, ..task.clone() }
}

fn change(kind: EventKind, before: &Arc<Task>, after: Task) -> Change {
    Change { kind, before: Some(before.clone()), after: Arc::new(after), attempt: None, dead_letter: None }
}

fn conflict(task: &Task, hint: &'static str) -> Error {
    Error::StateConflict { name: task_name(&task.project, task.id), state: task.state.name(), hint }
}

fn ended(task: &Task, lease: &Lease, outcome: AttemptOutcome, now: Micros) -> Attempt {
    Attempt {
        epoch: task.epoch,
        worker: lease.worker.clone(),
        outcome,
        start_time: lease.start_time,
        end_time: Some(now),
        error: None,
        progress: lease.progress.clone(),
        retry_time: None,
        number: task.attempt_count,
        decision: None,
    }
}

/// How an attempt ended, other than well.
struct End {
    outcome: AttemptOutcome,
    kind: EventKind,
    error: TaskError,
}

/// Cancellation that was asked for comes before everything but success.
fn end_without_success(
    task: &Arc<Task>,
    lease: &Lease,
    end: End,
    decision: Decision,
    judge: &mut Judge<'_>,
    now: Micros,
) -> Change {
    if lease.cancel_time.is_some() {
        return end_as_cancelled(task, lease, end.error, now);
    }
    // Nobody asks a policy about an error that is final, or about time that has run out.
    let was_asked = !matches!(decision.cause, Cause::Final | Cause::Expired);
    let policy = judge.decider.policy.clone().filter(|_| was_asked);
    let attempt = Attempt {
        error: Some(end.error.clone()),
        decision: Some(Decided { decision, policy }),
        ..ended(task, lease, end.outcome, now)
    };
    let crash_count = task.crash_count + i32::from(end.outcome == AttemptOutcome::LeaseExpired);
    let base = Task { lease: None, error: Some(end.error), crash_count, ..next(task, now) };
    let (Verdict::Retry(wait) | Verdict::Snooze(wait)) = decision.verdict else {
        let after = Task { state: TaskState::Failed, finish_time: Some(now), ..base };
        let dead_letter = Some(DeadLetterReason::of(decision.cause));
        return Change { attempt: Some(attempt), dead_letter, ..change(end.kind, task, after) };
    };
    let time = judge.place(now.saturating_add(wait), now);
    let uncounted = i32::from(matches!(decision.verdict, Verdict::Snooze(_)));
    let attempt_count = task.attempt_count - uncounted;
    let after = Task { state: TaskState::Retrying, run_time: time, attempt_count, ..base };
    Change { attempt: Some(Attempt { retry_time: Some(time), ..attempt }), ..change(end.kind, task, after) }
}

fn end_as_cancelled(task: &Arc<Task>, lease: &Lease, error: TaskError, now: Micros) -> Change {
    let attempt = Attempt { error: Some(error), ..ended(task, lease, AttemptOutcome::Cancelled, now) };
    let after = Task {
        state: TaskState::Cancelled,
        lease: None,
        cancel_reason: lease.cancel_reason.clone(),
        finish_time: Some(now),
        ..next(task, now)
    };
    Change { attempt: Some(attempt), ..change(EventKind::Cancelled, task, after) }
}

/// The attempt does not count: the task waits as it did before the lease.
fn back_to_waiting(task: &Arc<Task>, lease: &Lease, end: End, run_time: Micros, now: Micros) -> Change {
    if lease.cancel_time.is_some() {
        return end_as_cancelled(task, lease, end.error, now);
    }
    let crashed = end.outcome == AttemptOutcome::LeaseExpired;
    let attempt = Attempt { error: crashed.then_some(end.error), ..ended(task, lease, end.outcome, now) };
    let after = Task {
        state: lease.waiting_state,
        lease: None,
        run_time,
        attempt_count: task.attempt_count - 1,
        crash_count: task.crash_count + i32::from(crashed),
        ..next(task, now)
    };
    Change { attempt: Some(attempt), ..change(end.kind, task, after) }
}
