//! Workers: lease, heartbeat, report; who they are and how they are.
//!
//! Leasing waits without holding anything: a leaser registers its wish, looks once, and sleeps until a task of its kind
//! becomes due or the dispatch loop finds one. Presence (when a worker was last seen) is written at most every
//! [`PRESENCE_INTERVAL`] per incarnation, beside the hot path.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    App,
    committer::{Action, Answer, Command, IdempotencyKey, Item, Reply},
    long_poll,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
    task::wrong_reply,
};
use crate::{
    context::Caller,
    domain::{
        authority::Share,
        event::ResourceKind,
        task::{Micros, Payload, Progress, Task},
        task_state::TaskState,
        transition::{Failure, Holder},
        worker::{Identity, Worker},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, worker_name},
    live::{sessions::Signal, wakeups::Want},
    store::{
        Tx,
        journal::{self, Entry},
        workers,
    },
};

/// When a worker was last seen is written at most this often per incarnation.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(10);
/// Incarnations remembered for that; beyond it the memory starts afresh.
const PRESENCE_LIMIT: usize = 20_000;

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Who asks, and for which queues and types.
    pub identity: Identity,
    /// Most tasks.
    pub max_tasks: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// Makes it safe to repeat.
    pub key: Option<IdempotencyKey>,
}

/// What a worker gets.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The tasks, RUNNING, FULL.
    pub tasks: Vec<Arc<Task>>,
    /// Stop leasing and end.
    pub drain: bool,
    /// The answer repeats that of an earlier call.
    pub replayed: bool,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub enum Report {
    /// It succeeded.
    Complete {
        /// What the handler returned.
        result: Option<Payload>,
    },
    /// It failed.
    Fail(Failure),
    /// It is given back.
    Release {
        /// Not due before this span.
        delay: Option<Micros>,
    },
}

/// The answer to a heartbeat.
#[derive(Clone, Debug)]
pub struct HeartbeatAnswer {
    /// One a lease, in order.
    pub results: Vec<Result<Extended>>,
    /// Stop leasing and end.
    pub drain: bool,
}

/// A lease that was extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extended {
    /// How long it lasts from now.
    pub duration: Micros,
    /// Set when cancellation was asked for: why.
    pub cancel: Option<String>,
}

/// When each incarnation was last written, and whether it was told to drain.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<HashMap<(ProjectId, String, String), Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    draining: bool,
}

impl App {
    /// Leases what is due, waiting up to `wait` for the first task.
    pub async fn lease_tasks(&self, caller: &Caller, project: &ProjectId, request: LeaseRequest) -> Result<Leased> {
        long_poll(request.wait, Box::pin(self.lease_when_due(caller, project, request))).await
    }

