//! Wakes leasers that wait for tasks.
//!
//! A leaser registers *before* it looks into the database, so a task committed after its look rings it. As many are woken
//! as tasks became due, the longest waiting first; a hundred idle workers do not all run for one task. What is missed
//! here (another replica's submit, a `run_time` that came) the dispatch loop finds by polling.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::ids::ProjectId;

/// The waiting leasers of this process.
#[derive(Debug, Default)]
pub struct Wakeups {
    projects: Mutex<HashMap<ProjectId, VecDeque<Waiter>>>,
}

/// What a leaser asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// The queues it serves.
    pub queues: Arc<[String]>,
    /// The types it handles.
    pub types: Arc<[String]>,
}

#[derive(Debug)]
struct Waiter {
    want: Want,
    /// How many tasks it can take.
    room: usize,
    bell: oneshot::Sender<()>,
}

impl Wakeups {
    /// Registers a leaser; the bell rings once. Dropping the receiver takes the place back.
    pub fn wait(&self, project: &ProjectId, want: Want, room: usize) -> oneshot::Receiver<()> {
        let (bell, rings) = oneshot::channel();
        let mut projects = self.lock();
        let waiters = projects.entry(project.clone()).or_default();
        // Those who went away; all of them go before the line grows.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| !waiter.bell.is_closed());
        }
        waiters.push_back(Waiter { want, room, bell });
        rings
    }

    /// `count` tasks of a queue and type became due: wakes leasers with room for that many.
    pub fn ready(&self, project: &ProjectId, queue: &str, task_type: &str, count: usize) {
        self.ring(project, count, |want| serves(&want.queues, queue) && serves(&want.types, task_type));
    }

    /// `count` tasks of a queue with a limit ended: wakes leasers that serve it, whatever their types.
    pub fn freed(&self, project: &ProjectId, queue: &str, count: usize) {
        self.ring(project, count, |want| serves(&want.queues, queue));
    }

    fn ring(&self, project: &ProjectId, count: usize, is_meant: impl Fn(&Want) -> bool) {
        let mut projects = self.lock();
        let Some(waiters) = projects.get_mut(project) else { return };
        let mut left = count;
        let mut place = 0;
        while left > 0 && place < waiters.len() {
            let waiter = &waiters[place];
            if !waiter.bell.is_closed() && !is_meant(&waiter.want) {
                place += 1;
                continue;
            }
            if let Some(waiter) = waiters.remove(place) {
                let room = waiter.room;
                if waiter.bell.send(()).is_ok() {
                    left = left.saturating_sub(room);
                }
            }
        }
        if waiters.is_empty() {
            projects.remove(project);
        }
    }

    /// The queues and types somebody waits for, each once.
    pub fn wanted(&self) -> Vec<(ProjectId, Vec<(String, String)>)> {
        let mut projects = self.lock();
        projects.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.bell.is_closed());
            !waiters.is_empty()
        });
        projects
            .iter()
            .map(|(project, waiters)| {
                let wants: HashSet<&Want> = waiters.iter().map(|waiter| &waiter.want).collect();
                let lanes: HashSet<(&String, &String)> = wants
                    .into_iter()
                    .flat_map(|want| want.queues.iter().flat_map(|queue| want.types.iter().map(move |t| (queue, t))))
                    .collect();
                let lanes = lanes.into_iter().map(|(queue, task_type)| (queue.clone(), task_type.clone()));
                (project.clone(), lanes.collect())
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, VecDeque<Waiter>>> {
        // A panic while it was held left nothing half-done: every step leaves the lines consistent.
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serves(names: &[String], name: &str) -> bool {
    names.iter().any(|served| served == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(queue: &str) -> Want {
        Want { queues: Arc::from([queue.to_owned()]), types: Arc::from(["t".to_owned()]) }
    }

    #[test]
    fn as_many_leasers_wake_as_tasks_became_due() {
        let wakeups = Wakeups::default();
        let project = ProjectId::new("p");
        let mut other = wakeups.wait(&project, want("other"), 1);
        let mut first = wakeups.wait(&project, want("q"), 2);
        drop(wakeups.wait(&project, want("q"), 1));
        let mut second = wakeups.wait(&project, want("q"), 2);
        let mut third = wakeups.wait(&project, want("q"), 2);
        wakeups.ready(&project, "q", "t", 3);
        assert!(first.try_recv().is_ok());
        assert!(second.try_recv().is_ok());
        assert!(third.try_recv().is_err());
        assert!(other.try_recv().is_err());
    }
}
