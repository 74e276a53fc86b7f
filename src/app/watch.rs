use std::sync::Arc;

use super::{App, BoxStream};
use crate::{
    domain::{event::Event, filter::Filter, task::Task},
    error::{Error, Result},
    ids::{ProjectId, TaskId},
};

#[derive(Clone, Debug)]
pub struct WatchRequest {
    pub filter: Filter,
    pub task: Option<TaskId>,
    pub resume_token: Option<String>,
    pub initial_state: bool,
}

#[derive(Clone, Debug)]
pub struct WatchBatch {
    pub items: Vec<WatchItem>,
    pub resume_token: String,
}

#[derive(Clone, Debug)]
pub enum WatchItem {
    Initial(Arc<Task>),
    Synced,
    Bookmark,
    Change { change: WatchChange, event: Arc<Event> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchChange {
    Added,
    Modified,
    Deleted,
}

impl App {
    pub async fn watch_tasks(
        &self,
        project: &ProjectId,
        request: WatchRequest,
    ) -> Result<BoxStream<Result<WatchBatch>>> {
        Err(Error::ShuttingDown)
    }
}