    async fn lease_when_due(&self, caller: &Caller, project: &ProjectId, request: LeaseRequest) -> Result<Leased> {
        self.require_project(project).await?;
        let draining = Box::pin(self.note_presence(project, &request.identity)).await;
        if draining {
            return Ok(Leased { tasks: Vec::new(), drain: true, replayed: false });
        }
        let want = want_of(&request.identity);
        let holder = holder_of(&request.identity);
        let until = tokio::time::Instant::now() + request.wait;
        loop {
            let mut place = self.wakeups().wait(project, want.clone(), request.max_tasks);
            let answer =
                self.lease_now(caller, project, &want, request.max_tasks, &holder, request.key.clone()).await?;
            let Answer { value: tasks, replayed } = answer;
            if !tasks.is_empty() || replayed {
                return Ok(Leased { tasks, drain: false, replayed });
            }
            let over = async {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.draining().cancelled() => {}
                }
            };
            if request.key.is_some() {
                // The answer to a repeat must be known: it leases itself.
                tokio::select! {
                    () = place.wait() => continue,
                    () = over => return Ok(Leased { tasks, drain: false, replayed: false }),
                }
            }
            let handed = tokio::select! {
                handed = place.stand_by(caller, &holder) => Some(handed),
                () = over => None,
            };
            match handed {
                Some(tasks) if tasks.is_empty() => {}
                Some(tasks) => return Ok(Leased { tasks, drain: false, replayed: false }),
                None => return Ok(Leased { tasks: place.leave(), drain: false, replayed: false }),
            }
        }
    }

    /// Leases what is due now.
    pub(super) async fn lease_now(
        &self,
        caller: &Caller,
        project: &ProjectId,
        want: &Want,
        limit: usize,
        holder: &Holder,
        key: Option<IdempotencyKey>,
    ) -> Result<Answer<Vec<Arc<Task>>>> {
        self.require_live_project(project).await?;
        let command = Command::Lease { want: want.clone(), limit, holder: holder.clone(), key };
        match self.committer().run(caller, project, command).await? {
            Reply::Leased(answer) => Ok(answer),
            _ => Err(wrong_reply()),
        }
    }

    /// Reports on attempts, each on its own; answers the state of each task after it.
    pub async fn report(
        &self,
        caller: &Caller,
        project: &ProjectId,
        reports: Vec<(TaskId, i64, Report)>,
    ) -> Result<Vec<Result<TaskState>>> {
        let action = |epoch, report| match report {
            Report::Complete { result } => Action::Complete { epoch, result },
            Report::Fail(failure) => Action::Fail { epoch, failure },
            Report::Release { delay } => Action::Release { epoch, delay },
        };
        let items = reports
            .into_iter()
            .map(|(task, epoch, report)| Item { task, share: Share::All, action: action(epoch, report), etag: None })
            .collect();
        let results = self.change(caller, project, items).await?;
        Ok(results.into_iter().map(|result| result.map(|task| task.state)).collect())
    }

    /// Extends leases, keeps progress, and says what to stop. `who` is the worker and its incarnation.
    pub async fn heartbeat(
        &self,
        caller: &Caller,
        project: &ProjectId,
        who: Option<(String, String)>,
        beats: Vec<(TaskId, i64, Option<Progress>)>,
    ) -> Result<HeartbeatAnswer> {
        self.require_project(project).await?;
        let drain = match who {
            Some((worker, incarnation)) => self.touch(project, worker, incarnation).await,
            None => false,
        };
        let items: Vec<Item> = beats
            .into_iter()
            .map(|(task, epoch, progress)| Item {
                task,
                share: Share::All,
                action: Action::Heartbeat { epoch, progress },
                etag: None,
            })
            .collect();
        if items.is_empty() {
            return Ok(HeartbeatAnswer { results: Vec::new(), drain });
        }
        let results = self.change(caller, project, items).await?;
        let extended = |task: Arc<Task>| {
            let lease = task.lease.as_ref();
            let cancel = lease.filter(|lease| lease.cancel_time.is_some());
            Extended {
                duration: lease.map_or(0, |lease| lease.duration),
                cancel: cancel.map(|lease| lease.cancel_reason.clone().unwrap_or_default()),
            }
        };
        Ok(HeartbeatAnswer { results: results.into_iter().map(|r| r.map(extended)).collect(), drain })
    }

    /// One worker.
    pub async fn get_worker(&self, project: &ProjectId, name: &str) -> Result<Worker> {
        self.require_project(project).await?;
        workers::get(self.store(), project, name).await?.ok_or_else(|| not_found(project, name))
    }

    /// Workers by name, those after `after`; and the name after which the next page goes on.
    pub async fn list_workers(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Worker>, Option<String>)> {
        self.require_project(project).await?;
        let found = workers::list(self.store(), project, after.as_deref(), one_more(limit)).await?;
        Ok(cut(found, limit, |worker| worker.name.clone()))
    }

    /// Tells every live incarnation of a worker to take no more tasks.
    pub async fn drain_worker(&self, caller: &Caller, project: &ProjectId, name: &str) -> Result<Worker> {
        // An OFFLINE worker has nothing to drain, but an unknown one is a mistake.
        self.get_worker(project, name).await?;
        let write = DrainWorker { caller: caller.clone(), project: project.clone(), name: name.to_owned() };
        self.write(write).await?;
        self.hub().journal_moved(project);
        self.0.presence.forget(project, name);
        self.sessions().tell_all(project, name, &Signal::Drain);
        self.get_worker(project, name).await
    }

    /// Notes that a worker was seen, and answers whether it was told to drain.
    pub(super) async fn note_presence(&self, project: &ProjectId, identity: &Identity) -> bool {
        let key = (project.clone(), identity.worker.clone(), identity.incarnation.clone());
        if let Some(seen) = self.0.presence.fresh(&key) {
            return seen.draining;
        }
        let draining = self.write(SeeWorker { project: project.clone(), identity: identity.clone() }).await;
        self.0.presence.found(key, draining)
    }

    /// Notes that an incarnation is still there, and answers whether it was told to drain.
    async fn touch(&self, project: &ProjectId, worker: String, incarnation: String) -> bool {
        let key = (project.clone(), worker, incarnation);
        if let Some(seen) = self.0.presence.fresh(&key) {
            return seen.draining;
        }
        let (project, worker, incarnation) = key.clone();
        let draining = self.write(TouchWorker { project, worker, incarnation }).await;
        self.0.presence.found(key, draining)
    }
}

