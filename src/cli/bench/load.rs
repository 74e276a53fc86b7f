//! The tasks a benchmark makes, and the connections it uses.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tonic::Status;
use uuid::Uuid;

use crate::{
    cli::{Context, connect::Api},
    pb::{BatchSubmitTasksRequest, Payload, SubmitTaskRequest, Task, WorkerIdentity, payload::Kind},
};

/// The task type of all benchmarks.
pub const TYPE: &str = "bench";
/// The server takes so many in one batch.
pub const MAX_BATCH: usize = 1_000;

/// A queue, and how tasks for it look.
#[derive(Clone)]
pub struct Load {
    /// `projects/{project}`.
    pub project: String,
    /// A queue nobody else uses.
    pub queue: String,
    payload: Payload,
}

impl Load {
    /// A load with a queue of its own and inputs of about this size.
    pub fn new(context: &Context, payload_bytes: usize) -> Self {
        let queue = format!("bench-{}", Uuid::now_v7());
        eprintln!("queue {queue}");
        let text = "x".repeat(payload_bytes);
        let payload = Payload { kind: Some(Kind::Json(prost_types::Value::from(text))) };
        Self { project: context.project.clone(), queue, payload }
    }

    /// A task of this load.
    pub fn task(&self) -> Task {
        Task {
            r#type: TYPE.to_owned(),
            queue: self.queue.clone(),
            input: Some(self.payload.clone()),
            ..Default::default()
        }
    }

    /// A submit of one task.
    pub fn submit(&self) -> SubmitTaskRequest {
        SubmitTaskRequest { parent: self.project.clone(), task: Some(self.task()), ..Default::default() }
    }

    /// A submit of `count` tasks that may be repeated.
    pub fn submit_batch(&self, count: usize) -> BatchSubmitTasksRequest {
        let one = SubmitTaskRequest { task: Some(self.task()), ..Default::default() };
        BatchSubmitTasksRequest {
            parent: self.project.clone(),
            requests: vec![one; count],
            request_id: Uuid::now_v7().to_string(),
        }
    }

    /// Submits `count` tasks, batch by batch, and answers their names.
    pub async fn prepare(&self, api: &Api, count: usize) -> Result<Vec<String>, Status> {
        let mut names = Vec::with_capacity(count);
        while names.len() < count {
            let batch = self.submit_batch(MAX_BATCH.min(count - names.len()));
            let answer = api.tasks().batch_submit_tasks(api.call(batch)).await?.into_inner();
            if answer.responses.is_empty() {
                return Err(Status::internal("the server answered a batch without saying what became of it"));
            }
            names.extend(answer.responses.into_iter().map(|response| response.name));
        }
        Ok(names)
    }

    /// A worker for this load.
    pub fn worker(&self, number: usize, slots: usize) -> WorkerIdentity {
        WorkerIdentity {
            worker: format!("bench-{number}"),
            incarnation: Uuid::now_v7().to_string(),
            types: vec![TYPE.to_owned()],
            queues: vec![self.queue.clone()],
            slots: i32::try_from(slots).unwrap_or(i32::MAX),
            labels: BTreeMap::new(),
        }
    }

    /// `projects/{project}/queues/{queue}`.
    pub fn queue_name(&self) -> String {
        format!("{}/queues/{}", self.project, self.queue)
    }
}

/// So many connections to the same server.
pub fn connections(context: &Context, count: usize) -> Vec<Api> {
    (0..count.max(1)).map(|_| context.api.another_connection()).collect()
}

/// The UUID of a task as a number, which is small to keep.
pub fn task_number(name: &str) -> anyhow::Result<u128> {
    let id = crate::cli::names::id(name);
    Ok(Uuid::try_parse(id).with_context(|| format!("the server named a task {name}, which is not a UUID"))?.as_u128())
}
