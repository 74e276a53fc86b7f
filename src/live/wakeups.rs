//! Wakes leasers that wait for tasks.
//!
//! A leaser registers *before* it looks into the database, so a task committed after its look rings it. As many are woken
//! as tasks became due, the longest waiting first; a hundred idle workers do not all run for one task. What is missed
//! here (another replica's submit, a `run_time` that came) the dispatch loop finds by polling.
//!
//! A leaser that looked and found nothing may stand by: then whoever submits a task for it leases it in its name, in the
//! same transaction, and hands it over with the bell.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    context::Caller,
    domain::{task::Task, transition::Holder},
    ids::ProjectId,
};

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

/// Rings once, with the tasks that were leased for the leaser; with none, or dropped, it says to look.
pub type Bell = oneshot::Sender<Vec<Arc<Task>>>;

/// In whose name tasks are leased for a leaser that stands by.
#[derive(Debug)]
struct Name {
    caller: Caller,
    holder: Holder,
}

impl Want {
    /// Whether a task of this queue and type is meant.
    pub fn includes(&self, queue: &str, task_type: &str) -> bool {
        serves(&self.queues, queue) && serves(&self.types, task_type)
    }
}

#[derive(Debug)]
struct Waiter {
    want: Want,
    /// How many tasks it can take.
    room: usize,
    /// Set once it stands by.
    name: Arc<OnceLock<Name>>,
    bell: Bell,
}

/// A leaser that stood by and was taken out of the line. Dropped, it looks.
#[derive(Debug)]
pub struct StandBy {
    /// What it asks for.
    pub want: Want,
    /// How many tasks it can take.
    pub room: usize,
    /// Who it is.
    pub caller: Caller,
    /// The worker behind it.
    pub holder: Holder,
    /// Hands the tasks over.
    pub bell: Bell,
}

/// A leaser's place in the line. Dropping it takes it back.
#[derive(Debug)]
pub struct Place {
    rings: oneshot::Receiver<Vec<Arc<Task>>>,
    name: Arc<OnceLock<Name>>,
}

impl Place {
    /// Waits until there may be something to find.
    pub async fn wait(&mut self) {
        let _ = (&mut self.rings).await;
    }

    /// The same, and from now on takes what is leased in this name. Answers that; nothing means to look. Only for one who
    /// looked since it took the place, and found nothing: what it has room for is promised once.
    pub async fn stand_by(&mut self, caller: &Caller, holder: &Holder) -> Vec<Arc<Task>> {
        let _ = self.name.set(Name { caller: caller.clone(), holder: holder.clone() });
        (&mut self.rings).await.unwrap_or_default()
    }

    /// Leaves the line. Answers what was leased in the same moment.
    pub fn leave(mut self) -> Vec<Arc<Task>> {
        self.rings.close();
        self.rings.try_recv().unwrap_or_default()
    }
}

impl Wakeups {
    /// Registers a leaser; its bell rings once.
    pub fn wait(&self, project: &ProjectId, want: Want, room: usize) -> Place {
        let (bell, rings) = oneshot::channel();
        let name = Arc::<OnceLock<Name>>::default();
        let mut projects = self.lock();
        let waiters = projects.entry(project.clone()).or_default();
        // Those who went away; all of them go before the line grows.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| !waiter.bell.is_closed());
        }
        waiters.push_back(Waiter { want, room, name: name.clone(), bell });
        Place { rings, name }
    }

    /// Takes out of the line who stands by for one of these queues and types, as many as have room for so many tasks of
    /// each, the longest waiting first.
    pub fn take_standing(&self, project: &ProjectId, mut due: HashMap<(&str, &str), usize>) -> Vec<StandBy> {
        let mut projects = self.lock();
        let Some(waiters) = projects.get_mut(project) else { return Vec::new() };
        let mut taken = Vec::new();
        let mut place = 0;
        while !due.is_empty() && place < waiters.len() {
            let waiter = &waiters[place];
            let mut room = if waiter.bell.is_closed() || waiter.name.get().is_none() { 0 } else { waiter.room };
            let before = room;
            due.retain(|(queue, task_type), count| {
                if waiter.want.includes(queue, task_type) {
                    let share = room.min(*count);
                    room -= share;
                    *count -= share;
                }
                *count > 0
            });
            if room == before {
                place += 1;
                continue;
            }
            let Some(Waiter { want, room, name, bell }) = waiters.remove(place) else { break };
            if let Some(Name { caller, holder }) = name.get() {
                taken.push(StandBy { want, room, caller: caller.clone(), holder: holder.clone(), bell });
            }
        }
        taken
    }

    /// How many stand by.
    pub fn standing(&self, project: &ProjectId) -> usize {
        let stands = |waiter: &&Waiter| waiter.name.get().is_some() && !waiter.bell.is_closed();
        self.lock().get(project).map_or(0, |waiters| waiters.iter().filter(stands).count())
    }

    /// `count` tasks of a queue and type became due: wakes leasers with room for that many.
    pub fn ready(&self, project: &ProjectId, queue: &str, task_type: &str, count: usize) {
        self.ring(project, count, |want| want.includes(queue, task_type));
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
                if waiter.bell.send(Vec::new()).is_ok() {
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
        assert!(first.rings.try_recv().is_ok());
        assert!(second.rings.try_recv().is_ok());
        assert!(third.rings.try_recv().is_err());
        assert!(other.rings.try_recv().is_err());
    }

    #[test]
    fn only_who_stands_by_is_taken_and_only_as_many_as_are_needed() {
        let (wakeups, project) = (Wakeups::default(), ProjectId::new("p"));
        let caller = Caller::system("system:test");
        let places: Vec<Place> =
            ["q", "other", "q", "q", "q"].iter().map(|queue| wakeups.wait(&project, want(queue), 2)).collect();
        for (number, place) in places.iter().enumerate().skip(1) {
            let holder = Holder { worker: number.to_string(), incarnation: String::new() };
            place.name.set(Name { caller: caller.clone(), holder }).unwrap();
        }
        let taken = wakeups.take_standing(&project, HashMap::from([(("q", "t"), 3), (("q", "u"), 9)]));
        let workers: Vec<&str> = taken.iter().map(|standing| standing.holder.worker.as_str()).collect();
        assert_eq!(workers, ["2", "3"]);
        let left = wakeups.take_standing(&project, HashMap::from([(("q", "t"), 9), (("other", "t"), 1)]));
        assert_eq!(left.len(), 2);
        assert_eq!(wakeups.standing(&project), 0, "the first has not looked yet");
    }
}
