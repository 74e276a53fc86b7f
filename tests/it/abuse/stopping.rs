//! SIGTERM in the worst company: under load, with watches that are read and watches that are not, with connections that
//! never spoke, that stopped in the middle of the preface or of a message, and with answers nobody takes. The server is
//! gone within [`STOP_LIMIT`] every time, nothing acknowledged is lost, and streams end with a token that resumes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use prost::Message as _;
use tasktower::{client::payload, pb};
use tonic::Code;

use super::is_full;
use crate::{
    rpc::reason,
    support::{
        backend::for_each_backend,
        client::Clients,
        invariants::{Inspector, When, assert_holds},
        load::{Load, Shape},
        raw::{
            DATA, END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, NONE, PREFACE, Raw, call, call_headers, frame, stream_ids,
        },
        server::Server,
        wait::SOON,
    },
};

/// The promise: gone within 30 s of the signal, whatever is open.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Load balancers are given a second in this test.
const DRAIN_DELAY: [&str; 2] = ["--drain-delay-seconds", "1"];
const DRAIN_LIMIT: Duration = Duration::from_secs(40);
/// Acknowledged calls before the signal.
const CALLS: usize = 150;
/// Mute connections of each kind.
const MUTE: usize = 20;
/// Streams of a connection whose answers are not taken.
const UNREAD: usize = 50;
/// Bytes of an input: an answer of it does not fit into a window of a few.
const LARGE_INPUT: usize = 64 * 1024;

/// Connections that hold on and say nothing more.
async fn mute_connections(server: SocketAddr, large_task: &str) -> Vec<Raw> {
    let get = pb::GetTaskRequest { name: large_task.to_owned(), view: pb::TaskView::Full.into() }.encode_to_vec();
    let mut mute = Vec::new();
    for _ in 0..MUTE {
        mute.push(Raw::silent(server).await.expect("connected"));

        let mut half = Raw::silent(server).await.expect("connected");
        half.send(&PREFACE[..PREFACE.len() / 2]).await.expect("sent");
        mute.push(half);

        let mut unfinished = Raw::connect(server, &[]).await.expect("connected");
        let headers = call_headers("/tasktower.v1.TaskService/SubmitTask");
        unfinished.send(&frame(HEADERS, END_HEADERS, 1, &headers)).await.expect("sent");
        unfinished.send(&frame(DATA, NONE, 1, &[0, 0, 0, 1, 0, 1, 2, 3])).await.expect("sent");
        mute.push(unfinished);
    }
    let mut unread = Raw::connect(server, &[(INITIAL_WINDOW_SIZE, 0)]).await.expect("connected");
    for (index, id) in stream_ids().take(UNREAD).enumerate() {
        let (path, message) = match index % 3 {
            0 => ("/tasktower.v1.TaskService/GetTask", &get[..]),
            1 => ("/tasktower.v1.TaskService/WatchTasks", &[][..]),
            _ => ("/grpc.health.v1.Health/Watch", &[][..]),
        };
        unread.send(&call(id, path, message)).await.expect("sent");
    }
    mute.push(unread);
    mute
}

/// Follows a watch until it ends; answers the last token and how it ended.
async fn follow(clients: Clients) -> (String, tonic::Status) {
    let watch = clients.tasks().watch_tasks(pb::WatchTasksRequest::default()).await.expect("a watch");
    let mut watch = watch.into_inner();
    let mut token = String::new();
    loop {
        match watch.message().await {
            Ok(Some(batch)) => token = batch.resume_token,
            Ok(None) => panic!("a watch of all tasks does not end well"),
            Err(status) => return (token, status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_worst_company_is_in_time_and_loses_nothing() {
    for_each_backend(async |database| {
        let mut server = Server::start_with(database, &DRAIN_DELAY).await;
        let mut inspector = Inspector::open(database).await;
        let clients = Clients::connect(&server).await;
        let input = payload::json("x".repeat(LARGE_INPUT)).expect("a text is JSON");
        let task = pb::Task { r#type: "large".into(), queue: "large".into(), input: Some(input), ..Default::default() };
        let submit = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let large = clients.tasks().submit_task(submit).await.expect("a good submit").into_inner().name;
        let load = Load::start(Shape::on(&[server.endpoint()])).await;
        // In `make test` once on each database: it takes its time.
        for _ in 0..if is_full() { 5 } else { 1 } {
            let address = server.endpoint().trim_start_matches("http://").parse().expect("an address");
            let mute = mute_connections(address, &large).await;
            let watch = tokio::spawn(follow(Clients::connect(&server).await));
            load.advance(CALLS, SOON).await;

            let started = Instant::now();
            let status = server.stop(STOP_LIMIT).await;
            let took = started.elapsed();
            assert!(status.success(), "a polite stop ends well: {status}");
            assert!(took < STOP_LIMIT, "gone after {took:?}");
            let (token, status) = tokio::time::timeout(SOON, watch).await.expect("the watch ends").expect("no panic");
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{status:?}");
            drop(mute);

            // The token is good on the next server, and nothing lies between.
            server.restart().await;
            let again = Clients::connect(&server).await;
            let resume = pb::WatchTasksRequest { resume_token: token.clone(), ..Default::default() };
            let resumed =
                again.tasks().watch_tasks(resume).await.expect("the token is good").into_inner().message().await;
            let resumed = resumed.expect("an answer").expect("a first message");
            assert!(!token.is_empty() && !resumed.resume_token.is_empty());
            eprintln!("{}: gone after {took:.1?} with {} mute connections", database.backend(), MUTE * 3 + 1);
        }
        // The one that nobody handles.
        clients_cancel(&Clients::connect(&server).await, &large).await;
        let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
        server.kill();
        let facts = inspector.facts("default").await;
        assert_holds(&facts, &known, When::Quiet);
        eprintln!("{}: {} acknowledged calls, none lost", database.backend(), known.acknowledged);
    })
    .await;
}

async fn clients_cancel(clients: &Clients, name: &str) {
    let cancel = pb::CancelTaskRequest { name: name.to_owned(), ..Default::default() };
    clients.tasks().cancel_task(cancel).await.expect("cancelled");
}
