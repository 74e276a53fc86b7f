use super::App;
use crate::{
    context::Caller,
    domain::queue::{Queue, QueuePatch},
    error::{Error, Result},
    ids::ProjectId,
};

impl App {
    pub async fn get_queue(&self, project: &ProjectId, name: &str) -> Result<Queue> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_queues(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Queue>, Option<String>)> {
        Err(Error::ShuttingDown)
    }

    pub async fn update_queue(
        &self,
        caller: &Caller,
        project: &ProjectId,
        name: &str,
        patch: QueuePatch,
        etag: Option<String>,
    ) -> Result<Queue> {
        Err(Error::ShuttingDown)
    }

    pub async fn pause_queue(&self, caller: &Caller, project: &ProjectId, name: &str, note: String) -> Result<Queue> {
        Err(Error::ShuttingDown)
    }

    pub async fn resume_queue(&self, caller: &Caller, project: &ProjectId, name: &str) -> Result<Queue> {
        Err(Error::ShuttingDown)
    }
}
