//! A load of real clients that lives through anything: submitters, workers and watchers that try again for as long as it
//! takes and keep a [`History`] of what they were told.
//!
//! Every task has one type and one queue. Submitters wait while the backlog is long. Workers complete most tasks, fail,
//! give back and forget some, and now and then repeat a completion, as it was and changed. [`Load::finish`] lets the
//! workers drain what is there; then nothing may be left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasktower::{
    client::{Refusal, payload},
    pb::{
        CompleteTasksRequest, ErrorReason, FailTasksRequest, GetProjectRequest, LeaseTasksRequest, LeaseToken,
        LeasedTask, Queue, ReleaseTasksRequest, ReportResult, RetrySettings, SubmitTaskRequest, Task, TaskCompletion,
        TaskError, TaskEvent, TaskFailure, TaskRelease, UpdateQueueRequest, WatchTasksRequest, WatchTasksResponse,
        WorkerIdentity, task_event,
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    client::{Clients, Replicas},
    history::{Completion, History, Known, REQUEST_LABEL, Seen, Watched},
    invariants::Inspector,
    wait::{eventually, pause},
};

/// The type of every task.
pub const TYPE: &str = "load";
/// The queue of every task.
pub const QUEUE: &str = "load";
pub const PROJECT: &str = "projects/default";
/// The shortest lease there is, so that a lease nobody knows of is over soon.
const LEASE_SECONDS: i64 = 5;
/// Submitters wait while more tasks than this are not completed, so that workers are done soon after them.
const MAX_BACKLOG: usize = 150;
/// Tasks a worker takes at a time.
const LEASE_TASKS: i32 = 8;
const LEASE_WAIT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
/// Between two tries while the server is away.
const TRY_AGAIN: Duration = Duration::from_millis(25);
/// One submit of so many is repeated after its answer.
const REPEATED_SUBMITS: u32 = 16;
/// The bytes of a result of a task.
const RESULT_TYPE: &str = "text/plain";

/// What runs, and where.
#[derive(Clone)]
pub struct Shape {
    /// Each client uses one of them, in turn.
    pub endpoints: Vec<String>,
    pub submitters: usize,
    pub workers: usize,
    pub watchers: usize,
    /// Watchers cut each stream after one to so many messages; none means never.
    pub watchers_cut_within: Option<usize>,
}

impl Shape {
    pub fn on(endpoints: &[String]) -> Shape {
        Shape { endpoints: endpoints.to_vec(), submitters: 4, workers: 4, watchers: 1, watchers_cut_within: None }
    }
}

pub struct Load {
    history: Arc<History>,
    submitting: CancellationToken,
    working: CancellationToken,
    watching: CancellationToken,
    submitters: JoinSet<()>,
    workers: JoinSet<()>,
    watchers: JoinSet<()>,
}

