//! Reads of single tasks, gathered: while one query is under way the next ones queue up and go together, so that a
//! thousand callers cost a few statements and not a thousand. A lone caller does not wait for anybody.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    domain::task::Task,
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    shutdown,
    store::{Store, tasks},
};

/// Queries under way at a time.
const LANES: usize = 2;
/// Lookups that may wait in a lane.
const LANE_QUEUE: usize = 4_096;
/// Tasks in one query: with 512 KiB of payloads each they are the 32 MiB that may be in memory for it.
const BATCH_TASKS: usize = 64;

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    lanes: Arc<[mpsc::Sender<Lookup>]>,
    next: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Lookup {
    project: ProjectId,
    task: TaskId,
    full: bool,
    answer: oneshot::Sender<Result<Option<Arc<Task>>>>,
}

impl Lookups {
    pub(super) fn start(store: &Store) -> Self {
        let lane = |_| {
            let (sender, receiver) = mpsc::channel(LANE_QUEUE);
            shutdown::spawn("lookup-lane", run_lane(store.clone(), receiver));
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect(), next: Arc::default() }
    }

    /// The task as it is committed now; none if it does not exist.
    pub(super) async fn get(&self, project: &ProjectId, task: TaskId, full: bool) -> Result<Option<Arc<Task>>> {
        let (answer, answered) = oneshot::channel();
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % LANES];
        lane.try_send(Lookup { project: project.clone(), task, full, answer }).map_err(|_| Error::Overloaded)?;
        answered.await.unwrap_or_else(|_| Err(Error::internal(anyhow::anyhow!("a lookup ended without an answer"))))
    }
}

async fn run_lane(store: Store, mut receiver: mpsc::Receiver<Lookup>) {
    while let Some(first) = receiver.recv().await {
        let mut groups: HashMap<(ProjectId, bool), Vec<Lookup>> = HashMap::new();
        let mut count = 1;
        let mut next = Some(first);
        while let Some(lookup) = next {
            groups.entry((lookup.project.clone(), lookup.full)).or_default().push(lookup);
            count += 1;
            next = if count <= BATCH_TASKS { receiver.try_recv().ok() } else { None };
        }
        for ((project, full), lookups) in groups {
            let ids: Vec<TaskId> = lookups.iter().map(|lookup| lookup.task).collect();
            let found = tasks::get(&store, &project, &ids, full).await.map_err(Error::from);
            let found: Result<HashMap<TaskId, Arc<Task>>> =
                found.map(|tasks| tasks.into_iter().map(|task| (task.id, Arc::new(task))).collect());
            for lookup in lookups {
                let answer = found.as_ref().map(|tasks| tasks.get(&lookup.task).cloned()).map_err(Clone::clone);
                // The caller may have gone away.
                let _ = lookup.answer.send(answer);
            }
        }
    }
}
