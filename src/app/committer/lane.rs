//! A lane: a bounded queue of commands, and the task that makes batches of them.
//!
//! While a batch is under way the next one gathers, and begins when that has committed. On PostgreSQL a second one begins
//! sooner, once what waits is worth a transaction of its own: then one core prepares rows while another writes those of
//! the batch before. Rows that the first holds come back from the second as busy, like rows that another replica holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{batch::Batcher, command::Pending};
use crate::{
    error::{Error, Result},
    ids::ProjectId,
    shutdown,
};

/// Most tasks one transaction is about. Larger batches save little and make everybody wait.
pub(super) const BATCH_TASKS: usize = 2_000;
/// So many tasks are worth a transaction beside the one that is under way. Fewer are better off in a larger batch later:
/// what a transaction costs by itself is then shared by more.
const OVERLAP_TASKS: usize = 500;
/// Commands that may wait in a lane.
const QUEUE: usize = 4_096;
/// How long a lane waits for more before it tries commands again whose rows were held elsewhere.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

type Sent = (ProjectId, Pending);

/// The way into a lane.
#[derive(Debug)]
pub(super) struct Entrance {
    sender: mpsc::Sender<Sent>,
    waiting: Arc<Waiting>,
}

/// How many tasks the commands in a lane's queue are about.
#[derive(Debug, Default)]
struct Waiting {
    tasks: AtomicUsize,
    enough: Notify,
}

impl Waiting {
    fn add(&self, tasks: usize) {
        let before = self.tasks.fetch_add(tasks, Ordering::Relaxed);
        if before < OVERLAP_TASKS && before + tasks >= OVERLAP_TASKS {
            self.enough.notify_one();
        }
    }

    fn remove(&self, tasks: usize) {
        self.tasks.fetch_sub(tasks, Ordering::Relaxed);
    }

    /// Waits until there is enough for a batch beside the one under way.
    async fn enough(&self) {
        while self.tasks.load(Ordering::Relaxed) < OVERLAP_TASKS {
            self.enough.notified().await;
        }
    }
}

impl Entrance {
    /// Starts a lane with at most so many batches under way. It ends when its entrance is dropped and what is queued is
    /// answered.
    pub(super) fn open(batcher: Arc<Batcher>, most_batches: usize) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let waiting = Arc::<Waiting>::default();
        let lane = Lane {
            batcher,
            receiver,
            waiting: waiting.clone(),
            most_batches,
            busy: Vec::new(),
            under_way: FuturesUnordered::new(),
        };
        shutdown::spawn("committer-lane", lane.run());
        Self { sender, waiting }
    }

    /// Queues a command, or says at once that there is no room.
    pub(super) fn send(&self, project: ProjectId, pending: Pending) -> Result<()> {
        let place = self.sender.try_reserve().map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(()) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(()) => Error::ShuttingDown,
        })?;
        // Counted first: the lane takes off what it finds.
        self.waiting.add(pending.command.tasks());
        place.send((project, pending));
        Ok(())
    }
}

struct Lane {
    batcher: Arc<Batcher>,
    receiver: mpsc::Receiver<Sent>,
    waiting: Arc<Waiting>,
    most_batches: usize,
    /// Commands whose rows another transaction held.
    busy: Vec<Sent>,
    /// Batches, each of which ends with the commands that are to be run later.
    under_way: FuturesUnordered<JoinHandle<Vec<Sent>>>,
}

impl Lane {
    async fn run(mut self) {
        loop {
            if self.under_way.is_empty() {
                let Some(first) = self.first().await else { break };
                // Calls whose bytes are there already come to queue up first: that takes no time when there are none, and
                // makes one batch of two when there are.
                tokio::task::yield_now().await;
                self.begin(vec![first]);
                continue;
            }
            tokio::select! {
                // A batch that panicked leaves its callers without an answer, which they are told, and the lane as it was.
                Some(ended) = self.under_way.next() => self.busy.extend(ended.unwrap_or_default()),
                () = self.waiting.enough(), if self.under_way.len() < self.most_batches => self.begin(Vec::new()),
            }
        }
        // The last handle is gone: nobody waits for more than an answer.
        self.batcher.refuse(self.busy, &Error::ShuttingDown);
    }

    /// The next command; none when there will be no more.
    async fn first(&mut self) -> Option<Sent> {
        let received = if self.busy.is_empty() {
            self.receiver.recv().await
        } else {
            // Give the holder a moment; new commands do not wait for it.
            match tokio::time::timeout(BUSY_PAUSE, self.receiver.recv()).await {
                Ok(received) => received,
                Err(_) => return self.busy.pop(),
            }
        };
        received.inspect(|(_, pending)| self.waiting.remove(pending.command.tasks()))
    }

    /// Begins a batch of these, of what was busy, and of what waits.
    fn begin(&mut self, mut batch: Vec<Sent>) {
        batch.append(&mut self.busy);
        let mut tasks: usize = batch.iter().map(|(_, pending)| pending.command.tasks()).sum();
        while tasks < BATCH_TASKS
            && let Ok(sent) = self.receiver.try_recv()
        {
            let more = sent.1.command.tasks();
            self.waiting.remove(more);
            tasks += more;
            batch.push(sent);
        }
        let batcher = self.batcher.clone();
        self.under_way.push(shutdown::spawn("committer-batch", async move {
            let mut again = Vec::new();
            for (project, group) in by_project(batch) {
                let busy = batcher.run(&project, group).await;
                again.extend(busy.into_iter().map(|pending| (project.clone(), pending)));
            }
            again
        }));
    }
}

/// The commands of each project, in the order they came.
fn by_project(batch: Vec<Sent>) -> Vec<(ProjectId, Vec<Pending>)> {
    let mut groups: Vec<(ProjectId, Vec<Pending>)> = Vec::new();
    for (project, pending) in batch {
        match groups.iter_mut().find(|(other, _)| *other == project) {
            Some((_, group)) => group.push(pending),
            None => groups.push((project, vec![pending])),
        }
    }
    groups
}