/// What changes about a worker that drains.
const DRAINED: &str = r#"{"incarnations.draining":[false,true]}"#;

/// Every live incarnation takes no more tasks.
struct DrainWorker {
    caller: Caller,
    project: ProjectId,
    name: String,
}

impl NamedWrite for DrainWorker {
    const NAME: &'static str = "drain-worker";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        workers::drain(tx, &self.project, &self.name).await?;
        let resource = worker_name(&self.project, &self.name);
        let entry =
            Entry::of_resource(ResourceKind::WorkerDrained, resource, tx.now(), Some(DRAINED.to_owned()), &self.caller);
        journal::append(tx, &self.project, &[entry]).await?;
        Ok(Done::Commit(()))
    }
}

/// A worker asked for tasks. Answers whether its incarnation was told to drain.
struct SeeWorker {
    project: ProjectId,
    identity: Identity,
}

impl NamedWrite for SeeWorker {
    const NAME: &'static str = "see-worker";
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let Identity { worker, incarnation, .. } = &self.identity;
        workers::seen(tx, &self.project, std::slice::from_ref(&self.identity)).await?;
        Ok(Done::Commit(workers::is_draining(tx, &self.project, worker, incarnation).await?))
    }
}

/// An incarnation is still there. Answers whether it was told to drain.
struct TouchWorker {
    project: ProjectId,
    worker: String,
    incarnation: String,
}

impl NamedWrite for TouchWorker {
    const NAME: &'static str = "touch-worker";
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let alive = [(self.worker.clone(), self.incarnation.clone())];
        workers::touch(tx, &self.project, &alive).await?;
        Ok(Done::Commit(workers::is_draining(tx, &self.project, &self.worker, &self.incarnation).await?))
    }
}

impl Presence {
    fn fresh(&self, key: &(ProjectId, String, String)) -> Option<Seen> {
        let seen = self.lock();
        seen.get(key).copied().filter(|seen| seen.at.elapsed() < PRESENCE_INTERVAL)
    }

    fn note(&self, key: (ProjectId, String, String), draining: bool) {
        let mut seen = self.lock();
        if seen.len() >= PRESENCE_LIMIT {
            seen.clear();
        }
        seen.insert(key, Seen { at: Instant::now(), draining });
    }

    /// Takes in what was found. Presence is for people to see: work goes on when it cannot be written.
    fn found(&self, key: (ProjectId, String, String), draining: Result<bool>) -> bool {
        match draining {
            Ok(draining) => {
                self.note(key, draining);
                draining
            }
            Err(cause) => {
                tracing::warn!(%cause, worker = key.1, "the presence of a worker was not written");
                false
            }
        }
    }

    fn forget(&self, project: &ProjectId, worker: &str) {
        self.lock().retain(|(p, w, _), _| p != project || w != worker);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(ProjectId, String, String), Seen>> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn want_of(identity: &Identity) -> Want {
    Want { queues: Arc::from(identity.queues.as_slice()), types: Arc::from(identity.types.as_slice()) }
}

pub(super) fn holder_of(identity: &Identity) -> Holder {
    Holder { worker: identity.worker.clone(), incarnation: identity.incarnation.clone() }
}

fn not_found(project: &ProjectId, name: &str) -> Error {
    Error::NotFound { kind: "worker", name: worker_name(project, name) }
}
