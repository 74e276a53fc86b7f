//! Bulk jobs as callers see them: start, look, follow, cancel. The work itself is in `bulk_run` and `bulk_retry`.

use std::time::Duration;

use futures_util::stream;
use serde_json::json;
use uuid::Uuid;

use super::{
    App, BoxStream,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
};
use crate::{
    context::Caller,
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkRetry, BulkState},
        event::ResourceKind,
        filter::Filter,
        task::Micros,
        task_list::ListQuery,
    },
    error::{Error, Result},
    ids::{BulkJobId, ProjectId, TaskId, bulk_job_name, project_name},
    store::{
        Tx, bulk_jobs,
        journal::{self, Entry},
        tasks::{self, COUNT_LIMIT},
    },
};

/// Most tasks named in a preview.
pub(super) const SAMPLE: usize = 100;
/// A watcher sees progress this late at most: about as often as a batch ends.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What a bulk action would do, or began to do.
#[derive(Clone, Debug)]
pub struct BulkPreview {
    /// The job, if it was started.
    pub job: Option<BulkJob>,
    /// How many tasks it concerns now, counted up to [`COUNT_LIMIT`].
    pub matched_count: i64,
    /// Some of them.
    pub sample: Vec<TaskId>,
}

/// A job to be started.
pub(super) struct NewJob {
    /// What it does.
    pub(super) action: BulkAction,
    /// To which tasks, as written.
    pub(super) filter: String,
    /// Why.
    pub(super) reason: String,
    /// How many there are.
    pub(super) matched_count: i64,
    /// How it retries dead letters.
    pub(super) retry: Option<BulkRetry>,
}

impl App {
    /// Counts the tasks an action would change; with `force` starts a job that does.
    #[allow(clippy::too_many_arguments, reason = "each is a field of the request")]
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
        self.require_project(project).await?;
        let (matched_count, sample) = self.look(project, action, &filter).await?;
        if !force {
            return Ok(BulkPreview { job: None, matched_count, sample });
        }
        let new = NewJob { action, filter: filter_text, reason, matched_count, retry: None };
        let job = self.start_job(caller, project, new).await?;
        Ok(BulkPreview { job: Some(job), matched_count, sample })
    }

    /// Starts a job.
    pub(super) async fn start_job(&self, caller: &Caller, project: &ProjectId, new: NewJob) -> Result<BulkJob> {
        let NewJob { action, filter, reason, matched_count, retry } = new;
        let job = BulkJob {
            project: project.clone(),
            id: BulkJobId(Uuid::now_v7()),
            action,
            filter,
            reason,
            state: BulkState::Running,
            matched_count,
            done_count: 0,
            skipped_count: 0,
            error_message: String::new(),
            owner: caller.principal.to_string(),
            // Filled in from the clock of the transaction.
            create_time: 0,
            update_time: 0,
            finish_time: None,
            retry,
        };
        let job = self.write(StartJob { caller: caller.clone(), job }).await?;
        self.hub().journal_moved(project);
        Ok(job)
    }

    /// How many tasks an action would change, and some of them.
    async fn look(&self, project: &ProjectId, action: BulkAction, filter: &Filter) -> Result<(i64, Vec<TaskId>)> {
        let (mut count, mut sample) = (0, Vec::new());
        for targets in action.targets() {
            let filter = filter.clone().and(targets);
            count += tasks::count(self.store(), project, &filter).await?;
            let room = SAMPLE - sample.len();
            if room == 0 {
                continue;
            }
            let query = ListQuery::newest(filter, room as u64);
            let (found, _) = tasks::list(self.store(), project, &query).await?;
            sample.extend(found.iter().map(|task| task.id));
        }
        Ok((count.min(COUNT_LIMIT), sample))
    }

    /// One job.
    pub async fn get_bulk_job(&self, project: &ProjectId, id: BulkJobId) -> Result<BulkJob> {
        self.require_project(project).await?;
        let found = bulk_jobs::get(self.store(), project, id).await?;
        found.ok_or_else(|| Error::NotFound { kind: "bulk job", name: bulk_job_name(project, id) })
    }

    /// Jobs, newest first, those before `after`; and the place after which the next page goes on.
    pub async fn list_bulk_jobs(
        &self,
        project: &ProjectId,
        after: Option<(Micros, BulkJobId)>,
        limit: i64,
    ) -> Result<(Vec<BulkJob>, Option<(Micros, BulkJobId)>)> {
        self.require_project(project).await?;
        let found = bulk_jobs::list(self.store(), project, after, one_more(limit)).await?;
        Ok(cut(found, limit, |job| (job.create_time, job.id)))
    }

    /// Stops a job after its current batch.
    pub async fn cancel_bulk_job(&self, caller: &Caller, project: &ProjectId, id: BulkJobId) -> Result<BulkJob> {
        let write = CancelJob { caller: caller.clone(), project: project.clone(), id };
        if let Some(job) = self.write(write).await? {
            self.hub().journal_moved(project);
            return Ok(job);
        }
        let job = self.get_bulk_job(project, id).await?;
        Err(Error::StateConflict {
            name: bulk_job_name(project, id),
            state: job.state.name(),
            hint: "only a RUNNING bulk job can be cancelled",
        })
    }

    /// The job now and after each change of its progress, until it is final.
    pub async fn watch_bulk_job(&self, project: &ProjectId, id: BulkJobId) -> Result<BoxStream<Result<BulkJob>>> {
        let first = self.get_bulk_job(project, id).await?;
        let next = Watch::Tell { app: self.clone(), job: first };
        Ok(Box::pin(stream::unfold(next, Watch::next)))
    }
}

