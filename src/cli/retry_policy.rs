//! `tasktower retry-policy …`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::{
    Context,
    failure::Usage,
    help, names,
    output::from_json,
    pages,
    task::{read_text, usage},
    time::{parse_duration, parse_moment, to_duration},
};
use crate::pb::{
    CreateRetryPolicyRequest, DeleteRetryPolicyRequest, EvaluateRetryRequest, GetRetryPolicyRequest,
    GetRetryStatisticsRequest, ListRetryPoliciesRequest, RetryPolicy, RetrySettings, SimulatePolicyRequest, TaskError,
    UpdateRetryPolicyRequest, evaluate_retry_request, simulate_policy_request,
};

/// What to do with retry policies.
#[derive(Debug, Subcommand)]
pub enum RetryPolicyCommand {
    /// Create a policy
    Create(CreateArgs),
    /// Show a policy with its rules
    Get(PolicyArgs),
    /// List policies
    List,
    /// Change a policy
    Update(UpdateArgs),
    /// Delete a policy; tasks that name it are treated as if they named none
    Delete(PolicyArgs),
    /// Say what would be decided about an error; changes nothing
    Evaluate(EvaluateArgs),
    /// Say what a policy would have decided otherwise about failures of the past; changes nothing
    Simulate(SimulateArgs),
    /// Count failed attempts by rule and by error type
    Stats(WindowArgs),
}

/// One policy.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    /// The policy
    policy: String,
}

/// What it says.
#[derive(Args, Debug)]
pub struct Content {
    /// Rules and limits: JSON of tasktower.v1.RetrySettings, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    settings: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A task type it holds for by default; may be given several times
    #[arg(long = "task-type", value_name = "TYPE")]
    task_types: Vec<String>,
}

/// What to create.
#[derive(Args, Debug)]
#[command(before_help = help::RETRY_POLICY_CREATE)]
pub struct CreateArgs {
    /// Its id: a small letter, then small letters, digits and hyphens
    id: String,
    #[command(flatten)]
    content: Content,
}

/// What to change.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// The policy
    policy: String,
    #[command(flatten)]
    content: Content,
    /// It holds for no task type by default any more
    #[arg(long, conflicts_with = "task_types")]
    no_task_types: bool,
    /// Refuse unless this is the current etag
    #[arg(long, default_value = "", value_name = "ETAG")]
    etag: String,
}

/// An error, and by what it is decided.
#[derive(Args, Debug)]
#[command(before_help = help::RETRY_POLICY_EVALUATE)]
pub struct EvaluateArgs {
    /// The policy [default: the built-in settings]
    policy: Option<String>,
    /// These settings instead: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "policy")]
    settings: Option<String>,
    /// What holds for this task instead
    #[arg(long, value_name = "TASK", conflicts_with_all = ["policy", "settings"])]
    task: Option<String>,
    /// The type of the error
    #[arg(long, value_name = "TYPE")]
    error_type: String,
    /// Its message
    #[arg(long, default_value = "", value_name = "TEXT")]
    message: String,
    /// The attempt that fails, 1, 2, 3 …
    #[arg(long, default_value_t = 0, value_name = "N")]
    attempt: i32,
    /// How long ago the task was submitted
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    age: Option<Duration>,
    /// What the worker asks for
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    retry_after: Option<Duration>,
}

/// Which failures, and what would have decided.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// The policy
    #[arg(required_unless_present = "settings")]
    policy: Option<String>,
    /// These settings instead: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "policy")]
    settings: Option<String>,
    #[command(flatten)]
    window: WindowArgs,
    /// The most failures to look at, the latest first [default: 1000]
    #[arg(long, default_value_t = 0, value_name = "N")]
    limit: i32,
}

