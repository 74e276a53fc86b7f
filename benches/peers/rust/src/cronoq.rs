//! cronoq-server, the closest peer: fenced leases over gRPC, finished rows kept, no journal.
//!
//! A worker is one `Work` stream: it registers, is sent leases up to its slots, and completes each. Completions are not
//! acknowledged one by one, and the server counts a task as finished before its store has it. So the end of a run is when
//! the store has no open task; the runner looks there for us (`tell::ask_runner`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use cronoq_proto::{
    PROTOCOL_VERSION,
    v1::{
        Complete, Empty, Register, ServerMessage, SubmitBatchRequest, SubmitRequest, TaskSpec, WorkerMessage,
        admin_client::AdminClient, server_message::Msg as Hear, tasks_client::TasksClient, worker_message::Msg as Say,
        workers_client::WorkersClient,
    },
};
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::tell::{Measuring, ask_runner, keep_in_flight, record, tell_throughput, tell_times, times};

/// The pool the runner's configuration names.
const POOL: &str = "default";
/// Each payload is JSON of this size, as at the other peers.
const PAYLOAD_BYTES: usize = 100;
const POLL: Duration = Duration::from_millis(5);
/// Nothing finishing for this long means that nothing will.
const STALLED: Duration = Duration::from_secs(60);
/// An answer names every task of its batch, and tonic's 4 MiB are not meant as a limit of the comparison.
const MAX_ANSWER_BYTES: usize = 64 << 20;

async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?)
}

