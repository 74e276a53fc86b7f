//! Decides one command against the working set: no I/O, only the rules of `domain::transition` and what was read before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    command::{Action, Item, NewSubmit, ReplayWish, Submitted},
    judging::Bench,
    sabotage,
    workset::Workset,
};
use crate::{
    domain::{
        authority::Share,
        dead_letter::{DeadLetterState, Standing},
        etag::task_etag,
        permission::Permission,
        retry_policy::Policies,
        task::{Attempt, Micros, Spec, Task, TaskError},
        task_state::TaskState,
        transition::{self, Change, DeadLetterReason, EventKind, Holder, Reported},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, dead_letter_name, task_name},
    store::{
        tasks::Replayed,
        unique_keys::{Holding, NewHolding, UniqueKey},
    },
};

/// What the rules need besides the tasks.
pub(super) struct Facts<'a> {
    pub(super) project: &'a ProjectId,
    pub(super) now: Micros,
    /// Attempts that ended with an epoch somebody reports on again.
    pub(super) last_attempts: &'a HashMap<(TaskId, i64), Attempt>,
    /// What decides about failed attempts; empty if no command needs it.
    pub(super) policies: &'a Policies,
}

/// The unique keys a batch is about: who held each when it was read, and who holds it now.
#[derive(Debug, Default)]
pub(super) struct UniqueKeys {
    keys: HashMap<UniqueKey, KeySlot>,
}

#[derive(Debug, Default)]
struct KeySlot {
    before: Option<Holding>,
    after: Option<Holding>,
}

impl UniqueKeys {
    /// The keys as they were read.
    pub(super) fn new(found: HashMap<UniqueKey, Holding>) -> Self {
        let slot = |holding| KeySlot { before: Some(holding), after: Some(holding) };
        Self { keys: found.into_iter().map(|(key, holding)| (key, slot(holding))).collect() }
    }

    fn holder(&self, key: &UniqueKey, now: Micros) -> Option<TaskId> {
        let held = self.keys.get(key).and_then(|slot| slot.after)?;
        held.expire_time.is_none_or(|t| t > now).then_some(held.task)
    }

    /// Follows a change: a submitted or reopened task takes its key, a final one lets go of it.
    pub(super) fn follow(&mut self, change: &Change, now: Micros) {
        let task = &*change.after;
        // Once its time is over a task does not get its key back by going on.
        let takes = matches!(change.kind, EventKind::Submitted | EventKind::Retried);
        let Some(key) = unique_key_of(&task.spec) else { return };
        let slot = self.keys.entry(key).or_default();
        if task.state.is_final() {
            slot.after = slot.after.filter(|holding| holding.task != task.id);
        } else if takes && slot.after.is_none_or(|holding| holding.expire_time.is_some_and(|t| t <= now)) {
            let expire_time = task.spec.unique_ttl.map(|ttl| now.saturating_add(ttl));
            slot.after = Some(Holding { task: task.id, expire_time });
        }
    }

    /// Keys to let go of, with their holder.
    pub(super) fn released(&self) -> Vec<(UniqueKey, TaskId)> {
        let released = |(key, slot): (&UniqueKey, &KeySlot)| match (slot.before, slot.after) {
            (Some(before), None) => Some((key.clone(), before.task)),
            _ => None,
        };
        self.keys.iter().filter_map(released).collect()
    }

    /// Keys to take, with who held each before.
    pub(super) fn taken(&self) -> Vec<NewHolding> {
        let taken = |(key, slot): (&UniqueKey, &KeySlot)| {
            let holding = slot.after.filter(|_| slot.before != slot.after)?;
            Some(NewHolding { key: key.clone(), holding, from: slot.before.map(|before| before.task) })
        };
        self.keys.iter().filter_map(taken).collect()
    }
}

/// The unique key of a task, with its scope.
pub(super) fn unique_key_of(spec: &Spec) -> Option<UniqueKey> {
    spec.unique_key.as_ref().map(|key| UniqueKey { task_type: spec.task_type.clone(), key: key.clone() })
}

