//! `ProjectService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::{member, project as convert},
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
            let (id, full) = convert::get(call.message)?;
            let (project, tasks) = if full {
                self.app.view_project(&call.caller, &id).await?
            } else {
                (self.app.get_project(&id).await?, None)
            };
            let project = pb::Project { tasks: tasks.map(convert::tasks), ..convert::project(project) };
            Ok(pb::GetProjectResponse { project: Some(project) })
        })
        .await
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Result<Response<pb::ListProjectsResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::List { mut query, page_token } = convert::list(call.message)?;
            let flags = format!("{} {} {}", query.by_time, query.descending, query.show_deleted);
            let tokens = self.page_tokens.of("ListProjects", &[&query.text, &flags]);
            query.after = tokens.read(&page_token)?;
            let (projects, next) = self.app.list_projects(&call.caller, query).await?;
            let projects = projects.into_iter().map(convert::project).collect();
            Ok(pb::ListProjectsResponse { projects, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_project(
        &self,
        request: Request<pb::UpdateProjectRequest>,
    ) -> Result<Response<pb::UpdateProjectResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (id, patch, etag) = convert::update(call.message)?;
            let project = self.app.update_project(&call.caller, &id, patch, etag).await?;
            Ok(pb::UpdateProjectResponse { project: Some(convert::project(project)) })
        })
        .await
    }

    async fn delete_project(
        &self,
        request: Request<pb::DeleteProjectRequest>,
    ) -> Result<Response<pb::DeleteProjectResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (id, etag, allow_missing) = convert::delete(call.message)?;
            let project = self.app.delete_project(&call.caller, &id, etag, allow_missing).await?;
            Ok(pb::DeleteProjectResponse { project: project.map(convert::project) })
        })
        .await
    }

    async fn undelete_project(
        &self,
        request: Request<pb::UndeleteProjectRequest>,
    ) -> Result<Response<pb::UndeleteProjectResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let project = self.app.undelete_project(&call.caller, &convert::undelete(call.message)?).await?;
            Ok(pb::UndeleteProjectResponse { project: Some(convert::project(project)) })
        })
        .await
    }

    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (scope, limit, page_token) = member::list(call.message)?;
            let tokens = self.page_tokens.of("ListMembers", &[scope.key()]);
            let (members, next) = self.app.list_members(&scope, tokens.read(&page_token)?, limit).await?;
            let members = members.into_iter().map(member::member).collect();
            Ok(pb::ListMembersResponse { members, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn set_member(
        &self,
        request: Request<pb::SetMemberRequest>,
    ) -> Result<Response<pb::SetMemberResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (scope, principal, role) = member::set(call.message)?;
            let member = self.app.set_member(&call.caller, scope, principal, role).await?;
            Ok(pb::SetMemberResponse { member: Some(member::member(member)) })
        })
        .await
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (scope, principal) = member::remove(call.message)?;
            self.app.remove_member(&call.caller, scope, principal).await?;
            Ok(pb::RemoveMemberResponse {})
        })
        .await
    }
}
