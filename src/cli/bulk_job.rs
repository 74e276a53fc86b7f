//! `tasktower bulk-job …`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{Context, names, task::follow_bulk_job};
use crate::pb::{CancelBulkJobRequest, GetBulkJobRequest, ListBulkJobsRequest};

/// What to do with bulk jobs.
#[derive(Debug, Subcommand)]
pub enum BulkJobCommand {
    /// Show a bulk job
    Get(BulkJobArgs),
    /// List bulk jobs, newest first
    List(ListArgs),
    /// Follow a bulk job to its end
    Watch(BulkJobArgs),
    /// Stop a bulk job; what it did stays done
    Cancel(BulkJobArgs),
}

/// One bulk job.
#[derive(Args, Debug)]
pub struct BulkJobArgs {
    /// The bulk job
    bulk_job: String,
}

/// How many.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Stop after this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500), value_name = "N")]
    limit: i32,
}

/// Runs one of them.
pub async fn run(context: &Context, command: BulkJobCommand) -> anyhow::Result<ExitCode> {
    let name = |job: &str| names::child(&context.project, "bulkJobs", job);
    let api = &context.api;
    let job = match command {
        BulkJobCommand::Watch(args) => return follow_bulk_job(context, name(&args.bulk_job)?).await,
        BulkJobCommand::List(args) => {
            let request =
                ListBulkJobsRequest { parent: context.project.clone(), page_size: args.limit, ..Default::default() };
            let page = api.tasks().list_bulk_jobs(api.call(request)).await?.into_inner();
            context.output.list(&page.bulk_jobs)?;
            return Ok(ExitCode::SUCCESS);
        }
        BulkJobCommand::Get(args) => {
            let request = api.call(GetBulkJobRequest { name: name(&args.bulk_job)? });
            api.tasks().get_bulk_job(request).await?.into_inner().bulk_job
        }
        BulkJobCommand::Cancel(args) => {
            let request = api.call(CancelBulkJobRequest { name: name(&args.bulk_job)? });
            api.tasks().cancel_bulk_job(request).await?.into_inner().bulk_job
        }
    };
    context.output.one(&job.context("the server answered without a bulk job")?)?;
    Ok(ExitCode::SUCCESS)
}
