//! `tasktower project …`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{Context, names, pages};
use crate::pb::{CreateProjectRequest, GetProjectRequest, ListProjectsRequest, Project};

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// Create a project
    Create(CreateArgs),
    /// Show a project
    Get(GetArgs),
    /// List projects
    List,
}

/// What to create.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Its id: a small letter, then small letters, digits and hyphens
    id: String,
    /// A name for people
    #[arg(long, default_value = "", value_name = "TEXT")]
    display_name: String,
    /// What it is for
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
}

/// One project.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The project [default: the one of --project]
    id: Option<String>,
}

/// Runs one of them.
pub async fn run(context: &Context, command: ProjectCommand) -> anyhow::Result<ExitCode> {
    let api = &context.api;
    let project = match command {
        ProjectCommand::List => return list(context).await,
        ProjectCommand::Create(args) => {
            let project =
                Project { display_name: args.display_name, description: args.description, ..Default::default() };
            let request = api.call(CreateProjectRequest { project_id: args.id, project: Some(project) });
            api.projects().create_project(request).await?.into_inner().project
        }
        ProjectCommand::Get(args) => {
            let name = args.id.as_deref().map(names::project).transpose()?.unwrap_or_else(|| context.project.clone());
            api.projects().get_project(api.call(GetProjectRequest { name })).await?.into_inner().project
        }
    };
    context.output.one(&project.context("the server answered without a project")?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let projects = pages::all(async |page_token| {
        let request = context.api.call(ListProjectsRequest { page_size: pages::MAX_PAGE, page_token });
        let page = context.api.projects().list_projects(request).await?.into_inner();
        Ok((page.projects, page.next_page_token))
    });
    context.output.list(&projects.await?)?;
    Ok(ExitCode::SUCCESS)
}
