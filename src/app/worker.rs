use std::{sync::Arc, time::Duration};

use super::{App, task::IdempotencyKey};
use crate::{
    context::Caller,
    domain::{
        task::{Micros, Payload, Progress, Task},
        task_state::TaskState,
        transition::Failure,
        worker::{Identity, Worker},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
};

#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub identity: Identity,
    pub max_tasks: usize,
    pub wait: Duration,
    pub key: Option<IdempotencyKey>,
}

#[derive(Clone, Debug)]
pub struct Leased {
    pub tasks: Vec<Arc<Task>>,
    pub drain: bool,
    pub replayed: bool,
}

#[derive(Clone, Debug)]
pub enum Report {
    Complete { result: Option<Payload> },
    Fail(Failure),
    Release { delay: Option<Micros> },
}

#[derive(Clone, Debug)]
pub struct HeartbeatAnswer {
    pub results: Vec<Result<Extended>>,
    pub drain: bool,
}

#[derive(Clone, Debug)]
pub struct Extended {
    pub duration: Micros,
    pub cancel: Option<String>,
}

impl App {
    pub async fn lease_tasks(&self, caller: &Caller, project: &ProjectId, request: LeaseRequest) -> Result<Leased> {
        Err(Error::ShuttingDown)
    }

    pub async fn report(
        &self,
        caller: &Caller,
        project: &ProjectId,
        items: Vec<(TaskId, i64, Report)>,
    ) -> Result<Vec<Result<TaskState>>> {
        Err(Error::ShuttingDown)
    }

    pub async fn heartbeat(
        &self,
        caller: &Caller,
        project: &ProjectId,
        who: Option<(String, String)>,
        items: Vec<(TaskId, i64, Option<Progress>)>,
    ) -> Result<HeartbeatAnswer> {
        Err(Error::ShuttingDown)
    }

    pub async fn get_worker(&self, project: &ProjectId, name: &str) -> Result<Worker> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_workers(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Worker>, Option<String>)> {
        Err(Error::ShuttingDown)
    }

    pub async fn drain_worker(&self, caller: &Caller, project: &ProjectId, name: &str) -> Result<Worker> {
        Err(Error::ShuttingDown)
    }
}
