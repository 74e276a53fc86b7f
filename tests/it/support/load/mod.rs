//! A load of real clients that lives through anything: submitters, workers and watchers that try again for as long as it
//! takes and keep a [`History`] of what they were told.
//!
//! Every task has one type and one queue. Submitters wait while the backlog is long; operators change what is under way.
//! [`Load::finish`] lets the workers drain what is there; then nothing may be left.

mod operator;
mod runtime;
mod submitter;
mod watcher;
mod worker;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasktower::{
    pb::{ErrorReason, GetProjectRequest, ProjectView, Queue, UpdateQueueRequest},
    worker::Tally,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use self::{operator::operate_for_ever, submitter::Submitter, watcher::Watcher, worker::Worker};
use super::{
    client::{Clients, Replicas},
    history::{History, Known, Watched},
    invariants::Inspector,
    wait::{SOON, eventually, pause},
};

pub use self::watcher::{read_event, read_events};

/// The type of every task.
pub const TYPE: &str = "load";
/// The queue of every task.
pub const QUEUE: &str = "load";
pub const PROJECT: &str = "projects/default";
/// The shortest lease there is, so that a lease nobody knows of is over soon.
const LEASE_SECONDS: i64 = 5;
/// Between two tries while the server is away.
const TRY_AGAIN: Duration = Duration::from_millis(25);

/// What runs, and where.
#[derive(Clone)]
pub struct Shape {
    /// Each client uses one of them, in turn.
    pub endpoints: Vec<String>,
    pub submitters: usize,
    pub operators: usize,
    /// By single calls.
    pub workers: usize,
    /// By the worker runtime.
    pub runtime_workers: usize,
    pub watchers: usize,
    /// Watchers cut each stream after one to so many messages; none means never.
    pub watchers_cut_within: Option<usize>,
    /// Some tasks are slow: whoever has one says nothing for longer than its lease, and reports then.
    pub slow_tasks: bool,
    /// Now and then many tasks are submitted at once, more than a watcher's queue holds.
    pub bursts: bool,
    /// Refusals that the faults of the test explain, besides those that any kill explains.
    pub explained: &'static [ErrorReason],
}

impl Shape {
    pub fn on(endpoints: &[String]) -> Shape {
        Shape {
            endpoints: endpoints.to_vec(),
            submitters: 4,
            operators: 1,
            workers: 3,
            runtime_workers: 1,
            watchers: 1,
            watchers_cut_within: None,
            slow_tasks: false,
            bursts: false,
            explained: &[],
        }
    }
}

pub struct Load {
    history: Arc<History>,
    submitting: CancellationToken,
    working: CancellationToken,
    watching: CancellationToken,
    submitters: JoinSet<()>,
    workers: JoinSet<()>,
    runtime_workers: JoinSet<Tally>,
    watchers: JoinSet<()>,
}

impl Load {
    /// Sets the queue up and starts everybody; watchers first, so that they see everything.
    pub async fn start(shape: Shape) -> Load {
        let history = Arc::new(History::that_explains(shape.explained));
        let mut load = Load {
            history: history.clone(),
            submitting: CancellationToken::new(),
            working: CancellationToken::new(),
            watching: CancellationToken::new(),
            submitters: JoinSet::new(),
            workers: JoinSet::new(),
            runtime_workers: JoinSet::new(),
            watchers: JoinSet::new(),
        };
        let client = |number: usize| Replicas::new(&shape.endpoints, number);
        set_lease(client(0).current(), QUEUE).await;
        let start = revision(client(0).current()).await;
        for number in 0..shape.watchers {
            let name = format!("watcher-{number}");
            history.watch(&name, |watched| watched.start = start);
            let watcher = Watcher {
                replicas: client(number),
                history: history.clone(),
                name: name.clone(),
                cut_within: shape.watchers_cut_within,
                stop: load.watching.clone(),
            };
            load.watchers.spawn(watcher.run());
            eventually("the watch is open", SOON, async || {
                if history.with(|known| known.watches[&name].opened > 0) { Ok(()) } else { Err("it is not") }
            })
            .await;
        }
        for number in 0..shape.workers {
            let worker = Worker::new(client(number), history.clone(), number, load.working.clone());
            load.workers.spawn(worker.run());
        }
        for number in 0..shape.runtime_workers {
            let endpoint = shape.endpoints[number % shape.endpoints.len()].clone();
            let (history, stop) = (history.clone(), load.working.clone());
            load.runtime_workers.spawn(runtime::work_until(endpoint, number, history, stop));
        }
        for number in 0..shape.operators {
            load.submitters.spawn(operate_for_ever(client(number), history.clone(), load.submitting.clone()));
        }
        for number in 0..shape.submitters {
            let submitter = Submitter {
                replicas: client(number),
                history: history.clone(),
                number,
                slow_tasks: shape.slow_tasks,
                bursts: shape.bursts && number == 0,
                stop: load.submitting.clone(),
            };
            load.submitters.spawn(submitter.run());
        }
        load
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// For clients that are not part of the load and know something too.
    pub fn shared_history(&self) -> Arc<History> {
        self.history.clone()
    }

    /// Waits until so many more unary calls were acknowledged, and one is under way.
    pub async fn advance(&self, calls: usize, limit: Duration) {
        let from = self.history.with(|known| known.acknowledged);
        eventually(&format!("{calls} more calls are acknowledged"), limit, async || {
            let (now, in_flight) = self.history.with(|known| (known.acknowledged, known.in_flight));
            if now >= from + calls && in_flight > 0 {
                Ok(())
            } else {
                Err(format!("{now} of {}; {}", from + calls, self.history.state()))
            }
        })
        .await;
    }

    /// Stops everybody where they are. What was under way stays unknown.
    pub async fn abandon(mut self) -> Known {
        for clients in [&mut self.submitters, &mut self.workers, &mut self.watchers] {
            clients.shutdown().await;
        }
        self.runtime_workers.shutdown().await;
        self.history.known()
    }

    /// Stops submitting, waits until no task is open and the watchers saw all of it, and stops everybody.
    pub async fn finish(mut self, inspector: &mut Inspector, limit: Duration) -> Known {
        let started = Instant::now();
        self.submitting.cancel();
        while self.submitters.join_next().await.transpose().expect("a submitter panics on nothing").is_some() {}
        eventually("every task is final", limit, async || match inspector.open_tasks("default").await {
            0 => Ok(()),
            open => Err(format!("{open} tasks wait or run; {}", self.history.state())),
        })
        .await;
        self.working.cancel();
        while self.workers.join_next().await.transpose().expect("a worker panics on nothing").is_some() {}
        while let Some(tally) = self.runtime_workers.join_next().await {
            self.history.tally(tally.expect("a worker of the runtime panics on nothing"));
        }
        let last = inspector.last_task_revision("default").await;
        eventually("the watchers saw all of it", limit.saturating_sub(started.elapsed()), async || {
            let behind = self.history.with(|known| {
                let last_of = |w: &Watched| w.seen.last().map_or(w.start, |seen| seen.revision);
                known.watches.iter().find(|(_, w)| last_of(w) < last).map(|(name, w)| (name.clone(), last_of(w)))
            });
            match behind {
                None => Ok(()),
                Some((name, at)) => Err(format!("{name} is at {at} of {last}")),
            }
        })
        .await;
        self.watching.cancel();
        while self.watchers.join_next().await.transpose().expect("a watcher panics on nothing").is_some() {}
        self.history.known()
    }
}

/// The shortest lease for the tasks of a queue.
pub async fn set_lease(clients: &Clients, queue: &str) {
    let lease_duration = Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 });
    let queue = Queue { name: format!("{PROJECT}/queues/{queue}"), lease_duration, ..Queue::default() };
    let request = UpdateQueueRequest { queue: Some(queue), update_mask: None };
    clients.queues().update_queue(request).await.expect("the queue is set up");
}

/// The last revision of the project.
pub async fn revision(clients: &Clients) -> i64 {
    let request = GetProjectRequest { name: PROJECT.to_owned(), view: ProjectView::Basic.into() };
    let answer = clients.projects().get_project(request).await.expect("the project is there").into_inner();
    answer.project.expect("an answer holds the project").revision
}

/// A task that is slow in [`Shape::slow_tasks`].
const SLOW: &str = "slow";

/// The id of a task as the database writes it in hexadecimal.
pub fn task_id(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().replace('-', "")
}

/// Makes a call until it is answered, by one replica or another.
async fn persist<R: Clone, T, F>(
    history: &History,
    replicas: &Replicas,
    what: &'static str,
    request: &R,
    call: impl Fn(Clients, R) -> F,
) -> T
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        if let Some(answer) = history.call(what, call(replicas.current().clone(), request.clone())).await {
            return answer;
        }
        replicas.turn();
        pause("the server is back in a moment", TRY_AGAIN).await;
    }
}
