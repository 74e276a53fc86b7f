//! `QueueService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::queue as convert,
};
use crate::pb::{self, queue_service_server::QueueService};

#[async_trait]
impl QueueService for Api {
    async fn get_queue(&self, request: Request<pb::GetQueueRequest>) -> Result<Response<pb::GetQueueResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, name) = convert::get(call.message)?;
            let queue = self.app.get_queue(&project, &name).await?;
            Ok(pb::GetQueueResponse { queue: Some(convert::queue(queue)) })
        })
        .await
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, limit, page_token) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListQueues", &[project.as_str()]);
            let (queues, next) = self.app.list_queues(&project, tokens.read(&page_token)?, limit).await?;
            let queues = queues.into_iter().map(convert::queue).collect();
            Ok(pb::ListQueuesResponse { queues, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_queue(
        &self,
        request: Request<pb::UpdateQueueRequest>,
    ) -> Result<Response<pb::UpdateQueueResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Update { project, queue, patch, etag } = convert::update(call.message)?;
            let queue = self.app.update_queue(&call.caller, &project, &queue, patch, etag).await?;
            Ok(pb::UpdateQueueResponse { queue: Some(convert::queue(queue)) })
        })
        .await
    }

    async fn pause_queue(
        &self,
        request: Request<pb::PauseQueueRequest>,
    ) -> Result<Response<pb::PauseQueueResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, name, note) = convert::pause(call.message)?;
            let queue = self.app.pause_queue(&call.caller, &project, &name, note).await?;
            Ok(pb::PauseQueueResponse { queue: Some(convert::queue(queue)) })
        })
        .await
    }

    async fn resume_queue(
        &self,
        request: Request<pb::ResumeQueueRequest>,
    ) -> Result<Response<pb::ResumeQueueResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, name) = convert::resume(call.message)?;
            let queue = self.app.resume_queue(&call.caller, &project, &name).await?;
            Ok(pb::ResumeQueueResponse { queue: Some(convert::queue(queue)) })
        })
        .await
    }
}
