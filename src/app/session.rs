use std::sync::Arc;

use super::{
    App, BoxStream,
    worker::{HeartbeatAnswer, Report},
};
use crate::{
    context::Caller,
    domain::{
        task::{Progress, Task},
        task_state::TaskState,
        worker::Identity,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
};

#[derive(Debug)]
pub struct SessionHandle;

#[derive(Clone, Debug)]
pub enum SessionOut {
    Grants(Vec<Arc<Task>>),
    Cancel(Vec<(TaskId, i64, String)>),
    Drain,
}

impl SessionHandle {
    pub fn credits(&self, count: u32) -> Result<()> {
        Err(Error::ShuttingDown)
    }

    pub fn accepted(&self, tokens: &[(TaskId, i64)]) {}

    pub async fn heartbeat(&self, items: Vec<(TaskId, i64, Option<Progress>)>) -> Result<HeartbeatAnswer> {
        Err(Error::ShuttingDown)
    }

    pub async fn report(&self, items: Vec<(TaskId, i64, Report)>) -> Result<Vec<Result<TaskState>>> {
        Err(Error::ShuttingDown)
    }

    pub fn drain(&self) {}
}

impl App {
    pub async fn open_session(
        &self,
        caller: &Caller,
        project: &ProjectId,
        identity: Identity,
    ) -> Result<(SessionHandle, BoxStream<Result<SessionOut>>)> {
        Err(Error::ShuttingDown)
    }
}
