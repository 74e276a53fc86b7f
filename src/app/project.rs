//! Projects: create, read, change. Deleting and bringing back is in `project_deletion`; nothing takes the rows away.

use serde_json::{Map, Value, json};

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
};
use crate::{
    context::Caller,
    domain::{
        etag,
        event::ResourceKind,
        filter::Filter,
        permission::Permission,
        project::{Project, ProjectPatch, ProjectQuery, ProjectTasks},
        task::Micros,
        task_list::ListQuery,
    },
    error::{Error, Result},
    ids::{ProjectId, SYSTEM_PROJECT, project_name},
    store::{
        Tx,
        journal::{self, Entry},
        projects::{self, Presence},
        tasks,
    },
};

/// Tasks in the look at a project.
const LATEST: u64 = 5;

impl App {
    /// Makes a project. The change belongs to no project, so it stands in the journal of the system.
    pub async fn create_project(
        &self,
        caller: &Caller,
        id: ProjectId,
        display_name: String,
        description: String,
    ) -> Result<Project> {
        if id.as_str() == SYSTEM_PROJECT {
            return Err(Error::field("project_id", "`system` is taken by the server; choose another id"));
        }
        let write = CreateProject { caller: caller.clone(), id, display_name, description };
        let project = self.write(write).await?;
        self.hub().journal_moved(&ProjectId::new(SYSTEM_PROJECT));
        Ok(project)
    }

    /// The project with a look at its tasks, unless the caller may not read them: so many statements, whatever there is.
    pub async fn view_project(&self, caller: &Caller, id: &ProjectId) -> Result<(Project, Option<ProjectTasks>)> {
        let project = self.get_project(id).await?;
        if !caller.authority.permits(Permission::TasksRead, Some(id)) {
            return Ok((project, None));
        }
        let counts = projects::count_tasks(self.store(), id).await?;
        let (latest, _) = tasks::list(self.store(), id, &ListQuery::newest(Filter::everything(), LATEST)).await?;
        Ok((project, Some(ProjectTasks { latest, ..counts })))
    }

    /// One project.
    pub async fn get_project(&self, id: &ProjectId) -> Result<Project> {
        let found = projects::get(self.store(), id).await?;
        found.ok_or_else(|| Error::NotFound { kind: "project", name: project_name(id) })
    }

    /// Projects that match, of those the caller may see; and the place after which the next page goes on.
    pub async fn list_projects(
        &self,
        caller: &Caller,
        query: ProjectQuery,
    ) -> Result<(Vec<Project>, Option<(Micros, String)>)> {
        let visible = caller.authority.projects_with(Permission::ProjectsRead);
        let limit = query.limit;
        let found = projects::list(self.store(), &ProjectQuery { visible, limit: one_more(limit), ..query }).await?;
        Ok(cut(found, limit, |project| (project.create_time, project.id.as_str().to_owned())))
    }

    /// Changes what people call a project.
    pub async fn update_project(
        &self,
        caller: &Caller,
        id: &ProjectId,
        patch: ProjectPatch,
        etag: Option<String>,
    ) -> Result<Project> {
        let project = self.write(UpdateProject { caller: caller.clone(), id: id.clone(), patch, etag }).await?;
        self.hub().journal_moved(&ProjectId::new(SYSTEM_PROJECT));
        Ok(project)
    }
}

struct UpdateProject {
    caller: Caller,
    id: ProjectId,
    patch: ProjectPatch,
    etag: Option<String>,
}

impl NamedWrite for UpdateProject {
    const NAME: &'static str = "update-project";
    type Answer = Project;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Project>, Stop> {
        let old = locked(tx, &self.id, self.etag.as_deref()).await?;
        let name = project_name(&self.id);
        if old.deletion.is_some() {
            return Err(Error::ProjectDeleted { name }.into());
        }
        let ProjectPatch { display_name, description } = self.patch.clone();
        let now = tx.now();
        let new = Project {
            display_name: display_name.unwrap_or_else(|| old.display_name.clone()),
            description: description.unwrap_or_else(|| old.description.clone()),
            update_time: now,
            ..old.clone()
        };
        let mut diff = Map::new();
        if new.display_name != old.display_name {
            diff.insert("display_name".into(), json!([old.display_name, new.display_name]));
        }
        if new.description != old.description {
            diff.insert("description".into(), json!([old.description, new.description]));
        }
        if diff.is_empty() {
            return Ok(Done::Nothing(old));
        }
        projects::write(tx, &new, None).await?;
        let diff = Value::Object(diff).to_string();
        let entry = Entry::of_resource(ResourceKind::ProjectUpdated, name, now, Some(diff), &self.caller);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(new))
    }
}

/// The project, locked, if the caller still means this one.
pub(super) async fn locked(tx: &mut Tx, id: &ProjectId, etag: Option<&str>) -> std::result::Result<Project, Stop> {
    let name = project_name(id);
    let Some(project) = projects::lock(tx, id).await? else {
        return Err(Error::NotFound { kind: "project", name }.into());
    };
    let current = etag::project_etag(&project);
    if etag.is_some_and(|asked| asked != current) {
        return Err(Error::EtagMismatch { name, current }.into());
    }
    Ok(project)
}

struct CreateProject {
    caller: Caller,
    id: ProjectId,
    display_name: String,
    description: String,
}

impl NamedWrite for CreateProject {
    const NAME: &'static str = "create-project";
    type Answer = Project;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Project>, Stop> {
        let name = project_name(&self.id);
        if projects::presence_in(tx, &self.id).await? != Presence::Missing {
            return Err(Error::Exists { kind: "project", name }.into());
        }
        let now = tx.now();
        let project = Project {
            id: self.id.clone(),
            display_name: self.display_name.clone(),
            description: self.description.clone(),
            create_time: now,
            update_time: now,
            revision: 0,
            deletion: None,
        };
        projects::create(tx, &project).await?;
        let entry = Entry::of_resource(ResourceKind::ProjectCreated, name, now, None, &self.caller);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(project))
    }
}

/// Refuses, inside a transaction, new work for a project that does not exist or was deleted.
pub(super) async fn require_live(tx: &mut Tx, project: &ProjectId) -> std::result::Result<(), Stop> {
    let name = project_name(project);
    match projects::presence_in(tx, project).await? {
        Presence::Missing => Err(Error::NotFound { kind: "project", name }.into()),
        Presence::Deleted => Err(Error::ProjectDeleted { name }.into()),
        Presence::Live => Ok(()),
    }
}
