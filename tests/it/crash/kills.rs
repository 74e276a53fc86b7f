//! The server is killed in the middle of a load, again and again: by SIGKILL at moments a seed draws, and by itself at
//! each failpoint. Nothing acknowledged is lost, nothing happens twice, nothing is stuck, and it is soon back.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use rand::RngExt as _;
use tasktower::faults::Point;

use super::plan;
use crate::support::{
    backend::{Backend, Database},
    invariants::{Inspector, When, assert_holds},
    load::{Load, Shape},
    server::Server,
    wait::{SOON, eventually},
};

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
/// From the last submit until everything is done: leases nobody knows of, slow tasks three times, and the work itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// A crash at a failpoint comes after so many times at most, all but always.
const CRASH_LIMIT: Duration = Duration::from_secs(30);
/// A few of a hundred commits break, so it takes thousands of calls.
const BREAKS_LIMIT: Duration = Duration::from_secs(600);
/// Connections that the pools of a server may open while it works, each up to three files on SQLite.
const POOLED: usize = 24;
/// Calls between two kills.
const CALLS: std::ops::Range<usize> = 20..100;

/// From the start of the process until it answers calls, on an existing database.
fn ready_within(backend: Backend) -> Duration {
    match backend {
        Backend::Sqlite => Duration::from_secs(3),
        Backend::Postgres => Duration::from_secs(5),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_a_load_lose_nothing() {
    plan::on_each_backend(async |database| kill_again_and_again(database, plan::many(8, 200)).await).await;
}

async fn kill_again_and_again(database: &Database, kills: usize) {
    let mut random = plan::random(database.backend() as u64);
    let mut lane = Lane::start(database, plan::many(false, true)).await;
    let (mut in_flight, mut hits) = (0, 0);
    for _ in 0..kills {
        let load = lane.load();
        load.advance(random.random_range(CALLS), SOON).await;
        let (flying, broken) = load.history().with(|known| (known.in_flight, known.broken));
        lane.server.kill();
        let status = lane.server.process().exited(SOON).await;
        assert_eq!(status.signal(), Some(SIGKILL), "the server was alive until it was killed");
        lane.restart(&[]).await;
        let broke = lane.load().history().with(|known| known.broken) - broken;
        in_flight += flying;
        // Sometimes every answer is on its way already.
        hits += usize::from(flying > 0 && broke > 0);
    }
    assert!(hits * 10 >= kills * 9, "of {kills} kills only {hits} broke a call");
    lane.finish(&format!("{kills} kill -9, {in_flight} calls in flight, {hits} kills broke some")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_at_every_failpoint_lose_nothing() {
    if !plan::has_failpoints() {
        return;
    }
    plan::on_each_backend(async |database| {
        let mut random = plan::random(10 + database.backend() as u64);
        let mut lane = Lane::start(database, false).await;
        let rounds = plan::many(1, 10);
        for point in (0..rounds).flat_map(|_| Point::ALL) {
            let time: u32 = random.random_range(20..80);
            let fault = format!("{}=abort@{time}", point.name());
            lane.server.kill();
            lane.restart(&[("TASKTOWER_FAILPOINTS", &fault)]).await;
            let history = lane.load().shared_history();
            let ended = async || lane.server.process().ended().ok_or_else(|| history.state());
            let status = eventually("the server reaches the point", CRASH_LIMIT, ended).await;
            let log = lane.server.process().log();
            let happened = log.lines().filter(|line| *line == format!("failpoint {}: Abort", point.name())).count();
            assert!(status.signal() == Some(SIGABRT) && happened > 0, "{fault} did not happen: {status:?}");
            lane.restart(&[]).await;
            lane.load().advance(CALLS.start, SOON).await;
        }
        lane.finish(&format!("{} crashes at failpoints", rounds * Point::ALL.len())).await;
    })
    .await;
}

/// A COMMIT whose answer is lost, or that was never sent: the lane finds out which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_without_an_answer_are_found_out() {
    if !plan::has_failpoints() {
        return;
    }
    plan::on_each_backend(async |database| {
        let mut lane = Lane::start(database, false).await;
        let faults = "before_begin=error@1/60;after_begin=error@1/60;before_commit=error@1/25;after_commit=error@1/25";
        let seed = plan::seed().to_string();
        lane.server.kill();
        lane.restart(&[("TASKTOWER_FAILPOINTS", faults), ("TASKTOWER_FAILPOINTS_SEED", &seed)]).await;
        let wanted = plan::many(6, 200);
        let counted = |log: &str, point: &str| log.matches(&format!("failpoint {point}: Error")).count();
        eventually("enough commits broke", BREAKS_LIMIT, async || {
            let log = lane.server.process().log();
            let counts = ["before_commit", "after_commit"].map(|point| counted(&log, point));
            if counts.iter().all(|count| *count >= wanted) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        let log = lane.server.process().log();
        let counts = Point::ALL.map(|point| (point.name(), counted(&log, point.name())));
        lane.finish(&format!("steps of transactions that failed: {:?}", &counts[..4])).await;
    })
    .await;
}

/// A server, a load on it, and what is asserted of both after each fault and in the end.
struct Lane<'a> {
    database: &'a Database,
    server: Server,
    inspector: Inspector,
    load: Option<Load>,
    slowest_start: Duration,
}

impl Lane<'_> {
    async fn start(database: &Database, slow_tasks: bool) -> Lane<'_> {
        let server = Server::start(database).await;
        let inspector = Inspector::open(database).await;
        let mut shape = Shape::on(&[server.endpoint()]);
        shape.slow_tasks = slow_tasks;
        shape.bursts = true;
        let load = Some(Load::start(shape).await);
        Lane { database, server, inspector, load, slowest_start: Duration::ZERO }
    }

    fn load(&self) -> &Load {
        self.load.as_ref().expect("the load runs until the end")
    }

    async fn restart(&mut self, faults: &[(&str, &str)]) {
        self.server.set_faults(faults);
        self.server.restart().await;
        let took = self.server.started_within();
        let limit = ready_within(self.database.backend());
        assert!(took <= limit, "ready after {took:?}, promised are {limit:?}");
        self.slowest_start = self.slowest_start.max(took);
        assert_eq!(self.inspector.idle_in_transaction().await, Vec::<String>::new());
    }

    async fn finish(mut self, what: &str) {
        let load = self.load.take().expect("the load runs until here");
        // The last life is counted from a start without clients.
        let known = load.finish(&mut self.inspector, DRAIN_LIMIT).await;
        let facts = self.inspector.facts("default").await;
        assert_holds(&facts, &known, When::Quiet);
        let descriptors = settled_descriptors(&mut self.server).await;
        plan::report(&format!(
            "{}: {what}; {}; {} revisions; slowest start {} ms; {descriptors} descriptors left; 0 violations",
            self.database.backend(),
            plan::figures(&known),
            facts.last_revision(),
            self.slowest_start.as_millis(),
        ));
        self.inspector.close().await;
    }
}

/// The descriptors of a server whose clients are gone: those it starts with, and its pools.
async fn settled_descriptors(server: &mut Server) -> usize {
    let busy = server.process().descriptors();
    server.set_faults(&[]);
    let settled = eventually("connections of clients are closed", SOON, async || {
        let sockets = server.connections();
        if sockets == 0 { Ok(server.process().descriptors()) } else { Err(format!("{sockets} sockets")) }
    })
    .await;
    server.restart().await;
    let fresh = server.process().descriptors();
    assert!(settled <= fresh + POOLED, "{settled} descriptors after the load ({busy} before), {fresh} after a start");
    settled
}
