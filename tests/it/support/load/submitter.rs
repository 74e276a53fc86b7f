//! Submits, each request until it is answered, for as long as the workers keep up.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tasktower::pb::{BatchSubmitTasksRequest, RetrySettings, SubmitTaskRequest, Task};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        client::{Clients, Replicas},
        history::{History, REQUEST_LABEL},
        wait::pause,
    },
    PROJECT, QUEUE, SLOW, TRY_AGAIN, TYPE, persist, task_id,
};

/// Submitters wait while more tasks than this are not worked on, so that workers are done soon after them.
const MAX_BACKLOG: usize = 150;
/// One submit of so many is repeated after its answer.
const REPEATED: u32 = 16;
/// One submit of so many comes without a request id, so that nobody can repeat it.
const UNREPEATABLE: u32 = 3;
/// One task of so many waits for a moment.
const DELAYED: u32 = 5;
const DELAY: Duration = Duration::from_millis(300);
/// One task of so many has little time; when the server is away for too long, it fails.
const EXPIRING: u32 = 17;
const EXPIRES_AFTER: Duration = Duration::from_secs(2);
/// One attempt of so many tasks times out before its lease expires.
const SHORT_ATTEMPT: u32 = 7;

/// One task of so many is slow, and so many submits apart are bursts, if there are such.
const SLOW_ONE_OF: u32 = 20;
const BURST_EVERY: u32 = 40;
/// More than a watcher's queue of 256 holds.
const BURST_TASKS: u32 = 400;

pub(super) struct Submitter {
    pub(super) replicas: Replicas,
    pub(super) history: Arc<History>,
    pub(super) number: usize,
    pub(super) slow_tasks: bool,
    pub(super) bursts: bool,
    pub(super) stop: CancellationToken,
}

impl Submitter {
    pub(super) async fn run(self) {
        for serial in 0_u32.. {
            while self.history.backlog() > MAX_BACKLOG && !self.stop.is_cancelled() {
                pause("the workers catch up", TRY_AGAIN).await;
            }
            if self.stop.is_cancelled() {
                return;
            }
            if self.bursts && serial.is_multiple_of(BURST_EVERY) {
                self.submit_many(serial).await;
            } else {
                Box::pin(self.submit(serial)).await;
            }
        }
    }

    async fn submit(&self, serial: u32) {
        let request_id = format!("{}-{serial}", self.number);
        let mut task = new_task(&request_id, serial);
        if self.slow_tasks && serial % SLOW_ONE_OF == 1 {
            task.labels.insert(SLOW.to_owned(), String::new());
        }
        let mut request = SubmitTaskRequest {
            parent: PROJECT.to_owned(),
            task: Some(task),
            request_id: request_id.clone(),
            ..SubmitTaskRequest::default()
        };
        if serial % UNREPEATABLE == 2 {
            request.request_id.clear();
            let mut tasks = self.replicas.current().tasks();
            match self.history.call("submit", tasks.submit_task(request)).await {
                Some(answer) => self.history.submitted(&request_id, task_id(&answer.name)),
                None => self.replicas.turn(),
            }
            return;
        }
        let times = if serial.is_multiple_of(REPEATED) { 2 } else { 1 };
        for _ in 0..times {
            let call = |clients: Clients, request| async move { clients.tasks().submit_task(request).await };
            let answer = persist(&self.history, &self.replicas, "submit", &request, call).await;
            self.history.submitted(&request_id, task_id(&answer.name));
        }
    }

    async fn submit_many(&self, serial: u32) {
        let request_ids: Vec<String> =
            (0..BURST_TASKS).map(|place| format!("{}-{serial}-{place}", self.number)).collect();
        let submit = |(id, place): (&String, u32)| SubmitTaskRequest {
            task: Some(new_task(id, serial + place)),
            ..SubmitTaskRequest::default()
        };
        let request = BatchSubmitTasksRequest {
            parent: PROJECT.to_owned(),
            requests: request_ids.iter().zip(0..).map(submit).collect(),
            request_id: format!("{}-{serial}", self.number),
        };
        let call = |clients: Clients, request| async move { clients.tasks().batch_submit_tasks(request).await };
        let answer = persist(&self.history, &self.replicas, "submit many", &request, call).await;
        for (request_id, response) in request_ids.iter().zip(&answer.responses) {
            self.history.submitted(request_id, task_id(&response.name));
        }
    }
}

/// Some later than others, some more important; all come back at once when an attempt fails.
fn new_task(request_id: &str, serial: u32) -> Task {
    let after = |one_of: u32, span: Duration| serial.is_multiple_of(one_of).then(|| (SystemTime::now() + span).into());
    let millis = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    Task {
        r#type: TYPE.to_owned(),
        queue: QUEUE.to_owned(),
        priority: i32::try_from(serial % 3).unwrap_or_default(),
        labels: [(REQUEST_LABEL.to_owned(), request_id.to_owned())].into(),
        // Every fourth has a key of its own, so that taking and releasing keys is part of the load.
        unique_key: if serial.is_multiple_of(4) { format!("key-{request_id}") } else { String::new() },
        run_time: after(DELAYED, DELAY),
        expire_time: after(EXPIRING, EXPIRES_AFTER),
        timeout: serial.is_multiple_of(SHORT_ATTEMPT).then_some(prost_types::Duration { seconds: 1, nanos: 0 }),
        retry: Some(RetrySettings {
            max_attempts: 4,
            initial_backoff: millis(5),
            max_backoff: millis(50),
            ..Default::default()
        }),
        ..Task::default()
    }
}
