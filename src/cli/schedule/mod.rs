//! `tasktower schedule …`.

mod by_hand;
mod settings;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use self::{by_hand::BackfillArgs, settings::Settings};
use super::{
    Context,
    failure::Usage,
    help, names, output, pages,
    task::usage,
    time::{now, parse_moment},
};
use crate::pb::{
    CreateScheduleRequest, DeleteScheduleRequest, GetScheduleRequest, ListOccurrencesRequest, ListSchedulesRequest,
    PauseScheduleRequest, PreviewScheduleRequest, ResumeScheduleRequest, RunScheduleRequest, Schedule, Task,
    UpdateScheduleRequest,
};

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Create a schedule
    Create(CreateArgs),
    /// Show a schedule
    Get(ScheduleArgs),
    /// List schedules
    List,
    /// Change a schedule
    Update(UpdateArgs),
    /// Delete a schedule; its tasks stay
    Delete(ScheduleArgs),
    /// Stop a schedule
    Pause(PauseArgs),
    /// Go on with a paused schedule
    Resume(ScheduleArgs),
    /// Say when a schedule, or a cron expression, fires next
    Preview(PreviewArgs),
    /// Make a task of a schedule now
    Run(ScheduleArgs),
    /// Make the tasks of past ticks that made none
    Backfill(BackfillArgs),
    /// List what became of the ticks of a schedule, latest first
    Occurrences(OccurrencesArgs),
}

/// One schedule.
#[derive(Args, Debug)]
pub struct ScheduleArgs {
    /// The schedule
    schedule: String,
}

/// What to create.
#[derive(Args, Debug)]
#[command(before_help = help::SCHEDULE_CREATE)]
pub struct CreateArgs {
    /// Its id: 1 to 63 of [a-z0-9-], beginning with a letter
    schedule: String,
    /// When it fires: five fields, six with the second first, or @daily and friends
    #[arg(long, value_name = "CRON")]
    cron: String,
    /// Which handler runs its tasks
    #[arg(long, value_name = "TYPE")]
    r#type: String,
    #[command(flatten)]
    settings: Settings,
}

/// What to change.
#[derive(Args, Debug)]
#[command(before_help = help::SCHEDULE_UPDATE)]
pub struct UpdateArgs {
    /// The schedule
    schedule: String,
    /// When it fires
    #[arg(long, value_name = "CRON")]
    cron: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What to pause, and why.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// The schedule
    schedule: String,
    /// Why, for those who wonder
    #[arg(long, default_value = "", value_name = "TEXT")]
    note: String,
}

/// What to look at.
#[derive(Args, Debug)]
#[command(before_help = help::SCHEDULE_PREVIEW)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["schedule", "cron"]))]
pub struct PreviewArgs {
    /// The schedule
    schedule: Option<String>,
    /// Not a schedule, but this expression
    #[arg(long, value_name = "CRON")]
    cron: Option<String>,
    /// The IANA time zone of the expression [default: UTC]
    #[arg(long, requires = "cron", value_name = "ZONE")]
    time_zone: Option<String>,
    /// Ticks after this time: RFC 3339, or +5m [default: now]
    #[arg(long, value_name = "TIME")]
    after: Option<String>,
    /// So many ticks
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "N")]
    count: i32,
}

/// Whose ticks, and how many.
#[derive(Args, Debug)]
pub struct OccurrencesArgs {
    /// The schedule
    schedule: String,
    /// Stop after this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500), value_name = "N")]
    limit: i32,
}

