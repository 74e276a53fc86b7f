//! The everyday calls on tasks, safe to make again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::{
    Backoff, Client, Error, NewTask, Watch, WatchOptions, metadata::LONGEST_POLL, new_task::new_request_id,
    retry::wait_before_retry,
};
use crate::pb::{
    BatchSubmitTasksRequest, CancelTaskRequest, GetTaskRequest, SubmitTaskResponse, Task, WaitTaskRequest,
    WaitTaskResponse,
};

impl Client {
    /// Submits a task. When this returns OK the task is durable.
    pub async fn submit(&self, task: NewTask) -> Result<SubmitTaskResponse, Error> {
        let request = task.into_request(self.parent())?;
        let tasks = self.tasks();
        self.repeat(|| {
            let (mut tasks, request) = (tasks.clone(), request.clone());
            async move { tasks.submit_task(request).await }
        })
        .await
    }

    /// Submits up to 1,000 tasks, all or none; answers in the same order.
    pub async fn submit_batch(
        &self,
        tasks: impl IntoIterator<Item = NewTask>,
    ) -> Result<Vec<SubmitTaskResponse>, Error> {
        let requests = tasks.into_iter().map(NewTask::into_batch_item).collect::<Result<Vec<_>, _>>()?;
        let request = BatchSubmitTasksRequest { parent: self.parent(), requests, request_id: new_request_id() };
        let tasks = self.tasks();
        let answer = self
            .repeat(|| {
                let (mut tasks, request) = (tasks.clone(), request.clone());
                async move { tasks.batch_submit_tasks(request).await }
            })
            .await?;
        Ok(answer.responses)
    }

    /// Returns a task with everything, by its name or its id in this client's project.
    pub async fn get(&self, task: impl AsRef<str>) -> Result<Task, Error> {
        let request = GetTaskRequest { name: self.task_name(task.as_ref()), ..GetTaskRequest::default() };
        let tasks = self.tasks();
        let answer = self
            .repeat(|| {
                let (mut tasks, request) = (tasks.clone(), request.clone());
                async move { tasks.get_task(request).await }
            })
            .await?;
        answer.task.ok_or(Error::Incomplete("task"))
    }

    /// Waits until a task is final, through restarts of the server. After `limit` the error is [`Error::NotDone`] with
    /// the task as it is, or the last error if the server could not be asked.
    pub async fn wait(&self, task: impl AsRef<str>, limit: Duration) -> Result<Task, Error> {
        let name = self.task_name(task.as_ref());
        // A limit beyond what the clock can count is no limit.
        let deadline = Instant::now().checked_add(limit);
        let mut backoff = Backoff::default();
        loop {
            let left = deadline.map_or(LONGEST_POLL, |deadline| deadline.saturating_duration_since(Instant::now()));
            let error = match self.wait_once(&name, left.min(LONGEST_POLL)).await {
                Ok(WaitTaskResponse { task: None, .. }) => return Err(Error::Incomplete("task")),
                Ok(WaitTaskResponse { task: Some(task), done: true }) => return Ok(task),
                Ok(WaitTaskResponse { task: Some(task), done: false }) => {
                    backoff.reset();
                    if left.is_zero() {
                        return Err(Error::NotDone(Box::new(task)));
                    }
                    continue;
                }
                Err(error) => error,
            };
            let pause = match error.refusal() {
                // A poll that got no answer in time is made again like one that was cut off.
                Some(refusal) if refusal.code == Code::DeadlineExceeded => Some(backoff.next_wait()),
                Some(refusal) => wait_before_retry(refusal, &mut backoff),
                None => None,
            };
            match pause {
                Some(pause) if pause < left => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    async fn wait_once(&self, name: &str, wait: Duration) -> Result<WaitTaskResponse, Error> {
        let body = WaitTaskRequest { name: name.to_owned(), wait: wait.try_into().ok() };
        let mut request = tonic::Request::new(body);
        request.set_timeout(wait + self.deadline());
        Ok(self.tasks().wait_task(request).await?.into_inner())
    }

    /// Cancels a task, with a reason for people. One that runs is asked to stop; `wait` for it to see how it ends.
    /// Cancelling twice is the same as once, so this is repeated like a read.
    pub async fn cancel(&self, task: impl AsRef<str>, reason: impl Into<String>) -> Result<Task, Error> {
        let request = CancelTaskRequest {
            name: self.task_name(task.as_ref()),
            reason: reason.into(),
            ..CancelTaskRequest::default()
        };
        let tasks = self.tasks();
        let answer = self
            .repeat(|| {
                let (mut tasks, request) = (tasks.clone(), request.clone());
                async move { tasks.cancel_task(request).await }
            })
            .await?;
        answer.task.ok_or(Error::Incomplete("task"))
    }

    /// Follows tasks live. The stream goes on by itself when the connection breaks; nothing is missed or repeated.
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(self, options)
    }
}
