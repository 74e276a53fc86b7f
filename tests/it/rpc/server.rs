//! The server as a process: health, reflection, request ids, a polite stop, and what it refuses to start with.

use std::{
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tasktower::pb;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::{Rpc, reason, refused, seconds, task, worker};
use crate::support::{
    backend::{Database, for_each_backend},
    client::Clients,
    process::{Process, tasktower},
    server::{Server, migrate},
    wait::SOON,
};

const OUR_SERVICES: [&str; 9] = [
    "tasktower.v1.ApiKeyService",
    "tasktower.v1.DeadLetterService",
    "tasktower.v1.ProjectService",
    "tasktower.v1.RetentionService",
    "tasktower.v1.QueueService",
    "tasktower.v1.RetryService",
    "tasktower.v1.ScheduleService",
    "tasktower.v1.TaskService",
    "tasktower.v1.WorkerService",
];

/// What orchestrators wait before they kill, less a margin for a loaded machine.
const STOP_LIMIT: Duration = Duration::from_secs(27);

/// A connection that never speaks is closed after 10 s; this much later at most.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

async fn health(clients: &Clients, service: &str) -> Result<ServingStatus, tonic::Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(clients.channel()).check(request).await?.into_inner();
    Ok(answer.status())
}

#[tokio::test]
async fn health_is_answered_for_each_service_on_both_ports() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let admin = Clients::connect_to(&rpc.server.admin_endpoint()).await;
        for clients in [&rpc.clients, &admin] {
            for service in ["", "liveness", "readiness"].into_iter().chain(OUR_SERVICES) {
                assert_eq!(health(clients, service).await.unwrap(), ServingStatus::Serving, "{service}");
            }
            assert_eq!(health(clients, "nonsense").await.unwrap_err().code(), Code::NotFound);
        }
        // The admin port has nothing else.
        let answer = admin.tasks().list_tasks(pb::ListTasksRequest::default()).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    })
    .await;
}

#[tokio::test]
async fn reflection_shows_every_service_with_its_comments() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let ask = async |message_request| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let mut client = ServerReflectionClient::new(rpc.clients.channel());
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("a list of services")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in OUR_SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("tasktower.v1.TaskService".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else { panic!("a file") };
    let files = files.file_descriptor_proto.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap());
    assert!(files.flat_map(|file| file.service).any(|service| service.name() == "TaskService"));
}

#[tokio::test]
async fn the_request_id_is_echoed_in_answers_errors_and_streams() {
    let database = Database::sqlite();
    let mut rpc = Rpc::start(&database).await;
    let mut tasks = rpc.clients.tasks();
    let with_id = |id: &str| {
        let mut request = Request::new(pb::ListTasksRequest::default());
        request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        request
    };
    let answer = tasks.list_tasks(with_id("order-7")).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "order-7");
    assert_eq!(answer.metadata().get("tasktower-version").unwrap(), env!("CARGO_PKG_VERSION"));
    // Without one, or with one that is not fit for a header, the server makes its own.
    let made = tasks.list_tasks(pb::ListTasksRequest::default()).await.unwrap();
    let made = made.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made}");
    let made = tasks.list_tasks(with_id(&"x".repeat(129))).await.unwrap();
    assert_ne!(made.metadata().get("x-request-id").unwrap(), &"x".repeat(129));

    let bad = with_id("bad-7").map(|list| pb::ListTasksRequest { page_size: -1, ..list });
    let status = refused(tasks.list_tasks(bad).await, Code::InvalidArgument, "FIELD_INVALID", &["page_size"]);
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "bad-7");
    assert_eq!(status.get_details_request_info().unwrap().request_id, "bad-7");
    let bad = with_id("bad-8").map(|_| pb::WatchTasksRequest { filter: "(".into(), ..Default::default() });
    let status = refused(tasks.watch_tasks(bad).await, Code::InvalidArgument, "FILTER_INVALID", &["filter"]);
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "bad-8");
    let watch = with_id("watch-1").map(|_| pb::WatchTasksRequest::default());
    let stream = tasks.watch_tasks(watch).await.unwrap();
    assert_eq!(stream.metadata().get("x-request-id").unwrap(), "watch-1");
    drop(stream);
    // The journal has it too; here it is enough that the log does not, for calls that went well.
    assert!(!rpc.server.process().log().contains("order-7"));
}

