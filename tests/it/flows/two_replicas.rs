//! Two servers on one PostgreSQL: calls go to either, and nobody can tell.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use tasktower::pb::{
    LeaseHeartbeat, LeaseTasksRequest, Queue, Rate, SessionAccepted, SessionCredits, SessionHeartbeat, SessionHello,
    SessionRequest, SubmitTaskRequest, Task, UpdateQueueRequest, WatchTasksRequest, WorkerIdentity, session_request,
    session_response, submit_task_response, task,
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{
    backend::{Backend, Database},
    calls::{cancel, complete, fail, get, lease, submit, task, token},
    client::Clients,
    history::Known,
    invariants::{Inspector, When, assert_holds},
    load::{Load, PROJECT, Shape, read_events},
    server::Server,
    wait::{SOON, eventually, pause},
};

const TYPE: &str = "t";
const DRAIN_LIMIT: Duration = Duration::from_secs(40);

/// Two replicas on a database of their own; none, after saying so, without PostgreSQL.
struct Pair {
    a: Server,
    b: Server,
    on_a: Clients,
    on_b: Clients,
    inspector: Inspector,
    // The last field: servers are gone before their database.
    _database: Database,
}

impl Pair {
    async fn start() -> Option<Pair> {
        let database = Database::fresh(Backend::Postgres).await?;
        let (a, b) = (Server::start(&database).await, Server::start(&database).await);
        let (on_a, on_b) = (Clients::connect(&a).await, Clients::connect(&b).await);
        let inspector = Inspector::open(&database).await;
        Some(Pair { a, b, on_a, on_b, inspector, _database: database })
    }

