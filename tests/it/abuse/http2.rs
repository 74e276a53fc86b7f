//! Attacks on HTTP/2 itself, one after another on one server (`attacks`). While each runs, an honest client on its own
//! connection meets no error, and neither do those that come new; the server's log does not fill, its memory comes back,
//! and afterwards it answers as before.
//!
//! In the full form the rest of the promise is measured, about which a debug build among other tests says little: memory
//! grows by at most [`GROWTH`]; the honest client's p99 is at most [`SLOWDOWN`] times its own, measured just before; who
//! comes new is served within [`SERVED_WITHIN`]. The short form allows [`SHORT_MARGIN`] times the memory.
//!
//! The database plays no part in this, so it is SQLite.

use std::{fs, net::SocketAddr, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tasktower::{client::payload, pb};

use super::{
    attacks::{Attack, LARGE},
    good_client::GoodClient,
    is_full,
    memory::resident,
};
use crate::support::{
    backend::Database,
    client::Clients,
    server::Server,
    wait::{eventually, pause},
};

/// What the server's memory may grow by under attack.
const GROWTH: u64 = 100 << 20;
/// What may be left of that afterwards: the caches of the connections to the database have grown, and the allocator keeps
/// as much again for the next time.
const LEFT: u64 = 48 << 20;
/// Until the memory is back: connections are noticed to be gone, and the allocator gives back what is idle.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// By how much the short form may exceed the two: a debug build among other tests takes longer to read and to free. What
/// has no bound takes more than that even in its short time.
const SHORT_MARGIN: u64 = 3;
/// How much slower the honest client may get, at its p99.
const SLOWDOWN: u32 = 3;
/// A p99 below this is good whatever it was before: the attacker, the server and the honest client share two cores, so a
/// thread may wait for one or two time slices of the scheduler (3 ms each) however well the server behaves.
const NOT_SLOW: Duration = Duration::from_millis(15);
/// From the first packet of a client that comes new to its second answer, whatever crowd is there: the kernel's queue, from
/// which 500 connections a second are taken; up to three seconds until it tries again if that is full; and the rest after
/// attackers were cut off.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// What an attack may add to the log.
const LOG: usize = 1 << 20;
/// Connections of the attacks that are about their number.
const CROWD: usize = 10_000;
/// Descriptors a process needs besides those connections.
const SPARE_DESCRIPTORS: u64 = 1_000;
/// Tasks with a large input, so that a page of them is as large as answers get.
const LARGE_TASKS: usize = 64;
const LARGE_INPUT: usize = 64 * 1024;
/// Pages of them that are read before: several for each connection to the database.
const LARGE_PAGES: usize = 40;

/// How long and how large.
struct Form {
    before: Duration,
    during: Duration,
    crowd: usize,
    growth: u64,
    left: u64,
}

impl Form {
    fn of_this_run() -> Form {
        if is_full() {
            let (before, during) = (Duration::from_secs(3), Duration::from_secs(8));
            Form { before, during, crowd: CROWD, growth: GROWTH, left: LEFT }
        } else {
            let (before, during) = (Duration::from_millis(200), Duration::from_millis(600));
            let (growth, left) = (GROWTH * SHORT_MARGIN, LEFT * SHORT_MARGIN);
            Form { before, during, crowd: CROWD / 20, growth, left }
        }
    }
}

/// As many descriptors as this process may have; its children inherit that. Answers how large a crowd fits.
fn raise_descriptors(crowd: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let possible = usize::try_from(maximum.unwrap_or(u64::MAX).saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(usize::MAX);
    if possible < crowd {
        eprintln!("\n*** ONLY {possible} connections instead of {crowd}: `ulimit -Hn` allows no more. ***\n");
    }
    possible.min(crowd)
}

async fn submit_large_tasks(clients: &Clients) {
    for _ in 0..LARGE_TASKS {
        let input = payload::json("x".repeat(LARGE_INPUT)).expect("a text is JSON");
        let task = pb::Task { r#type: LARGE.into(), queue: LARGE.into(), input: Some(input), ..Default::default() };
        let submit = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        clients.tasks().submit_task(submit).await.expect("a good submit");
    }
}

/// Reads pages as large as they get, so that every connection to the database has served one: what that takes, caches and
/// the allocator's pages of ten threads, is not the attacks'.
async fn read_large_tasks(clients: &Clients) {
    let mut pages = tokio::task::JoinSet::new();
    for _ in 0..LARGE_PAGES {
        let mut tasks = clients.tasks().max_decoding_message_size(LARGE_TASKS * LARGE_INPUT * 2);
        let view = pb::TaskView::Full.into();
        let list = pb::ListTasksRequest { view, page_size: 1_000, ..Default::default() };
        pages.spawn(async move { tasks.list_tasks(list).await.expect("a good list") });
    }
    while let Some(page) = pages.join_next().await {
        assert!(!page.expect("no panic").into_inner().tasks.is_empty());
    }
}

/// Attacks on a thread of its own until it is dropped.
struct Attacker {
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Attacker {
    fn start(attack: Attack, server: SocketAddr, crowd: usize) -> Attacker {
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = attack.run(server, crowd) => {}
                    _ = stopped => {}
                }
            });
        });
        Attacker { _stop }
    }
}

