//! N streams, each on a task of its own, while the tasks are leased, given back and completed.
//!
//! Drivers note which version each change made and when they asked for it; streams note which version arrived when.
//! At the end both are laid side by side: a noted version that did not arrive is missed, one that arrived twice is
//! duplicated.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Tell,
    load::{Load, connections},
    report::{Measuring, Times, Watch},
    runner::{PAUSE, may_pass},
};
use crate::{
    cli::{Context, connect::Api, time::to_duration},
    pb::{
        CompleteTasksRequest, LeaseTasksRequest, LeaseToken, LeasedTask, ReleaseTasksRequest, ReportResult,
        TaskCompletion, TaskRelease, WatchTasksRequest, task_event::Type,
    },
};

/// Changes come in batches of this size, so that a change waits little for others of its batch.
const BATCH: usize = 50;
const DRIVERS: usize = 4;
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// All streams are open within this time, or the run is given up.
const OPENING: Duration = Duration::from_secs(60);
/// Drivers that get no task for this long give up.
const STALLED: Duration = Duration::from_secs(30);
/// Events that have not arrived this long after the last change are missed.
const LAST_WAIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
/// Each task is leased and completed once at the end.
const LAST_EVENTS: u64 = 2;
const BYTES_PER_KIB: u64 = 1_024;

/// How many.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// So many streams
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    streams: u32,
    /// Over so many connections
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "C")]
    connections: u32,
    /// So many changes in all, at least two for each stream
    #[arg(long, default_value_t = 10_000, value_name = "E")]
    events: u64,
    /// So many changes a second; without, as fast as the server takes them
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "R")]
    rate: Option<u64>,
    /// The server's process on this machine, to see its memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Versions of one task and when each arrived.
type Arrivals = Vec<(i64, Instant)>;
/// Versions of one task and when each was asked for; leases may have waited for a task, so their time says nothing.
type Changes = Vec<(i64, Option<Instant>)>;
type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the streams, drives the tasks, compares.
pub async fn run(context: &Context, args: &WatchArgs) -> anyhow::Result<Watch> {
    let load = Load::new(context, 0);
    let streams = usize::try_from(args.streams)?;
    let apis = connections(context, usize::try_from(args.connections)?);
    let names = load.prepare(&context.api, streams).await?;

    let before = args.server_pid.map(resident_bytes).transpose()?;
    let open = Arc::new(AtomicU64::new(0));
    let done = CancellationToken::new();
    let mut watchers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut arrived: Vec<Shared<Arrivals>> = Vec::with_capacity(streams);
    for (number, name) in names.iter().enumerate() {
        let notes: Shared<Arrivals> = Arc::default();
        arrived.push(notes.clone());
        let watcher = Watcher {
            api: apis[number % apis.len()].clone(),
            request: WatchTasksRequest {
                parent: load.project.clone(),
                task: name.clone(),
                initial_state: true,
                ..Default::default()
            },
            open: open.clone(),
            arrived: notes,
        };
        let done = done.clone();
        watchers.spawn(async move {
            tokio::select! {
                () = done.cancelled() => Ok(()),
                ended = watcher.run() => ended,
            }
        });
    }
    until_open(&open, u64::from(args.streams), &mut watchers).await?;
    let after = args.server_pid.map(resident_bytes).transpose()?;
    eprintln!("{streams} streams are open");

    let measuring = Measuring::begin();
    let driven = drive(&context.api, &load, u64::from(args.streams), args.events, args.rate).await?;
    measuring.end();
    let last = Instant::now();
    // A stream on one task ends by itself when the task is final.
    while last.elapsed() < LAST_WAIT && !watchers.is_empty() {
        while let Some(ended) = watchers.try_join_next() {
            ended??;
        }
        tokio::time::sleep(POLL).await;
    }
    done.cancel();

    let memory = before.zip(after).map(|(before, after)| after.saturating_sub(before) / u64::from(args.streams));
    let compared = compare(&names, &driven, &arrived)?;
    Ok(Watch {
        scenario: "watch",
        streams: u64::from(args.streams),
        delivered: compared.delivered,
        missed: compared.missed,
        duplicated: compared.duplicated,
        p50_ms: compared.times.quantile_ms(0.50),
        p99_ms: compared.times.quantile_ms(0.99),
        server_rss_per_stream_bytes: memory,
    })
}

