use std::time::Duration;

use super::App;
pub use crate::store::tasks::{ListQuery, Position};
use crate::{
    context::Caller,
    domain::{
        task::{Attempt, Micros, Task},
        transition::{NewTask, Patch},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
};

#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    pub key: String,
    pub method: &'static str,
    pub fingerprint: [u8; 32],
}

#[derive(Clone, Debug)]
pub struct NewSubmit {
    pub new: NewTask,
    pub id_given: bool,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Submitted {
    pub id: uuid::Uuid,
    pub existing: bool,
    pub revision: i64,
    pub create_time: Micros,
    pub etag: String,
}

#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub value: T,
    pub replayed: bool,
}

#[derive(Clone, Debug)]
pub struct TaskPage {
    pub tasks: Vec<Task>,
    pub revision: i64,
    pub next: Option<Position>,
}

#[derive(Clone, Debug)]
pub struct AttemptPage {
    pub attempts: Vec<Attempt>,
    pub next: Option<i64>,
}

#[derive(Clone, Debug)]
pub enum TaskChange {
    Cancel { reason: String },
    Retry,
    RunNow,
    Update(Patch),
    Delete { allow_missing: bool },
}

impl App {
    pub async fn submit(
        &self,
        caller: &Caller,
        project: &ProjectId,
        tasks: Vec<NewSubmit>,
        key: Option<IdempotencyKey>,
    ) -> Result<Answer<Vec<Submitted>>> {
        Err(Error::ShuttingDown)
    }

    pub async fn get_task(&self, project: &ProjectId, id: TaskId, full: bool) -> Result<Task> {
        Err(Error::ShuttingDown)
    }

    pub async fn batch_get_tasks(&self, project: &ProjectId, ids: &[TaskId], full: bool) -> Result<Vec<Task>> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_tasks(&self, project: &ProjectId, query: ListQuery) -> Result<TaskPage> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_attempts(&self, project: &ProjectId, id: TaskId, after: i64, limit: i64) -> Result<AttemptPage> {
        Err(Error::ShuttingDown)
    }

    pub async fn change_task(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: TaskId,
        change: TaskChange,
        etag: Option<String>,
    ) -> Result<Option<Task>> {
        Err(Error::ShuttingDown)
    }

    pub async fn wait_task(&self, project: &ProjectId, id: TaskId, wait: Duration) -> Result<(Task, bool)> {
        Err(Error::ShuttingDown)
    }
}
