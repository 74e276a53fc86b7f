//! Setting up a worker.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::pin,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Failure, Job, Output, Tally,
    engine::{Config, Engine},
    handler::{BoxedHandler, boxed},
    link::Link,
};
use crate::{
    client::{Client, Error},
    pb::{SessionHello, WorkerIdentity},
};

/// What the server takes.
const MAX_SLOTS: usize = 10_000;
const MAX_TYPES: usize = 100;
const MAX_QUEUES: usize = 100;

/// Tasks at a time, unless said otherwise.
const DEFAULT_SLOTS: usize = 10;

/// How long a drained worker lets handlers finish. Process managers commonly kill after 30 s.
const DEFAULT_DRAIN_GRACE: Duration = Duration::from_secs(25);

/// How long a handler that is asked to stop may go on.
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(5);

/// A worker, ready to run.
pub struct Worker {
    pub(super) client: Client,
    pub(super) hello: SessionHello,
    pub(super) config: Config,
}

/// Stops a worker from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle(CancellationToken);

impl WorkerHandle {
    /// Takes no more tasks, lets those that run finish within the drain grace, gives back the rest, and ends the worker.
    pub fn drain(&self) {
        self.0.cancel();
    }
}

impl Worker {
    /// Sets up a worker that leases through this client, in its project.
    pub fn builder(client: Client) -> WorkerBuilder {
        WorkerBuilder {
            client,
            name: String::new(),
            queues: Vec::new(),
            slots: DEFAULT_SLOTS,
            labels: BTreeMap::new(),
            handlers: HashMap::new(),
            drain_grace: DEFAULT_DRAIN_GRACE,
            stop_grace: DEFAULT_STOP_GRACE,
            drain: CancellationToken::new(),
        }
    }

    /// What stops this worker.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle(self.config.drain.clone())
    }

    /// Works until drained, through restarts and failures of the server. Answers what was done. The only error is a server
    /// that refuses this worker at its first hello. Dropping the future drops all handlers; their leases run out.
    pub async fn run(self) -> Result<Tally, Error> {
        let link = Link::new(&self.client, self.hello);
        Engine::new(self.config, link).run().await
    }

    /// Works until `stop` is done or somebody else drains the worker, then drains.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<Tally, Error> {
        let handle = self.handle();
        let mut running = pin!(self.run());
        tokio::select! {
            tally = &mut running => return tally,
            () = stop => handle.drain(),
        }
        running.await
    }
}

/// Says what a worker does.
pub struct WorkerBuilder {
    client: Client,
    name: String,
    queues: Vec<String>,
    slots: usize,
    labels: BTreeMap<String, String>,
    handlers: HashMap<String, BoxedHandler>,
    drain_grace: Duration,
    stop_grace: Duration,
    drain: CancellationToken,
}

impl WorkerBuilder {
    /// The name of the worker, the same over restarts: `[A-Za-z0-9._:-]{1,128}`. Processes may share it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The queues to serve; only `default` unless given.
    pub fn queues(mut self, queues: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.queues.extend(queues.into_iter().map(Into::into));
        self
    }

    /// How many tasks run at a time, 1 to 10,000; 10 unless given.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// Something people should know about this worker, for example its version.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Runs tasks of this type with the handler: an async function of a [`Job`].
    pub fn register<H, F, O>(mut self, task_type: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O, Failure>> + Send + 'static,
        O: Into<Output>,
    {
        self.handlers.insert(task_type.into(), boxed(handler));
        self
    }

    /// How long a drained worker lets handlers finish, 25 s unless given.
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }

    /// How long a handler that is asked to stop may go on before it is dropped, 5 s unless given.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// Drains the worker when this token is cancelled, like [`WorkerHandle::drain`].
    pub fn drain_on(mut self, token: CancellationToken) -> Self {
        self.drain = token;
        self
    }

    /// Checks what was said.
    pub fn build(self) -> Result<Worker, Error> {
        check(!self.name.is_empty(), "a worker needs a name")?;
        check(!self.handlers.is_empty(), "a worker needs at least one handler")?;
        check(self.handlers.len() <= MAX_TYPES, "a worker handles at most 100 types")?;
        check(self.queues.len() <= MAX_QUEUES, "a worker serves at most 100 queues")?;
        check((1..=MAX_SLOTS).contains(&self.slots), "a worker has 1 to 10,000 slots")?;

        let mut types: Vec<String> = self.handlers.keys().cloned().collect();
        types.sort();
        let identity = WorkerIdentity {
            worker: self.name,
            incarnation: Uuid::now_v7().to_string(),
            types,
            queues: self.queues,
            slots: i32::try_from(self.slots).unwrap_or(i32::MAX),
            labels: self.labels,
        };
        let hello = SessionHello { parent: self.client.parent(), identity: Some(identity) };
        let config = Config {
            handlers: self.handlers,
            slots: self.slots,
            drain_grace: self.drain_grace,
            stop_grace: self.stop_grace,
            drain: self.drain,
        };
        Ok(Worker { client: self.client, hello, config })
    }
}

fn check(holds: bool, text: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Config(text.to_owned())) }
}