async fn tasks_client(endpoint: &str) -> anyhow::Result<TasksClient<Channel>> {
    Ok(TasksClient::new(connect(endpoint).await?).max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Waits until the server leads its store and answers.
async fn ready(endpoint: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = async { anyhow::Ok(AdminClient::new(connect(endpoint).await?).snapshot(Empty {}).await?) };
        match answer.await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > STALLED => return Err(error.context("cronoq-server is not ready")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A task whose payload is a JSON object with a number, padded to its size.
fn task(number: usize) -> TaskSpec {
    let start = format!("{{\"number\":{number:010},\"padding\":\"");
    let padding = PAYLOAD_BYTES - start.len() - 2;
    TaskSpec { payload: format!("{start}{}\"}}", "x".repeat(padding)).into_bytes(), ..Default::default() }
}

fn number_of(payload: &[u8]) -> anyhow::Result<usize> {
    let text = payload.get(10..20).context("a payload is too short")?;
    Ok(std::str::from_utf8(text)?.parse()?)
}

#[derive(Args)]
pub struct Enqueue {
    #[arg(long)]
    endpoint: String,
    #[arg(long)]
    tasks: usize,
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Batches in flight
    #[arg(long, default_value_t = 4)]
    inflight: usize,
}

pub async fn enqueue(arguments: Enqueue) -> anyhow::Result<()> {
    ready(&arguments.endpoint).await?;
    let client = tasks_client(&arguments.endpoint).await?;
    let (tasks, batch) = (arguments.tasks, arguments.batch);
    let taken = Arc::new(AtomicU64::new(0));
    let measuring = Measuring::begin();
    let mut lanes: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for _ in 0..arguments.inflight {
        let (mut client, taken) = (client.clone(), taken.clone());
        lanes.spawn(async move {
            loop {
                let first = usize::try_from(taken.fetch_add(batch as u64, Ordering::Relaxed))?;
                if first >= tasks {
                    return Ok(());
                }
                let specs = (first..tasks.min(first + batch)).map(task).collect();
                client.submit_batch(SubmitBatchRequest { tasks: specs }).await?;
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    tell_throughput(tasks as u64, measuring.end());
    Ok(())
}

#[derive(Args)]
pub struct Submit {
    #[arg(long)]
    endpoint: String,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long, default_value_t = 64)]
    inflight: usize,
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

pub async fn submit(arguments: Submit) -> anyhow::Result<()> {
    ready(&arguments.endpoint).await?;
    let mut clients = Vec::new();
    for _ in 0..arguments.connections.max(1) {
        clients.push(tasks_client(&arguments.endpoint).await?);
    }
    keep_in_flight(arguments.inflight, Duration::from_secs(arguments.seconds), move |lane| {
        let mut client = clients[lane % clients.len()].clone();
        async move {
            client.submit(SubmitRequest { task: Some(task(lane)), ..Default::default() }).await?;
            Ok(())
        }
    })
    .await
}

/// A `Work` stream whose leases are answered by whoever reads it.
struct Worker {
    say: mpsc::Sender<WorkerMessage>,
    hear: tonic::Streaming<ServerMessage>,
}

impl Worker {
    async fn open(endpoint: &str, name: String, slots: u32) -> anyhow::Result<Self> {
        // One message to register and one for each lease that is out: it is never full.
        let (say, said) = mpsc::channel(usize::try_from(slots)? + 1);
        let register = Register {
            pool: POOL.to_owned(),
            slots,
            worker_name: name,
            protocol_version: PROTOCOL_VERSION,
            ..Default::default()
        };
        say.try_send(WorkerMessage { msg: Some(Say::Register(register)) })?;
        let mut client = WorkersClient::new(connect(endpoint).await?);
        let hear = client.work(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, hear })
    }

    /// Completes what comes, after `start` has seen its payload.
    async fn run(mut self, mut start: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        while let Some(message) = self.hear.message().await? {
            match message.msg {
                Some(Hear::Lease(lease)) => {
                    start(&lease.payload)?;
                    let complete = Complete { lease: lease.lease, ..Default::default() };
                    self.say.try_send(WorkerMessage { msg: Some(Say::Complete(complete)) })?;
                }
                Some(Hear::Abort(abort)) => bail!("cronoq-server took a lease back: {}", abort.reason),
                Some(Hear::Shutdown(shutdown)) => bail!("cronoq-server shuts down: {}", shutdown.reason),
                Some(Hear::Registered(_)) | None => (),
            }
        }
        bail!("cronoq-server ended the stream of a worker")
    }
}

#[derive(Args)]
pub struct Process {
    #[arg(long)]
    endpoint: String,
    /// So many wait
    #[arg(long)]
    tasks: u64,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    #[arg(long, default_value_t = 2_048)]
    slots: u32,
}

pub async fn process(arguments: Process) -> anyhow::Result<()> {
    ready(&arguments.endpoint).await?;
    let mut admin = AdminClient::new(connect(&arguments.endpoint).await?);
    let waiting = admin.snapshot(Empty {}).await?.into_inner().live_tasks;
    ensure!(waiting == arguments.tasks, "{waiting} tasks are there, {} should be", arguments.tasks);
    let ran = Arc::new(AtomicU64::new(0));
    let mut workers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let measuring = Measuring::begin();
    for number in 0..arguments.workers {
        let (endpoint, ran, slots) = (arguments.endpoint.clone(), ran.clone(), arguments.slots);
        workers.spawn(async move {
            let worker = Worker::open(&endpoint, format!("bench-{number}"), slots).await?;
            let count = |_: &[u8]| {
                ran.fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            worker.run(count).await
        });
    }
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now = ran.load(Ordering::Relaxed);
        if now >= arguments.tasks && admin.snapshot(Empty {}).await?.into_inner().live_tasks == 0 {
            ask_runner().await?;
            break;
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < STALLED, "nothing moved for {STALLED:?}; {now} of {} ran", arguments.tasks);
        if let Some(ended) = workers.try_join_next() {
            ended??;
        }
        tokio::time::sleep(POLL).await;
    }
    tell_throughput(arguments.tasks, measuring.end());
    Ok(())
}

#[derive(Args)]
pub struct Latency {
    #[arg(long)]
    endpoint: String,
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// So many tasks at first that do not count
    #[arg(long, default_value_t = 50)]
    warm_up: usize,
    /// So many tasks that count
    #[arg(long, default_value_t = 300)]
    tasks: usize,
    #[arg(long, default_value_t = 64)]
    slots: u32,
}

pub async fn latency(arguments: Latency) -> anyhow::Result<()> {
    ready(&arguments.endpoint).await?;
    let all = arguments.warm_up + arguments.tasks;
    let (started, mut starts) = mpsc::channel(all);
    let worker = Worker::open(&arguments.endpoint, "bench".to_owned(), arguments.slots).await?;
    let mut workers = JoinSet::new();
    workers.spawn(worker.run(move |payload| Ok(started.try_send((number_of(payload)?, Instant::now()))?)));

    let client = tasks_client(&arguments.endpoint).await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / arguments.rate));
    // A late tick is made up for, so the rate is kept.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let measuring = Measuring::begin();
    let mut calls: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut asked: Vec<Instant> = Vec::with_capacity(all);
    for number in 0..all {
        tick.tick().await;
        let mut client = client.clone();
        let request = SubmitRequest { task: Some(task(number)), ..Default::default() };
        asked.push(Instant::now());
        calls.spawn(async move {
            client.submit(request).await?;
            Ok(())
        });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    let mut times: Histogram<u64> = times()?;
    for _ in 0..all {
        let (number, at) = tokio::select! {
            start = tokio::time::timeout(STALLED, starts.recv()) => start?.context("the worker ended")?,
            Some(ended) = workers.join_next() => { ended??; bail!("the worker ended") }
        };
        if number >= arguments.warm_up {
            record(&mut times, at.saturating_duration_since(asked[number]));
        }
    }
    tell_times(&times, measuring.end());
    Ok(())
}
