//! Projects.

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, page,
    scalar::{self, timestamp},
    task,
};
use crate::{
    domain::{
        etag,
        project::{Project, ProjectPatch, ProjectQuery, ProjectTasks},
    },
    error::{Error, Result},
    ids::{ProjectId, SYSTEM_PROJECT, project_name},
    pb,
};

/// Most characters that are looked for.
const MAX_QUERY: usize = 128;

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
    let pb::Project {
        display_name,
        description,
        // What the server says of a project is ignored in what a client says.
        name: _,
        create_time: _,
        update_time: _,
        etag: _,
        revision: _,
        delete_time: _,
        purge_time: _,
        tasks: _,
    } = project;
    let at = Path::Request.field("project");
    let display_name =
        scalar::chars_bounded(&mut fields, &at.field("display_name"), display_name, scalar::MAX_DISPLAY_NAME);
    let description = scalar::bytes_bounded(&mut fields, &at.field("description"), description, scalar::SHORT_TEXT);
    fields.finish((ProjectId::new(&project_id), display_name, description))
}

/// One project, and whether with a look at its tasks.
pub fn get(request: pb::GetProjectRequest) -> Result<(ProjectId, bool)> {
    let mut fields = Fields::new();
    let pb::GetProjectRequest { name, view } = request;
    let project = name::project(&mut fields, &Path::Request.field("name"), &name);
    let full = match pb::ProjectView::try_from(view) {
        Ok(pb::ProjectView::Unspecified | pb::ProjectView::Full) => true,
        Ok(pb::ProjectView::Basic) => false,
        Err(_) => {
            fields.refuse(&Path::Request.field("view"), format!("{view} is no view; BASIC is 1, FULL is 2"));
            false
        }
    };
    fields.finish((project, full))
}

/// A list, before its page token is read.
#[derive(Debug)]
pub struct List {
    /// What to read; who may see what, and where it goes on, is still empty.
    pub query: ProjectQuery,
    /// The page token as it was sent.
    pub page_token: String,
}

/// A page of projects.
pub fn list(request: pb::ListProjectsRequest) -> Result<List> {
    let mut fields = Fields::new();
    let pb::ListProjectsRequest { page_size, page_token, query, order_by, show_deleted } = request;
    let limit = page::size(&mut fields, page_size);
    let text = scalar::chars_bounded(&mut fields, &Path::Request.field("query"), query, MAX_QUERY);
    let mut words = order_by.split_whitespace();
    let (by_time, descending) = match (words.next(), words.next(), words.next()) {
        (None, ..) | (Some("name"), None | Some("asc"), None) => (false, false),
        (Some("name"), Some("desc"), None) => (false, true),
        (Some("create_time"), None | Some("asc"), None) => (true, false),
        (Some("create_time"), Some("desc"), None) => (true, true),
        _ => {
            fields.refuse(&Path::Request.field("order_by"), "must be name or create_time, with desc or without");
            (false, false)
        }
    };
    let text = text.to_ascii_lowercase();
    let query = ProjectQuery { visible: None, text, by_time, descending, show_deleted, after: None, limit };
    fields.finish(List { query, page_token })
}

/// A change: the project, what changes, the etag it must have.
pub fn update(request: pb::UpdateProjectRequest) -> Result<(ProjectId, ProjectPatch, Option<String>)> {
    const RULES: [(&str, Rule); 10] = [
        ("display_name", Rule::Changes),
        ("description", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
        ("revision", Rule::OutputOnly),
        ("delete_time", Rule::OutputOnly),
        ("purge_time", Rule::OutputOnly),
        ("tasks", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateProjectRequest { project, update_mask } = request;
    let Some(project) = project else { return Err(Error::field("project", "is required")) };
    let pb::Project {
        name,
        display_name,
        description,
        etag,
        create_time: _,
        update_time: _,
        revision: _,
        delete_time: _,
        purge_time: _,
        tasks: _,
    } = project;
    let at = Path::Request.field("project");
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let id = name::project(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let mut patch = ProjectPatch::default();
    if mask.changes("display_name", !display_name.is_empty()) {
        let at = at.field("display_name");
        patch.display_name = Some(scalar::chars_bounded(&mut fields, &at, display_name, scalar::MAX_DISPLAY_NAME));
    }
    if mask.changes("description", !description.is_empty()) {
        let at = at.field("description");
        patch.description = Some(scalar::bytes_bounded(&mut fields, &at, description, scalar::SHORT_TEXT));
    }
    fields.finish((id, patch, etag))
}

/// A deletion: the project, the etag it must have, whether it may be missing.
pub fn delete(request: pb::DeleteProjectRequest) -> Result<(ProjectId, Option<String>, bool)> {
    let mut fields = Fields::new();
    let pb::DeleteProjectRequest { name, etag, allow_missing } = request;
    let project = name::project(&mut fields, &Path::Request.field("name"), &name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((project, etag, allow_missing))
}

/// A deletion to be taken back.
pub fn undelete(request: pb::UndeleteProjectRequest) -> Result<ProjectId> {
    let mut fields = Fields::new();
    let pb::UndeleteProjectRequest { name } = request;
    let project = name::project(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(project)
}

/// A project for the wire.
pub fn project(project: Project) -> pb::Project {
    let etag = etag::project_etag(&project);
    let Project { id, display_name, description, create_time, update_time, revision, deletion } = project;
    pb::Project {
        name: project_name(&id),
        display_name,
        description,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        etag,
        revision,
        delete_time: deletion.map(|deletion| timestamp(deletion.time)),
        purge_time: deletion.map(|deletion| timestamp(deletion.purge_time)),
        tasks: None,
    }
}

/// A look at the tasks of a project for the wire.
pub fn tasks(tasks: ProjectTasks) -> pb::ProjectTasks {
    let ProjectTasks { pending, retrying, running, failed, cancelled, succeeded, latest } = tasks;
    pb::ProjectTasks {
        pending_count: pending,
        retrying_count: retrying,
        running_count: running,
        failed_count: failed,
        cancelled_count: cancelled,
        succeeded_total: succeeded,
        latest: latest.iter().map(|task| task::task(task, false)).collect(),
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
