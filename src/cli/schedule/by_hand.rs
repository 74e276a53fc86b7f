//! `tasktower schedule backfill`: count first, ask, then call by call until the range is done.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::{
    cli::{
        Context, help, names,
        output::{json_pretty, to_json},
        queue::{RateChoice, parse_rate},
        task::{confirmed, usage},
        time::{now, parse_moment, to_duration},
    },
    pb::{BackfillScheduleRequest, BackfillScheduleResponse, Rate},
};

/// Which ticks.
#[derive(Args, Debug)]
#[command(before_help = help::SCHEDULE_BACKFILL)]
pub struct BackfillArgs {
    /// The schedule
    schedule: String,
    /// Ticks from this time on: RFC 3339
    #[arg(long, value_name = "TIME")]
    start: String,
    /// Ticks before this time: RFC 3339, or now
    #[arg(long, default_value = "now", value_name = "TIME")]
    end: String,
    /// The tasks become due at this rate: 10/s, 100/1m, or none
    #[arg(long, default_value = "none", value_parser = parse_rate, value_name = "N/TIME|none")]
    rate: RateChoice,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

/// Makes the tasks of past ticks.
pub async fn backfill(context: &Context, args: BackfillArgs) -> anyhow::Result<ExitCode> {
    let now = now();
    let rate = match args.rate {
        RateChoice::None => None,
        RateChoice::Some { count, interval } => Some(Rate { count, interval: Some(to_duration(interval)), burst: 0 }),
    };
    let request = BackfillScheduleRequest {
        name: names::child(&context.project, "schedules", &args.schedule)?,
        start_time: Some(usage(parse_moment(&args.start, now))?),
        end_time: Some(usage(parse_moment(&args.end, now))?),
        rate,
        dry_run: true,
    };
    let counted = through(context, request.clone()).await?;
    eprintln!(
        "{} ticks, {} of them made a task already; {} tasks to be made",
        counted.tick_count, counted.done_count, counted.backfilled_count
    );
    if args.dry_run || counted.backfilled_count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed("make them?")? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let made = through(context, BackfillScheduleRequest { dry_run: false, ..request }).await?;
    let message = to_json("tasktower.v1.BackfillScheduleResponse", &made)?;
    crate::cli::output::print(&json_pretty(&message)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The whole range, however many calls it takes. With a rate the next call begins when the tasks of the one before are due,
/// so that the rate holds from one call to the next.
async fn through(context: &Context, mut request: BackfillScheduleRequest) -> anyhow::Result<BackfillScheduleResponse> {
    let mut sum = BackfillScheduleResponse::default();
    loop {
        let call = context.api.call(request.clone());
        let answer = context.api.schedules().backfill_schedule(call).await.context("backfill")?.into_inner();
        sum.tick_count += answer.tick_count;
        sum.done_count += answer.done_count;
        sum.backfilled_count += answer.backfilled_count;
        sum.skipped_count += answer.skipped_count;
        sum.last_due_time = answer.last_due_time.or(sum.last_due_time);
        let Some(next) = answer.next_start_time else { return Ok(sum) };
        request.start_time = Some(next);
        if let Some(due) = answer.last_due_time.filter(|_| request.rate.is_some() && !request.dry_run) {
            let wait = std::time::SystemTime::try_from(due).ok().and_then(|due| due.duration_since(now()).ok());
            eprintln!("{} tasks made; the next follow when these are due", sum.backfilled_count);
            tokio::time::sleep(wait.unwrap_or_default()).await;
        }
    }
}
