//! The calls of `TaskService` about work by filter.

use super::{
    Api,
    call::{Answers, stream},
    convert,
};
use crate::{context::Caller, error::Result, pb};

/// The job, the count and the sample.
pub async fn start(
    api: &Api,
    caller: &Caller,
    start: convert::bulk_job::Start,
) -> Result<(Option<pb::BulkJob>, i64, Vec<String>)> {
    let convert::bulk_job::Start { project, action, filter_text, filter, reason, force } = start;
    let preview = api.app.start_bulk(caller, &project, action, filter_text, filter, reason, force).await?;
    Ok(convert::bulk_job::preview(&project, preview))
}

pub async fn get(api: &Api, request: pb::GetBulkJobRequest) -> Result<pb::GetBulkJobResponse> {
    let (project, id) = convert::bulk_job::get(request)?;
    let job = api.app.get_bulk_job(&project, id).await?;
    Ok(pb::GetBulkJobResponse { bulk_job: Some(convert::bulk_job::bulk_job(job)) })
}

pub async fn list(api: &Api, request: pb::ListBulkJobsRequest) -> Result<pb::ListBulkJobsResponse> {
    let (project, limit, page_token) = convert::bulk_job::list(request)?;
    let tokens = api.page_tokens.of("ListBulkJobs", &[project.as_str()]);
    let (jobs, next) = api.app.list_bulk_jobs(&project, tokens.read(&page_token)?, limit).await?;
    let bulk_jobs = jobs.into_iter().map(convert::bulk_job::bulk_job).collect();
    Ok(pb::ListBulkJobsResponse { bulk_jobs, next_page_token: tokens.next(next.as_ref()) })
}

pub async fn watch(
    api: &Api,
    caller: Caller,
    request: pb::WatchBulkJobRequest,
) -> Result<Answers<pb::WatchBulkJobResponse>> {
    let (project, id) = convert::bulk_job::watch(request)?;
    let place = api.streams.enter(&caller)?;
    let jobs = api.app.watch_bulk_job(&project, id).await?;
    let response = |job| pb::WatchBulkJobResponse { bulk_job: Some(convert::bulk_job::bulk_job(job)) };
    Ok(place.hold(stream(caller, jobs, response)))
}

pub async fn cancel(
    api: &Api,
    caller: &Caller,
    request: pb::CancelBulkJobRequest,
) -> Result<pb::CancelBulkJobResponse> {
    let (project, id) = convert::bulk_job::cancel(request)?;
    let job = api.app.cancel_bulk_job(caller, &project, id).await?;
    Ok(pb::CancelBulkJobResponse { bulk_job: Some(convert::bulk_job::bulk_job(job)) })
}
