//! `tasktower bench …`: measures a server from outside, by the public API only.
//!
//! Cast: each scenario has a file; `runner` keeps K calls in flight; `session` is a worker's stream; `report` is the one
//! JSON object a run ends with. Every run uses a queue of its own unless it is given one, so runs do not mix. Any refusal that
//! would not pass by itself ends the run with the error: figures of a broken run are worse than none.

mod audit;
mod backlog;
mod bulk_retry;
mod latency;
mod lifecycle;
mod list;
mod load;
mod read;
mod report;
mod retention;
mod retry;
mod runner;
mod schedules;
mod session;
mod submit;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Context, help};

/// What to measure.
#[derive(Debug, Subcommand)]
#[command(before_help = help::BENCH)]
pub enum BenchCommand {
    /// Submit N tasks, run them with an empty handler, check that all SUCCEEDED
    Lifecycle(lifecycle::LifecycleArgs),
    /// Submit with K calls in flight
    Submit(submit::SubmitArgs),
    /// From submit to the start of the handler, at a fixed rate
    Latency(latency::LatencyArgs),
    /// Read with K calls in flight: nine GetTask to one ListTasks
    Read(read::ReadArgs),
    /// Pages of 50 tasks by different filters, among N tasks
    List(list::ListArgs),
    /// Lease from a queue in which N tasks wait
    Backlog(backlog::BacklogArgs),
    /// Lease by itself, and while N finished tasks are deleted
    Retention(retention::RetentionArgs),
    /// Verify the record of N changes
    Audit(audit::AuditArgs),
    /// N tasks fail together: in which seconds do they come back?
    Retry(retry::RetryArgs),
    /// Retry N dead letters at a rate: is it kept, does it stop?
    BulkRetry(bulk_retry::BulkRetryArgs),
    /// From a tick to the task, when N schedules are due at the same moment
    Schedules(schedules::SchedulesArgs),
    /// N streams, each on a task of its own; is every change delivered once?
    Watch(watch::WatchArgs),
}

/// How results are told.
#[derive(Args, Clone, Copy, Debug)]
struct Tell {
    /// One JSON object on the last line of stdout
    #[arg(long)]
    json: bool,
}

/// Runs a scenario.
pub(super) async fn run(context: &Context, command: BenchCommand) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Lifecycle(args) => report::tell(&lifecycle::run(context, &args).await?, args.tell)?,
        BenchCommand::Submit(args) => report::tell(&submit::run(context, &args).await?, args.tell)?,
        BenchCommand::Latency(args) => report::tell(&latency::run(context, &args).await?, args.tell)?,
        BenchCommand::Read(args) => report::tell(&read::run(context, &args).await?, args.tell)?,
        BenchCommand::List(args) => report::tell(&list::run(context, &args).await?, args.tell)?,
        BenchCommand::Backlog(args) => report::tell(&backlog::run(context, &args).await?, args.tell)?,
        BenchCommand::Retention(args) => report::tell(&retention::run(context, &args).await?, args.tell)?,
        BenchCommand::Audit(args) => report::tell(&audit::run(context, &args).await?, args.tell)?,
        BenchCommand::Retry(args) => report::tell(&retry::run(context, &args).await?, args.tell)?,
        BenchCommand::BulkRetry(args) => report::tell(&bulk_retry::run(context, &args).await?, args.tell)?,
        BenchCommand::Schedules(args) => report::tell(&schedules::run(context, &args).await?, args.tell)?,
        BenchCommand::Watch(args) => report::tell(&watch::run(context, &args).await?, args.tell)?,
    }
    Ok(ExitCode::SUCCESS)
}