impl Load {
    /// Sets the queue up and starts everybody; watchers first, so that they see everything.
    pub async fn start(shape: Shape) -> Load {
        let history = Arc::new(History::default());
        let mut load = Load {
            history: history.clone(),
            submitting: CancellationToken::new(),
            working: CancellationToken::new(),
            watching: CancellationToken::new(),
            submitters: JoinSet::new(),
            workers: JoinSet::new(),
            watchers: JoinSet::new(),
        };
        let client = |number: usize| Replicas::new(&shape.endpoints, number);
        set_lease(client(0).current(), QUEUE).await;
        let start = revision(client(0).current()).await;
        for number in 0..shape.watchers {
            let name = format!("watcher-{number}");
            history.watch(&name, |watched| watched.start = start);
            let watcher = Watcher {
                replicas: client(number),
                history: history.clone(),
                name: name.clone(),
                cut_within: shape.watchers_cut_within,
                stop: load.watching.clone(),
            };
            load.watchers.spawn(watcher.run());
            eventually("the watch is open", super::wait::SOON, async || {
                if history.with(|known| known.watches[&name].opened > 0) { Ok(()) } else { Err("it is not") }
            })
            .await;
        }
        for number in 0..shape.workers {
            let worker =
                Worker { replicas: client(number), history: history.clone(), number, stop: load.working.clone() };
            load.workers.spawn(worker.run());
        }
        for number in 0..shape.submitters {
            load.submitters.spawn(submit_for_ever(client(number), history.clone(), number, load.submitting.clone()));
        }
        load
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// For clients that are not part of the load and know something too.
    pub fn shared_history(&self) -> Arc<History> {
        self.history.clone()
    }

    /// Waits until so many more unary calls were acknowledged, and one is under way.
    pub async fn advance(&self, calls: usize, limit: Duration) {
        let from = self.history.with(|known| known.acknowledged);
        eventually(&format!("{calls} more calls are acknowledged"), limit, async || {
            let (now, in_flight) = self.history.with(|known| (known.acknowledged, known.in_flight));
            if now >= from + calls && in_flight > 0 { Ok(()) } else { Err(format!("{now} of {}", from + calls)) }
        })
        .await;
    }

    /// Stops submitting, waits until no task is open and the watchers saw all of it, and stops everybody.
    pub async fn finish(mut self, inspector: &mut Inspector, limit: Duration) -> Known {
        let started = Instant::now();
        self.submitting.cancel();
        while self.submitters.join_next().await.transpose().expect("a submitter panics on nothing").is_some() {}
        eventually("every task is final", limit, async || match inspector.open_tasks("default").await {
            0 => Ok(()),
            open => Err(format!("{open} tasks wait or run")),
        })
        .await;
        self.working.cancel();
        while self.workers.join_next().await.transpose().expect("a worker panics on nothing").is_some() {}
        let last = inspector.last_task_revision("default").await;
        eventually("the watchers saw all of it", limit.saturating_sub(started.elapsed()), async || {
            let behind = self.history.with(|known| {
                let last_of = |w: &Watched| w.seen.last().map_or(w.start, |seen| seen.revision);
                known.watches.iter().find(|(_, w)| last_of(w) < last).map(|(name, w)| (name.clone(), last_of(w)))
            });
            match behind {
                None => Ok(()),
                Some((name, at)) => Err(format!("{name} is at {at} of {last}")),
            }
        })
        .await;
        self.watching.cancel();
        while self.watchers.join_next().await.transpose().expect("a watcher panics on nothing").is_some() {}
        self.history.known()
    }
}

/// The shortest lease for the tasks of a queue.
pub async fn set_lease(clients: &Clients, queue: &str) {
    let lease_duration = Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 });
    let queue = Queue { name: format!("{PROJECT}/queues/{queue}"), lease_duration, ..Queue::default() };
    let request = UpdateQueueRequest { queue: Some(queue), update_mask: None };
    clients.queues().update_queue(request).await.expect("the queue is set up");
}

/// The last revision of the project.
pub async fn revision(clients: &Clients) -> i64 {
    let request = GetProjectRequest { name: PROJECT.to_owned() };
    let answer = clients.projects().get_project(request).await.expect("the project is there").into_inner();
    answer.project.expect("an answer holds the project").revision
}

/// The id of a task as the database writes it in hexadecimal.
pub fn task_id(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().replace('-', "")
}

/// Makes a call until it is answered, by one replica or another.
async fn persist<R: Clone, T, F>(
    history: &History,
    replicas: &Replicas,
    what: &'static str,
    request: &R,
    call: impl Fn(Clients, R) -> F,
) -> T
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        if let Some(answer) = history.call(what, call(replicas.current().clone(), request.clone())).await {
            return answer;
        }
        replicas.turn();
        pause("the server is back in a moment", TRY_AGAIN).await;
    }
}

async fn submit_for_ever(replicas: Replicas, history: Arc<History>, number: usize, stop: CancellationToken) {
    for serial in 0_u32.. {
        while history.backlog() > MAX_BACKLOG && !stop.is_cancelled() {
            pause("the workers catch up", TRY_AGAIN).await;
        }
        if stop.is_cancelled() {
            return;
        }
        let request_id = format!("{number}-{serial}");
        let request = SubmitTaskRequest {
            parent: PROJECT.to_owned(),
            task: Some(new_task(&request_id, serial)),
            request_id: request_id.clone(),
            ..SubmitTaskRequest::default()
        };
        let times = if serial.is_multiple_of(REPEATED_SUBMITS) { 2 } else { 1 };
        for _ in 0..times {
            let call = |clients: Clients, request| async move { clients.tasks().submit_task(request).await };
            let answer = persist(&history, &replicas, "submit", &request, call).await;
            history.submitted(&request_id, task_id(&answer.name));
        }
    }
}

