//! A worker's session: grants as credits allow, and what cannot wait for a heartbeat.
//!
//! The handle belongs to whoever reads the worker's messages; the grant loop runs beside it. Grants that were not
//! confirmed when the handle is dropped are released at once, uncounted: the worker never saw them. Leases it confirmed
//! go on until their time, and can be reported on through any session or call.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    App, BoxStream,
    worker::{HeartbeatAnswer, Report, holder_of, want_of},
};
use crate::{
    context::Caller,
    domain::{
        task::{Progress, Task},
        task_state::TaskState,
        worker::Identity,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    live::sessions::Signal,
    shutdown,
};

/// Most tasks in one grant.
const GRANT_LIMIT: usize = 500;
/// Credits a session may have open; also what `SessionCredits.count` is bound by.
const CREDIT_LIMIT: u32 = 10_000;
/// Messages that may wait for the worker. More are not made until it reads.
const OUT_LIMIT: usize = 4;

/// What a session is told.
#[derive(Clone, Debug)]
pub enum SessionOut {
    /// Tasks to run.
    Grants(Vec<Arc<Task>>),
    /// Attempts to stop: task, epoch, reason.
    Cancel(Vec<(TaskId, i64, String)>),
    /// No more tasks.
    Drain,
}

/// An open session. Dropping it ends the session.
#[derive(Debug)]
pub struct SessionHandle {
    app: App,
    caller: Caller,
    project: ProjectId,
    identity: Identity,
    shared: Arc<Shared>,
}

/// What the handle and the grant loop share.
#[derive(Debug)]
struct Shared {
    /// Tasks the worker still takes. Raised by the handle, lowered by the grant loop.
    credits: watch::Sender<u32>,
    /// Leases granted and not yet confirmed.
    unconfirmed: Mutex<HashSet<(TaskId, i64)>>,
    /// Set when no more grants are wanted.
    drained: CancellationToken,
    /// Set when the session is over.
    ended: CancellationToken,
}

impl App {
    /// Opens a session for a worker.
    pub async fn open_session(
        &self,
        caller: &Caller,
        project: &ProjectId,
        identity: Identity,
    ) -> Result<(SessionHandle, BoxStream<Result<SessionOut>>)> {
        self.require_live_project(project).await?;
        let draining = self.note_presence(project, &identity).await;
        let shared = Arc::new(Shared {
            credits: watch::Sender::new(0),
            unconfirmed: Mutex::default(),
            drained: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (out, stream) = mpsc::channel(OUT_LIMIT);
        let (registration, signals) = self.sessions().enter(project, &identity.worker, &identity.incarnation);
        let handle = SessionHandle {
            app: self.clone(),
            caller: caller.clone(),
            project: project.clone(),
            identity: identity.clone(),
            shared: shared.clone(),
        };
        let grants = Grants {
            app: self.clone(),
            caller: caller.clone(),
            project: project.clone(),
            identity,
            shared,
            out: out.clone(),
        };
        shutdown::spawn("session-grants", self.0.closing.track_future(grants.run()));
        shutdown::spawn(
            "session-signals",
            pass_signals(self.clone(), handle.shared.clone(), registration, signals, out),
        );
        if draining {
            let Identity { worker, incarnation, .. } = &handle.identity;
            self.sessions().tell(project, worker, incarnation, &Signal::Drain);
        }
        Ok((handle, Box::pin(ReceiverStream::new(stream))))
    }
}

impl SessionHandle {
    /// The worker takes `count` more tasks.
    pub fn credits(&self, count: u32) -> Result<()> {
        let mut accepted = false;
        self.shared.credits.send_modify(|credits| {
            if let Some(sum) = credits.checked_add(count).filter(|sum| *sum <= CREDIT_LIMIT) {
                *credits = sum;
                accepted = true;
            }
        });
        if accepted {
            return Ok(());
        }
        Err(Error::field("credits.count", format!("unused credits may add up to at most {CREDIT_LIMIT}")))
    }

    /// The worker has these grants.
    pub fn accepted(&self, tokens: &[(TaskId, i64)]) {
        let mut unconfirmed = self.shared.unconfirmed();
        for token in tokens {
            unconfirmed.remove(token);
        }
    }

    /// Extends leases, keeps progress, and says what to stop.
    pub async fn heartbeat(&self, beats: Vec<(TaskId, i64, Option<Progress>)>) -> Result<HeartbeatAnswer> {
        let who = (self.identity.worker.clone(), self.identity.incarnation.clone());
        self.app.heartbeat(&self.caller, &self.project, Some(who), beats).await
    }

    /// Reports on attempts, each on its own.
    pub async fn report(&self, reports: Vec<(TaskId, i64, Report)>) -> Result<Vec<Result<TaskState>>> {
        self.app.report(&self.caller, &self.project, reports).await
    }

    /// The worker takes no more tasks.
    pub fn drain(&self) {
        self.shared.drained.cancel();
    }

    /// The project of the session.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.shared.ended.cancel();
    }
}

impl Shared {
    fn unconfirmed(&self) -> std::sync::MutexGuard<'_, HashSet<(TaskId, i64)>> {
        // A panic while it was held left nothing half-done.
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leases for one session as long as it has credits.
struct Grants {
    app: App,
    caller: Caller,
    project: ProjectId,
    identity: Identity,
    shared: Arc<Shared>,
    out: mpsc::Sender<Result<SessionOut>>,
}

impl Grants {
    async fn run(self) {
        let over = self.shared.ended.clone();
        let drained = self.shared.drained.clone();
        let draining = self.app.draining().clone();
        // The claim itself is never dropped half-way: what it leased must be granted or given back.
        let failed = loop {
            if over.is_cancelled() || drained.is_cancelled() || draining.is_cancelled() {
                break None;
            }
            match self.grant().await {
                Ok(()) => {}
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = failed {
            let _ = self.out.send(Err(error)).await;
        }
        over.cancelled().await;
        self.release_unconfirmed().await;
    }

    /// Waits for credits and tasks, and grants once.
    async fn grant(&self) -> Result<()> {
        let mut credits = self.shared.credits.subscribe();
        let enough = async {
            // The sender lives in `shared`, which we hold.
            credits.wait_for(|credits| *credits > 0).await.map(|credits| *credits).unwrap_or(0)
        };
        let Some(open) = self.unless_over(enough).await else { return Ok(()) };
        let limit = usize::try_from(open).unwrap_or(usize::MAX).min(GRANT_LIMIT);
        let want = want_of(&self.identity);
        let holder = holder_of(&self.identity);
        let mut place = self.app.wakeups().wait(&self.project, want.clone(), limit);
        let leased = self.app.lease_now(&self.caller, &self.project, &want, limit, &holder, None).await;
        let mut tasks = match leased {
            Ok(answer) => answer.value,
            // The database is away or busy: the session stays, and asks again soon.
            Err(Error::DatabaseUnavailable | Error::Overloaded | Error::DeadlineExceeded | Error::CommitUnknown) => {
                self.unless_over(tokio::time::sleep(RETRY_PAUSE)).await;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if tasks.is_empty() {
            let Some(handed) = self.unless_over(place.stand_by(&self.caller, &holder)).await else {
                self.release(place.leave().iter().map(|task| (task.id, task.epoch)).collect()).await;
                return Ok(());
            };
            tasks = handed;
        }
        if tasks.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        self.shared.credits.send_modify(|credits| *credits = credits.saturating_sub(count));
        self.shared.unconfirmed().extend(tasks.iter().map(|task| (task.id, task.epoch)));
        let tokens: Vec<_> = tasks.iter().map(|task| (task.id, task.epoch)).collect();
        let sent = self.unless_over(self.out.send(Ok(SessionOut::Grants(tasks)))).await;
        if !matches!(sent, Some(Ok(()))) {
            // The session takes no more, but it may go on for as long as what runs; nobody would keep these alive.
            let unsent = {
                let mut unconfirmed = self.shared.unconfirmed();
                tokens.into_iter().filter(|token| unconfirmed.remove(token)).collect()
            };
            self.release(unsent).await;
        }
        Ok(())
    }

    /// The outcome of a wait, or none once the session takes no more tasks, even if the outcome is there too.
    async fn unless_over<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shared.ended.cancelled() => None,
            () = self.shared.drained.cancelled() => None,
            () = self.app.draining().cancelled() => None,
            outcome = wait => Some(outcome),
        }
    }

    async fn release_unconfirmed(&self) {
        let tokens = self.shared.unconfirmed().drain().collect();
        self.release(tokens).await;
    }

    /// Gives leases back, uncounted.
    async fn release(&self, tokens: Vec<(TaskId, i64)>) {
        if tokens.is_empty() {
            return;
        }
        let releases = tokens.into_iter().map(|(task, epoch)| (task, epoch, Report::Release { delay: None })).collect();
        if let Err(cause) = self.app.report(&self.caller, &self.project, releases).await {
            // They come back when their lease expires.
            tracing::warn!(%cause, worker = self.identity.worker, "grants that never arrived could not be released");
        }
    }
}

/// How long a session waits before it asks again when the database did not answer.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Passes on cancellation and drain until the session is over. Holds the session's place in the registry.
async fn pass_signals(
    app: App,
    shared: Arc<Shared>,
    registration: crate::live::sessions::Registration,
    mut signals: mpsc::Receiver<Signal>,
    out: mpsc::Sender<Result<SessionOut>>,
) {
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => signal,
            // The worker goes to another replica; its leases and tokens hold there.
            () = app.draining().cancelled() => {
                let _ = out.send(Err(Error::ShuttingDown)).await;
                None
            }
            () = shared.ended.cancelled() => None,
        };
        let Some(signal) = signal else { break };
        let mut cancelled = Vec::new();
        let mut drain = false;
        let mut next = Some(signal);
        while let Some(signal) = next {
            match signal {
                Signal::Cancel { task, epoch, reason } => cancelled.push((task, epoch, reason)),
                Signal::Drain => drain = true,
            }
            next = signals.try_recv().ok();
        }
        if !cancelled.is_empty() && out.send(Ok(SessionOut::Cancel(cancelled))).await.is_err() {
            break;
        }
        // Said once: there is nothing left to drain afterwards.
        if drain && !shared.drained.is_cancelled() {
            shared.drained.cancel();
            if out.send(Ok(SessionOut::Drain)).await.is_err() {
                break;
            }
        }
    }
    drop(registration);
}
