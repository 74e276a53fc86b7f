//! `tasktower key …`: API keys. The first one is made straight in the database, all others by a server.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::{
    Context,
    failure::Usage,
    names, pages,
    project::RoleName,
    time::{now, parse_duration, parse_moment, to_duration, to_timestamp},
};
use crate::{
    config::Settings,
    pb::{
        ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, GetApiKeyRequest, ListApiKeysRequest, Member, Permission,
        RevokeApiKeyRequest, RotateApiKeyRequest, RotateApiKeyResponse, SetMemberRequest, UpdateApiKeyRequest,
    },
    server::first_key::{self, FirstKey},
    telemetry,
};

/// Every project, as names have it.
const ALL_PROJECTS: &str = "*";

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; it is shown once
    Create(CreateArgs),
    /// Show what is known of a key
    Get(OneArgs),
    /// List keys
    List(ListArgs),
    /// Change what a key lets through, from where, and until when
    Update(UpdateArgs),
    /// Give a key a new secret; the one before goes on for a while
    Rotate(RotateArgs),
    /// End a key for good
    Revoke(OneArgs),
}

/// What to make.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  tasktower key create service:admin --role admin --database-url postgres://…   the first key
  tasktower key create service:shop --role submitter --in shop --expires-in 90d
  TASKTOWER_API_KEY=$(tasktower key create service:ci --role viewer -o name)")]
pub struct CreateArgs {
    /// Whose credential it is: service:{id}
    principal: String,
    /// Also give the principal this role
    #[arg(long, value_name = "ROLE")]
    role: Option<RoleName>,
    /// Where: a project, or * for all of them [default: * for admin, else the one of --project]
    #[arg(long = "in", requires = "role", value_name = "PROJECT|*")]
    scope: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Make it straight in this database, for when nobody has a key yet
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

/// What is said about a key.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Let through only this permission, such as TASKS_SUBMIT; may be repeated
    #[arg(long = "scope", value_name = "PERMISSION")]
    scopes: Vec<String>,
    /// Only from this address or network, such as 10.0.0.0/8; may be repeated
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// When it ends by itself
    #[arg(long, conflicts_with = "expires_in", value_name = "TIME")]
    expires: Option<String>,
    /// How long until it ends by itself
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
}

/// One key.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// The key, by its name or the part of it that is no secret
    key: String,
}

/// Which keys.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those of this principal
    #[arg(long, default_value = "", value_name = "PRINCIPAL")]
    principal: String,
}

/// What to change.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// The key, by its name or the part of it that is no secret
    key: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A new secret.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// The key, by its name or the part of it that is no secret
    key: String,
    /// How long the secret before goes on
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    overlap: Duration,
}

impl SettingsArgs {
    /// As a key, with the paths of what is set.
    fn read(self) -> anyhow::Result<(ApiKey, Vec<String>)> {
        let expire_time = match (self.expires, self.expires_in) {
            (Some(time), _) => Some(parse_moment(&time, now())?),
            (None, Some(span)) => Some(to_timestamp(now() + span)),
            (None, None) => None,
        };
        let scopes = self.scopes.iter().map(|scope| {
            let name = scope.to_ascii_uppercase().replace('-', "_");
            let name = format!("PERMISSION_{}", name.trim_start_matches("PERMISSION_"));
            let permission = Permission::from_str_name(&name);
            permission.map(i32::from).ok_or_else(|| Usage::new(format!("`{scope}` is no permission")).into())
        });
        let key = ApiKey {
            display_name: self.display_name.clone().unwrap_or_default(),
            scopes: scopes.collect::<anyhow::Result<_>>()?,
            allowed_cidrs: self.cidrs,
            expire_time,
            ..Default::default()
        };
        let set = [
            ("display_name", self.display_name.is_some()),
            ("scopes", !key.scopes.is_empty()),
            ("allowed_cidrs", !key.allowed_cidrs.is_empty()),
            ("expire_time", key.expire_time.is_some()),
        ];
        let paths = set.into_iter().filter(|(_, is_set)| *is_set).map(|(path, _)| path.to_owned()).collect();
        Ok((key, paths))
    }
}