/// Some later than others, some more important; all come back at once when an attempt fails.
fn new_task(request_id: &str, serial: u32) -> Task {
    let millis = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    Task {
        r#type: TYPE.to_owned(),
        queue: QUEUE.to_owned(),
        priority: i32::try_from(serial % 3).unwrap_or_default(),
        labels: [(REQUEST_LABEL.to_owned(), request_id.to_owned())].into(),
        // Every fourth has a key of its own, so that taking and releasing keys is part of the load.
        unique_key: if serial.is_multiple_of(4) { format!("key-{request_id}") } else { String::new() },
        retry: Some(RetrySettings { max_attempts: 4, initial_backoff: millis(5), max_backoff: millis(50) }),
        ..Task::default()
    }
}

/// What a worker does with a task.
enum Plan {
    Complete,
    Fail,
    Release,
    /// Says nothing, as a worker that dies. The lease has to expire.
    Forget,
}

impl Plan {
    fn draw(draining: bool) -> Plan {
        match rand::random_range(0..1000) {
            0..100 => Plan::Fail,
            100..160 => Plan::Release,
            160..163 if !draining => Plan::Forget,
            _ => Plan::Complete,
        }
    }
}

struct Worker {
    replicas: Replicas,
    history: Arc<History>,
    number: usize,
    stop: CancellationToken,
}

impl Worker {
    async fn run(self) {
        let identity = WorkerIdentity {
            worker: format!("worker-{}", self.number),
            incarnation: Uuid::now_v7().to_string(),
            types: vec![TYPE.to_owned()],
            queues: vec![QUEUE.to_owned()],
            slots: LEASE_TASKS,
            ..WorkerIdentity::default()
        };
        while !self.stop.is_cancelled() {
            let request = LeaseTasksRequest {
                parent: PROJECT.to_owned(),
                identity: Some(identity.clone()),
                max_tasks: LEASE_TASKS,
                wait: Some(LEASE_WAIT),
                // The same id until it is answered: what was leased by a call without an answer is answered again.
                request_id: Uuid::now_v7().to_string(),
            };
            let call = |clients: Clients, request| async move { clients.workers().lease_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "lease", &request, call).await;
            self.work(answer.tasks).await;
        }
    }

