//! `TaskService`.

use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, bulk_job,
    call::{Answers, answer, answer_replayable, open, open_own, stream},
    convert::{self, page::MAX_ANSWER_BYTES, task_change::Change},
};
use crate::{
    context::Caller,
    domain::authority::Share,
    error::{Error, Result},
    ids::{ProjectId, TaskId, project_name, task_name},
    pb::{self, task_service_server::TaskService},
};

/// Tasks read at a time for one BatchGetTasks with payloads, so that what is in memory stays within 32 MiB.
const FULL_CHUNK: usize = 64;

#[async_trait]
impl TaskService for Api {
    async fn submit_task(
        &self,
        request: Request<pb::SubmitTaskRequest>,
    ) -> Result<Response<pb::SubmitTaskResponse>, Status> {
        let call = open(request)?;
        answer_replayable(&call.caller, async {
            let submit = convert::task::submit(call.message, call.metadata_key, &call.caller.principal)?;
            let done = self.app.submit(&call.caller, &submit.project, submit.tasks, submit.key).await?;
            let one = done.value.into_iter().next();
            let one = one.ok_or_else(|| Error::internal(anyhow::anyhow!("a submit without an answer")))?;
            Ok((convert::task::submitted(&submit.project, one), done.replayed))
        })
        .await
    }

    async fn batch_submit_tasks(
        &self,
        request: Request<pb::BatchSubmitTasksRequest>,
    ) -> Result<Response<pb::BatchSubmitTasksResponse>, Status> {
        let call = open(request)?;
        answer_replayable(&call.caller, async {
            let submit = convert::task::batch_submit(call.message, call.metadata_key, &call.caller.principal)?;
            let done = self.app.submit(&call.caller, &submit.project, submit.tasks, submit.key).await?;
            let responses = done.value.into_iter().map(|one| convert::task::submitted(&submit.project, one));
            Ok((pb::BatchSubmitTasksResponse { responses: responses.collect() }, done.replayed))
        })
        .await
    }

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Result<Response<pb::GetTaskResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let (project, id, full) = convert::task::get(call.message)?;
            let task = self.app.get_task(&project, id, &share, full).await?;
            self.note_read(&call.caller, &project, full.then_some(id));
            Ok(pb::GetTaskResponse { task: Some(convert::task::task(&task, full)) })
        })
        .await
    }

    async fn batch_get_tasks(
        &self,
        request: Request<pb::BatchGetTasksRequest>,
    ) -> Result<Response<pb::BatchGetTasksResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let (project, ids, full) = convert::task::batch_get(call.message)?;
            let tasks = self.read_bounded(&project, &ids, &share, full).await?;
            self.note_read(&call.caller, &project, ids.into_iter().filter(|_| full));
            Ok(pb::BatchGetTasksResponse { tasks })
        })
        .await
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let mut list = convert::task::list(call.message)?;
            list.query.share = share;
            let flags = format!("{} {}", list.query.ascending, list.query.full);
            let owner = list.query.share.owner().unwrap_or_default();
            let tokens = self.page_tokens.of("ListTasks", &[list.project.as_str(), &list.filter, &flags, owner]);
            let full = list.query.full;
            list.query.after = tokens.read(&list.page_token)?;
            let page = self.app.list_tasks(&list.project, list.query).await?;
            self.note_read(&call.caller, &list.project, page.tasks.iter().map(|task| task.id).filter(|_| full));
            let mut tasks: Vec<_> = page.tasks.iter().map(|task| convert::task::task(task, full)).collect();
            let fitting = convert::page::fitting(&tasks);
            let mut next = page.next;
            if fitting < tasks.len() {
                tasks.truncate(fitting);
                next = page.tasks.get(fitting - 1).map(convert::task::position);
            }
            Ok(pb::ListTasksResponse { tasks, next_page_token: tokens.next(next.as_ref()), revision: page.revision })
        })
        .await
    }

    async fn list_attempts(
        &self,
        request: Request<pb::ListAttemptsRequest>,
    ) -> Result<Response<pb::ListAttemptsResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let (project, id, limit, page_token) = convert::task::list_attempts(call.message)?;
            let tokens = self.page_tokens.of("ListAttempts", &[&task_name(&project, id)]);
            let after = tokens.read(&page_token)?.unwrap_or(0);
            let page = self.app.list_attempts(&project, id, &share, after, limit).await?;
            let of_replay = |epoch| page.replayed_at.is_some_and(|replayed_at| epoch > replayed_at);
            let mut attempts: Vec<_> = page
                .attempts
                .iter()
                .map(|a| convert::task::attempt(&project, a, of_replay(a.epoch).then_some(id)))
                .collect();
            let fitting = convert::page::fitting(&attempts);
            let mut next = page.next;
            if fitting < attempts.len() {
                attempts.truncate(fitting);
                next = attempts.last().map(|attempt| attempt.epoch);
            }
            Ok(pb::ListAttemptsResponse { attempts, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_task(
        &self,
        request: Request<pb::UpdateTaskRequest>,
    ) -> Result<Response<pb::UpdateTaskResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let change = convert::task_change::update(call.message)?;
            Ok(pb::UpdateTaskResponse { task: self.change(&call.caller, change).await? })
        })
        .await
    }

    async fn cancel_task(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Result<Response<pb::CancelTaskResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let change = convert::task_change::cancel(call.message)?;
            Ok(pb::CancelTaskResponse { task: self.change_of(&call.caller, &share, change).await? })
        })
        .await
    }

    async fn retry_task(
        &self,
        request: Request<pb::RetryTaskRequest>,
    ) -> Result<Response<pb::RetryTaskResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let change = convert::task_change::retry(call.message)?;
            Ok(pb::RetryTaskResponse { task: self.change(&call.caller, change).await? })
        })
        .await
    }

    async fn run_task_now(
        &self,
        request: Request<pb::RunTaskNowRequest>,
    ) -> Result<Response<pb::RunTaskNowResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let change = convert::task_change::run_now(call.message)?;
            Ok(pb::RunTaskNowResponse { task: self.change(&call.caller, change).await? })
        })
        .await
    }

    async fn delete_task(
        &self,
        request: Request<pb::DeleteTaskRequest>,
    ) -> Result<Response<pb::DeleteTaskResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let change = convert::task_change::delete(call.message)?;
            self.change(&call.caller, change).await?;
            Ok(pb::DeleteTaskResponse {})
        })
        .await
    }

    async fn wait_task(&self, request: Request<pb::WaitTaskRequest>) -> Result<Response<pb::WaitTaskResponse>, Status> {
        let (call, share) = open_own(request)?;
        answer(&call.caller, async {
            let (project, id, wait) = convert::task::wait(call.message)?;
            let (task, done) = self.app.wait_task(&project, id, &share, wait).await?;
            self.note_read(&call.caller, &project, [id]);
            Ok(pb::WaitTaskResponse { task: Some(convert::task::task(&task, true)), done })
        })
        .await
    }

    type WatchTasksStream = Answers<pb::WatchTasksResponse>;

    async fn watch_tasks(
        &self,
        request: Request<pb::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let (call, share) = open_own(request)?;
        let standing = self.standing(&call, &share);
        answer(&call.caller, async {
            let (project, mut request) = convert::watch::request(call.message)?;
            request.share = share;
            let place = self.streams.enter(&call.caller)?;
            let batches = self.app.watch_tasks(&project, request).await?;
            Ok(standing.hold(place.hold(stream(call.caller.clone(), batches, convert::watch::response))))
        })
        .await
    }

    async fn bulk_cancel_tasks(
        &self,
        request: Request<pb::BulkCancelTasksRequest>,
    ) -> Result<Response<pb::BulkCancelTasksResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let start = convert::bulk_job::cancel_tasks(call.message)?;
            let (bulk_job, matched_count, sample) = bulk_job::start(self, &call.caller, start).await?;
            Ok(pb::BulkCancelTasksResponse { bulk_job, matched_count, sample })
        })
        .await
    }

    async fn bulk_purge_tasks(
        &self,
        request: Request<pb::BulkPurgeTasksRequest>,
    ) -> Result<Response<pb::BulkPurgeTasksResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let start = convert::bulk_job::purge_tasks(call.message)?;
            let (bulk_job, matched_count, sample) = bulk_job::start(self, &call.caller, start).await?;
            Ok(pb::BulkPurgeTasksResponse { bulk_job, matched_count, sample })
        })
        .await
    }

    async fn get_bulk_job(
        &self,
        request: Request<pb::GetBulkJobRequest>,
    ) -> Result<Response<pb::GetBulkJobResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, bulk_job::get(self, call.message)).await
    }

    async fn list_bulk_jobs(
        &self,
        request: Request<pb::ListBulkJobsRequest>,
    ) -> Result<Response<pb::ListBulkJobsResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, bulk_job::list(self, call.message)).await
    }

    type WatchBulkJobStream = Answers<pb::WatchBulkJobResponse>;

    async fn watch_bulk_job(
        &self,
        request: Request<pb::WatchBulkJobRequest>,
    ) -> Result<Response<Self::WatchBulkJobStream>, Status> {
        let call = open(request)?;
        let standing = self.standing(&call, &Share::All);
        let watch = answer(&call.caller, bulk_job::watch(self, call.caller.clone(), call.message)).await?;
        Ok(watch.map(|answers| standing.hold(answers)))
    }

    async fn cancel_bulk_job(
        &self,
        request: Request<pb::CancelBulkJobRequest>,
    ) -> Result<Response<pb::CancelBulkJobResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, bulk_job::cancel(self, &call.caller, call.message)).await
    }
}