/// Runs one of them.
pub async fn run(context: &Context, command: KeyCommand) -> anyhow::Result<ExitCode> {
    let api = &context.api;
    let key = match command {
        KeyCommand::Create(args) => return create(context, args).await,
        KeyCommand::List(args) => return list(context, args).await,
        KeyCommand::Rotate(RotateArgs { key, overlap }) => {
            let request =
                RotateApiKeyRequest { name: name(&key), overlap: Some(to_duration(overlap)), etag: String::new() };
            let RotateApiKeyResponse { api_key, key } =
                api.api_keys().rotate_api_key(api.call(request)).await?.into_inner();
            context.output.one(&CreateApiKeyResponse { api_key, key })?;
            return Ok(ExitCode::SUCCESS);
        }
        KeyCommand::Get(OneArgs { key }) => {
            let request = api.call(GetApiKeyRequest { name: name(&key) });
            api.api_keys().get_api_key(request).await?.into_inner().api_key
        }
        KeyCommand::Update(UpdateArgs { key, settings }) => {
            let (changed, paths) = settings.read()?;
            if paths.is_empty() {
                bail!(Usage::new("nothing to change is given; see --help"));
            }
            let api_key = Some(ApiKey { name: name(&key), ..changed });
            let request = api.call(UpdateApiKeyRequest { api_key, update_mask: Some(FieldMask { paths }) });
            api.api_keys().update_api_key(request).await?.into_inner().api_key
        }
        KeyCommand::Revoke(OneArgs { key }) => {
            let request = api.call(RevokeApiKeyRequest { name: name(&key), etag: String::new() });
            api.api_keys().revoke_api_key(request).await?.into_inner().api_key
        }
    };
    context.output.one(&key.context("the server answered without a key")?)?;
    Ok(ExitCode::SUCCESS)
}

/// Of a name, or of the part that is no secret.
fn name(key: &str) -> String {
    if key.starts_with("apiKeys/") { key.to_owned() } else { format!("apiKeys/{key}") }
}

async fn create(context: &Context, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let CreateArgs { principal, role, scope, settings, database_url } = args;
    let scope = match (scope.as_deref(), role) {
        (Some(ALL_PROJECTS), _) | (None, Some(RoleName::Admin)) => format!("projects/{ALL_PROJECTS}"),
        (Some(project), _) => names::project(project)?,
        (None, _) => context.project.clone(),
    };
    let (key, paths) = settings.read()?;
    if let Some(url) = database_url {
        if paths.iter().any(|path| path != "display_name") {
            bail!(Usage::new("with --database-url a key is made with a display name and a role alone"));
        }
        telemetry::start()?;
        let database = Settings { database_url: Some(url), ..Settings::default() }.database()?;
        let member = role.map(|role| (names::id(&scope).to_owned(), role.name().to_owned()));
        let first = FirstKey { principal: principal.clone(), display_name: key.display_name.clone(), member };
        let (name, text) = first_key::create(&database, first).await?;
        let api_key = Some(ApiKey { name, principal, ..key });
        context.output.one(&CreateApiKeyResponse { api_key, key: text })?;
        return Ok(ExitCode::SUCCESS);
    }
    let api = &context.api;
    let request = CreateApiKeyRequest { api_key: Some(ApiKey { principal: principal.clone(), ..key }) };
    let made = api.api_keys().create_api_key(api.call(request)).await?.into_inner();
    // Shown before anything else can go wrong: it cannot be asked for again.
    context.output.one(&made)?;
    if let Some(role) = role {
        let member = Member { principal, role: role.role().into(), create_time: None };
        let request = api.call(SetMemberRequest { parent: scope, member: Some(member) });
        api.projects().set_member(request).await.context("the key is made, but its principal got no role")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context, args: ListArgs) -> anyhow::Result<ExitCode> {
    let keys = pages::all(async |page_token| {
        let principal = args.principal.clone();
        let request = context.api.call(ListApiKeysRequest { page_size: pages::MAX_PAGE, page_token, principal });
        let page = context.api.api_keys().list_api_keys(request).await?.into_inner();
        Ok((page.api_keys, page.next_page_token))
    });
    context.output.list(&keys.await?)?;
    Ok(ExitCode::SUCCESS)
}