    fn endpoints(&self) -> [String; 2] {
        [self.a.endpoint(), self.b.endpoint()]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_over_both_is_as_a_load_over_one() {
    let Some(mut pair) = Pair::start().await else { return };
    let mut shape = Shape::on(&pair.endpoints());
    shape.watchers = 2;
    let load = Load::start(shape).await;
    load.advance(1_500, SOON).await;
    let known = load.finish(&mut pair.inspector, DRAIN_LIMIT).await;
    let facts = pair.inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    assert_eq!(known.broken, 0, "nothing was cut: {:?}", known.outcomes);
    println!("{} calls, {} submits, {} revisions", known.acknowledged, known.submits.len(), facts.last_revision());
}

const KILLS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_is_replaced_by_the_other_one() {
    let Some(mut pair) = Pair::start().await else { return };
    let mut shape = Shape::on(&pair.endpoints());
    shape.watchers = 2;
    let load = Load::start(shape).await;
    for number in 0..KILLS {
        load.advance(200, SOON).await;
        let server = if number.is_multiple_of(2) { &mut pair.a } else { &mut pair.b };
        server.kill();
        // The other one goes on alone.
        load.advance(200, SOON).await;
        assert_eq!(pair.inspector.idle_in_transaction().await, Vec::<String>::new());
        server.restart().await;
    }
    let known = load.finish(&mut pair.inspector, DRAIN_LIMIT).await;
    let facts = pair.inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    println!(
        "{KILLS} kills; acknowledged: {} calls, {} submits, {} completions; {} broken",
        known.acknowledged,
        known.submits.len(),
        known.completions.len(),
        known.broken
    );
}

#[tokio::test]
async fn a_watch_on_one_sees_what_is_done_on_the_other_in_order() {
    const ROUNDS: usize = 30;
    let Some(mut pair) = Pair::start().await else { return };
    let request = WatchTasksRequest { parent: PROJECT.to_owned(), ..WatchTasksRequest::default() };
    let mut stream = pair.on_a.tasks().watch_tasks(request).await.expect("a watch").into_inner();
    for round in 0..ROUNDS {
        let (first, second) = if round.is_multiple_of(3) { (&pair.on_a, &pair.on_b) } else { (&pair.on_b, &pair.on_a) };
        submit(first, task(TYPE, "q")).await;
        let leased = lease(second, "w", TYPE, "q", 1, SOON).await.remove(0);
        assert!(complete(first, &token(&leased), "done").await.is_none());
    }
    let mut seen = Vec::new();
    while seen.len() < 3 * ROUNDS {
        let message = tokio::time::timeout(SOON, stream.message()).await.expect("in time").expect("the watch goes on");
        seen.extend(read_events(&message.expect("it does not end")));
    }
    let revisions: Vec<i64> = seen.iter().map(|seen| seen.revision).collect();
    assert_eq!(revisions, (1..=3 * ROUNDS as i64).collect::<Vec<_>>());
    assert_holds(&pair.inspector.facts("default").await, &Known::default(), When::Quiet);
}

#[tokio::test]
async fn a_waiting_lease_is_woken_by_a_submit_on_the_other_one() {
    const ROUNDS: usize = 5;
    const WOKEN_WITHIN: Duration = Duration::from_millis(1_500);
    let Some(pair) = Pair::start().await else { return };
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let waiting = async { (lease(&pair.on_a, "w", TYPE, "q", 1, SOON).await, Instant::now()) };
        let submitting = async {
            pause("the lease waits by now", Duration::from_millis(300)).await;
            submit(&pair.on_b, task(TYPE, "q")).await;
            Instant::now()
        };
        let ((leased, woken), submitted) = tokio::join!(waiting, submitting);
        assert_eq!(leased.len(), 1);
        slowest = slowest.max(woken.saturating_duration_since(submitted));
        assert!(complete(&pair.on_b, &token(&leased[0]), "done").await.is_none());
    }
    println!("a lease on A was woken {slowest:?} after the submit on B at most");
    assert!(slowest <= WOKEN_WITHIN, "{slowest:?}");
}

#[tokio::test]
async fn a_repeated_request_is_answered_by_the_other_one_as_the_first_time() {
    let Some(mut pair) = Pair::start().await else { return };
    let request = SubmitTaskRequest {
        parent: PROJECT.to_owned(),
        task: Some(task(TYPE, "q")),
        request_id: "once".to_owned(),
        ..SubmitTaskRequest::default()
    };
    let first = pair.on_a.tasks().submit_task(request.clone()).await.expect("a submit").into_inner();
    let again = pair.on_b.tasks().submit_task(request.clone()).await.expect("a repeat").into_inner();
    assert_eq!(first, again);
    assert_eq!(first.outcome(), submit_task_response::Outcome::Created);

    // All at once on both: one effect, one answer; a call may be told that another one is still running.
    let request = SubmitTaskRequest { request_id: "at-once".to_owned(), ..request };
    let calls = (0..64).map(|number| {
        let clients = if number % 2 == 0 { &pair.on_a } else { &pair.on_b };
        let (mut tasks, request) = (clients.tasks(), request.clone());
        async move { tasks.submit_task(request).await }
    });
    let answers = join_all(calls).await;
    let mut names: Vec<String> = answers.iter().flatten().map(|answer| answer.get_ref().name.clone()).collect();
    assert!(!names.is_empty(), "somebody was answered: {:?}", answers[0]);
    names.dedup();
    assert_eq!(names.len(), 1, "one task: {names:?}");
    for status in answers.into_iter().filter_map(Result::err) {
        let reason = tasktower::client::Error::from(status).reason();
        assert_eq!(reason, tasktower::pb::ErrorReason::IdempotencyInProgress);
    }

    // Leases too.
    let lease = LeaseTasksRequest {
        parent: PROJECT.to_owned(),
        identity: Some(identity("w")),
        max_tasks: 1,
        request_id: "lease-once".to_owned(),
        ..LeaseTasksRequest::default()
    };
    let first = pair.on_a.workers().lease_tasks(lease.clone()).await.expect("a lease").into_inner().tasks;
    let again = pair.on_b.workers().lease_tasks(lease).await.expect("a repeat").into_inner().tasks;
    assert_eq!(first.len(), 1);
    assert_eq!(token(&first[0]), token(&again[0]));
    let facts = pair.inspector.facts("default").await;
    assert_eq!(facts.task_count(), 2);
    assert_holds(&facts, &Known::default(), When::Busy);
}

fn identity(worker: &str) -> WorkerIdentity {
    let (worker, types, queues) = (worker.to_owned(), vec![TYPE.to_owned()], vec!["q".to_owned()]);
    WorkerIdentity { worker, types, queues, ..WorkerIdentity::default() }
}

async fn set_queue(clients: &Clients, queue: Queue) {
    let request = UpdateQueueRequest { queue: Some(queue), update_mask: None };
    clients.queues().update_queue(request).await.expect("the queue is set up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_running_is_exact_over_both() {
    const LIMIT: i32 = 3;
    const TASKS: usize = 60;
    const WORKERS: usize = 8;
    let Some(mut pair) = Pair::start().await else { return };
    let name = format!("{PROJECT}/queues/limited");
    set_queue(&pair.on_a, Queue { name, max_running: LIMIT, ..Queue::default() }).await;
    let submits = stream::iter(0..TASKS).map(|number| {
        let clients = if number % 2 == 0 { &pair.on_a } else { &pair.on_b };
        submit(clients, task(TYPE, "limited"))
    });
    assert_eq!(submits.buffer_unordered(8).count().await, TASKS);

    let (running, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = async |number: usize| {
        let clients = if number.is_multiple_of(2) { &pair.on_a } else { &pair.on_b };
        while done.load(Ordering::SeqCst) < TASKS {
            let leased = lease(clients, &format!("w{number}"), TYPE, "limited", 2, Duration::from_millis(500)).await;
            for leased in leased {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                pause("the task takes its time", Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                // Some fail: that makes room too. With one attempt each, all end.
                let refusal = if number == 0 {
                    fail(clients, &token(&leased), true).await
                } else {
                    complete(clients, &token(&leased), "done").await
                };
                assert!(refusal.is_none(), "{refusal:?}");
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let started = Instant::now();
    join_all((0..WORKERS).map(worker)).await;
    let facts = pair.inspector.facts("default").await;
    // The journal counts leases from their commit on, so it sees what workers see and more.
    assert_eq!(facts.most_running("limited"), i64::from(LIMIT), "used up, and never exceeded");
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert_holds(&facts, &Known::default(), When::Quiet);
    println!("{TASKS} tasks, {LIMIT} at a time, in {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_exact_over_both() {
    const PER_SECOND: i32 = 20;
    const BURST: i32 = 4;
    const TASKS: usize = 64;
    const WORKERS: usize = 6;
    let Some(mut pair) = Pair::start().await else { return };
    let interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let rate = Some(Rate { count: PER_SECOND, interval, burst: BURST });
    set_queue(&pair.on_b, Queue { name: format!("{PROJECT}/queues/paced"), rate, ..Queue::default() }).await;
    for _ in 0..TASKS {
        submit(&pair.on_a, task(TYPE, "paced")).await;
    }
    let done = AtomicUsize::new(0);
    let worker = async |number: usize| {
        let clients = if number.is_multiple_of(2) { &pair.on_a } else { &pair.on_b };
        while done.load(Ordering::SeqCst) < TASKS {
            for leased in lease(clients, &format!("w{number}"), TYPE, "paced", 5, Duration::from_millis(500)).await {
                assert!(complete(clients, &token(&leased), "done").await.is_none());
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    join_all((0..WORKERS).map(worker)).await;
    let facts = pair.inspector.facts("default").await;
    assert_holds(&facts, &Known::default(), When::Quiet);
    let times = facts.lease_times("paced");
    assert_eq!(times.len(), TASKS);
    // Between any two leases lies the time that the ones in between may take.
    const MICROS: i64 = 1_000_000;
    for from in 0..TASKS {
        for to in from..TASKS {
            let leases = (to - from + 1) as i64;
            let needed = (leases - i64::from(BURST)) * MICROS / i64::from(PER_SECOND);
            let span = times[to] - times[from];
            assert!(span >= needed, "{leases} leases within {span} µs");
        }
    }
    let (span, needed) =
        (times[TASKS - 1] - times[0], (TASKS as i64 - i64::from(BURST)) * MICROS / i64::from(PER_SECOND));
    println!("{TASKS} leases in {span} µs; the rate allows them in {needed} µs");
    assert!(span <= needed * 3 / 2, "the rate is used: {span} µs for what may take {needed} µs");
}

#[tokio::test]
async fn a_cancel_on_one_reaches_a_session_on_the_other_with_its_heartbeat() {
    let Some(mut pair) = Pair::start().await else { return };
    let (requests, stream) = mpsc::channel(8);
    let say = async |message| {
        requests.send(SessionRequest { message: Some(message) }).await.expect("the session is open");
    };
    let hello = SessionHello { parent: PROJECT.to_owned(), identity: Some(identity("w")) };
    say(session_request::Message::Hello(hello)).await;
    say(session_request::Message::Credits(SessionCredits { count: 1 })).await;
    let session = pair.on_b.workers().session(ReceiverStream::new(stream)).await;
    let mut answers = session.expect("a session").into_inner();
    let mut answer = async || {
        let answer =
            tokio::time::timeout(SOON, answers.message()).await.expect("in time").expect("the session goes on");
        answer.expect("it does not end").message.expect("a message says something")
    };

    let name = submit(&pair.on_a, task(TYPE, "q")).await;
    let leased = loop {
        if let session_response::Message::Grants(grants) = answer().await {
            break grants.tasks.into_iter().next().expect("a grant holds a task");
        }
    };
    say(session_request::Message::Accepted(SessionAccepted { tokens: vec![token(&leased)] })).await;
    let asked: Task = cancel(&pair.on_a, &name, "changed my mind").await;
    assert!(asked.cancel_requested);
    let leases = vec![LeaseHeartbeat { token: Some(token(&leased)), progress: None }];
    say(session_request::Message::Heartbeat(SessionHeartbeat { leases })).await;
    let result = loop {
        if let session_response::Message::Heartbeat(mut heartbeat) = answer().await {
            break heartbeat.results.remove(0);
        }
    };
    assert!(result.cancel_requested, "{result:?}");
    assert_eq!(result.cancel_reason, "changed my mind");
    assert!(fail(&pair.on_b, &token(&leased), false).await.is_none());
    eventually("both know that it is cancelled", SOON, async || {
        let states = [get(&pair.on_a, &name).await.state(), get(&pair.on_b, &name).await.state()];
        if states == [task::State::Cancelled; 2] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    assert_holds(&pair.inspector.facts("default").await, &Known::default(), When::Quiet);
}
