//! What mutants do to decisions (`faults/mutant.rs`). In a program without the feature `failpoints` these hand back what
//! they are given.

use std::sync::Arc;

use crate::{
    domain::{
        task::{Micros, Task},
        transition::{Change, EventKind},
    },
    faults::Mutant,
};

/// The epoch a report is compared with.
pub(super) fn fence(epoch: i64, task: &Task) -> i64 {
    if Mutant::NoFence.is_on() { task.epoch } else { epoch }
}

/// A lease as it is granted.
pub(super) fn grant(mut change: Change) -> Change {
    if Mutant::LeaseKeepsEpoch.is_on() {
        Arc::make_mut(&mut change.after).epoch -= 1;
    }
    change
}

/// The task a sweep decides on.
pub(super) fn swept(task: &Arc<Task>, now: Micros) -> Arc<Task> {
    let mut task = task.clone();
    if Mutant::SweepsEarly.is_on()
        && let Some(lease) = &mut Arc::make_mut(&mut task).lease
    {
        lease.expire_time = now;
    }
    task
}

/// Whether a change gets its journal row.
pub(super) fn is_told(change: &Change) -> bool {
    !(Mutant::LosesReleases.is_on() && change.kind == EventKind::Released)
}
