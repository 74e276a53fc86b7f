//! Clients go away in the middle of their write calls: by a deadline of 0 to 20 ms, or by dropping the call (RST_STREAM),
//! through a proxy that delays what they say and hear. No transaction is left behind, and nothing acknowledged is lost.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tasktower::pb::{
    CompleteTasksRequest, FailTasksRequest, HeartbeatRequest, LeaseHeartbeat, LeaseTasksRequest, Queue,
    SubmitTaskRequest, Task, TaskCompletion, TaskFailure, UpdateQueueRequest, UpdateTaskRequest, WorkerIdentity,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::plan;
use crate::support::{
    backend::Database,
    client::Clients,
    history::{Completion, End, History, REQUEST_LABEL},
    invariants::{Inspector, When, assert_holds},
    load::{Load, PROJECT, QUEUE, Shape, TYPE, task_id},
    proxy::Proxy,
    server::Server,
    wait::{SOON, eventually, pause},
};

/// Calls under way at a time, and the connections they share.
const AT_A_TIME: usize = 8;
const CONNECTIONS: usize = 8;
/// The longest a client waits for its answer.
const MOST_PATIENCE: Duration = Duration::from_millis(20);
/// One client of so many is more patient, so that some are answered: what is acknowledged is what may be lost.
const PATIENT_ONE_OF: usize = 4;
const MORE_PATIENCE: Duration = Duration::from_millis(600);
/// The longest a piece of data waits in the proxy.
const MOST_DELAY: Duration = Duration::from_millis(3);
const DRAIN_LIMIT: Duration = Duration::from_secs(90);
/// Longer than what counts as idle inside a transaction, shorter than what PostgreSQL lets be.
const LONG_IDLE: Duration = Duration::from_millis(1_300);
/// Calls between two looks at the transactions of the database.
const LOOK_EVERY: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_writes_leave_no_transaction_and_lose_nothing() {
    plan::on_each_backend(async |database| cancel_again_and_again(database, plan::many(500, 20_000)).await).await;
}

