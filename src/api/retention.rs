//! `RetentionService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::retention as convert,
};
use crate::pb::{self, retention_service_server::RetentionService};

#[async_trait]
impl RetentionService for Api {
    async fn get_retention(
        &self,
        request: Request<pb::GetRetentionRequest>,
    ) -> Result<Response<pb::GetRetentionResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let project = convert::get(call.message)?;
            let retention = self.app.get_retention(&project).await?;
            let retention = convert::retention(retention, self.app.retention_settings());
            Ok(pb::GetRetentionResponse { retention: Some(retention) })
        })
        .await
    }

    async fn update_retention(
        &self,
        request: Request<pb::UpdateRetentionRequest>,
    ) -> Result<Response<pb::UpdateRetentionResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Update { project, rules, etag } = convert::update(call.message)?;
            let retention = self.app.update_retention(&call.caller, &project, rules, etag).await?;
            let retention = convert::retention(retention, self.app.retention_settings());
            Ok(pb::UpdateRetentionResponse { retention: Some(retention) })
        })
        .await
    }

    async fn preview_retention(
        &self,
        request: Request<pb::PreviewRetentionRequest>,
    ) -> Result<Response<pb::PreviewRetentionResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, rules) = convert::preview(call.message)?;
            Ok(convert::preview_out(self.app.preview_retention(&project, rules).await?))
        })
        .await
    }

    async fn run_retention(
        &self,
        request: Request<pb::RunRetentionRequest>,
    ) -> Result<Response<pb::RunRetentionResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, etag) = convert::run(call.message)?;
            let run = self.app.run_retention(&call.caller, &project, etag).await?;
            Ok(pb::RunRetentionResponse { retention_run: Some(convert::run_out(run)) })
        })
        .await
    }

    async fn get_retention_run(
        &self,
        request: Request<pb::GetRetentionRunRequest>,
    ) -> Result<Response<pb::GetRetentionRunResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id) = convert::get_run(call.message)?;
            let run = self.app.get_retention_run(&project, id).await?;
            Ok(pb::GetRetentionRunResponse { retention_run: Some(convert::run_out(run)) })
        })
        .await
    }

    async fn list_retention_runs(
        &self,
        request: Request<pb::ListRetentionRunsRequest>,
    ) -> Result<Response<pb::ListRetentionRunsResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, limit, page_token) = convert::list_runs(call.message)?;
            let tokens = self.page_tokens.of("ListRetentionRuns", &[project.as_str()]);
            let (runs, next) = self.app.list_retention_runs(&project, tokens.read(&page_token)?, limit).await?;
            let retention_runs = runs.into_iter().map(convert::run_out).collect();
            Ok(pb::ListRetentionRunsResponse { retention_runs, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }
}