#[tokio::test]
async fn a_polite_stop_ends_streams_with_a_reason_and_loses_nothing() {
    for_each_backend(async |database| {
        let server = Server::start_with(database, &["--drain-delay-seconds", "0"]).await;
        let clients = Clients::connect(&server).await;
        let mut rpc = Rpc { server, clients };
        let name = rpc.submit(task("other")).await;
        let mut watch = rpc.clients.tasks().watch_tasks(pb::WatchTasksRequest::default()).await.unwrap().into_inner();
        watch.message().await.unwrap().expect("a first token");
        let (said, messages) = tokio::sync::mpsc::channel(1);
        let hello = pb::SessionHello { parent: String::new(), identity: Some(worker("w")) };
        let hello = pb::session_request::Message::Hello(hello);
        said.send(pb::SessionRequest { message: Some(hello) }).await.unwrap();
        let session = rpc.clients.workers().session(ReceiverStream::new(messages)).await.unwrap();
        let mut session = session.into_inner();
        session.message().await.unwrap().expect("a welcome");
        let (mut tasks, mut workers) = (rpc.clients.tasks(), rpc.clients.workers());
        let long_polls = tokio::spawn(async move {
            let wait = pb::WaitTaskRequest { name, wait: Some(seconds(30)) };
            let lease = pb::LeaseTasksRequest {
                identity: Some(worker("poll")),
                max_tasks: 1,
                wait: Some(seconds(30)),
                ..Default::default()
            };
            tokio::join!(tasks.wait_task(wait), workers.lease_tasks(lease))
        });
        // The worker shows up with the lease call, so both calls are under way.
        crate::support::wait::eventually("the long polls wait", SOON, async || {
            let get = pb::GetWorkerRequest { name: "projects/default/workers/poll".into() };
            rpc.clients.workers().get_worker(get).await.map_err(|status| status.to_string())
        })
        .await;

        let started = Instant::now();
        rpc.server.process().terminate();
        let ended = async {
            for _ in 0..3 {
                if let Err(status) = watch.message().await {
                    return status;
                }
            }
            panic!("the watch goes on");
        };
        let status = tokio::time::timeout(SOON, ended).await.expect("the watch ends");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "100");
        let answer = tokio::time::timeout(SOON, session.message()).await.expect("the session ends");
        refused(answer.map(tonic::Response::new), Code::Unavailable, "SHUTTING_DOWN", &[]);
        let (waited, leased) = tokio::time::timeout(SOON, long_polls).await.expect("the polls end").unwrap();
        assert!(!waited.unwrap().into_inner().done);
        assert!(leased.unwrap().into_inner().tasks.is_empty());
        // The client stays connected and says nothing more; that must not hold up the end.
        let status = rpc.server.process().exited(STOP_LIMIT).await;
        assert!(status.success(), "{status}");
        assert!(started.elapsed() < STOP_LIMIT);
        drop(said);

        rpc.server.restart().await;
        let again = Clients::connect(&rpc.server).await;
        let list = again.tasks().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
        assert_eq!((list.tasks.len(), list.revision), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn readiness_is_withdrawn_before_the_server_stops_answering() {
    let database = Database::sqlite();
    let mut server = Server::start_with(&database, &["--drain-delay-seconds", "2"]).await;
    let admin = Clients::connect_to(&server.admin_endpoint()).await;
    let clients = Clients::connect(&server).await;
    server.process().terminate();
    crate::support::wait::eventually("readiness is withdrawn", SOON, async || {
        match health(&admin, "readiness").await {
            Ok(ServingStatus::NotServing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(health(&admin, "liveness").await.unwrap(), ServingStatus::Serving);
    let answer = clients.tasks().list_tasks(pb::ListTasksRequest::default()).await;
    assert!(answer.is_ok(), "it serves until the delay is over: {answer:?}");
    assert!(server.process().exited(STOP_LIMIT).await.success());
}

/// What a server that must not start says before it ends.
async fn refused_start(arguments: &[&str]) -> String {
    let mut process = Process::spawn("tasktower serve", tasktower().arg("serve").args(arguments));
    let status = process.exited(SOON).await;
    assert!(!status.success(), "{status}");
    // The first line is the harness naming the arguments.
    let log = process.log();
    log.split_once('\n').map(|(_, said)| said.to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn what_must_not_start_says_why() {
    const ANY: &str = "127.0.0.1:0";
    let database = Database::sqlite();
    let _server = Server::start(&database).await;
    let log = refused_start(&["--listen", ANY, "--admin-listen", ANY, "--database-url", database.url()]).await;
    assert!(log.contains("another process") || log.contains("in use"), "{log}");

    let other = Database::sqlite();
    let log = refused_start(&["--listen", ANY, "--admin-listen", ANY, "--database-url", other.url()]).await;
    assert!(log.contains("migrate up"), "{log}");
    migrate(other.url());
    let log = refused_start(&["--listen", "0.0.0.0:0", "--database-url", other.url()]).await;
    assert!(log.contains("clear text") && log.contains("--insecure-plaintext"), "{log}");
    let log = refused_start(&["--listen", ANY, "--admin-listen", ANY]).await;
    assert!(log.contains("TASKTOWER_DATABASE_URL"), "{log}");
    let log = refused_start(&["--database-url", "mysql://localhost/x"]).await;
    assert!(log.contains("postgres://") && log.contains("sqlite://"), "{log}");
    let log = refused_start(&["--database-url", "postgres://nobody:secret@127.0.0.1:1/x"]).await;
    assert!(log.contains("refused") && !log.contains("secret"), "{log}");
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_closed() {
    let database = Database::sqlite();
    let server = Server::start(&database).await;
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let closed = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SILENCE_LIMIT)).expect("a limit");
        // The server may send its own preface first.
        let mut bytes = [0; 64];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    });
    assert!(closed.await.expect("it ran"), "the connection is still open");
}

#[tokio::test]
async fn dev_shows_tasks_moving_with_no_set_up() {
    let home = tempfile::TempDir::with_prefix("tasktower-home-").expect("a folder");
    let arguments = ["dev", "--demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut dev = Process::spawn("tasktower dev", tasktower().args(arguments).env("HOME", home.path()));
    let mut seen = String::new();
    for word in ["gRPC", "SUBMITTED", "LEASED", "COMPLETED"] {
        while !seen.contains(word) {
            let line = tokio::time::timeout(SOON, dev.stdout_line()).await;
            seen.push_str(&line.unwrap_or_else(|_| panic!("no {word} in {seen}")).expect("it goes on"));
            seen.push('\n');
        }
    }
    let address = seen.lines().find_map(|line| line.trim().strip_prefix("gRPC")).expect("an address");
    let address = address.split_whitespace().next().expect("an address");
    let clients = Clients::connect_to(&format!("http://{address}")).await;
    let workers = clients.workers().list_workers(pb::ListWorkersRequest::default()).await.unwrap().into_inner();
    assert_eq!(workers.workers.len(), 2);
    drop(clients);
    dev.interrupt();
    assert!(dev.exited(STOP_LIMIT).await.success());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "a demo leaves nothing behind");

    // Without a demo it keeps its data where it is told to, through a restart.
    let file = home.path().join("kept.db");
    for expected in [0, 1] {
        let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut dev = Process::spawn("tasktower dev", tasktower().arg("dev").arg("--db").arg(&file).args(listen));
        let address = loop {
            let line = tokio::time::timeout(SOON, dev.stdout_line()).await.expect("a line soon").expect("it goes on");
            if let Some(rest) = line.trim().strip_prefix("gRPC") {
                break rest.split_whitespace().next().expect("an address").to_owned();
            }
        };
        let clients = Clients::connect_to(&format!("http://{address}")).await;
        let list = clients.tasks().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.tasks.len(), expected);
        let request = pb::SubmitTaskRequest { task: Some(task("t")), ..Default::default() };
        clients.tasks().submit_task(request).await.unwrap();
        dev.kill();
    }
}
