//! `RetryService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::retry as convert,
};
use crate::pb::{self, retry_service_server::RetryService};

#[async_trait]
impl RetryService for Api {
    async fn create_retry_policy(
        &self,
        request: Request<pb::CreateRetryPolicyRequest>,
    ) -> Result<Response<pb::CreateRetryPolicyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Create { project, id, content } = convert::create(call.message)?;
            let policy = self.app.create_retry_policy(&call.caller, &project, id, content).await?;
            Ok(pb::CreateRetryPolicyResponse { retry_policy: Some(convert::policy(policy)) })
        })
        .await
    }

    async fn get_retry_policy(
        &self,
        request: Request<pb::GetRetryPolicyRequest>,
    ) -> Result<Response<pb::GetRetryPolicyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id) = convert::get(call.message)?;
            let policy = self.app.get_retry_policy(&project, &id).await?;
            Ok(pb::GetRetryPolicyResponse { retry_policy: Some(convert::policy(policy)) })
        })
        .await
    }

    async fn list_retry_policies(
        &self,
        request: Request<pb::ListRetryPoliciesRequest>,
    ) -> Result<Response<pb::ListRetryPoliciesResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, limit, page_token) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListRetryPolicies", &[project.as_str()]);
            let (found, next) = self.app.list_retry_policies(&project, tokens.read(&page_token)?, limit).await?;
            let retry_policies = found.into_iter().map(convert::policy).collect();
            Ok(pb::ListRetryPoliciesResponse { retry_policies, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_retry_policy(
        &self,
        request: Request<pb::UpdateRetryPolicyRequest>,
    ) -> Result<Response<pb::UpdateRetryPolicyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Update { project, id, patch, etag } = convert::update(call.message)?;
            let policy = self.app.update_retry_policy(&call.caller, &project, id, patch, etag).await?;
            Ok(pb::UpdateRetryPolicyResponse { retry_policy: Some(convert::policy(policy)) })
        })
        .await
    }

    async fn delete_retry_policy(
        &self,
        request: Request<pb::DeleteRetryPolicyRequest>,
    ) -> Result<Response<pb::DeleteRetryPolicyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Delete { project, id, etag, allow_missing } = convert::delete(call.message)?;
            self.app.delete_retry_policy(&call.caller, &project, id, etag, allow_missing).await?;
            Ok(pb::DeleteRetryPolicyResponse {})
        })
        .await
    }

    async fn evaluate_retry(
        &self,
        request: Request<pb::EvaluateRetryRequest>,
    ) -> Result<Response<pb::EvaluateRetryResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, evaluation) = convert::evaluate(call.message)?;
            let evaluated = self.app.evaluate_retry(&project, evaluation).await?;
            Ok(convert::evaluated(&project, &evaluated))
        })
        .await
    }

    async fn simulate_policy(
        &self,
        request: Request<pb::SimulatePolicyRequest>,
    ) -> Result<Response<pb::SimulatePolicyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Simulate { project, choice, window, limit } = convert::simulate(call.message)?;
            let (simulation, policy) = self.app.simulate_policy(&project, choice, window, limit).await?;
            Ok(convert::simulated(&project, simulation, policy.as_ref()))
        })
        .await
    }

    async fn get_retry_statistics(
        &self,
        request: Request<pb::GetRetryStatisticsRequest>,
    ) -> Result<Response<pb::GetRetryStatisticsResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, window) = convert::statistics(call.message)?;
            let statistics = self.app.retry_statistics(&project, window).await?;
            Ok(convert::counted(&project, statistics))
        })
        .await
    }
}
