//! Projects.

use super::{
    fields::{Fields, Path},
    name, page,
    scalar::{self, timestamp},
};
use crate::{
    domain::{etag, project::Project},
    error::Result,
    ids::{ProjectId, SYSTEM_PROJECT, project_name},
    pb,
};

/// Most characters of a name for people.
const MAX_DISPLAY_NAME: usize = 63;

/// A project to create: its id, its name for people, its description.
pub fn create(request: pb::CreateProjectRequest) -> Result<(ProjectId, String, String)> {
    let mut fields = Fields::new();
    let pb::CreateProjectRequest { project_id, project } = request;
    let at = Path::Request.field("project_id");
    if !name::is_project_id(&project_id) {
        fields.refuse(&at, "must match [a-z][a-z0-9-]{0,62}");
    } else if project_id == SYSTEM_PROJECT {
        fields.refuse(&at, "is taken by the system; choose another");
    }
    let project = project.unwrap_or_default();
    let pb::Project { name: _, display_name, description, create_time: _, update_time: _, etag: _, revision: _ } =
        project;
    let at = Path::Request.field("project");
    let display_name = scalar::chars_bounded(&mut fields, &at.field("display_name"), display_name, MAX_DISPLAY_NAME);
    let description = scalar::bytes_bounded(&mut fields, &at.field("description"), description, scalar::SHORT_TEXT);
    fields.finish((ProjectId::new(&project_id), display_name, description))
}

/// One project.
pub fn get(request: pb::GetProjectRequest) -> Result<ProjectId> {
    let mut fields = Fields::new();
    let pb::GetProjectRequest { name } = request;
    let project = name::project(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(project)
}

/// A page of projects, before its page token is read: size, page token.
pub fn list(request: pb::ListProjectsRequest) -> Result<(i64, String)> {
    let mut fields = Fields::new();
    let pb::ListProjectsRequest { page_size, page_token } = request;
    let limit = page::size(&mut fields, page_size);
    fields.finish((limit, page_token))
}

/// A project for the wire.
pub fn project(project: Project) -> pb::Project {
    let etag = etag::project_etag(&project);
    let Project { id, display_name, description, create_time, update_time, revision } = project;
    pb::Project {
        name: project_name(&id),
        display_name,
        description,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        etag,
        revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_projects_keep_to_their_form() {
        let create_as = |id: &str| create(pb::CreateProjectRequest { project_id: id.into(), project: None });
        assert_eq!(create_as("shop-2").unwrap().0.as_str(), "shop-2");
        for bad in ["", "system", "Shop", "2shop", "a_b", &"a".repeat(64)] {
            assert!(create_as(bad).is_err(), "{bad}");
        }
    }
}
