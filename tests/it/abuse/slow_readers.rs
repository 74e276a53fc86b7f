//! Fifty clients open a watch and do not read it: they answer PINGs, so their connections live, and never widen the
//! window. Under 500 events a second they cost the server at most [`COST`] together, the watchers that read miss
//! nothing, and, in the full form, see their events with a p99 of at most [`SLOWDOWN`] times what it was before.
//!
//! The full form lasts longer than the minute after which the server ends such a watch (`app/watch.rs`).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tasktower::pb;
use tokio::task::JoinSet;

use super::{is_full, memory::resident};
use crate::support::{
    backend::{Database, for_each_backend},
    client::Clients,
    raw::{Raw, call},
    server::Server,
    wait::{SOON, eventually, pause},
};

const READERS: usize = 50;
/// Watchers that read.
const WATCHERS: usize = 5;
/// What all slow readers together may cost, in bytes of the server's memory.
const COST: u64 = 64 << 20;
/// How much later the others may see their events, at their p99.
const SLOWDOWN: u32 = 2;
/// A p99 below this is good whatever it was before: the whole test shares two cores (see `http2`).
const NOT_LATE: Duration = Duration::from_millis(20);
/// 500 events a second, in batches.
const BATCH: usize = 25;
const BATCH_EVERY: Duration = Duration::from_millis(50);

/// When each task was sent, and how long after that watchers saw it.
#[derive(Default)]
struct Seen {
    sent: HashMap<String, Instant>,
    late: Vec<Duration>,
}

impl Seen {
    /// Forgets what was seen; answers the p99 and how many there were.
    fn take(&mut self) -> (Duration, usize) {
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        let p99 = late.get(late.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
        (p99, late.len())
    }
}

/// Submits at a steady rate for a while; answers how many tasks.
async fn submit(clients: &Clients, seen: &Mutex<Seen>, duration: Duration) -> usize {
    let started = Instant::now();
    let mut batches = 0;
    while started.elapsed() < duration {
        let request = || {
            let task_id = uuid::Uuid::now_v7().to_string();
            let task = pb::Task { r#type: "seen".into(), queue: "seen".into(), ..Default::default() };
            pb::SubmitTaskRequest { task: Some(task), task_id, ..Default::default() }
        };
        let requests: Vec<_> = (0..BATCH).map(|_| request()).collect();
        {
            let now = Instant::now();
            let mut seen = seen.lock().expect("nobody panics while it is held");
            seen.sent.extend(requests.iter().map(|request| (request.task_id.clone(), now)));
        }
        let batch = pb::BatchSubmitTasksRequest { requests, ..Default::default() };
        clients.tasks().batch_submit_tasks(batch).await.expect("a good submit");
        batches += 1;
        let due = BATCH_EVERY * batches;
        pause("the rate", due.saturating_sub(started.elapsed())).await;
    }
    batches as usize * BATCH
}

/// Reads a watch for ever.
async fn watch(clients: Clients, seen: Arc<Mutex<Seen>>, opened: tokio::sync::mpsc::Sender<()>) {
    let watch = clients.tasks().watch_tasks(pb::WatchTasksRequest::default()).await.expect("a watch");
    let mut watch = watch.into_inner();
    opened.send(()).await.expect("the test waits for it");
    while let Some(batch) = watch.message().await.expect("a watch that is read goes on") {
        let now = Instant::now();
        let mut seen = seen.lock().expect("nobody panics while it is held");
        for task in batch.events.iter().filter_map(|event| event.task.as_ref()) {
            let id = task.name.rsplit('/').next().unwrap_or_default();
            let late = seen.sent.get(id).map(|sent| now - *sent);
            seen.late.extend(late);
        }
    }
}

async fn open_unread(server: SocketAddr) -> Raw {
    let mut raw = Raw::connect(server, &[]).await.expect("connected");
    raw.send(&call(1, "/tasktower.v1.TaskService/WatchTasks", &[])).await.expect("sent");
    raw
}

async fn withstand(database: &Database) {
    let phase = Duration::from_secs(if is_full() { 65 } else { 4 });
    let mut server = Server::start(database).await;
    let process = server.process().id();
    let clients = Clients::connect(&server).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut watchers = JoinSet::new();
    let (opened, mut is_open) = tokio::sync::mpsc::channel(WATCHERS);
    for _ in 0..WATCHERS {
        watchers.spawn(watch(Clients::connect(&server).await, seen.clone(), opened.clone()));
        is_open.recv().await.expect("it opens");
    }
    let all_seen = async |tasks: usize| {
        let what = format!("{WATCHERS} watchers see {tasks} tasks");
        eventually(&what, SOON, async || {
            let count = seen.lock().expect("nobody panics while it is held").late.len();
            if count == tasks * WATCHERS { Ok(()) } else { Err(format!("{count} events")) }
        })
        .await;
        seen.lock().expect("nobody panics while it is held").take()
    };
    // Warm, then alone.
    let tasks = submit(&clients, &seen, phase / 4).await;
    all_seen(tasks).await;
    let tasks = submit(&clients, &seen, phase / 2).await;
    let (alone, _) = all_seen(tasks).await;

    let address = server.endpoint().trim_start_matches("http://").parse().expect("an address");
    let before = resident(process);
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let mut raw = open_unread(address).await;
        readers.spawn(async move { raw.closed_within(Duration::MAX).await });
    }
    let most = Arc::new(AtomicU64::new(before));
    let sampled = most.clone();
    let sampler = tokio::spawn(async move {
        loop {
            sampled.fetch_max(resident(process), Ordering::Relaxed);
            pause("between two looks", Duration::from_millis(50)).await;
        }
    });
    let tasks = submit(&clients, &seen, phase).await;
    let (together, events) = all_seen(tasks).await;
    sampler.abort();
    let cost = most.load(Ordering::Relaxed).saturating_sub(before);
    assert!(readers.try_join_next().is_none(), "a reader was cut off, so it did not count");
    eprintln!(
        "{}: {READERS} slow readers for {phase:?}: memory +{:.1} MiB; the others saw {events} events, p99 {alone:.1?} → \
         {together:.1?}",
        database.backend(),
        cost as f64 / (1 << 20) as f64,
    );
    assert!(cost <= COST, "the slow readers cost {cost} bytes");
    if is_full() {
        assert!(together <= (alone * SLOWDOWN).max(NOT_LATE), "the others' p99 rose from {alone:?} to {together:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_do_not_read_cost_little_and_delay_nobody() {
    for_each_backend(withstand).await;
}