impl Api {
    /// Notes whose payloads were read.
    fn note_read(&self, caller: &Caller, project: &ProjectId, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            self.app.notes().read(caller, &task_name(project, task));
        }
    }

    /// The task after a change, if there still is one.
    async fn change(&self, caller: &Caller, change: Change) -> Result<Option<pb::Task>> {
        self.change_of(caller, &Share::All, change).await
    }

    /// The same for one of the tasks the caller may reach.
    async fn change_of(&self, caller: &Caller, share: &Share, change: Change) -> Result<Option<pb::Task>> {
        let Change { project, id, change, etag } = change;
        let task = self.app.change_task(caller, &project, id, share, change, etag).await?;
        Ok(task.map(|task| convert::task::task(&task, false)))
    }

    /// The tasks in the order asked. They cannot be answered in pages, so what is too large for one answer is refused.
    async fn read_bounded(
        &self,
        project: &ProjectId,
        ids: &[TaskId],
        share: &Share,
        full: bool,
    ) -> Result<Vec<pb::Task>> {
        let mut tasks = Vec::with_capacity(ids.len());
        let mut bytes = 0;
        for chunk in ids.chunks(if full { FULL_CHUNK } else { ids.len() }) {
            for task in self.app.batch_get_tasks(project, chunk, share, full).await? {
                let task = convert::task::task(&task, full);
                bytes += task.encoded_len();
                tasks.push(task);
            }
            if bytes > MAX_ANSWER_BYTES {
                let text = format!(
                    "the tasks of {} are larger than {MAX_ANSWER_BYTES} bytes together; ask for fewer, or for the BASIC view",
                    project_name(project)
                );
                return Err(Error::field("names", text));
            }
        }
        Ok(tasks)
    }
}
