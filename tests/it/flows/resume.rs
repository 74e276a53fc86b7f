//! A watch that is cut off again and again sees every revision exactly once, in order.

use std::time::Duration;

use tasktower::pb::{ErrorReason, WatchTasksRequest, WatchTasksResponse};
use tonic::{Status, Streaming};

use crate::support::{
    backend::{Database, for_each_backend},
    calls::{submit, task},
    client::Clients,
    history::{History, Known},
    invariants::{Inspector, When, assert_holds},
    load::{Load, PROJECT, Shape, read_events},
    server::Server,
    wait::{SOON, eventually},
};

const CUTS: usize = 200;
/// A stream begins with a bookmark, so some bring no event at all.
const CUT_WITHIN: usize = 3;
/// 200 streams and the pauses between them.
const CUTS_LIMIT: Duration = Duration::from_secs(60);
const DRAIN_LIMIT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_cut_two_hundred_times_under_load_see_every_revision_once() {
    for_each_backend(async |database| {
        let mut server = Server::start(database).await;
        let mut inspector = Inspector::open(database).await;
        let mut shape = Shape::on(&[server.endpoint()]);
        shape.watchers = 2;
        shape.watchers_cut_within = Some(CUT_WITHIN);
        let load = Load::start(shape).await;
        eventually("every watch was cut so often", CUTS_LIMIT, async || {
            let opened: Vec<usize> = load.history().with(|k| k.watches.values().map(|w| w.opened).collect());
            if opened.iter().all(|opened| *opened > CUTS) { Ok(()) } else { Err(format!("opened {opened:?}")) }
        })
        .await;
        let known = load.finish(&mut inspector, DRAIN_LIMIT).await;

        let facts = inspector.facts("default").await;
        let replayed = replay(&server, &known).await;
        server.kill();
        assert_holds(&facts, &known, When::Quiet);
        assert_holds(&facts, &replayed, When::Quiet);
        for (name, watched) in &known.watches {
            println!(
                "{}: {name} opened {} streams and saw {} events once each",
                database.backend(),
                watched.opened,
                watched.seen.len()
            );
        }
        inspector.close().await;
    })
    .await;
}

/// A watch that starts in the past is told all of it.
async fn replay(server: &Server, known: &Known) -> Known {
    let clients = Clients::connect(server).await;
    let from = known.watches.values().next().expect("there were watchers").clone();
    let mut stream = watch(&clients, &from.first_token).await.expect("the token is good");
    let history = History::default();
    history.watch("replay", |watched| watched.start = from.start);
    while history.with(|k| k.watches["replay"].seen.len()) < from.seen.len() {
        let message = next(&mut stream).await.expect("the journal is read");
        history.watch("replay", |watched| watched.seen.extend(read_events(&message)));
    }
    history.known()
}

#[tokio::test]
async fn a_token_of_another_database_or_of_nothing_is_refused() {
    for_each_backend(async |database| {
        let other = Database::fresh(database.backend()).await.expect("there was one a moment ago");
        let (server, other_server) = (Server::start(database).await, Server::start(&other).await);
        let (clients, others) = (Clients::connect(&server).await, Clients::connect(&other_server).await);
        submit(&others, task("t", "q")).await;
        let mut stream = watch(&others, "").await.expect("a watch");
        let token = next(&mut stream).await.expect("a bookmark").resume_token;
        assert!(watch(&others, &token).await.is_ok());
        for token in [token.as_str(), "nonsense", &token[1..]] {
            let status = match watch(&clients, token).await {
                Err(status) => status,
                Ok(mut stream) => next(&mut stream).await.expect_err("the token is bad"),
            };
            let error = tasktower::client::Error::from(status);
            assert_eq!(error.reason(), ErrorReason::ResumeInvalid, "{error}");
        }
    })
    .await;
}

async fn watch(clients: &Clients, token: &str) -> Result<Streaming<WatchTasksResponse>, Status> {
    let (parent, resume_token) = (PROJECT.to_owned(), token.to_owned());
    let request = WatchTasksRequest { parent, resume_token, ..WatchTasksRequest::default() };
    Ok(clients.tasks().watch_tasks(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchTasksResponse>) -> Result<WatchTasksResponse, Status> {
    let message = tokio::time::timeout(SOON, stream.message()).await.expect("a message in time");
    message.map(|message| message.expect("the stream does not end by itself"))
}
