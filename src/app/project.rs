//! Projects: create, read. Nothing takes one away.

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
};
use crate::{
    context::Caller,
    domain::{event::ResourceKind, project::Project},
    error::{Error, Result},
    ids::{ProjectId, SYSTEM_PROJECT, project_name},
    store::{
        Tx,
        journal::{self, Entry},
        projects,
    },
};

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

    /// One project.
    pub async fn get_project(&self, id: &ProjectId) -> Result<Project> {
        let found = projects::get(self.store(), id).await?;
        found.ok_or_else(|| Error::NotFound { kind: "project", name: project_name(id) })
    }

    /// Projects by id, those after `after`; and the id after which the next page goes on.
    pub async fn list_projects(&self, after: Option<String>, limit: i64) -> Result<(Vec<Project>, Option<String>)> {
        // One more than asked tells whether there is a next page.
        let mut found = projects::list(self.store(), after.as_deref(), limit.saturating_add(1)).await?;
        let limit = usize::try_from(limit).unwrap_or(0);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|project| project.id.as_str().to_owned());
        Ok((found, next))
    }
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
        if projects::exists_in(tx, &self.id).await? {
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
        };
        projects::create(tx, &project).await?;
        let entry = Entry::of_resource(ResourceKind::ProjectCreated, name, now, None, &self.caller);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(project))
    }
}