const MIB: f64 = (1 << 20) as f64;

/// One attack; what went wrong.
async fn withstand(attack: Attack, form: &Form, server: &mut Server) -> Vec<String> {
    let address = server.endpoint().trim_start_matches("http://").parse().expect("an address");
    let process = server.process().id();
    let mut faults = Vec::new();
    let client = GoodClient::start(server.endpoint());
    pause("its connection is warm", Duration::from_millis(100)).await;
    client.since_last();
    pause("the calm before", form.before).await;
    let mut calm = client.with_the_next().await;
    let (log_before, memory_before) = (server.process().log().len(), resident(process));

    let attacker = Attacker::start(attack, address, form.crowd);
    let mut most = memory_before;
    let until = std::time::Instant::now() + form.during;
    while std::time::Instant::now() < until {
        pause("the attack goes on", Duration::from_millis(20)).await;
        most = most.max(resident(process));
    }
    // While the attack goes on.
    let mut attacked = client.with_the_next().await;
    drop(attacker);

    // The honest client goes on: the allocator gives memory back in the course of work, not by itself.
    let back = eventually_back(process, memory_before + form.left).await;
    attacked.add_late(client.end());
    let (calm_p99, attacked_p99) = (calm.quantile(0.99), attacked.quantile(0.99));
    let grown = most.saturating_sub(memory_before);
    let logged = server.process().log().len() - log_before;
    eprintln!(
        "{:<22} p50 {:>8.2?} → {:>8.2?}  p99 {:>8.2?} → {:>8.2?}  {attacked}; memory +{:.1} MiB, then {:+.1} MiB; log {} KiB",
        format!("{attack:?}"),
        calm.quantile(0.5),
        attacked.quantile(0.5),
        calm_p99,
        attacked_p99,
        grown as f64 / MIB,
        back.unwrap_or_else(|now| now) as f64 / MIB - memory_before as f64 / MIB,
        logged / 1024,
    );
    faults.extend(attacked.errors.iter().take(3).map(|error| format!("{attack:?}: the honest client met {error}")));
    if grown > form.growth {
        faults.push(format!("{attack:?}: memory grew by {:.1} MiB", grown as f64 / MIB));
    }
    if back.is_err() {
        faults.push(format!("{attack:?}: the memory does not come back"));
    }
    if logged > LOG {
        faults.push(format!("{attack:?}: it put {logged} bytes into the log"));
    }
    let longest_visit = attacked.longest_visit();
    if is_full() && longest_visit > SERVED_WITHIN {
        faults.push(format!("{attack:?}: who came new was served after {longest_visit:?}"));
    }
    if is_full() && attacked_p99 > (calm_p99 * SLOWDOWN).max(NOT_SLOW) {
        faults.push(format!("{attack:?}: the honest client's p99 rose from {calm_p99:?} to {attacked_p99:?}"));
    }
    faults
}

/// Waits until the memory is back; answers what it is then, or what it is if it is not.
async fn eventually_back(process: u32, limit: u64) -> Result<u64, u64> {
    let until = std::time::Instant::now() + BACK_WITHIN;
    loop {
        let now = resident(process);
        if now <= limit {
            return Ok(now);
        }
        if std::time::Instant::now() > until {
            return Err(now);
        }
        pause("connections are cleared away", Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_are_withstood() {
    let mut form = Form::of_this_run();
    form.crowd = raise_descriptors(form.crowd);
    let database = Database::sqlite();
    let mut server = Server::start(&database).await;
    let clients = Clients::connect(&server).await;
    submit_large_tasks(&clients).await;
    read_large_tasks(&clients).await;
    let process = server.process().id();
    let at_first = resident(process);
    let only = std::env::var("TASKTOWER_ABUSE_ONLY").unwrap_or_default();
    let mut faults = Vec::new();
    for attack in Attack::ALL {
        if format!("{attack:?}").contains(&only) {
            faults.extend(withstand(attack, &form, &mut server).await);
        }
    }
    let client = GoodClient::start(server.endpoint());
    let left = eventually_back(process, at_first + form.left).await;
    drop(client.end());
    eprintln!("memory {:.1} MiB at first, {:?} after all", at_first as f64 / MIB, left.map(|now| now as f64 / MIB));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    assert!(left.is_ok(), "each attack left a little");
    // The server is well: an old connection and a new one.
    for clients in [clients, Clients::connect(&server).await] {
        clients.tasks().list_tasks(pb::ListTasksRequest::default()).await.expect("it serves on");
    }
    eventually("the crowd is gone", BACK_WITHIN, async || {
        let open = fs::read_dir(format!("/proc/{process}/fd")).expect("the process runs").count();
        if open < 100 { Ok(()) } else { Err(format!("{open} descriptors are open")) }
    })
    .await;
    let log = server.process().log();
    assert!(!log.contains("panicked"), "something panicked: {log}");
}