/// Submits tasks, all or none. The revisions in the answer are filled in when they are known.
pub(super) fn submit(
    tasks: &[NewSubmit],
    command: usize,
    facts: &Facts<'_>,
    set: &mut Workset,
    keys: &mut UniqueKeys,
) -> Result<Vec<Submitted>> {
    // First look at all of them, so that a refusal leaves nothing behind.
    let mut seen: HashSet<UniqueKey> = HashSet::new();
    let mut ids: HashSet<TaskId> = HashSet::new();
    for task in tasks {
        let spec = &task.new.spec;
        if let Some(key) = unique_key_of(spec)
            && (keys.holder(&key, facts.now).is_some() || !seen.insert(key))
        {
            continue;
        }
        if task.id_given && (set.knows(task.new.id) || !ids.insert(task.new.id)) {
            return Err(Error::Exists { kind: "task", name: task_name(facts.project, task.new.id) });
        }
    }
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        let spec = &task.new.spec;
        let holder = unique_key_of(spec).and_then(|key| keys.holder(&key, facts.now));
        if let Some(existing) = holder.and_then(|holder| set.get(holder)) {
            answers.push(answer(existing, true));
            continue;
        }
        let change = transition::submit(facts.project, task.new.clone(), facts.now);
        answers.push(answer(&change.after, false));
        keys.follow(&change, facts.now);
        set.apply(command, change);
    }
    Ok(answers)
}

fn answer(task: &Task, existing: bool) -> Submitted {
    Submitted { id: task.id.0, existing, revision: 0, create_time: task.spec.create_time, etag: task_etag(task) }
}

/// Leases one claimed task. None if it cannot be leased after all.
pub(super) fn lease(
    task: TaskId,
    holder: &Holder,
    duration: Micros,
    command: usize,
    now: Micros,
    set: &mut Workset,
) -> Option<Arc<Task>> {
    let change = sabotage::grant(transition::lease(set.get(task)?, holder, duration, now)?);
    let leased = change.after.clone();
    set.apply(command, change);
    Some(leased)
}

/// Changes one task and answers it as it is then. `random` in [0, 1) draws the back-off.
pub(super) fn change(
    item: &Item,
    command: usize,
    random: f64,
    facts: &Facts<'_>,
    bench: &mut Bench,
    set: &mut Workset,
    keys: &mut UniqueKeys,
) -> Result<Arc<Task>> {
    let now = facts.now;
    let Some(task) = set.get(item.task).cloned() else {
        return Err(missing(item, facts.project));
    };
    if !item.share.covers(&task.spec.owner) {
        return Err(denied(item, facts.project));
    }
    if let Some(etag) = &item.etag {
        let current = task_etag(&task);
        if *etag != current {
            return Err(Error::EtagMismatch { name: task_name(facts.project, task.id), current });
        }
    }
    let last = item.action.repeated_epoch().and_then(|epoch| facts.last_attempts.get(&(task.id, epoch)));
    let change = match &item.action {
        Action::Heartbeat { epoch, progress } => {
            let beat = transition::heartbeat(&task, *epoch, progress.clone(), now)?;
            match beat.change {
                Some(change) => Some(*change),
                None => {
                    set.replace(beat.task.clone());
                    return Ok(beat.task);
                }
            }
        }
        Action::Complete { epoch, result } => {
            changed(transition::complete(&task, sabotage::fence(*epoch, &task), result.clone(), now)?)
        }
        Action::Fail { epoch, failure } => {
            let decider = facts.policies.of(&task.spec);
            let judge = &mut bench.judge(facts, &task.spec, &decider, random);
            changed(transition::fail(&task, *epoch, failure, last, judge, now)?)
        }
        Action::Release { epoch, delay } => changed(transition::release(&task, *epoch, *delay, last, now)?),
        Action::Cancel { reason } => transition::cancel(&task, reason, now)?,
        Action::Retry { owner, replay } => {
            let standing = replayed(&task, replay.as_ref(), facts, set)?;
            require_free_key(&task, facts, keys)?;
            let ReplayWish { input, bulk_job, etag: _ } = replay.clone().unwrap_or_default();
            let change = transition::retry(&task, input.as_ref(), now)?;
            if let Some(standing) = standing {
                let replay = Replayed {
                    number: standing.replay_count,
                    owner: owner.clone(),
                    bulk_job,
                    has_new_input: input.is_some() && input != task.input,
                    epoch: task.epoch,
                    reason: standing.reason.unwrap_or(DeadLetterReason::Final),
                    error: task.error.clone().unwrap_or_else(|| TaskError::own("", "")),
                    fail_time: standing.fail_time.unwrap_or(now),
                };
                set.replayed(task.id, standing, replay);
            }
            Some(change)
        }
        Action::RunNow => transition::run_now(&task, now)?,
        Action::Update(patch) => transition::update(&task, patch.clone(), now)?,
        Action::Delete { with_dead_letter } => {
            let is_processed = set.standing(task.id).is_some_and(Standing::is_processed);
            let is_open = task.state == TaskState::Failed && !with_dead_letter && !is_processed;
            Some(transition::delete(&task, is_open, now)?)
        }
        Action::Sweep => {
            let decider = facts.policies.of(&task.spec);
            let judge = &mut bench.judge(facts, &task.spec, &decider, random);
            transition::sweep_running(&sabotage::swept(&task, now), judge, now)
                .or_else(|| transition::sweep_waiting(&task, now))
        }
    };
    let Some(change) = change else { return Ok(task) };
    let after = change.after.clone();
    keys.follow(&change, now);
    set.apply(command, change);
    Ok(after)
}

