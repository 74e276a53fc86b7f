//! `tasktower project …`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::{Context, names, pages};
use crate::pb::{
    CreateProjectRequest, DeleteProjectRequest, GetProjectRequest, ListMembersRequest, ListProjectsRequest, Member,
    Project, RemoveMemberRequest, Role, SetMemberRequest, UndeleteProjectRequest, UpdateProjectRequest,
};

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// Create a project
    Create(CreateArgs),
    /// Show a project, with a look at its tasks
    Get(OneArgs),
    /// List the projects that you may see
    List(ListArgs),
    /// Change what people call a project
    Update(UpdateArgs),
    /// Delete a project; for 30 days it can be brought back
    Delete(DeleteArgs),
    /// Bring a deleted project back
    Undelete(OneArgs),
    /// Show and change who may do what in a project
    #[command(subcommand)]
    Member(MemberCommand),
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
pub struct OneArgs {
    /// The project [default: the one of --project]
    id: Option<String>,
}

/// Which projects.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those with this text in id, display name or description
    #[arg(long, default_value = "", value_name = "TEXT")]
    query: String,
    /// name or create_time, with desc or without
    #[arg(long, default_value = "", value_name = "ORDER")]
    order_by: String,
    /// Also deleted ones
    #[arg(long)]
    show_deleted: bool,
}

/// What to change.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Changes {
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// A change.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// The project [default: the one of --project]
    id: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Only if this is its etag
    #[arg(long, default_value = "", value_name = "ETAG")]
    etag: String,
}

/// A deletion.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The project
    id: String,
    /// Only if this is its etag
    #[arg(long, default_value = "", value_name = "ETAG")]
    etag: String,
    /// It may be missing
    #[arg(long)]
    allow_missing: bool,
}

/// What to do with members.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List who has a role in a project
    List(WhereArgs),
    /// Give a principal a role
    Set(SetArgs),
    /// Take a principal's role away
    Remove(RemoveArgs),
}

/// Where a role holds.
#[derive(Args, Debug)]
pub struct WhereArgs {
    /// In all projects, not in the one of --project
    #[arg(long)]
    all_projects: bool,
}

/// A role for a principal.
#[derive(Args, Debug)]
pub struct SetArgs {
    /// service:{id} or user:{issuer}/{subject}
    principal: String,
    /// What it may do
    role: RoleName,
    #[command(flatten)]
    place: WhereArgs,
}

/// A principal without a role.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// service:{id} or user:{issuer}/{subject}
    principal: String,
    #[command(flatten)]
    place: WhereArgs,
}

/// The roles.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleName {
    /// Sees all
    Viewer,
    /// Submits tasks, sees and cancels its own
    Submitter,
    /// Leases tasks and reports on them
    Worker,
    /// Sees and operates all
    Operator,
    /// May do everything
    Admin,
}

impl RoleName {
    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub(super) fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Submitter => Role::Submitter,
            Self::Worker => Role::Worker,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
        }
    }
}

/// Runs one of them.
pub async fn run(context: &Context, command: ProjectCommand) -> anyhow::Result<ExitCode> {
    let api = &context.api;
    let name = |id: Option<String>| {
        let named = id.as_deref().map(names::project).transpose()?;
        anyhow::Ok(named.unwrap_or_else(|| context.project.clone()))
    };
    let project = match command {
        ProjectCommand::List(args) => return list(context, args).await,
        ProjectCommand::Member(command) => return member(context, command).await,
        ProjectCommand::Create(args) => {
            let project =
                Project { display_name: args.display_name, description: args.description, ..Default::default() };
            let request = api.call(CreateProjectRequest { project_id: args.id, project: Some(project) });
            api.projects().create_project(request).await?.into_inner().project
        }
        ProjectCommand::Get(args) => {
            let request = api.call(GetProjectRequest { name: name(args.id)?, view: 0 });
            api.projects().get_project(request).await?.into_inner().project
        }
        ProjectCommand::Update(args) => {
            let Changes { display_name, description } = args.changes;
            let paths = [("display_name", display_name.is_some()), ("description", description.is_some())];
            let paths = paths.into_iter().filter(|(_, is_set)| *is_set).map(|(path, _)| path.to_owned()).collect();
            let project = Project {
                name: name(args.id)?,
                display_name: display_name.unwrap_or_default(),
                description: description.unwrap_or_default(),
                etag: args.etag,
                ..Default::default()
            };
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = api.call(UpdateProjectRequest { project: Some(project), update_mask });
            api.projects().update_project(request).await?.into_inner().project
        }
        ProjectCommand::Delete(args) => {
            let DeleteArgs { id, etag, allow_missing } = args;
            let request = DeleteProjectRequest { name: names::project(&id)?, etag, allow_missing };
            match api.projects().delete_project(api.call(request)).await?.into_inner().project {
                None => return Ok(ExitCode::SUCCESS),
                project => project,
            }
        }
        ProjectCommand::Undelete(args) => {
            let request = api.call(UndeleteProjectRequest { name: name(args.id)? });
            api.projects().undelete_project(request).await?.into_inner().project
        }
    };
    context.output.one(&project.context("the server answered without a project")?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context, args: ListArgs) -> anyhow::Result<ExitCode> {
    let ListArgs { query, order_by, show_deleted } = args;
    let projects = pages::all(async |page_token| {
        let request = ListProjectsRequest {
            page_size: pages::MAX_PAGE,
            page_token,
            query: query.clone(),
            order_by: order_by.clone(),
            show_deleted,
        };
        let page = context.api.projects().list_projects(context.api.call(request)).await?.into_inner();
        Ok((page.projects, page.next_page_token))
    });
    context.output.list(&projects.await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn member(context: &Context, command: MemberCommand) -> anyhow::Result<ExitCode> {
    let api = &context.api;
    let parent = |place: &WhereArgs| match place.all_projects {
        true => "projects/*".to_owned(),
        false => context.project.clone(),
    };
    match command {
        MemberCommand::List(place) => {
            let members = pages::all(async |page_token| {
                let request = ListMembersRequest { parent: parent(&place), page_size: pages::MAX_PAGE, page_token };
                let page = api.projects().list_members(api.call(request)).await?.into_inner();
                Ok((page.members, page.next_page_token))
            });
            context.output.list(&members.await?)?;
        }
        MemberCommand::Set(args) => {
            let role = args.role.role().into();
            let member = Member { principal: args.principal, role, create_time: None };
            let request = SetMemberRequest { parent: parent(&args.place), member: Some(member) };
            let member = api.projects().set_member(api.call(request)).await?.into_inner().member;
            context.output.one(&member.context("the server answered without a member")?)?;
        }
        MemberCommand::Remove(args) => {
            let request = RemoveMemberRequest { parent: parent(&args.place), principal: args.principal };
            api.projects().remove_member(api.call(request)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
