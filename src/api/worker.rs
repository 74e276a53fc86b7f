//! `WorkerService`: the calls. The stream is in `session.rs`.

use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    Api,
    call::{Answers, answer, answer_replayable, open, open_stream},
    convert::{page, report, worker as convert},
    session,
};
use crate::{
    app::worker::{HeartbeatAnswer, Leased, Report},
    context::Caller,
    error::Result,
    ids::ProjectId,
    pb::{self, worker_service_server::WorkerService},
};

#[async_trait]
impl WorkerService for Api {
    type SessionStream = Answers<pb::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let call = open_stream(request)?;
        answer(&call.caller, async {
            let place = self.streams.enter(&call.caller)?;
            Ok(place.hold(session::serve(self.app.clone(), call.caller.clone(), call.message)))
        })
        .await
    }

    async fn lease_tasks(
        &self,
        request: Request<pb::LeaseTasksRequest>,
    ) -> Result<Response<pb::LeaseTasksResponse>, Status> {
        let call = open(request)?;
        answer_replayable(&call.caller, async {
            let (project, request) = convert::lease(call.message, call.metadata_key)?;
            let leased = self.app.lease_tasks(&call.caller, &project, request).await?;
            let replayed = leased.replayed;
            Ok((self.leased_that_fit(&call.caller, &project, leased).await?, replayed))
        })
        .await
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let report::Heartbeat { project, who, batch } = report::heartbeat(call.message)?;
            let (items, answers) = batch.split();
            let done: HeartbeatAnswer = self.app.heartbeat(&call.caller, &project, who, items).await?;
            Ok(report::heartbeat_response(answers, done, &call.caller.request_id))
        })
        .await
    }

    async fn complete_tasks(
        &self,
        request: Request<pb::CompleteTasksRequest>,
    ) -> Result<Response<pb::CompleteTasksResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, batch) = report::complete(call.message)?;
            Ok(pb::CompleteTasksResponse { results: self.report(&call.caller, &project, batch).await? })
        })
        .await
    }

    async fn fail_tasks(
        &self,
        request: Request<pb::FailTasksRequest>,
    ) -> Result<Response<pb::FailTasksResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, batch) = report::fail(call.message)?;
            Ok(pb::FailTasksResponse { results: self.report(&call.caller, &project, batch).await? })
        })
        .await
    }

    async fn release_tasks(
        &self,
        request: Request<pb::ReleaseTasksRequest>,
    ) -> Result<Response<pb::ReleaseTasksResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, batch) = report::release(call.message)?;
            Ok(pb::ReleaseTasksResponse { results: self.report(&call.caller, &project, batch).await? })
        })
        .await
    }

    async fn get_worker(
        &self,
        request: Request<pb::GetWorkerRequest>,
    ) -> Result<Response<pb::GetWorkerResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, name) = convert::get(call.message)?;
            let worker = self.app.get_worker(&project, &name).await?;
            Ok(pb::GetWorkerResponse { worker: Some(convert::worker(worker)) })
        })
        .await
    }

    async fn list_workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, limit, page_token) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListWorkers", &[project.as_str()]);
            let (workers, next) = self.app.list_workers(&project, tokens.read(&page_token)?, limit).await?;
            let workers = workers.into_iter().map(convert::worker).collect();
            Ok(pb::ListWorkersResponse { workers, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn drain_worker(
        &self,
        request: Request<pb::DrainWorkerRequest>,
    ) -> Result<Response<pb::DrainWorkerResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, name) = convert::drain(call.message)?;
            let worker = self.app.drain_worker(&call.caller, &project, &name).await?;
            Ok(pb::DrainWorkerResponse { worker: Some(convert::worker(worker)) })
        })
        .await
    }
}

impl Api {
    async fn report(
        &self,
        caller: &Caller,
        project: &ProjectId,
        batch: report::Batch<Report>,
    ) -> Result<Vec<pb::ReportResult>> {
        let (items, answers) = batch.split();
        // A batch of nothing but wrong items needs no one's work.
        let results = if items.is_empty() { Vec::new() } else { self.app.report(caller, project, items).await? };
        Ok(report::results(answers, results, &caller.request_id))
    }

    /// The leased tasks, as many as one answer carries. The rest goes back at once and uncounted, rather than to be lost
    /// with an answer no client accepts.
    async fn leased_that_fit(
        &self,
        caller: &Caller,
        project: &ProjectId,
        leased: Leased,
    ) -> Result<pb::LeaseTasksResponse> {
        let Leased { tasks: leases, drain, replayed: _ } = leased;
        let mut tasks: Vec<_> = leases.iter().map(|task| convert::leased(task)).collect();
        let fitting = page::fitting(&tasks);
        tasks.truncate(fitting);
        if fitting < leases.len() {
            let back = leases[fitting..].iter().map(|task| (task.id, task.epoch, Report::Release { delay: None }));
            self.app.report(caller, project, back.collect()).await?;
        }
        Ok(pb::LeaseTasksResponse { tasks, drain })
    }
}
