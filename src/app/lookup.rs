//! Reads of single tasks, gathered: while one query is under way the next ones queue up and go together, so that a
//! thousand callers cost a few statements and not a thousand. A lone caller does not wait for anybody.
//!
//! Lanes take from one queue, in turns: whoever is free takes all that waits. A queue for each would halve the statements'
//! sizes and double their number.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};

use crate::{
    domain::task::Task,
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    shutdown,
    store::{KeyReader, Store, tasks},
};

/// Queries under way at a time.
const LANES: usize = 2;
/// Lookups that may wait.
const QUEUE: usize = 8_192;
/// Tasks in one query: with 512 KiB of payloads each, those of all lanes are the 32 MiB that may be in memory for it. On
/// SQLite one more would make a statement of the next larger size, which is far too large.
const BATCH_TASKS: usize = 32;
/// How long a lane keeps its connection while nobody asks: a moment's rest is no reason to give it back.
const KEPT: Duration = Duration::from_millis(200);

type Queue = mpsc::Receiver<Lookup>;

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    queue: mpsc::Sender<Lookup>,
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
        let (sender, receiver) = mpsc::channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..LANES {
            shutdown::spawn("lookup-lane", run_lane(store.clone(), receiver.clone()));
        }
        Self { queue: sender }
    }

    /// The task as it is committed now; none if it does not exist.
    pub(super) async fn get(&self, project: &ProjectId, task: TaskId, full: bool) -> Result<Option<Arc<Task>>> {
        let (answer, answered) = oneshot::channel();
        let lookup = Lookup { project: project.clone(), task, full, answer };
        self.queue.try_send(lookup).map_err(|_| Error::Overloaded)?;
        answered.await.unwrap_or_else(|_| Err(Error::internal(anyhow::anyhow!("a lookup ended without an answer"))))
    }
}

/// Takes lookups in turns with the other lanes, and reads them. It keeps its connection while there is something to do.
async fn run_lane(store: Store, queue: Arc<Mutex<Queue>>) {
    let mut reader = None;
    loop {
        let next = next(&queue);
        let (queue, first) = if reader.is_some() {
            let Ok(next) = tokio::time::timeout(KEPT, next).await else {
                reader = None;
                continue;
            };
            next
        } else {
            next.await
        };
        let Some(first) = first else { return };
        let lookups = gather(queue, first).await;
        read(&store, &mut reader, lookups).await;
    }
}

/// Waits for its turn and then for a lookup; none when there will be no more.
async fn next(queue: &Mutex<Queue>) -> (MutexGuard<'_, Queue>, Option<Lookup>) {
    let mut queue = queue.lock().await;
    let first = queue.recv().await;
    (queue, first)
}

/// A lookup and the others that wait. Calls whose bytes are there already come to ask first: that takes no time when there
/// are none, and makes one statement of many when there are.
async fn gather(mut queue: MutexGuard<'_, Queue>, first: Lookup) -> Vec<Lookup> {
    tokio::task::yield_now().await;
    let mut lookups = vec![first];
    while lookups.len() < BATCH_TASKS
        && let Ok(next) = queue.try_recv()
    {
        lookups.push(next);
    }
    lookups
}

/// Reads lookups, one statement for each project and view, and answers them.
async fn read(store: &Store, reader: &mut Option<KeyReader>, lookups: Vec<Lookup>) {
    let mut groups: HashMap<(ProjectId, bool), Vec<Lookup>> = HashMap::new();
    for lookup in lookups {
        groups.entry((lookup.project.clone(), lookup.full)).or_default().push(lookup);
    }
    for ((project, full), lookups) in groups {
        let ids: Vec<TaskId> = lookups.iter().map(|lookup| lookup.task).collect();
        let found = read_group(store, reader, &project, &ids, full).await;
        for lookup in lookups {
            let answer = found.as_ref().map(|tasks| tasks.get(&lookup.task).cloned()).map_err(Clone::clone);
            // The caller may have gone away.
            let _ = lookup.answer.send(answer);
        }
    }
}

async fn read_group(
    store: &Store,
    kept: &mut Option<KeyReader>,
    project: &ProjectId,
    ids: &[TaskId],
    full: bool,
) -> Result<HashMap<TaskId, Arc<Task>>> {
    // Back in its place only after an answer: after an error the pool has to look at it.
    let mut reader = match kept.take() {
        Some(reader) => reader,
        None => store.key_reader().await?,
    };
    let tasks = tasks::get(&mut reader, project, ids, full).await?;
    *kept = Some(reader);
    Ok(tasks.into_iter().map(|task| (task.id, Arc::new(task))).collect())
}
