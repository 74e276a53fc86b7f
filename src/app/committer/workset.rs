//! The tasks of one batch: as they were read, and as the decisions so far have made them. Decisions go through here one
//! after the other, so two commands on one task see each other; what is written is the difference between the first and
//! the last state, and one journal row for each change in between.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    domain::{
        dead_letter::Standing,
        task::{Attempt, Micros, Payload, Task},
        task_state::TaskState,
        transition::{Change, DeadLetterReason, EventKind},
    },
    ids::TaskId,
    store::{
        queues::StatDelta,
        tasks::{Net, Replayed},
    },
};

/// The tasks of one batch.
#[derive(Debug)]
pub(super) struct Workset {
    now: Micros,
    slots: HashMap<TaskId, Slot>,
    /// The dead letters that decisions look at.
    standings: HashMap<TaskId, Standing>,
    changes: Vec<(usize, Change)>,
}

#[derive(Debug, Default)]
struct Slot {
    before: Option<Arc<Task>>,
    /// Whether the task was counted as due in its queue.
    due_before: bool,
    current: Option<Arc<Task>>,
    attempts: Vec<Attempt>,
    dead_letter: Option<DeadLetterReason>,
    replays: Vec<Replayed>,
}

/// A task that became due: whom to wake for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) queue: String,
    pub(super) task_type: String,
}

impl Workset {
    pub(super) fn new(now: Micros) -> Self {
        Self { now, slots: HashMap::new(), standings: HashMap::new(), changes: Vec::new() }
    }

    /// Takes in a task as it was read. What is here already stays: it may have changed since.
    pub(super) fn insert(&mut self, task: Task, due: bool) {
        let task = Arc::new(task);
        self.slots.entry(task.id).or_insert_with(|| Slot {
            before: Some(task.clone()),
            due_before: due,
            current: Some(task),
            ..Slot::default()
        });
    }

    /// When the transaction began.
    pub(super) fn now(&self) -> Micros {
        self.now
    }

    /// The task as it is now; none if it does not exist (any more).
    pub(super) fn get(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.slots.get(&id).and_then(|slot| slot.current.as_ref())
    }

    /// Whether there is, or was in this batch, a task with this id.
    pub(super) fn knows(&self, id: TaskId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Takes in an accepted change; `command` is the number of the command that caused it.
    pub(super) fn apply(&mut self, command: usize, change: Change) {
        let slot = self.slots.entry(change.after.id).or_default();
        slot.current = (change.kind != EventKind::Deleted).then(|| change.after.clone());
        slot.attempts.extend(change.attempt.clone());
        if let Some(reason) = change.dead_letter {
            slot.dead_letter = Some(reason);
            let standing = self.standings.entry(change.after.id);
            standing.and_modify(|standing| *standing = standing.failed_again(reason, self.now));
        }
        self.changes.push((command, change));
    }

    /// Takes in the dead letters that decisions look at.
    pub(super) fn insert_standings(&mut self, standings: HashMap<TaskId, Standing>) {
        self.standings = standings;
    }

    /// The dead letter of a task, if decisions look at it.
    pub(super) fn standing(&self, id: TaskId) -> Option<&Standing> {
        self.standings.get(&id)
    }

    /// Takes in that the dead letter of a task was retried.
    pub(super) fn replayed(&mut self, id: TaskId, standing: Standing, replay: Replayed) {
        self.standings.insert(id, standing);
        self.slots.entry(id).or_default().replays.push(replay);
    }

    /// Puts the inputs in that the journal is to tell of.
    pub(super) fn insert_inputs(&mut self, inputs: HashMap<TaskId, Payload>) {
        for (id, input) in inputs {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let with_input = slot.before.as_ref().map(|task| Arc::new(Task { input: Some(input), ..(**task).clone() }));
            slot.before.clone_from(&with_input);
            slot.current = with_input;
        }
    }

    /// Takes in a change that is no event: a lease extended.
    pub(super) fn replace(&mut self, task: Arc<Task>) {
        if let Some(slot) = self.slots.get_mut(&task.id) {
            slot.current = Some(task);
        }
    }

    /// The accepted changes in order, with the number of the command that caused each.
    pub(super) fn changes(&self) -> &[(usize, Change)] {
        &self.changes
    }

    /// What must be written.
    pub(super) fn nets(&self) -> Vec<Net> {
        let differs = |slot: &Slot| match (&slot.before, &slot.current) {
            (Some(before), Some(current)) => !Arc::ptr_eq(before, current),
            (None, None) => false,
            _ => true,
        };
        // In one order, so that two replicas that insert the same ids do not wait for each other in a circle.
        let mut slots: Vec<(&TaskId, &Slot)> = self.slots.iter().filter(|(_, slot)| differs(slot)).collect();
        slots.sort_unstable_by_key(|(id, _)| **id);
        slots
            .into_iter()
            .map(|(_, slot)| Net {
                before: slot.before.clone(),
                after: slot.current.clone(),
                attempts: slot.attempts.clone(),
                dead_letter: slot.dead_letter,
                replays: slot.replays.clone(),
            })
            .collect()
    }

    /// How the figures of each queue change, by name.
    pub(super) fn stats(&self) -> BTreeMap<&str, StatDelta> {
        let mut stats: BTreeMap<&str, StatDelta> = BTreeMap::new();
        for slot in self.slots.values() {
            if let Some(before) = &slot.before {
                count(stats.entry(&before.spec.queue).or_default(), before, slot.due_before, -1);
            }
            if let Some(current) = &slot.current {
                let due = current.run_time <= self.now;
                // An untouched task keeps the mark it was read with, so that it cancels out.
                let untouched = slot.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, current));
                count(
                    stats.entry(&current.spec.queue).or_default(),
                    current,
                    if untouched { slot.due_before } else { due },
                    1,
                );
            }
        }
        for (_, change) in &self.changes {
            let stat = stats.entry(&change.after.spec.queue).or_default();
            match change.kind {
                EventKind::Submitted => stat.submitted += 1,
                EventKind::Leased => stat.leased += 1,
                EventKind::Completed => stat.succeeded += 1,
                EventKind::Failed | EventKind::TimedOut | EventKind::LeaseExpired => stat.failed += 1,
                _ => {}
            }
        }
        stats.retain(|_, stat| *stat != StatDelta::default());
        stats
    }

    /// The queues and types in which tasks became due, with how many.
    pub(super) fn due(&self) -> BTreeMap<Due, usize> {
        let mut due = BTreeMap::new();
        for slot in self.slots.values() {
            let Some(task) = slot.current.as_ref().filter(|task| task.is_due(self.now)) else { continue };
            let was_due = slot.before.as_ref().is_some_and(|before| before.state.is_waiting()) && slot.due_before;
            if !was_due {
                let key = Due { queue: task.spec.queue.clone(), task_type: task.spec.task_type.clone() };
                *due.entry(key).or_default() += 1;
            }
        }
        due
    }
}

fn count(stat: &mut StatDelta, task: &Task, due: bool, by: i64) {
    match task.state {
        TaskState::Running => stat.running += by,
        state if state.is_waiting() && due => stat.ready += by,
        state if state.is_waiting() => stat.delayed += by,
        _ => {}
    }
}