/// What a watcher of a job is told next.
enum Watch {
    Tell { app: App, job: BulkJob },
    Wait { app: App, last: BulkJob },
    End,
}

impl Watch {
    async fn next(self) -> Option<(Result<BulkJob>, Self)> {
        let (app, job) = match self {
            Self::End => return None,
            Self::Tell { app, job } => (app, job),
            Self::Wait { app, last } => match changed(&app, &last).await {
                Ok(job) => (app, job),
                Err(error) => return Some((Err(error), Self::End)),
            },
        };
        let next = match job.state {
            BulkState::Running => Self::Wait { app, last: job.clone() },
            BulkState::Succeeded | BulkState::Failed | BulkState::Cancelled => Self::End,
        };
        Some((Ok(job), next))
    }
}

/// Waits until a job is no longer as it was.
async fn changed(app: &App, last: &BulkJob) -> Result<BulkJob> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            () = app.draining().cancelled() => return Err(Error::ShuttingDown),
        }
        let job = app.get_bulk_job(&last.project, last.id).await?;
        if job != *last {
            return Ok(job);
        }
    }
}

pub(super) struct StartJob {
    pub(super) caller: Caller,
    pub(super) job: BulkJob,
}

impl NamedWrite for StartJob {
    const NAME: &'static str = "start-bulk-job";
    type Answer = BulkJob;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<BulkJob>, Stop> {
        let now = tx.now();
        let job = BulkJob { create_time: now, update_time: now, ..self.job.clone() };
        bulk_jobs::create(tx, &job).await?;
        let diff = json!({
            "action": [null, job.action.name()],
            "filter": [null, job.filter],
            "reason": [null, job.reason],
            "matched_count": [null, job.matched_count],
            "rate": [null, job.retry.as_ref().map(|retry| retry.rate)],
        });
        let name = bulk_job_name(&job.project, job.id);
        let entry = Entry::of_resource(ResourceKind::BulkJobStarted, name, now, Some(diff.to_string()), &self.caller);
        if journal::append(tx, &job.project, &[entry]).await?.is_none() {
            return Err(Error::NotFound { kind: "project", name: project_name(&job.project) }.into());
        }
        Ok(Done::Commit(job))
    }
}

struct CancelJob {
    caller: Caller,
    project: ProjectId,
    id: BulkJobId,
}

impl NamedWrite for CancelJob {
    const NAME: &'static str = "cancel-bulk-job";
    /// None when the job does not run or does not exist.
    type Answer = Option<BulkJob>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let Some(job) = bulk_jobs::cancel(tx, &self.project, self.id).await? else { return Ok(Done::Nothing(None)) };
        journal_end(tx, &job, &self.caller).await?;
        Ok(Done::Commit(Some(job)))
    }
}

/// Writes the journal row of a job that ended.
pub(super) async fn journal_end(tx: &mut Tx, job: &BulkJob, caller: &Caller) -> std::result::Result<(), Stop> {
    let diff = json!({
        "state": [BulkState::Running.name(), job.state.name()],
        "done_count": [0, job.done_count],
        "skipped_count": [0, job.skipped_count],
        "error_message": ["", job.error_message],
    });
    let name = bulk_job_name(&job.project, job.id);
    let entry = Entry::of_resource(ResourceKind::BulkJobEnded, name, tx.now(), Some(diff.to_string()), caller);
    journal::append(tx, &job.project, &[entry]).await?;
    Ok(())
}
