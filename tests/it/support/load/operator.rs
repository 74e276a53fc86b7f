//! Changes tasks that are under way, as people do: cancels, opens again, updates, runs now. What it is told stands.

use std::{sync::Arc, time::Duration};

use tasktower::pb::{CancelTaskRequest, RetryTaskRequest, RunTaskNowRequest, Task, UpdateTaskRequest};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        client::Replicas,
        history::{History, OPERATE},
        wait::pause,
    },
    PROJECT, task_id,
};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(10);
/// Only the last tasks; earlier ones are final.
const RECENT: usize = 12;

pub(super) async fn operate_for_ever(replicas: Replicas, history: Arc<History>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        pause("people are slow", PAUSE).await;
        let Some(id) = history.recent(rand::random_range(0..RECENT)) else { continue };
        match operate(&replicas, &history, format!("{PROJECT}/tasks/{}", hyphenated(&id))).await {
            Some(task) => {
                history.answered(&task);
                if task.finish_time.is_some() {
                    history.handled(task_id(&task.name));
                }
            }
            None => replicas.turn(),
        }
    }
}

async fn operate(replicas: &Replicas, history: &History, name: String) -> Option<Task> {
    let mut tasks = replicas.current().tasks();
    match rand::random_range(0..4) {
        0 => {
            let request = CancelTaskRequest { name, reason: "for the load".to_owned(), ..CancelTaskRequest::default() };
            history.call(OPERATE, tasks.cancel_task(request)).await?.task
        }
        1 => {
            let request = RetryTaskRequest { name, ..RetryTaskRequest::default() };
            history.call(OPERATE, tasks.retry_task(request)).await?.task
        }
        2 => {
            let request = RunTaskNowRequest { name, ..RunTaskNowRequest::default() };
            history.call(OPERATE, tasks.run_task_now(request)).await?.task
        }
        _ => {
            let task = Task { name, priority: rand::random_range(-5..=5), ..Task::default() };
            let update_mask = Some(prost_types::FieldMask { paths: vec!["priority".to_owned()] });
            let request = UpdateTaskRequest { task: Some(task), update_mask };
            history.call(OPERATE, tasks.update_task(request)).await?.task
        }
    }
}

fn hyphenated(id: &str) -> String {
    uuid::Uuid::parse_str(id).expect("histories keep ids").to_string()
}
