//! Servers come and go; the client library does not notice more than a pause.

use std::{future::pending, time::Duration};

use futures_util::StreamExt as _;
use tasktower::{
    client::{Client, WatchOptions},
    pb::task_event,
};

use crate::support::{
    backend::for_each_backend,
    client::Clients,
    credentials,
    invariants::{Inspector, When, assert_holds},
    load::{Load, Shape, read_event, revision},
    server::Server,
    wait::{SOON, eventually},
};

/// Load balancers are given a second in these tests.
const DRAIN_DELAY: [&str; 2] = ["--drain-delay-seconds", "1"];
/// The promise: gone within 30 s of the signal, whatever is open.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const DRAIN_LIMIT: Duration = Duration::from_secs(40);
/// Calls that are acknowledged between two stops.
const CALLS: usize = 150;
const STOPS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_nothing_and_workers_come_back_by_themselves() {
    for_each_backend(async |database| {
        let mut server = Server::start_with(database, &DRAIN_DELAY).await;
        let mut inspector = Inspector::open(database).await;
        let mut shape = Shape::on(&[server.endpoint()]);
        shape.workers = 1;
        shape.runtime_workers = 2;
        let load = Load::start(shape).await;
        for _ in 0..STOPS {
            load.advance(CALLS, SOON).await;
            let handled = load.history().with(|k| k.handled.len());
            let status = server.stop(STOP_LIMIT).await;
            assert!(status.success(), "a polite stop ends well: {status}");
            server.restart().await;
            eventually("the runtime's workers work again", SOON, async || {
                let now = load.history().with(|k| k.handled.len());
                if now > handled + 10 { Ok(()) } else { Err(format!("{} tasks handled since the stop", now - handled)) }
            })
            .await;
        }
        let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
        assert!(known.reported_by_runtime > 0);
        server.kill();
        let facts = inspector.facts("default").await;
        assert_holds(&facts, &known, When::Quiet);
        println!(
            "{}: {STOPS} stops; acknowledged: {} calls, {} submits, {} completions by calls, {} reports by the runtime; {} \
             broken",
            database.backend(),
            known.acknowledged,
            known.submits.len(),
            known.completions.len(),
            known.reported_by_runtime,
            known.broken
        );
        inspector.close().await;
    })
    .await;
}

const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_watch_survives_kills_without_a_gap() {
    for_each_backend(async |database| {
        let mut server = Server::start(database).await;
        let mut inspector = Inspector::open(database).await;
        let client = Client::builder()
            .endpoint(server.endpoint())
            .api_key(credentials::key())
            .connect()
            .await
            .expect("the server is there");
        let start = revision(&Clients::connect(&server).await).await;
        let mut watch = client.watch(WatchOptions::all().with_bookmarks());
        let first = watch.next().await.expect("the watch begins").expect("with a bookmark");
        assert_eq!(first.r#type(), task_event::Type::Bookmark);

        let load = Load::start(Shape::on(&[server.endpoint()])).await;
        load.history().watch("client", |watched| {
            watched.start = start;
            watched.opened = 1;
        });
        let history = load.shared_history();
        let watching = tokio::spawn(async move {
            while let Some(event) = watch.next().await {
                match event {
                    Ok(event) if event.r#type() == task_event::Type::Bookmark => {}
                    Ok(event) => history.watch("client", |watched| watched.seen.push(read_event(&event))),
                    Err(error) => return history.surprise(format!("the watch ended: {error}")),
                }
            }
            pending().await
        });
        for _ in 0..KILLS {
            load.advance(CALLS, SOON).await;
            server.kill();
            server.restart().await;
        }
        // Waits for this watcher too.
        let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
        watching.abort();
        server.kill();
        assert_holds(&inspector.facts("default").await, &known, When::Quiet);
        println!("{}: {KILLS} kills, {} events once each", database.backend(), known.watches["client"].seen.len());
        inspector.close().await;
    })
    .await;
}