fn changed(reported: Reported) -> Option<Change> {
    match reported {
        Reported::Changed(change) => Some(*change),
        Reported::Repeated => None,
    }
}

/// A lease on a task that is gone is lost, as every old lease is; anything else is not found.
fn missing(item: &Item, project: &ProjectId) -> Error {
    match &item.action {
        Action::Heartbeat { epoch, .. }
        | Action::Complete { epoch, .. }
        | Action::Fail { epoch, .. }
        | Action::Release { epoch, .. } => Error::LeaseLost { task: task_name(project, item.task), epoch: *epoch },
        // Who may reach only its own does not hear whether it exists.
        _ if item.share != Share::All => denied(item, project),
        _ => Error::task_not_found(project, item.task),
    }
}

fn denied(item: &Item, project: &ProjectId) -> Error {
    Error::PermissionDenied { permission: Permission::TasksOperate.name(), resource: task_name(project, item.task) }
}

/// The dead letter of a task after one more replay; none if the task has none. `wish` is how it is to be retried, if it is
/// to be retried as that and in no other way.
fn replayed(task: &Task, wish: Option<&ReplayWish>, facts: &Facts<'_>, set: &Workset) -> Result<Option<Standing>> {
    let standing = set.standing(task.id).filter(|_| task.state == TaskState::Failed);
    let Some(standing) = standing else {
        return match wish {
            None => Ok(None),
            Some(_) => Err(Error::StateConflict {
                name: dead_letter_name(facts.project, task.id),
                state: DeadLetterState::Replayed.name(),
                hint: "only an OPEN or PROCESSED dead letter can be retried",
            }),
        };
    };
    standing.require_etag(facts.project, task.id, wish.and_then(|wish| wish.etag.as_deref()))?;
    standing.replayed(facts.project, task.id).map(Some)
}

/// A task that is opened again takes its unique key back, so nobody else may hold it.
fn require_free_key(task: &Task, facts: &Facts<'_>, keys: &UniqueKeys) -> Result<()> {
    let Some(key) = unique_key_of(&task.spec) else { return Ok(()) };
    match keys.holder(&key, facts.now) {
        Some(holder) if holder != task.id => Err(Error::StateConflict {
            name: task_name(facts.project, task.id),
            state: TaskState::name(task.state),
            hint: "another open task holds its unique_key; cancel that one first",
        }),
        _ => Ok(()),
    }
}
