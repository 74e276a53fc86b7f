//! The tasks a benchmark makes, and the connections it uses.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use uuid::Uuid;

use super::runner::{PAUSE, may_pass};
use crate::{
    cli::{Context, connect::Api, failure::true_code},
    pb::{BatchSubmitTasksRequest, GetQueueRequest, Payload, SubmitTaskRequest, Task, WorkerIdentity, payload::Kind},
};

/// The task type of all benchmarks.
pub const TYPE: &str = "bench";
/// The server takes so many in one batch.
pub const MAX_BATCH: usize = 1_000;
/// Batches in flight when a queue is filled: one is written while the next ones are on their way.
const FILLERS: usize = 4;

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
        Self::of_queue(context, &format!("bench-{}", Uuid::now_v7()), payload_bytes)
    }

    /// A load for the queue of this name.
    pub fn of_queue(context: &Context, queue: &str, payload_bytes: usize) -> Self {
        eprintln!("queue {queue}");
        let text = "x".repeat(payload_bytes);
        let payload = Payload { kind: Some(Kind::Json(prost_types::Value::from(text))) };
        Self { project: context.project.clone(), queue: queue.to_owned(), payload }
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

    /// Submits `tasks` tasks, `lanes` batches at a time.
    pub async fn submit_all(&self, apis: &[Api], tasks: usize, batch: usize, lanes: usize) -> anyhow::Result<()> {
        let taken = Arc::new(AtomicUsize::new(0));
        let mut running: JoinSet<Result<(), Status>> = JoinSet::new();
        for lane in 0..lanes {
            let (load, api, taken) = (self.clone(), apis[lane % apis.len()].clone(), taken.clone());
            running.spawn(async move {
                loop {
                    let first = taken.fetch_add(batch, Ordering::Relaxed);
                    if first >= tasks {
                        return Ok(());
                    }
                    load.submit_surely(&api, batch.min(tasks - first)).await?;
                }
            });
        }
        while let Some(lane) = running.join_next().await {
            lane??;
        }
        Ok(())
    }

    /// Submits a batch; the request id makes it safe to send it again when the server was busy or away.
    pub async fn submit_surely(&self, api: &Api, count: usize) -> Result<(), Status> {
        let request = self.submit_batch(count);
        while let Err(status) = api.tasks().batch_submit_tasks(api.call(request.clone())).await {
            if !may_pass(&status) {
                return Err(status);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Submits what is missing until so many tasks wait in the queue.
    pub async fn fill(&self, apis: &[Api], waiting: u64) -> anyhow::Result<()> {
        let name = self.queue_name();
        let there = match apis[0].queues().get_queue(apis[0].call(GetQueueRequest { name })).await {
            Ok(answer) => answer.into_inner().queue.unwrap_or_default().ready_count,
            Err(status) if true_code(&status) == Code::NotFound => 0,
            Err(status) => return Err(status.into()),
        };
        let missing = waiting.saturating_sub(u64::try_from(there)?);
        if missing > 0 {
            eprintln!("{there} tasks wait; submitting {missing} more");
            self.submit_all(apis, usize::try_from(missing)?, MAX_BATCH, FILLERS).await?;
        }
        Ok(())
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
