//! Cancel and purge by filter: count first, ask, then follow the job that does it.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Code;

use super::change;
use crate::{
    cli::{
        Context,
        failure::{EXIT_TASK_FAILED, Usage, true_code},
        help, names,
    },
    pb::{
        BulkCancelTasksRequest, BulkJob, BulkPurgeTasksRequest, WatchBulkJobRequest,
        bulk_job::{Action, State},
    },
};

/// Names shown before one is asked to confirm.
const SHOWN_SAMPLE: usize = 5;
/// A stream that ends early is opened again so many times in a row without progress.
const MAX_REOPENS: u32 = 5;
const REOPEN_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Which tasks to cancel.
#[derive(Args, Debug)]
#[command(before_help = help::CANCEL)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["tasks", "filter"]))]
pub struct CancelArgs {
    /// The tasks: names, UUIDs, or first digits
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Why, for the journal and the workers
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

/// Which final tasks to delete.
#[derive(Args, Debug)]
#[command(before_help = help::PURGE)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["filter"]))]
pub struct PurgeArgs {
    #[command(flatten)]
    bulk: BulkArgs,
}

/// Work on everything a filter matches.
#[derive(Args, Debug)]
struct BulkArgs {
    /// Every task this filter matches; `*` means all
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Only say how many tasks match
    #[arg(long, requires = "filter")]
    dry_run: bool,
    /// Do it without asking
    #[arg(long, requires = "filter")]
    yes: bool,
}

/// Cancels tasks by name or by filter.
pub async fn cancel(context: &Context, args: CancelArgs) -> anyhow::Result<ExitCode> {
    match &args.bulk.filter {
        None => change::cancel(context, &args.tasks, &args.reason).await,
        Some(filter) => {
            let call = Call { action: Action::Cancel, filter, reason: &args.reason };
            by_filter(context, &args.bulk, &call).await
        }
    }
}

/// Deletes final tasks by filter.
pub async fn purge(context: &Context, args: PurgeArgs) -> anyhow::Result<ExitCode> {
    let filter = args.bulk.filter.as_deref().unwrap_or_default();
    by_filter(context, &args.bulk, &Call { action: Action::Purge, filter, reason: "" }).await
}

struct Call<'a> {
    action: Action,
    filter: &'a str,
    reason: &'a str,
}

/// What the server says: the job if one was started, and what matches.
struct Answer {
    job: Option<BulkJob>,
    matched: i64,
    sample: Vec<String>,
}

impl Call<'_> {
    fn verb(&self) -> &'static str {
        if self.action == Action::Purge { "delete" } else { "cancel" }
    }

    async fn send(&self, context: &Context, force: bool) -> anyhow::Result<Answer> {
        let (parent, filter) = (context.project.clone(), self.filter.to_owned());
        if self.action == Action::Purge {
            let request = context.api.call(BulkPurgeTasksRequest { parent, filter, force });
            let answer = context.api.tasks().bulk_purge_tasks(request).await?.into_inner();
            return Ok(Answer { job: answer.bulk_job, matched: answer.matched_count, sample: answer.sample });
        }
        let request = BulkCancelTasksRequest { parent, filter, reason: self.reason.to_owned(), force };
        let answer = context.api.tasks().bulk_cancel_tasks(context.api.call(request)).await?.into_inner();
        Ok(Answer { job: answer.bulk_job, matched: answer.matched_count, sample: answer.sample })
    }
}

async fn by_filter(context: &Context, args: &BulkArgs, call: &Call<'_>) -> anyhow::Result<ExitCode> {
    let preview = call.send(context, false).await?;
    eprintln!("{} tasks match", preview.matched);
    for name in preview.sample.iter().take(SHOWN_SAMPLE) {
        eprintln!("  {}", names::id(name));
    }
    if preview.sample.len() > SHOWN_SAMPLE {
        eprintln!("  …");
    }
    if args.dry_run || preview.matched == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed(&format!("{} them?", call.verb()))? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let job = call.send(context, true).await?.job.context("the server answered without a job")?;
    follow_bulk_job(context, job.name).await
}

/// Asks on stderr.
pub fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!(Usage::new("nobody is there to ask; add --yes to do it, or --dry-run to only count"));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Follows a job to its end with a bar on stderr and prints it. Exit code 0 when it SUCCEEDED, else 3.
pub async fn follow_bulk_job(context: &Context, name: String) -> anyhow::Result<ExitCode> {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    let outcome = watch_to_end(context, &name, &bar).await;
    bar.finish_and_clear();
    let job = outcome?;
    context.output.one(&job)?;
    Ok(if job.state() == State::Succeeded { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TASK_FAILED) })
}

/// A stream says where the job stands in its first message, so one that breaks is simply opened again.
async fn watch_to_end(context: &Context, name: &str, bar: &ProgressBar) -> anyhow::Result<BulkJob> {
    let mut reopens = 0;
    loop {
        let opened = context.api.tasks().watch_bulk_job(WatchBulkJobRequest { name: name.to_owned() }).await;
        let broken = match opened {
            Err(status) => Some(status),
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            reopens = 0;
                            let job = message.bulk_job.unwrap_or_default();
                            bar.set_length(u64::try_from(job.matched_count).unwrap_or(0));
                            bar.set_position(u64::try_from(job.done_count + job.skipped_count).unwrap_or(0));
                            if !matches!(job.state(), State::Running | State::Unspecified) {
                                return Ok(job);
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
        };
        reopens += 1;
        match broken {
            Some(status) if true_code(&status) != Code::Unavailable || reopens > MAX_REOPENS => {
                return Err(status.into());
            }
            None if reopens > MAX_REOPENS => bail!("the server keeps ending the stream before the job is final"),
            _ => tokio::time::sleep(REOPEN_PAUSE).await,
        }
    }
}
