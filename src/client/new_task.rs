//! What to submit.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use uuid::Uuid;

use super::{Error, payload, value::ValueError};
use crate::pb::{Payload, RetrySettings, SubmitTaskRequest, Task};

/// A task to submit. Everything but the type is optional.
#[derive(Debug, Clone)]
pub struct NewTask {
    task: Task,
    // Kept until the submit, so that building a task needs no `?`.
    input: Result<Option<Payload>, ValueError>,
    task_id: String,
    request_id: Option<String>,
}

impl NewTask {
    /// A task for the handler of this type.
    pub fn new(task_type: impl Into<String>) -> Self {
        let task = Task { r#type: task_type.into(), ..Task::default() };
        Self { task, input: Ok(None), task_id: String::new(), request_id: None }
    }

    /// The JSON input of the handler. If it does not serialise or holds integers beyond 2^53, the submit says so.
    pub fn input(mut self, input: impl Serialize) -> Self {
        self.input = payload::json(input).map(Some);
        self
    }

    /// The input as bytes with their media type.
    pub fn input_bytes(mut self, content_type: impl Into<String>, data: impl Into<bytes::Bytes>) -> Self {
        self.input = Ok(Some(payload::bytes(content_type, data)));
        self
    }

    /// The queue to wait in, `default` unless given.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.task.queue = queue.into();
        self
    }

    /// Higher runs first; 0 unless given.
    pub fn priority(mut self, priority: i32) -> Self {
        self.task.priority = priority;
        self
    }

    /// Not before this time.
    pub fn run_at(mut self, time: SystemTime) -> Self {
        self.task.run_time = Some(time.into());
        self
    }

    /// Never after this time: a task that still waits then fails.
    pub fn expire_at(mut self, time: SystemTime) -> Self {
        self.task.expire_time = Some(time.into());
        self
    }

    /// The most one attempt may take, 1 h unless given.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.task.timeout = Some(wire_duration(limit));
        self
    }

    /// While an open task of this type holds the key, submitting again answers that task.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.task.unique_key = key.into();
        self
    }

    /// Lets go of the unique key after this time even if the task is still open.
    pub fn unique_ttl(mut self, ttl: Duration) -> Self {
        self.task.unique_ttl = Some(wire_duration(ttl));
        self
    }

    /// A label to find the task by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.task.labels.insert(key.into(), value.into());
        self
    }

    /// How failed attempts are repeated.
    pub fn retry(mut self, settings: RetrySettings) -> Self {
        self.task.retry = Some(settings);
        self
    }

    /// Attempts in all; 1 means never repeat.
    pub fn max_attempts(mut self, attempts: i32) -> Self {
        self.task.retry.get_or_insert_default().max_attempts = attempts;
        self
    }

    /// The upper bounds of the first wait before another attempt, and of every wait.
    pub fn backoff(mut self, initial: Duration, longest: Duration) -> Self {
        let retry = self.task.retry.get_or_insert_default();
        retry.initial_backoff = Some(wire_duration(initial));
        retry.max_backoff = Some(wire_duration(longest));
        self
    }

    /// The id of the task; the server makes one unless given.
    pub fn id(mut self, id: Uuid) -> Self {
        self.task_id = id.to_string();
        self
    }

    /// What makes repeating this submit safe, also over restarts of the caller; a new one is made unless given. Not used
    /// in a batch, which has its own.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    pub(super) fn into_request(self, parent: String) -> Result<SubmitTaskRequest, Error> {
        let request_id = self.request_id.clone().unwrap_or_else(new_request_id);
        Ok(SubmitTaskRequest { parent, request_id, ..self.into_batch_item()? })
    }

    /// Inside a batch the parent and the request id are those of the batch.
    pub(super) fn into_batch_item(mut self) -> Result<SubmitTaskRequest, Error> {
        self.task.input = self.input?;
        Ok(SubmitTaskRequest { task: Some(self.task), task_id: self.task_id, ..SubmitTaskRequest::default() })
    }
}

/// A request id nobody else uses.
pub(super) fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// Durations beyond what the wire holds (10,000 years) are cut; the server refuses them anyway.
fn wire_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_submit_carries_a_request_id() {
        let one = NewTask::new("a").into_request("projects/p".to_owned()).unwrap();
        let other = NewTask::new("a").into_request("projects/p".to_owned()).unwrap();
        assert!(!one.request_id.is_empty() && one.request_id != other.request_id);
        assert_eq!(NewTask::new("a").request_id("mine").into_request(String::new()).unwrap().request_id, "mine");
        assert_eq!(NewTask::new("a").request_id("mine").into_batch_item().unwrap().request_id, "");
    }

    #[test]
    fn a_bad_input_is_told_at_the_submit() {
        let task = NewTask::new("a").input(json!({ "id": u64::MAX }));
        assert!(matches!(task.into_batch_item(), Err(Error::Payload(error)) if error.path == "$.id"));
    }

    #[test]
    fn retry_settings_add_up() {
        let task = NewTask::new("a").max_attempts(3).backoff(Duration::from_millis(1500), Duration::MAX);
        let retry = task.into_batch_item().unwrap().task.unwrap().retry.unwrap();
        assert_eq!(retry.max_attempts, 3);
        assert_eq!(retry.initial_backoff.unwrap(), prost_types::Duration { seconds: 1, nanos: 500_000_000 });
    }
}
