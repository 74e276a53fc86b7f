//! Hands committed events to the watchers of this process, in revision order.
//!
//! The cast: a *feed* per watched project holds the last revision it handed out. The committer publishes what it just
//! committed; what does not follow on directly waits in `pending` until the gap is filled, by another lane's batch or by
//! the tailer, which reads the journal. A *subscription* is a bounded queue; when it is full it is cut off, and its owner
//! reads what it missed from the journal and subscribes again. Nothing is skipped, nothing grows.
//!
//! Events are shared, not copied. Watchers of one task are found by its id; the others get all events of the project.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc};

use crate::{
    domain::event::{Event, Subject},
    faults::Mutant,
    ids::{ProjectId, TaskId},
};

/// Events a subscription may fall behind before it is cut off.
const QUEUE_LIMIT: usize = 256;
/// Events that may wait for a gap to be filled; beyond it the tailer reads them again.
const PENDING_LIMIT: usize = 4_096;

/// The feeds of this process.
#[derive(Debug, Default)]
pub struct Hub {
    feeds: Mutex<HashMap<ProjectId, Feed>>,
    /// Rings when a feed has a gap, or the journal moved without a publish.
    behind: Notify,
}

#[derive(Debug, Default)]
struct Feed {
    /// The last revision handed out; none until somebody read it from the database.
    position: Option<i64>,
    pending: BTreeMap<i64, Arc<Event>>,
    next_id: u64,
    of_project: HashMap<u64, mpsc::Sender<Arc<Event>>>,
    of_task: HashMap<TaskId, HashMap<u64, mpsc::Sender<Arc<Event>>>>,
}

/// A place in the fan-out. Ends (None) when its owner fell behind.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    project: ProjectId,
    task: Option<TaskId>,
    id: u64,
    /// The feed's position when the subscription began, if it was known.
    start: Option<i64>,
    events: mpsc::Receiver<Arc<Event>>,
}

/// The subscription fell behind; its owner reads the journal and subscribes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff;

impl Hub {
    /// Subscribes to a project, or to one of its tasks. Every event after the subscription's start arrives.
    pub fn subscribe(self: &Arc<Self>, project: &ProjectId, task: Option<TaskId>) -> Subscription {
        let (sender, events) = mpsc::channel(QUEUE_LIMIT);
        let mut feeds = self.lock();
        let feed = feeds.entry(project.clone()).or_default();
        let id = feed.next_id;
        feed.next_id += 1;
        match task {
            None => feed.of_project.insert(id, sender),
            Some(task) => feed.of_task.entry(task).or_default().insert(id, sender),
        };
        Subscription { hub: self.clone(), project: project.clone(), task, id, start: feed.position, events }
    }

    /// Whether anybody watches the project: if not, nothing needs to be published.
    pub fn is_watched(&self, project: &ProjectId) -> bool {
        self.lock().contains_key(project)
    }

    /// The watched projects whose position is known, with it.
    pub fn watched(&self) -> Vec<(ProjectId, i64)> {
        self.lock().iter().filter_map(|(project, feed)| feed.position.map(|p| (project.clone(), p))).collect()
    }

    /// Hands out events of one project, in revision order.
    pub fn publish(&self, project: &ProjectId, events: impl IntoIterator<Item = Arc<Event>>) {
        let mut feeds = self.lock();
        let Some(feed) = feeds.get_mut(project) else { return };
        for event in events {
            if feed.position.is_none_or(|position| event.revision > position) {
                feed.pending.insert(event.revision, event);
            }
        }
        feed.deliver();
        if feed.pending.len() > PENDING_LIMIT {
            feed.pending.clear();
        }
        if !feed.pending.is_empty() {
            self.behind.notify_one();
        }
    }

    /// The journal moved without a publish: the tailer looks at once.
    pub fn journal_moved(&self, project: &ProjectId) {
        if self.is_watched(project) {
            self.behind.notify_one();
        }
    }

    /// Waits until a feed is behind its journal, as far as this process knows.
    pub async fn behind(&self) {
        self.behind.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, Feed>> {
        // A panic while it was held left nothing half-done: every step leaves the feed consistent.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Hands out what follows on directly.
    fn deliver(&mut self) {
        let Some(mut position) = self.position else { return };
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() > position + 1 {
                break;
            }
            let event = entry.remove();
            if event.revision == position + 1 {
                position = event.revision;
                self.hand_out(&event);
            }
        }
        self.position = Some(position);
    }

    fn hand_out(&mut self, event: &Arc<Event>) {
        // A full queue is cut off by dropping its sender; its owner comes back.
        self.of_project.retain(|_, sender| sender.try_send(event.clone()).is_ok() || Mutant::SkipsWhenFull.is_on());
        let Subject::Task { after, .. } = &event.subject else { return };
        if let Some(senders) = self.of_task.get_mut(&after.id) {
            senders.retain(|_, sender| sender.try_send(event.clone()).is_ok());
        }
    }
}

impl Subscription {
    /// The revision after which every event arrives. `read` is the project's revision, read from the database after the
    /// subscription began; it becomes the feed's position if that was not known.
    pub fn begin(&mut self, read: i64) -> i64 {
        if let Some(start) = self.start {
            return start;
        }
        let mut feeds = self.hub.lock();
        let Some(feed) = feeds.get_mut(&self.project) else { return read };
        let base = *feed.position.get_or_insert(read);
        feed.deliver();
        let start = base.max(read);
        self.start = Some(start);
        start
    }

    /// Whether the start is known without asking the database.
    pub fn start(&self) -> Option<i64> {
        self.start
    }

    /// The next event; None when the subscription was cut off.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        self.events.recv().await
    }

    /// The next event if one is there; an error when the subscription was cut off.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, CutOff> {
        match self.events.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(CutOff),
        }
    }

    /// The feed's position: all events up to it are in the queue or were taken from it.
    pub fn feed_position(&self) -> Option<i64> {
        self.hub.lock().get(&self.project).and_then(|feed| feed.position)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut feeds = self.hub.lock();
        let Some(feed) = feeds.get_mut(&self.project) else { return };
        match self.task {
            None => {
                feed.of_project.remove(&self.id);
            }
            Some(task) => {
                if let Some(senders) = feed.of_task.get_mut(&task) {
                    senders.remove(&self.id);
                    if senders.is_empty() {
                        feed.of_task.remove(&task);
                    }
                }
            }
        }
        // A feed lives as long as its owners: a lagging one keeps it by subscribing again before it drops the old place.
        if feed.of_project.is_empty() && feed.of_task.is_empty() {
            feeds.remove(&self.project);
        }
    }
}
