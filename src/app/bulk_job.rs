use super::{App, BoxStream};
use crate::{
    context::Caller,
    domain::{
        bulk_job::{BulkAction, BulkJob},
        filter::Filter,
        task::Micros,
    },
    error::{Error, Result},
    ids::{BulkJobId, ProjectId, TaskId},
};

#[derive(Clone, Debug)]
pub struct BulkPreview {
    pub job: Option<BulkJob>,
    pub matched_count: i64,
    pub sample: Vec<TaskId>,
}

impl App {
    #[allow(clippy::too_many_arguments)]
    pub async fn start_bulk(
        &self,
        caller: &Caller,
        project: &ProjectId,
        action: BulkAction,
        filter_text: String,
        filter: Filter,
        reason: String,
        force: bool,
    ) -> Result<BulkPreview> {
        Err(Error::ShuttingDown)
    }

    pub async fn get_bulk_job(&self, project: &ProjectId, id: BulkJobId) -> Result<BulkJob> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_bulk_jobs(
        &self,
        project: &ProjectId,
        after: Option<(Micros, BulkJobId)>,
        limit: i64,
    ) -> Result<(Vec<BulkJob>, Option<(Micros, BulkJobId)>)> {
        Err(Error::ShuttingDown)
    }

    pub async fn cancel_bulk_job(&self, caller: &Caller, project: &ProjectId, id: BulkJobId) -> Result<BulkJob> {
        Err(Error::ShuttingDown)
    }

    pub async fn watch_bulk_job(&self, project: &ProjectId, id: BulkJobId) -> Result<BoxStream<Result<BulkJob>>> {
        Err(Error::ShuttingDown)
    }
}
