//! Submits, each request until it is answered, for as long as the workers keep up.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tasktower::pb::{RetrySettings, SubmitTaskRequest, Task};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        client::{Clients, Replicas},
        history::{History, REQUEST_LABEL},
        wait::pause,
    },
    PROJECT, QUEUE, TRY_AGAIN, TYPE, persist, task_id,
};

/// Submitters wait while more tasks than this are not worked on, so that workers are done soon after them.
const MAX_BACKLOG: usize = 150;
/// One submit of so many is repeated after its answer.
const REPEATED: u32 = 16;
/// One task of so many waits for a moment.
const DELAYED: u32 = 5;
const DELAY: Duration = Duration::from_millis(300);
/// One task of so many has little time; when the server is away for too long, it fails.
const EXPIRING: u32 = 17;
const EXPIRES_AFTER: Duration = Duration::from_secs(2);
/// One attempt of so many tasks times out before its lease expires.
const SHORT_ATTEMPT: u32 = 7;

pub(super) async fn submit_for_ever(replicas: Replicas, history: Arc<History>, number: usize, stop: CancellationToken) {
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
        let times = if serial.is_multiple_of(REPEATED) { 2 } else { 1 };
        for _ in 0..times {
            let call = |clients: Clients, request| async move { clients.tasks().submit_task(request).await };
            let answer = persist(&history, &replicas, "submit", &request, call).await;
            history.submitted(&request_id, task_id(&answer.name));
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
        retry: Some(RetrySettings { max_attempts: 4, initial_backoff: millis(5), max_backoff: millis(50) }),
        ..Task::default()
    }
}
