//! A replica is frozen inside its COMMIT: everything is written, the project's counter is locked, and nobody finishes.
//! The other replicas of the project wait for as long as PostgreSQL lets an idle transaction be, and no longer.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tasktower::pb::SubmitTaskRequest;

use super::plan;
use crate::support::{
    backend::{Backend, Database},
    calls::{cancel, complete, lease, submit, task, token},
    client::Clients,
    history::Known,
    invariants::{Inspector, When, assert_holds},
    load::PROJECT,
    server::Server,
    wait::{SOON, eventually},
};

/// How long other writers of the project may be held.
const HELD_AT_MOST: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_frozen_inside_a_commit_holds_others_for_a_moment_only() {
    if !plan::has_failpoints() {
        return;
    }
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let armed = folder.path().join("armed");
    let fault = format!("before_commit=pause@{}", armed.display());
    let mut frozen = Server::start_with_faults(&database, &[("TASKTOWER_FAILPOINTS", &fault)]).await;
    let other = Server::start(&database).await;
    let (on_frozen, on_other) = (Clients::connect(&frozen).await, Clients::connect(&other).await);
    let mut inspector = Inspector::open(&database).await;
    let mut held = Vec::new();
    for round in 0..plan::many(2, 20) {
        let leased = prepare(&on_other).await;
        let paused = pauses(&mut frozen);
        File::create(&armed).expect("the folder is there");
        let caught = on_frozen.clone();
        let caught = tokio::spawn(async move {
            let request = SubmitTaskRequest {
                parent: PROJECT.to_owned(),
                task: Some(task("t", "q")),
                request_id: format!("caught-{round}"),
                ..SubmitTaskRequest::default()
            };
            caught.tasks().submit_task(request).await
        });
        eventually("a batch is about to commit", SOON, async || match pauses(&mut frozen) - paused {
            0 => Err("none is"),
            _ => Ok(()),
        })
        .await;
        frozen.process().freeze();
        held.push(write_everything(&on_other, leased).await);
        frozen.process().thaw();
        std::fs::remove_file(&armed).expect("it was armed");
        // It was told that its connection is gone, finds that nothing is there, and does it again; or it was too late.
        let answer = caught.await.expect("the caller panics on nothing");
        if let Err(status) = answer {
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
        }
    }
    let slowest = held.iter().max().copied().unwrap_or_default();
    assert!(slowest <= HELD_AT_MOST, "held for {slowest:?}");
    assert!(slowest >= Duration::from_secs(1), "nobody waited, so nothing was locked: {slowest:?}");
    assert_holds(&inspector.facts("default").await, &Known::default(), When::Busy);
    plan::report(&format!(
        "PostgreSQL: a replica frozen inside {} commits held other writers of its project for {} ms at most",
        held.len(),
        slowest.as_millis(),
    ));
    inspector.close().await;
}

fn pauses(server: &mut Server) -> usize {
    server.process().log().matches("failpoint before_commit: Pause").count()
}

/// A task that runs and one that waits.
async fn prepare(clients: &Clients) -> (tasktower::pb::LeaseToken, String) {
    submit(clients, task("mine", "q")).await;
    let leased = lease(clients, "w", "mine", "q", 1, SOON).await;
    (token(&leased[0]), submit(clients, task("waits", "q")).await)
}

/// One write of each lane on the other replica, all at once; how long the slowest took.
async fn write_everything(clients: &Clients, (token, waiting): (tasktower::pb::LeaseToken, String)) -> Duration {
    let began = Instant::now();
    let submits = join_all((0..4).map(|_| submit(clients, task("mine", "q"))));
    let completes = async { assert!(complete(clients, &token, "done").await.is_none()) };
    let cancels = async { drop(cancel(clients, &waiting, "no need").await) };
    tokio::join!(submits, completes, cancels);
    began.elapsed()
}
