//! The database goes away under the server: stopped at once, its connections ended, frozen. Nothing acknowledged is lost,
//! every call ends in time, and the server is soon back at work, without a restart.

use std::{
    str::FromStr as _,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tasktower::pb::{
    ErrorReason, GetTaskRequest, LeaseTasksRequest, ListTasksRequest, WaitTaskRequest, WorkerIdentity,
};
use tonic::{Code, Response, Status};

use super::plan;
use crate::support::{
    backend::{Backend, Database},
    client::Clients,
    cluster::Cluster,
    invariants::{Inspector, When, assert_holds},
    load::{Load, PROJECT, Shape},
    server::Server,
    wait::{SOON, pause},
};

const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// From when PostgreSQL accepts connections again until calls are acknowledged again.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the outcome of a commit without an answer is looked for.
const NOT_OUTLIVED: Duration = Duration::from_secs(4);
/// What a service says that has no database: writes that lost their connection too often, or found no free one.
const EXPLAINED: &[ErrorReason] = &[ErrorReason::Overloaded];

fn shape(server: &Server) -> Shape {
    Shape { explained: EXPLAINED, bursts: true, ..Shape::on(&[server.endpoint()]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn immediate_stops_of_postgres_lose_nothing() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let database = Database::postgres(cluster.url()).await;
    let server = Server::start(&database).await;
    let load = Load::start(shape(&server)).await;
    let mut random = plan::random(20);
    let (stops, mut slowest, mut hits) = (plan::many(2, 20), Duration::ZERO, 0);
    for stop in 0..stops {
        load.advance(random.random_range(50..200), SOON).await;
        let broken = load.history().with(|known| known.broken);
        cluster.stop_immediately().await;
        // Short ones may be outlived: the outcome of a commit is looked for.
        let down = if stop == 0 { NOT_OUTLIVED } else { Duration::from_millis(random.random_range(0..1_500)) };
        pause("calls meet a database that is not there", down).await;
        let accepted = cluster.start_again().await;
        load.advance(1, SOON).await;
        slowest = slowest.max(accepted.elapsed());
        assert!(accepted.elapsed() <= READY_WITHIN, "at work again after {:?}", accepted.elapsed());
        hits += usize::from(load.history().with(|known| known.broken) > broken);
    }
    assert!(hits > 0, "the stops hit nobody");
    let mut inspector = Inspector::open(&database).await;
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    let facts = inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    plan::report(&format!(
        "PostgreSQL: {stops} pg_ctl stop -m immediate, {hits} broke calls; {}; {} revisions; at work again within {} ms; \
         0 violations",
        plan::figures(&known),
        facts.last_revision(),
        slowest.as_millis(),
    ));
    inspector.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_ended_connections_loses_nothing() {
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let server = Server::start(&database).await;
    let load = Load::start(shape(&server)).await;
    load.advance(50, SOON).await;
    let options = PgConnectOptions::from_str(database.url()).expect("a URL");
    let mut connection = options.connect().await.expect("PostgreSQL accepts a connection");
    let mut random = plan::random(21);
    let (wanted, mut ended, mut inside) = (plan::many(30, 600), 0, 0);
    let began = Instant::now();
    while ended < wanted {
        assert!(began.elapsed() < Duration::from_secs(300), "{ended} of {wanted} connections were ended");
        let (count, in_transaction) = terminate(&mut connection, random.random_range(1..=4)).await;
        ended += count;
        inside += in_transaction;
        pause("the server opens new ones", Duration::from_millis(random.random_range(5..120))).await;
    }
    assert!(inside > 0, "no connection was ended inside a transaction");
    load.advance(50, SOON).await;
    connection.close().await.expect("it was not among them");
    let mut inspector = Inspector::open(&database).await;
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    let facts = inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    plan::report(&format!(
        "PostgreSQL: {ended} connections ended by pg_terminate_backend, {inside} inside a transaction; {}; {} revisions; \
         0 violations",
        plan::figures(&known),
        facts.last_revision(),
    ));
    inspector.close().await;
}

/// Ends some connections of the product, those inside a transaction first. How many, and how many of them were inside.
async fn terminate(connection: &mut PgConnection, most: i64) -> (i64, i64) {
    let statement = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)), count(*) FILTER (WHERE inside) FROM (
            SELECT pid, xact_start IS NOT NULL AS inside FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tasktower'
            ORDER BY xact_start IS NULL, random() LIMIT $1
        ) AS picked";
    sqlx::query_as(statement).bind(most).fetch_one(connection).await.expect("it may end them")
}

/// What the load does not ask, or not as somebody the server has never seen: every one is answered in time.
async fn ask_everything(server: &Server) {
    let clients = Clients::connect(server).await;
    let wait = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let name = format!("{PROJECT}/tasks/{}", uuid::Uuid::now_v7());
    let (mut tasks, mut more_tasks, mut others) = (clients.tasks(), clients.tasks(), clients.tasks());
    let get = tasks.get_task(GetTaskRequest { name: name.clone(), ..GetTaskRequest::default() });
    let list = more_tasks.list_tasks(ListTasksRequest { parent: PROJECT.to_owned(), ..ListTasksRequest::default() });
    let wait_task = others.wait_task(WaitTaskRequest { name, wait });
    let identity = WorkerIdentity {
        worker: "new".to_owned(),
        types: vec!["new".to_owned()],
        queues: vec!["new".to_owned()],
        ..WorkerIdentity::default()
    };
    let mut workers = clients.workers();
    let request = LeaseTasksRequest {
        parent: PROJECT.to_owned(),
        identity: Some(identity),
        wait,
        ..LeaseTasksRequest::default()
    };
    let lease = workers.lease_tasks(request);
    tokio::join!(
        answered("GetTask", get),
        answered("ListTasks", list),
        answered("WaitTask", wait_task),
        answered("LeaseTasks", lease),
    );
}

/// 5 s, a wait of 1 s, and a margin of 1 s for a loaded machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(7);

async fn answered<T>(what: &str, call: impl Future<Output = Result<Response<T>, Status>>) {
    let began = Instant::now();
    let status = call.await.err().unwrap_or_else(|| panic!("{what} was answered by a frozen database"));
    let expected = [Code::Unavailable, Code::DeadlineExceeded];
    assert!(expected.contains(&status.code()), "{what}: {status:?}");
    assert!(began.elapsed() <= ANSWERED_WITHIN, "{what} was answered after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postgres_holds_no_call_and_loses_nothing() {
    let Some(cluster) = Cluster::start().await else { return };
    let database = Database::postgres(cluster.url()).await;
    let server = Server::start(&database).await;
    let load = Load::start(shape(&server)).await;
    let (rounds, frozen_for) = (plan::many(1, 2), Duration::from_secs(plan::many(6, 30)));
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        load.advance(100, SOON).await;
        let before = load.history().with(|known| (known.acknowledged, known.broken));
        let frozen = cluster.freeze();
        tokio::join!(pause("the database says nothing", frozen_for), ask_everything(&server));
        let after = load.history().with(|known| (known.acknowledged, known.broken));
        drop(frozen);
        let thawed = Instant::now();
        // What was answered in the moment of the freeze, and no more.
        assert!(after.0 - before.0 <= 50 && after.1 > before.1, "(acknowledged, broken): {before:?}, then {after:?}");
        load.advance(10, SOON).await;
        slowest = slowest.max(thawed.elapsed());
        assert!(thawed.elapsed() <= READY_WITHIN, "at work again after {:?}", thawed.elapsed());
    }
    let mut inspector = Inspector::open(&database).await;
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    let facts = inspector.facts("default").await;
    // That no call took longer than promised is one of the checks: it would be a surprise.
    assert_holds(&facts, &known, When::Quiet);
    plan::report(&format!(
        "PostgreSQL: {rounds} times frozen for {} s; {}; {} revisions; at work again within {} ms; 0 violations",
        frozen_for.as_secs(),
        plan::figures(&known),
        facts.last_revision(),
        slowest.as_millis(),
    ));
    inspector.close().await;
}