async fn until_open(open: &AtomicU64, streams: u64, watchers: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let began = Instant::now();
    while open.load(Ordering::Relaxed) < streams {
        if let Some(ended) = watchers.try_join_next() {
            ended??;
            bail!("the server ended a stream although its task is open");
        }
        if began.elapsed() > OPENING {
            let open = open.load(Ordering::Relaxed);
            bail!("only {open} of {streams} streams opened; use more --connections, or raise the server's limits");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// One stream.
struct Watcher {
    api: Api,
    request: WatchTasksRequest,
    open: Arc<AtomicU64>,
    arrived: Shared<Arrivals>,
}

impl Watcher {
    /// Until the task is final. A stream that breaks is resumed after its last token; repeats are counted, not hidden.
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            match self.one_stream().await {
                Ok(()) => return Ok(()),
                Err(status) if may_pass(&status) => tokio::time::sleep(PAUSE).await,
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn one_stream(&mut self) -> Result<(), Status> {
        let mut stream = self.api.tasks().watch_tasks(self.request.clone()).await?.into_inner();
        while let Some(message) = stream.message().await? {
            let now = Instant::now();
            for event in &message.events {
                match (event.r#type(), &event.task) {
                    (Type::Synced, _) => drop(self.open.fetch_add(1, Ordering::Relaxed)),
                    (Type::Added | Type::Modified | Type::Deleted, Some(task)) => {
                        lock(&self.arrived).push((task.version, now));
                    }
                    _ => (),
                }
            }
            if !message.resume_token.is_empty() {
                self.request.resume_token = message.resume_token;
                self.request.initial_state = false;
            }
        }
        Ok(())
    }
}

/// What the drivers share.
struct Drive {
    api: Api,
    load: Load,
    began: Instant,
    /// Changes a second.
    rate: Option<u64>,
    /// Changes that drivers have set out to make.
    begun: AtomicU64,
    /// Changes made so far.
    made: AtomicU64,
    /// Tasks completed so far.
    completed: AtomicU64,
    notes: Mutex<HashMap<String, Changes>>,
}

/// Leases and gives back until enough changes are made, then leases and completes every task.
async fn drive(
    api: &Api,
    load: &Load,
    tasks: u64,
    events: u64,
    rate: Option<u64>,
) -> anyhow::Result<HashMap<String, Changes>> {
    let drive = Arc::new(Drive {
        api: api.clone(),
        load: load.clone(),
        began: Instant::now(),
        rate,
        begun: AtomicU64::new(0),
        made: AtomicU64::new(0),
        completed: AtomicU64::new(0),
        notes: Mutex::default(),
    });
    let back_and_forth = events.saturating_sub(tasks * LAST_EVENTS);
    let mut drivers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for number in 0..DRIVERS {
        let drive = drive.clone();
        drivers.spawn(async move {
            let mut granted = Instant::now();
            while drive.completed.load(Ordering::Relaxed) < tasks {
                drive.keep_rate().await;
                let leased = drive.lease(number).await?;
                if !leased.is_empty() {
                    granted = Instant::now();
                    let complete = drive.made.load(Ordering::Relaxed) >= back_and_forth;
                    drive.settle(leased, complete).await?;
                } else if granted.elapsed() > STALLED {
                    bail!("no task was granted for {STALLED:?}");
                }
            }
            Ok(())
        });
    }
    while let Some(driver) = drivers.join_next().await {
        driver??;
    }
    Ok(std::mem::take(&mut *lock(&drive.notes)))
}

impl Drive {
    /// Waits until the next batch is due: each of its tasks changes twice, by the lease and by what ends it.
    async fn keep_rate(&self) {
        let Some(rate) = self.rate else { return };
        let changes = LAST_EVENTS * BATCH as u64;
        let before = self.begun.fetch_add(changes, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(before as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
    }

    async fn lease(&self, number: usize) -> Result<Vec<LeasedTask>, Status> {
        let request = LeaseTasksRequest {
            parent: self.load.project.clone(),
            identity: Some(self.load.worker(number, BATCH)),
            max_tasks: i32::try_from(BATCH).unwrap_or(i32::MAX),
            wait: Some(to_duration(LEASE_WAIT)),
            ..Default::default()
        };
        let call = self.api.call_waiting(request, LEASE_WAIT);
        let leased = self.api.workers().lease_tasks(call).await?.into_inner().tasks;
        self.note(leased.iter().filter_map(|leased| leased.task.as_ref()).map(|task| (&task.name, task.version)), None);
        Ok(leased)
    }

    /// Completes the tasks or gives them back; either makes the next version of each.
    async fn settle(&self, leased: Vec<LeasedTask>, complete: bool) -> anyhow::Result<()> {
        let asked = Instant::now();
        let results = self.report(leased.iter().filter_map(|leased| leased.token.clone()).collect(), complete).await?;
        for (leased, result) in leased.iter().zip(&results) {
            let task = leased.task.as_ref().context("the server granted a lease without its task")?;
            if let Some(refused) = result.status.as_ref().filter(|status| status.code != 0) {
                bail!("a report on {} was refused: {}", task.name, refused.message);
            }
            self.note(std::iter::once((&task.name, task.version + 1)), Some(asked));
        }
        if complete {
            self.completed.fetch_add(results.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn report(&self, tokens: Vec<LeaseToken>, complete: bool) -> Result<Vec<ReportResult>, Status> {
        let parent = self.load.project.clone();
        let tokens = tokens.into_iter().map(Some);
        if complete {
            let completions = tokens.map(|token| TaskCompletion { token, result: None }).collect();
            let request = self.api.call(CompleteTasksRequest { parent, completions });
            return Ok(self.api.workers().complete_tasks(request).await?.into_inner().results);
        }
        let releases = tokens.map(|token| TaskRelease { token, delay: None }).collect();
        let request = self.api.call(ReleaseTasksRequest { parent, releases });
        Ok(self.api.workers().release_tasks(request).await?.into_inner().results)
    }

    fn note<'a>(&self, changes: impl Iterator<Item = (&'a String, i64)>, asked: Option<Instant>) {
        let mut notes = lock(&self.notes);
        for (name, version) in changes {
            notes.entry(name.clone()).or_default().push((version, asked));
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Compared {
    delivered: u64,
    missed: u64,
    duplicated: u64,
    times: Times,
}

/// Lays what was done beside what arrived.
fn compare(
    names: &[String],
    driven: &HashMap<String, Changes>,
    arrived: &[Shared<Arrivals>],
) -> anyhow::Result<Compared> {
    let mut compared = Compared { delivered: 0, missed: 0, duplicated: 0, times: Times::new()? };
    for (name, arrived) in names.iter().zip(arrived) {
        let mut first: HashMap<i64, Instant> = HashMap::new();
        for (version, at) in lock(arrived).iter() {
            if first.contains_key(version) {
                compared.duplicated += 1;
            } else {
                first.insert(*version, *at);
            }
        }
        for (version, asked) in driven.get(name).map(Vec::as_slice).unwrap_or_default() {
            match first.get(version) {
                Some(at) => {
                    compared.delivered += 1;
                    if let Some(asked) = asked {
                        compared.times.record(at.saturating_duration_since(*asked));
                    }
                }
                None => compared.missed += 1,
            }
        }
    }
    Ok(compared)
}

/// The memory a process holds, from /proc.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).with_context(|| format!("{path} does not tell VmRSS"))?;
    Ok(kib * BYTES_PER_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_and_repeated_versions_are_told_apart() {
        let now = Instant::now();
        let names = ["a".to_owned(), "b".to_owned()];
        let changes = vec![(2, None), (3, Some(now))];
        let driven = HashMap::from([("a".to_owned(), changes.clone()), ("b".to_owned(), changes)]);
        let late = now + Duration::from_millis(10);
        let arrived = [vec![(2, late), (3, late), (3, late)], vec![(3, late)]].map(|notes| Arc::new(Mutex::new(notes)));
        let compared = compare(&names, &driven, &arrived).unwrap();
        assert_eq!((compared.delivered, compared.missed, compared.duplicated), (3, 1, 1));
        assert!((compared.times.quantile_ms(0.5) - 10.0).abs() < 0.1);
    }

    #[test]
    fn our_own_memory_can_be_read() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
    }
}
