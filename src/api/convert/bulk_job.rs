//! Bulk jobs.

use super::{
    fields::{Fields, Path},
    name, page,
    scalar::{self, duration, timestamp},
    task,
};
use crate::{
    app::bulk_job::BulkPreview,
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkRetry},
        dead_letter::StopRule,
        filter::Filter,
    },
    error::Result,
    ids::{BulkJobId, ProjectId, bulk_job_name, task_name},
    pb,
};

/// Work by filter, ready to be started.
#[derive(Debug)]
pub struct Start {
    /// In this project.
    pub project: ProjectId,
    /// What to do.
    pub action: BulkAction,
    /// The filter as written.
    pub filter_text: String,
    /// The filter.
    pub filter: Filter,
    /// Why.
    pub reason: String,
    /// Do it, rather than count.
    pub force: bool,
}

/// Cancel by filter.
pub fn cancel_tasks(request: pb::BulkCancelTasksRequest) -> Result<Start> {
    let pb::BulkCancelTasksRequest { parent, filter, reason, force } = request;
    start(&parent, filter, BulkAction::Cancel, reason, force)
}

/// Purge by filter.
pub fn purge_tasks(request: pb::BulkPurgeTasksRequest) -> Result<Start> {
    let pb::BulkPurgeTasksRequest { parent, filter, force } = request;
    start(&parent, filter, BulkAction::Purge, String::new(), force)
}

fn start(parent: &str, filter_text: String, action: BulkAction, reason: String, force: bool) -> Result<Start> {
    let mut fields = Fields::new();
    let project = name::parent(&mut fields, &Path::Request.field("parent"), parent);
    if filter_text.trim().is_empty() {
        fields.refuse(&Path::Request.field("filter"), "is required; * means every task");
    }
    let reason = scalar::bytes_bounded(&mut fields, &Path::Request.field("reason"), reason, scalar::SHORT_TEXT);
    fields.finish(())?;
    let filter = task::filter(&filter_text)?;
    Ok(Start { project, action, filter_text, filter, reason, force })
}

/// One bulk job.
pub fn get(request: pb::GetBulkJobRequest) -> Result<(ProjectId, BulkJobId)> {
    let pb::GetBulkJobRequest { name } = request;
    named(&name)
}

/// One bulk job to follow.
pub fn watch(request: pb::WatchBulkJobRequest) -> Result<(ProjectId, BulkJobId)> {
    let pb::WatchBulkJobRequest { name } = request;
    named(&name)
}

/// One bulk job to stop.
pub fn cancel(request: pb::CancelBulkJobRequest) -> Result<(ProjectId, BulkJobId)> {
    let pb::CancelBulkJobRequest { name } = request;
    named(&name)
}

fn named(name: &str) -> Result<(ProjectId, BulkJobId)> {
    let mut fields = Fields::new();
    let named = name::bulk_job(&mut fields, &Path::Request.field("name"), name);
    fields.finish(named)
}

/// A page of bulk jobs, before its page token is read: project, size, page token.
pub fn list(request: pb::ListBulkJobsRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListBulkJobsRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, limit, page_token))
}

/// What was started, or would be: the job, the count, the sample.
pub fn preview(project: &ProjectId, preview: BulkPreview) -> (Option<pb::BulkJob>, i64, Vec<String>) {
    let BulkPreview { job, matched_count, sample } = preview;
    let sample = sample.into_iter().map(|id| task_name(project, id)).collect();
    (job.map(bulk_job), matched_count, sample)
}

/// A bulk job for the wire.
pub fn bulk_job(job: BulkJob) -> pb::BulkJob {
    let BulkJob {
        project,
        id,
        action,
        filter,
        // In the journal.
        reason: _,
        state,
        matched_count,
        done_count,
        skipped_count,
        error_message,
        owner,
        create_time,
        update_time,
        finish_time,
        retry,
    } = job;
    pb::BulkJob {
        name: bulk_job_name(&project, id),
        // The numbers of the domain are those of the wire.
        action: action as i32,
        filter,
        state: state as i32,
        matched_count,
        done_count,
        skipped_count,
        error_message,
        owner,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        finish_time: finish_time.map(timestamp),
        retry: retry.map(bulk_retry),
    }
}

fn bulk_retry(retry: BulkRetry) -> pb::BulkRetry {
    let BulkRetry { rate, stop, named: _, ended_count, failed_again_count } = retry;
    let StopRule { max_failure_percent, window } = stop;
    let failure_window = Some(duration(window));
    pb::BulkRetry { rate, max_failure_percent, failure_window, ended_count, failed_again_count }
}