/// Which failures.
#[derive(Args, Debug)]
pub struct WindowArgs {
    /// Only of this queue
    #[arg(long, default_value = "", value_name = "QUEUE")]
    queue: String,
    /// Only of this task type
    #[arg(long, default_value = "", value_name = "TYPE")]
    task_type: String,
    /// From this time on: RFC 3339, or -2h [default: a day before the end]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Before this time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

/// Runs one of them.
pub async fn run(context: &Context, command: RetryPolicyCommand) -> anyhow::Result<ExitCode> {
    let name = |policy: &str| names::child(&context.project, "retryPolicies", policy);
    let api = &context.api;
    let policy = match command {
        RetryPolicyCommand::List => return list(context).await,
        RetryPolicyCommand::Evaluate(args) => return evaluate(context, args).await,
        RetryPolicyCommand::Simulate(args) => return simulate(context, args).await,
        RetryPolicyCommand::Stats(args) => return stats(context, args).await,
        RetryPolicyCommand::Delete(args) => {
            let request = DeleteRetryPolicyRequest { name: name(&args.policy)?, ..Default::default() };
            api.retries().delete_retry_policy(api.call(request)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        RetryPolicyCommand::Get(args) => {
            let request = api.call(GetRetryPolicyRequest { name: name(&args.policy)? });
            api.retries().get_retry_policy(request).await?.into_inner().retry_policy
        }
        RetryPolicyCommand::Create(args) => {
            let retry_policy = Some(content(args.content)?.0);
            let parent = context.project.clone();
            let request = CreateRetryPolicyRequest { parent, retry_policy_id: args.id, retry_policy };
            api.retries().create_retry_policy(api.call(request)).await?.into_inner().retry_policy
        }
        RetryPolicyCommand::Update(args) => {
            let request = change(args, name)?;
            api.retries().update_retry_policy(api.call(request)).await?.into_inner().retry_policy
        }
    };
    context.output.one(&policy.context("the server answered without a retry policy")?)?;
    Ok(ExitCode::SUCCESS)
}

/// A policy that says what was given, and the paths of that.
fn content(content: Content) -> anyhow::Result<(RetryPolicy, Vec<String>)> {
    let Content { settings, description, task_types } = content;
    let paths = [
        ("settings", settings.is_some()),
        ("description", description.is_some()),
        ("task_types", !task_types.is_empty()),
    ];
    let settings = settings.as_deref().map(read_settings).transpose()?;
    let policy =
        RetryPolicy { settings, description: description.unwrap_or_default(), task_types, ..Default::default() };
    Ok((policy, paths.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect()))
}

fn change(args: UpdateArgs, name: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<UpdateRetryPolicyRequest> {
    let (policy, mut paths) = content(args.content)?;
    if args.no_task_types {
        paths.push("task_types".to_owned());
    }
    if paths.is_empty() {
        bail!(Usage::new("nothing to change is given; see --help"));
    }
    let retry_policy = Some(RetryPolicy { name: name(&args.policy)?, etag: args.etag, ..policy });
    Ok(UpdateRetryPolicyRequest { retry_policy, update_mask: Some(FieldMask { paths }) })
}

/// `JSON`, `@FILE` or `-`, as settings.
fn read_settings(text: &str) -> anyhow::Result<RetrySettings> {
    usage(read_text(text).and_then(|json| from_json("tasktower.v1.RetrySettings", &json)))
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let policies = pages::all(async |page_token| {
        let parent = context.project.clone();
        let request = context.api.call(ListRetryPoliciesRequest { parent, page_size: pages::MAX_PAGE, page_token });
        let page = context.api.retries().list_retry_policies(request).await?.into_inner();
        Ok((page.retry_policies, page.next_page_token))
    });
    context.output.list(&policies.await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn evaluate(context: &Context, args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    use evaluate_retry_request::Decider;

    let api = &context.api;
    let decider = match (args.policy, args.settings, args.task) {
        (Some(policy), ..) => Some(Decider::RetryPolicy(names::child(&context.project, "retryPolicies", &policy)?)),
        (_, Some(settings), _) => Some(Decider::Settings(read_settings(&settings)?)),
        (.., Some(task)) => Some(Decider::Task(names::task(api, &context.project, &task).await?)),
        _ => None,
    };
    let request = EvaluateRetryRequest {
        parent: context.project.clone(),
        decider,
        error: Some(TaskError { r#type: args.error_type, message: args.message, details: String::new() }),
        attempt: args.attempt,
        age: args.age.map(to_duration),
        retry_after: args.retry_after.map(to_duration),
    };
    context.output.one(&api.retries().evaluate_retry(api.call(request)).await?.into_inner())?;
    Ok(ExitCode::SUCCESS)
}

async fn simulate(context: &Context, args: SimulateArgs) -> anyhow::Result<ExitCode> {
    use simulate_policy_request::Decider;

    let api = &context.api;
    let decider = match (args.policy, args.settings) {
        (Some(policy), _) => Decider::RetryPolicy(names::child(&context.project, "retryPolicies", &policy)?),
        (None, Some(settings)) => Decider::Settings(read_settings(&settings)?),
        (None, None) => bail!(Usage::new("give a policy, or --settings")),
    };
    let (start_time, end_time) = times(&args.window)?;
    let request = SimulatePolicyRequest {
        parent: context.project.clone(),
        decider: Some(decider),
        queue: args.window.queue,
        task_type: args.window.task_type,
        start_time,
        end_time,
        limit: args.limit,
    };
    context.output.one(&api.retries().simulate_policy(api.call(request)).await?.into_inner())?;
    Ok(ExitCode::SUCCESS)
}

async fn stats(context: &Context, args: WindowArgs) -> anyhow::Result<ExitCode> {
    let api = &context.api;
    let (start_time, end_time) = times(&args)?;
    let request = GetRetryStatisticsRequest {
        parent: context.project.clone(),
        queue: args.queue,
        task_type: args.task_type,
        start_time,
        end_time,
    };
    context.output.one(&api.retries().get_retry_statistics(api.call(request)).await?.into_inner())?;
    Ok(ExitCode::SUCCESS)
}

type Times = (Option<prost_types::Timestamp>, Option<prost_types::Timestamp>);

fn times(args: &WindowArgs) -> anyhow::Result<Times> {
    let now = super::time::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| usage(parse_moment(text, now))).transpose();
    Ok((moment(&args.since)?, moment(&args.until)?))
}