    async fn work(&self, leased: Vec<LeasedTask>) {
        let (mut completions, mut failures, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        for task in leased {
            let token = task.token.expect("a leased task has a token");
            match Plan::draw(self.stop.is_cancelled()) {
                Plan::Complete => {
                    // The bytes are of this attempt alone, so that whose result is stored can be told.
                    let text = format!("{} {} {}", self.number, token.task, token.epoch);
                    completions.push(completion(token, text));
                }
                Plan::Fail => {
                    let error = TaskError { r#type: "Planned".to_owned(), ..TaskError::default() };
                    let token = Some(token);
                    failures.push(TaskFailure { token, error: Some(error), r#final: false, retry_after: None });
                }
                Plan::Release => releases.push(TaskRelease { token: Some(token), delay: None }),
                Plan::Forget => {}
            }
        }
        if !completions.is_empty() {
            self.complete(completions).await;
        }
        if !failures.is_empty() {
            let request = FailTasksRequest { parent: PROJECT.to_owned(), failures };
            let call = |clients: Clients, request| async move { clients.workers().fail_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "fail", &request, call).await;
            answer.results.iter().for_each(|result| self.expect_report("fail", result));
        }
        if !releases.is_empty() {
            let request = ReleaseTasksRequest { parent: PROJECT.to_owned(), releases };
            let call = |clients: Clients, request| async move { clients.workers().release_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "release", &request, call).await;
            answer.results.iter().for_each(|result| self.expect_report("release", result));
        }
    }

    async fn complete(&self, completions: Vec<TaskCompletion>) {
        let done = self.send(completions.clone()).await;
        for (completion, result) in completions.iter().zip(&done) {
            let token = completion.token.clone().unwrap_or_default();
            self.expect_report("complete", result);
            if refusal(result).is_none() {
                let result = bytes(completion);
                self.history.completed(task_id(&token.task), Completion { epoch: token.epoch, result });
            }
        }
        if !rand::random_bool(0.1) {
            return;
        }
        // Again as it was: the same answer. Again with another result: refused.
        let again = self.send(completions.clone()).await;
        let changed = completions.iter().map(|c| completion(c.token.clone().unwrap_or_default(), "changed".to_owned()));
        let changed = self.send(changed.collect()).await;
        for ((first, again), changed) in done.iter().zip(&again).zip(&changed) {
            if refusal(first).is_none() && refusal(again).is_some() {
                self.history.surprise(format!("a repeated completion is refused: {:?}", refusal(again)));
            }
            if refusal(changed).is_none() {
                self.history.surprise(format!("a changed completion is accepted: {changed:?}"));
            }
        }
    }

    async fn send(&self, completions: Vec<TaskCompletion>) -> Vec<ReportResult> {
        let request = CompleteTasksRequest { parent: PROJECT.to_owned(), completions };
        let call = |clients: Clients, request| async move { clients.workers().complete_tasks(request).await };
        persist(&self.history, &self.replicas, "complete", &request, call).await.results
    }

    /// A lease may be lost while the server is away; any other refusal of a good report is wrong.
    fn expect_report(&self, what: &str, result: &ReportResult) {
        if let Some(refusal) = refusal(result).filter(|refusal| refusal.reason != ErrorReason::LeaseLost) {
            self.history.surprise(format!("{what}: {refusal}"));
        }
    }
}

fn completion(token: LeaseToken, text: String) -> TaskCompletion {
    TaskCompletion { token: Some(token), result: Some(payload::bytes(RESULT_TYPE, text.into_bytes())) }
}

fn bytes(completion: &TaskCompletion) -> Vec<u8> {
    match completion.result.as_ref().and_then(|result| result.kind.as_ref()) {
        Some(tasktower::pb::payload::Kind::Blob(blob)) => blob.data.to_vec(),
        _ => Vec::new(),
    }
}

fn refusal(result: &ReportResult) -> Option<Refusal> {
    result.status.as_ref().and_then(Refusal::of_item)
}

/// Follows the project from the token of its last message, through whatever breaks its streams.
struct Watcher {
    replicas: Replicas,
    history: Arc<History>,
    name: String,
    cut_within: Option<usize>,
    stop: CancellationToken,
}

impl Watcher {
    async fn run(self) {
        let mut token = String::new();
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = self.follow(&mut token) => self.replicas.turn(),
                () = self.stop.cancelled() => {}
            }
            pause("the server is back in a moment", TRY_AGAIN).await;
        }
    }

    /// One stream, to its end.
    async fn follow(&self, token: &mut String) {
        let request = WatchTasksRequest {
            parent: PROJECT.to_owned(),
            resume_token: token.clone(),
            ..WatchTasksRequest::default()
        };
        let mut stream = match self.replicas.current().tasks().watch_tasks(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return self.history.broke("watch", status),
        };
        let cut_after = self.cut_within.map(|most| rand::random_range(1..=most));
        for message_number in 1.. {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return self.history.surprise(format!("{}: the stream ended without a word", self.name)),
                Err(status) => return self.history.broke("watch", status),
            };
            if message.resume_token.is_empty() {
                self.history.surprise(format!("{}: a message without a token", self.name));
            }
            self.history.watch(&self.name, |watched| {
                if watched.opened == 0 {
                    watched.first_token = message.resume_token.clone();
                }
                watched.opened += usize::from(message_number == 1);
                watched.seen.extend(read_events(&message));
            });
            token.clone_from(&message.resume_token);
            if Some(message_number) == cut_after {
                return;
            }
        }
    }
}

/// The events of a message that are about tasks.
pub fn read_events(message: &WatchTasksResponse) -> Vec<Seen> {
    let is_task = |event: &&TaskEvent| event.r#type() != task_event::Type::Bookmark;
    message.events.iter().filter(is_task).map(read_event).collect()
}

/// An event as histories keep it.
pub fn read_event(event: &TaskEvent) -> Seen {
    let task = event.task.as_ref();
    Seen {
        revision: event.revision,
        task: task.map(|task| task_id(&task.name)).unwrap_or_default(),
        kind: event.kind,
        version: task.map(|task| task.version).unwrap_or_default(),
    }
}