/// Runs one of them.
pub async fn run(context: &Context, command: ScheduleCommand) -> anyhow::Result<ExitCode> {
    let name = |schedule: &str| names::child(&context.project, "schedules", schedule);
    let api = &context.api;
    let schedule = match command {
        ScheduleCommand::List => return list(context).await,
        ScheduleCommand::Preview(args) => return preview(context, args).await,
        ScheduleCommand::Backfill(args) => return by_hand::backfill(context, args).await,
        ScheduleCommand::Occurrences(args) => return occurrences(context, args).await,
        ScheduleCommand::Run(args) => {
            let request = api.call(RunScheduleRequest { name: name(&args.schedule)? });
            let occurrence = api.schedules().run_schedule(request).await?.into_inner().occurrence;
            context.output.one(&occurrence.context("the server answered without an occurrence")?)?;
            return Ok(ExitCode::SUCCESS);
        }
        ScheduleCommand::Delete(args) => {
            let name = name(&args.schedule)?;
            let request = DeleteScheduleRequest { name: name.clone(), etag: String::new() };
            api.schedules().delete_schedule(api.call(request)).await?;
            output::print(&name)?;
            return Ok(ExitCode::SUCCESS);
        }
        ScheduleCommand::Create(args) => {
            let task = Task { r#type: args.r#type, ..Default::default() };
            let mut schedule = Schedule { cron: args.cron, task: Some(task), ..Default::default() };
            args.settings.apply(&mut schedule, &context.project, now())?;
            let (parent, schedule_id) = (context.project.clone(), args.schedule);
            let request = api.call(CreateScheduleRequest { parent, schedule_id, schedule: Some(schedule) });
            api.schedules().create_schedule(request).await?.into_inner().schedule
        }
        ScheduleCommand::Get(args) => Some(get(context, name(&args.schedule)?).await?),
        ScheduleCommand::Update(args) => {
            let name = name(&args.schedule)?;
            update(context, name, args).await?
        }
        ScheduleCommand::Pause(args) => {
            let request = api.call(PauseScheduleRequest { name: name(&args.schedule)?, note: args.note });
            api.schedules().pause_schedule(request).await?.into_inner().schedule
        }
        ScheduleCommand::Resume(args) => {
            let request = api.call(ResumeScheduleRequest { name: name(&args.schedule)? });
            api.schedules().resume_schedule(request).await?.into_inner().schedule
        }
    };
    context.output.one(&schedule.context("the server answered without a schedule")?)?;
    Ok(ExitCode::SUCCESS)
}

async fn get(context: &Context, name: String) -> anyhow::Result<Schedule> {
    let request = context.api.call(GetScheduleRequest { name });
    let answer = context.api.schedules().get_schedule(request).await?.into_inner();
    answer.schedule.context("the server answered without a schedule")
}

/// The task is changed as a whole on the wire, so for that the schedule is read first, and written only if it is still the
/// same.
async fn update(context: &Context, name: String, args: UpdateArgs) -> anyhow::Result<Option<Schedule>> {
    let mut schedule =
        if args.settings.changes_task() { get(context, name).await? } else { Schedule { name, ..Default::default() } };
    let mut paths = args.settings.apply(&mut schedule, &context.project, now())?;
    if let Some(cron) = args.cron {
        schedule.cron = cron;
        paths.push("cron");
    }
    if paths.is_empty() {
        bail!(Usage::new("nothing to change is given; see --help"));
    }
    let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
    let request = context.api.call(UpdateScheduleRequest { schedule: Some(schedule), update_mask });
    Ok(context.api.schedules().update_schedule(request).await?.into_inner().schedule)
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let schedules = pages::all(async |page_token| {
        let parent = context.project.clone();
        let request = context.api.call(ListSchedulesRequest { parent, page_size: pages::MAX_PAGE, page_token });
        let page = context.api.schedules().list_schedules(request).await?.into_inner();
        Ok((page.schedules, page.next_page_token))
    });
    context.output.list(&schedules.await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn preview(context: &Context, args: PreviewArgs) -> anyhow::Result<ExitCode> {
    // The whole name says the project, too.
    let name = args.schedule.as_deref().map(|id| names::child(&context.project, "schedules", id)).transpose()?;
    let split = name.as_deref().and_then(|name| name.split_once("/schedules/"));
    let (parent, schedule_id) = split.unwrap_or((&context.project, ""));
    let request = PreviewScheduleRequest {
        parent: parent.to_owned(),
        schedule_id: schedule_id.to_owned(),
        cron: args.cron.unwrap_or_default(),
        time_zone: args.time_zone.unwrap_or_default(),
        after_time: args.after.map(|text| usage(parse_moment(&text, now()))).transpose()?,
        count: args.count,
    };
    let answer = context.api.schedules().preview_schedule(context.api.call(request)).await?.into_inner();
    context.output.list(&answer.runs)?;
    eprintln!("tz data {}", answer.time_zone_version);
    Ok(ExitCode::SUCCESS)
}

async fn occurrences(context: &Context, args: OccurrencesArgs) -> anyhow::Result<ExitCode> {
    let parent = names::child(&context.project, "schedules", &args.schedule)?;
    let request = ListOccurrencesRequest { parent, page_size: args.limit, ..Default::default() };
    let page = context.api.schedules().list_occurrences(context.api.call(request)).await?.into_inner();
    context.output.list(&page.occurrences)?;
    Ok(ExitCode::SUCCESS)
}
