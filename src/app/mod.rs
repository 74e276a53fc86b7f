//! Use cases. RPC handlers and background loops come through here; each does its work in one transaction (the committer's
//! for hot commands, a named write for rare ones) and tells the readers of the journal afterwards.

pub mod activity;
pub mod api_key;
pub mod audit;
pub mod audit_head;
pub mod audit_note;
pub mod audit_verify;
pub mod authentication;
mod authority;
pub mod bulk_job;
mod bulk_retry;
mod bulk_run;
pub mod committer;
pub mod dead_letter;
mod housekeeping;
mod lookup;
pub mod member;
mod named_write;
mod page;
pub mod project;
mod project_deletion;
pub mod queue;
pub mod retention;
mod retention_run;
mod retention_step;
pub mod retry_policy;
pub mod retry_report;
pub mod schedule;
mod schedule_alarm;
pub mod schedule_by_hand;
mod schedule_change;
mod schedule_run;
mod schedule_zones;
mod sealer;
pub mod session;
pub mod task;
pub mod upkeep;
pub mod watch;
pub mod worker;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    activity::Activity,
    audit_head::{AuditKey, NewHeads},
    audit_note::Notes,
    audit_verify::Turn,
    authentication::{Authentication, keyring::Keyring},
    authority::Authorities,
    committer::Committer,
    lookup::Lookups,
    project_deletion::Projects,
    schedule_alarm::Alarm,
    worker::Presence,
};
use crate::{
    domain::{retention::RetentionSettings, token::Callers},
    error::{Error, Result},
    faults::Mutant,
    live::{hub::Hub, sessions::Sessions, wakeups::Wakeups},
    shutdown,
    store::Store,
};

/// What the database may add to a call, on top of the time it waits by itself.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A stream whose type is nobody's concern.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    committer: Committer,
    lookups: Lookups,
    hub: Arc<Hub>,
    wakeups: Arc<Wakeups>,
    sessions: Arc<Sessions>,
    activity: Activity,
    presence: Presence,
    authentication: Authentication,
    keyring: Keyring,
    authorities: Authorities,
    alarm: Alarm,
    retention: RetentionSettings,
    /// Signs heads; made with the first one unless it was given.
    audit_key: OnceLock<AuditKey>,
    heads: NewHeads,
    notes: Notes,
    verifying: Turn,
    projects: Projects,
    /// Sessions that may still have grants to give back.
    closing: TaskTracker,
    /// Cancelled when the server begins to stop: streams and long-polls end.
    draining: CancellationToken,
}

impl App {
    /// The service on an open store. `draining` ends streams and long-polls.
    pub fn new(store: Store, draining: CancellationToken) -> Self {
        Self::with_retention(store, draining, RetentionSettings::default())
    }

    /// The same with what was set about retention.
    pub fn with_retention(store: Store, draining: CancellationToken, retention: RetentionSettings) -> Self {
        Self::start(store, draining, retention, Authentication::default())
    }

    /// The same with what callers are known by besides API keys. Fails when that cannot be read.
    pub fn with_callers(
        store: Store,
        draining: CancellationToken,
        retention: RetentionSettings,
        callers: Callers,
    ) -> anyhow::Result<Self> {
        let authentication = match callers {
            Callers::Anyone => Authentication::default(),
            Callers::Known { issuers, admins } => Authentication::load(issuers, admins)?,
        };
        Ok(Self::start(store, draining, retention, authentication))
    }

    fn start(
        store: Store,
        draining: CancellationToken,
        retention: RetentionSettings,
        authentication: Authentication,
    ) -> Self {
        let hub = Arc::new(Hub::default());
        let wakeups = Arc::new(Wakeups::default());
        let sessions = Arc::new(Sessions::default());
        let committer = Committer::start(&store, &hub, &wakeups, &sessions);
        let lookups = Lookups::start(&store);
        Self(Arc::new(Inner {
            store,
            committer,
            lookups,
            hub,
            wakeups,
            sessions,
            activity: Activity::default(),
            presence: Presence::default(),
            authentication,
            keyring: Keyring::default(),
            authorities: Authorities::default(),
            alarm: Alarm::default(),
            retention,
            audit_key: OnceLock::new(),
            heads: NewHeads::default(),
            notes: Notes::default(),
            verifying: Turn::default(),
            projects: Projects::default(),
            closing: TaskTracker::new(),
            draining,
        }))
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The fan-out of this process.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// The waiting leasers of this process.
    pub fn wakeups(&self) -> &Arc<Wakeups> {
        &self.0.wakeups
    }

    /// The figures of the last minute.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// When due schedules are looked for again.
    pub fn alarm(&self) -> &Alarm {
        &self.0.alarm
    }

    /// Cancelled when the server begins to stop.
    pub fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// Waits until the sessions that ended have given back what their workers never took.
    pub async fn settled(&self) {
        self.0.closing.close();
        self.0.closing.wait().await;
    }

    fn authentication(&self) -> &Authentication {
        &self.0.authentication
    }

    fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    fn committer(&self) -> &Committer {
        &self.0.committer
    }

    fn authorities(&self) -> &Authorities {
        &self.0.authorities
    }

    fn sessions(&self) -> &Arc<Sessions> {
        &self.0.sessions
    }

    /// Runs database work that writes on its own, so that a caller who goes away cannot drop a transaction half-way.
    async fn detached<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if Mutant::CancelledCallDropsTransaction.is_on() {
            return Box::pin(work).await;
        }
        shutdown::spawn(name, work)
            .await
            .unwrap_or_else(|cause| Err(Error::internal(anyhow::anyhow!("{name} ended early: {cause}"))))
    }
}

/// Ends a call that waits by itself when its wait and the usual time are over. Others are ended by their deadline; these
/// may wait for long, and a database that hangs must not make them wait for ever longer.
async fn long_poll<T>(wait: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(wait + CALL_LIMIT, work).await.unwrap_or(Err(Error::DeadlineExceeded))
}
