//! `ProjectService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::project as convert,
};
use crate::pb::{self, project_service_server::ProjectService};

#[async_trait]
impl ProjectService for Api {
    async fn create_project(
        &self,
        request: Request<pb::CreateProjectRequest>,
    ) -> Result<Response<pb::CreateProjectResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (id, display_name, description) = convert::create(call.message)?;
            let project = self.app.create_project(&call.caller, id, display_name, description).await?;
            Ok(pb::CreateProjectResponse { project: Some(convert::project(project)) })
        })
        .await
    }

    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Result<Response<pb::GetProjectResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let project = self.app.get_project(&convert::get(call.message)?).await?;
            Ok(pb::GetProjectResponse { project: Some(convert::project(project)) })
        })
        .await
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Result<Response<pb::ListProjectsResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (limit, page_token) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListProjects", &[]);
            let (projects, next) = self.app.list_projects(tokens.read(&page_token)?, limit).await?;
            let projects = projects.into_iter().map(convert::project).collect();
            Ok(pb::ListProjectsResponse { projects, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }
}
