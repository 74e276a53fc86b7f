//! The calls that stories are made of, in one line each. They expect the server to answer well; a test about refusals
//! looks at the items' statuses, or calls the generated client itself.

use std::time::Duration;

use tasktower::{
    client::{Refusal, payload},
    pb::{
        Attempt, CancelTaskRequest, CompleteTasksRequest, FailTasksRequest, GetTaskRequest, HeartbeatRequest,
        LeaseHeartbeat, LeaseTasksRequest, LeaseToken, LeasedTask, ListAttemptsRequest, Payload, ReleaseTasksRequest,
        SubmitTaskRequest, Task, TaskCompletion, TaskError, TaskFailure, TaskRelease, TaskView, WorkerIdentity,
    },
};

use super::{client::Clients, load::PROJECT};

/// Submits a task and answers its name.
pub async fn submit(clients: &Clients, task: Task) -> String {
    let request = SubmitTaskRequest { parent: PROJECT.to_owned(), task: Some(task), ..SubmitTaskRequest::default() };
    clients.tasks().submit_task(request).await.expect("a good submit").into_inner().name
}

/// A task of a type in a queue.
pub fn task(task_type: &str, queue: &str) -> Task {
    Task { r#type: task_type.to_owned(), queue: queue.to_owned(), ..Task::default() }
}

/// The task as it is, with everything.
pub async fn get(clients: &Clients, name: &str) -> Task {
    let request = GetTaskRequest { name: name.to_owned(), view: TaskView::Full.into() };
    clients.tasks().get_task(request).await.expect("the task is there").into_inner().task.expect("an answer holds it")
}

/// All attempts of a task, oldest first.
pub async fn attempts(clients: &Clients, name: &str) -> Vec<Attempt> {
    let request = ListAttemptsRequest { parent: name.to_owned(), ..ListAttemptsRequest::default() };
    let mut attempts = clients.tasks().list_attempts(request).await.expect("attempts").into_inner().attempts;
    attempts.sort_by_key(|attempt| attempt.epoch);
    attempts
}

/// Leases up to `count` tasks of a type in a queue, waiting for the first.
pub async fn lease(
    clients: &Clients,
    worker: &str,
    task_type: &str,
    queue: &str,
    count: usize,
    wait: Duration,
) -> Vec<LeasedTask> {
    let identity = WorkerIdentity {
        worker: worker.to_owned(),
        types: vec![task_type.to_owned()],
        queues: vec![queue.to_owned()],
        ..WorkerIdentity::default()
    };
    let request = LeaseTasksRequest {
        parent: PROJECT.to_owned(),
        identity: Some(identity),
        max_tasks: i32::try_from(count).expect("a small number"),
        wait: Some(wait.try_into().expect("a short time")),
        ..LeaseTasksRequest::default()
    };
    clients.workers().lease_tasks(request).await.expect("a lease").into_inner().tasks
}

/// The token of a leased task.
pub fn token(leased: &LeasedTask) -> LeaseToken {
    leased.token.clone().expect("a leased task has a token")
}

/// A result.
pub fn text(text: &str) -> Payload {
    payload::json(text).expect("a text is JSON")
}

/// Completes a task; answers the refusal, if it is one.
pub async fn complete(clients: &Clients, token: &LeaseToken, result: &str) -> Option<Refusal> {
    let completions = vec![TaskCompletion { token: Some(token.clone()), result: Some(text(result)) }];
    let request = CompleteTasksRequest { parent: PROJECT.to_owned(), completions };
    let answer = clients.workers().complete_tasks(request).await.expect("an answer").into_inner();
    answer.results[0].status.as_ref().and_then(Refusal::of_item)
}

/// Fails an attempt; answers the refusal, if it is one.
pub async fn fail(clients: &Clients, token: &LeaseToken, is_final: bool) -> Option<Refusal> {
    let error = Some(TaskError { r#type: "Planned".to_owned(), ..TaskError::default() });
    let failure = TaskFailure { token: Some(token.clone()), error, r#final: is_final, retry_after: None };
    let request = FailTasksRequest { parent: PROJECT.to_owned(), failures: vec![failure] };
    let answer = clients.workers().fail_tasks(request).await.expect("an answer").into_inner();
    answer.results[0].status.as_ref().and_then(Refusal::of_item)
}

/// Gives a lease back; answers the refusal, if it is one.
pub async fn release(clients: &Clients, token: &LeaseToken) -> Option<Refusal> {
    let releases = vec![TaskRelease { token: Some(token.clone()), delay: None }];
    let request = ReleaseTasksRequest { parent: PROJECT.to_owned(), releases };
    let answer = clients.workers().release_tasks(request).await.expect("an answer").into_inner();
    answer.results[0].status.as_ref().and_then(Refusal::of_item)
}

/// Extends a lease; answers the refusal, if it is one.
pub async fn heartbeat(clients: &Clients, token: &LeaseToken) -> Option<Refusal> {
    let leases = vec![LeaseHeartbeat { token: Some(token.clone()), progress: None }];
    let request = HeartbeatRequest { parent: PROJECT.to_owned(), leases, ..HeartbeatRequest::default() };
    let answer = clients.workers().heartbeat(request).await.expect("an answer").into_inner();
    answer.results[0].status.as_ref().and_then(Refusal::of_item)
}

/// Cancels a task.
pub async fn cancel(clients: &Clients, name: &str, reason: &str) -> Task {
    let request =
        CancelTaskRequest { name: name.to_owned(), reason: reason.to_owned(), ..CancelTaskRequest::default() };
    clients.tasks().cancel_task(request).await.expect("a good cancel").into_inner().task.expect("an answer holds it")
}
