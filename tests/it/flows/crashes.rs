//! `kill -9` of the server in the middle of a load, again and again: nothing acknowledged is lost, nothing happens twice,
//! nothing is stuck.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use crate::support::{
    backend::{Database, for_each_backend},
    invariants::{Inspector, When, assert_holds},
    load::{Load, Shape},
    server::Server,
    wait::SOON,
};

const KILLS: usize = 20;
const SIGKILL: i32 = 9;
/// From the last submit until everything is done: a lease nobody knows of, twice, and the work itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(40);

/// How far the clients were when the server was killed.
#[derive(Debug)]
struct Kill {
    acknowledged: usize,
    in_flight: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_in_the_middle_of_a_load_lose_nothing() {
    for_each_backend(async |database| kill_again_and_again(database).await).await;
}

async fn kill_again_and_again(database: &Database) {
    let mut server = Server::start(database).await;
    let mut inspector = Inspector::open(database).await;
    let load = Load::start(Shape::on(&[server.endpoint()])).await;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        load.advance(rand::random_range(40..120), SOON).await;
        assert_eq!(inspector.idle_in_transaction().await, Vec::<String>::new());
        let (kill, broken) =
            load.history().with(|k| (Kill { acknowledged: k.acknowledged, in_flight: k.in_flight }, k.broken));
        server.kill();
        let status = server.process().exited(SOON).await;
        assert_eq!(status.signal(), Some(SIGKILL), "the server was alive until it was killed");
        server.restart().await;
        let broke = load.history().with(|k| k.broken) - broken;
        assert!(kill.in_flight > 0 && broke > 0, "the kill hit nobody: {kill:?}, then {broke} calls broke");
        kills.push(kill);
    }
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    assert_eq!(inspector.idle_in_transaction().await, Vec::<String>::new());
    server.kill();
    let facts = inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    assert_eq!(kills.len(), KILLS);
    assert!(kills.windows(2).all(|pair| pair[0].acknowledged < pair[1].acknowledged), "work went on: {kills:?}");
    assert!(known.watches.values().all(|watched| watched.opened > KILLS), "each kill cut the watch");
    println!(
        "{}: {KILLS} kills with {} calls in flight; acknowledged: {} calls, {} submits, {} completions; {} broken; \
         {} revisions; {:?}",
        database.backend(),
        kills.iter().map(|kill| kill.in_flight).sum::<usize>(),
        known.acknowledged,
        known.submits.len(),
        known.completions.len(),
        known.broken,
        facts.last_revision(),
        known.outcomes,
    );
    inspector.close().await;
}
