use super::App;
use crate::{
    context::Caller,
    domain::project::Project,
    error::{Error, Result},
    ids::ProjectId,
};

impl App {
    pub async fn create_project(
        &self,
        caller: &Caller,
        id: ProjectId,
        display_name: String,
        description: String,
    ) -> Result<Project> {
        Err(Error::ShuttingDown)
    }

    pub async fn get_project(&self, id: &ProjectId) -> Result<Project> {
        Err(Error::ShuttingDown)
    }

    pub async fn list_projects(&self, after: Option<String>, limit: i64) -> Result<(Vec<Project>, Option<String>)> {
        Err(Error::ShuttingDown)
    }
}