async fn cancel_again_and_again(database: &Database, calls: usize) {
    let mut server = Server::start(database).await;
    let mut inspector = Inspector::open(database).await;
    let proxy = Proxy::start(&server.endpoint(), MOST_DELAY).await;
    // A worker and a watcher beside them see and finish what they leave; more would only make everything slower.
    let mut shape = Shape::on(&[server.endpoint()]);
    (shape.submitters, shape.operators, shape.workers, shape.runtime_workers) = (0, 0, 1, 0);
    let load = Load::start(shape).await;
    let history = load.shared_history();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Clients::connect_to(&proxy.endpoint()).await);
    }
    let mut ends = Ends::default();
    let mut longest_idle = Vec::new();
    let mut under_way = stream::iter(0_usize..)
        .map(|number| {
            let patience = if number.is_multiple_of(PATIENT_ONE_OF) { MORE_PATIENCE } else { MOST_PATIENCE };
            let clients = connections[rand::random_range(0..CONNECTIONS)].clone();
            let caller = Impatient { clients, history: history.clone(), patience };
            async move { caller.call(number).await }
        })
        .buffer_unordered(AT_A_TIME);
    let mut done = 0;
    while ends.unknown < calls {
        ends.count(under_way.next().await.expect("there is no last one"));
        done += 1;
        if done % LOOK_EVERY == 0 {
            longest_idle.extend(inspector.idle_in_transaction().await);
        }
    }
    drop(under_way);
    assert_eq!(longest_idle, Vec::<String>::new(), "transactions were left behind");
    assert!(ends.ok > calls / 50, "hardly anybody was answered: {ends:?}");
    drop((connections, proxy));
    let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
    // A connection that is used again and again is never idle for long, wherever it stands.
    pause("connections are idle for long enough to be noticed", LONG_IDLE).await;
    assert_eq!(inspector.idle_in_transaction().await, Vec::<String>::new());
    let facts = inspector.facts("default").await;
    assert_holds(&facts, &known, When::Quiet);
    eventually("connections of clients are closed", SOON, async || match server.connections() {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    plan::report(&format!(
        "{}: {} writes cancelled in the middle ({ends:?}) beside a load; {}; {} revisions; no transaction left behind, \
         {} descriptors; 0 violations",
        database.backend(),
        ends.unknown,
        plan::figures(&known),
        facts.last_revision(),
        server.process().descriptors(),
    ));
    server.kill();
    inspector.close().await;
}

/// How the calls of impatient clients ended.
#[derive(Debug, Default)]
struct Ends {
    ok: usize,
    refused: usize,
    /// Gone before there was an answer.
    unknown: usize,
}

impl Ends {
    fn count(&mut self, end: End) {
        *match end {
            End::Ok => &mut self.ok,
            End::Refused => &mut self.refused,
            End::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// A client that waits for a moment only.
struct Impatient {
    clients: Clients,
    history: Arc<History>,
    patience: Duration,
}

impl Impatient {
    /// One write of some kind, given up at a random moment. What it is told in time is kept.
    async fn call(&self, number: usize) -> End {
        match rand::random_range(0..5) {
            0 | 1 => self.submit(number).await,
            2 => self.lease_and_report(number).await,
            3 => self.update_task().await,
            _ => self.update_queue().await,
        }
    }

    async fn submit(&self, number: usize) -> End {
        let request = format!("impatient-{number}");
        let task = Task {
            r#type: TYPE.to_owned(),
            queue: QUEUE.to_owned(),
            labels: [(REQUEST_LABEL.to_owned(), request.clone())].into(),
            ..Task::default()
        };
        // Half of them could be repeated.
        let request_id = if number.is_multiple_of(2) { request.clone() } else { String::new() };
        let submit = SubmitTaskRequest {
            parent: PROJECT.to_owned(),
            task: Some(task),
            request_id,
            ..SubmitTaskRequest::default()
        };
        let mut tasks = self.clients.tasks();
        let (end, answer) = self.give_up(submit, async |submit| tasks.submit_task(submit).await).await;
        if let Some(answer) = answer {
            self.history.submitted(&request, task_id(&answer.name));
        }
        end
    }

    async fn lease_and_report(&self, number: usize) -> End {
        let identity = WorkerIdentity {
            worker: format!("impatient-{number}"),
            types: vec![TYPE.to_owned()],
            queues: vec![QUEUE.to_owned()],
            ..WorkerIdentity::default()
        };
        let request = LeaseTasksRequest {
            parent: PROJECT.to_owned(),
            identity: Some(identity),
            max_tasks: 2,
            request_id: if number.is_multiple_of(2) { format!("impatient-{number}") } else { String::new() },
            ..LeaseTasksRequest::default()
        };
        let mut workers = self.clients.workers();
        let (end, answer) = self.give_up(request, async |lease| workers.lease_tasks(lease).await).await;
        let tokens: Vec<_> = answer.into_iter().flat_map(|a| a.tasks).filter_map(|task| task.token).collect();
        let Some(token) = tokens.first().cloned() else { return end };
        let beats = LeaseHeartbeat { token: Some(token.clone()), progress: None };
        let beat = HeartbeatRequest { parent: PROJECT.to_owned(), leases: vec![beats], ..HeartbeatRequest::default() };
        self.give_up(beat, async |beat| workers.heartbeat(beat).await).await;
        if number.is_multiple_of(3) {
            let failure = TaskFailure { token: Some(token), ..TaskFailure::default() };
            let request = FailTasksRequest { parent: PROJECT.to_owned(), failures: vec![failure] };
            return self.give_up(request, async |fail| workers.fail_tasks(fail).await).await.0;
        }
        let completion = TaskCompletion { token: Some(token.clone()), result: None };
        let request = CompleteTasksRequest { parent: PROJECT.to_owned(), completions: vec![completion] };
        let (end, answer) = self.give_up(request, async |complete| workers.complete_tasks(complete).await).await;
        if answer.is_some_and(|answer| answer.results.iter().all(|result| result.status.is_none())) {
            let completion = Completion { epoch: token.epoch, result: Vec::new() };
            self.history.completed(task_id(&token.task), completion);
        }
        end
    }

    async fn update_task(&self) -> End {
        let Some(id) = self.history.recent(rand::random_range(0..20)) else { return End::Refused };
        let name = format!("{PROJECT}/tasks/{}", uuid::Uuid::parse_str(&id).expect("histories keep ids"));
        let task = Task { name, priority: rand::random_range(-5..=5), ..Task::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["priority".to_owned()] });
        let request = UpdateTaskRequest { task: Some(task), update_mask };
        let mut tasks = self.clients.tasks();
        let (end, answer) = self.give_up(request, async |update| tasks.update_task(update).await).await;
        if let Some(task) = answer.and_then(|answer| answer.task) {
            self.history.answered(&task);
        }
        end
    }

    /// A rare write, which has a transaction of its own.
    async fn update_queue(&self) -> End {
        let name = format!("{PROJECT}/queues/impatient-{}", rand::random_range(0..4));
        let queue = Queue { name, max_running: rand::random_range(1..100), ..Queue::default() };
        let request = UpdateQueueRequest { queue: Some(queue), update_mask: None };
        let mut queues = self.clients.queues();
        self.give_up(request, async |update| queues.update_queue(update).await).await.0
    }

    /// Makes a call and gives it up at a random moment: by a deadline that the server knows of, or by dropping it.
    async fn give_up<R, T>(
        &self,
        message: R,
        call: impl AsyncFnOnce(Request<R>) -> Result<Response<T>, Status>,
    ) -> (End, Option<T>) {
        let patience = self.patience.mul_f64(rand::random());
        let mut request = Request::new(message);
        let answer = if rand::random() {
            request.set_timeout(patience);
            call(request).await
        } else {
            match timeout(patience, call(request)).await {
                Ok(answer) => answer,
                Err(_) => return (End::Unknown, None),
            }
        };
        match answer {
            Ok(answer) => (End::Ok, Some(answer.into_inner())),
            Err(status) => match status.code() {
                tonic::Code::DeadlineExceeded | tonic::Code::Cancelled | tonic::Code::Unavailable => {
                    (End::Unknown, None)
                }
                _ => (End::Refused, None),
            },
        }
    }
}
