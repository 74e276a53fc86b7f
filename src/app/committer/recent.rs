//! The tasks this process leased lately, as they were read for the lease: most of them are soon reported on, and then need
//! not be read again. What was kept counts only while the task's lease row, which the batch holds, is of the same lease
//! and version: every change of a task raises its version, whoever makes it. It saves a read and is never the truth.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    domain::{
        retry::Retry,
        task::{Lease, Spec, Task},
    },
    ids::{ProjectId, TaskId},
};

/// Tasks that are kept: those two or three large workers have at a time.
const KEPT: usize = 8_192;
/// Tasks with more text than this are read again instead, so that what is kept stays below 16 MiB.
const LARGE: usize = 1_024;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tasks: HashMap<(ProjectId, TaskId), Task>,
    /// In the order they were leased. Those that were taken out are still named here.
    order: VecDeque<(ProjectId, TaskId)>,
}

impl Recent {
    /// Keeps tasks that were leased, but not those with an error of an earlier attempt, which may be large.
    pub(super) fn keep<'a>(&self, leased: impl Iterator<Item = &'a Arc<Task>>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for task in leased.filter(|task| is_small(&task.spec) && task.error.is_none()) {
            let key = (task.project.clone(), task.id);
            inner.order.push_back(key.clone());
            inner.tasks.insert(key, Task { input: None, ..Task::clone(task) });
            if inner.order.len() > KEPT
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.tasks.remove(&oldest);
            }
        }
    }

    /// Takes out a task if it is still as its lease row says.
    pub(super) fn take(&self, project: &ProjectId, id: TaskId, version: i64, lease: &Lease) -> Option<Task> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = inner.tasks.remove(&(project.clone(), id))?;
        // A task that was deleted and submitted again may have the same version, but not the same lease.
        let kept = task.lease.as_ref()?;
        let same = task.version == version
            && kept.start_time == lease.start_time
            && kept.worker == lease.worker
            && kept.incarnation == lease.incarnation;
        same.then_some(task)
    }
}

fn is_small(spec: &Spec) -> bool {
    let labels: usize = spec.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    let key = spec.unique_key.as_ref().map_or(0, String::len);
    // Rules are many small pieces; few tasks carry their own.
    let has_rules = matches!(&spec.retry, Retry::Settings(settings) if settings.as_plain().is_none());
    !has_rules && spec.queue.len() + spec.task_type.len() + spec.owner.len() + key + labels <= LARGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::transition::{self, Holder, NewTask};

    fn leased(queue: &str) -> Arc<Task> {
        let spec = Spec {
            task_type: "t".into(),
            queue: queue.into(),
            priority: 0,
            timeout: 1_000,
            expire_time: None,
            retry: Default::default(),
            unique_key: None,
            unique_ttl: None,
            labels: Default::default(),
            owner: "o".into(),
            create_time: 1,
            open_time: None,
        };
        let new = NewTask { id: TaskId(uuid::Uuid::now_v7()), spec, run_time: None, input: None };
        let submitted = transition::submit(&ProjectId::new("p"), new, 1).after;
        let holder = Holder { worker: "w".into(), incarnation: "i".into() };
        transition::lease(&submitted, &holder, 1_000, 2).unwrap().after
    }

    fn take(recent: &Recent, task: &Task, version: i64, lease: &Lease) -> bool {
        recent.take(&task.project, task.id, version, lease).is_some()
    }

    #[test]
    fn a_task_is_taken_once_and_only_as_it_was_leased() {
        let recent = Recent::default();
        let task = leased("q");
        let lease = task.lease.clone().unwrap();
        recent.keep([&task].into_iter());
        assert!(take(&recent, &task, task.version, &lease));
        assert!(!take(&recent, &task, task.version, &lease), "it is gone");
        recent.keep([&task].into_iter());
        assert!(!take(&recent, &task, task.version + 1, &lease), "it was changed since");
        recent.keep([&task].into_iter());
        let another = Lease { start_time: lease.start_time + 1, ..lease };
        assert!(!take(&recent, &task, task.version, &another), "it was deleted, submitted again and leased again");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let recent = Recent::default();
        let tasks: Vec<Arc<Task>> = (0..=KEPT).map(|_| leased("q")).collect();
        recent.keep(tasks.iter());
        recent.keep([&leased(&"q".repeat(LARGE))].into_iter());
        let inner = recent.0.lock().unwrap();
        assert_eq!((inner.tasks.len(), inner.order.len()), (KEPT, KEPT));
        assert!(!inner.tasks.contains_key(&(tasks[0].project.clone(), tasks[0].id)), "the oldest went");
    }
}
