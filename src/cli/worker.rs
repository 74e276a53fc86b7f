//! `tasktower worker`: run a program as a worker (`--exec`), or look at workers.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::{
    Context,
    exec::{self, ExecArgs},
    failure::Usage,
    help, names, pages,
};
use crate::pb::{DrainWorkerRequest, GetWorkerRequest, ListWorkersRequest};

/// A program to run, or a command.
#[derive(Args, Debug)]
#[command(before_help = help::WORKER)]
pub struct WorkerArgs {
    #[command(flatten)]
    exec: ExecArgs,
    #[command(subcommand)]
    command: Option<WorkerCommand>,
}

/// What to do with workers.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List workers
    List,
    /// Show a worker
    Get(NameArgs),
    /// Tell a worker to finish what runs and end
    Drain(NameArgs),
}

/// One worker.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The worker
    worker: String,
}

/// Runs one of them.
pub async fn run(context: &Context, args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let name = |worker: &str| names::child(&context.project, "workers", worker);
    let api = &context.api;
    let worker = match (args.command, args.exec.command()) {
        (Some(_), Some(_)) => bail!(Usage::new("--exec runs a worker and goes with no other command")),
        (None, None) => bail!(Usage::new(
            "say what to run: tasktower worker --exec COMMAND --type TYPE; or list, get, drain; see --help"
        )),
        (None, Some(_)) => return exec::run(context, args.exec).await,
        (Some(WorkerCommand::List), None) => return list(context).await,
        (Some(WorkerCommand::Get(args)), None) => {
            let request = api.call(GetWorkerRequest { name: name(&args.worker)? });
            api.workers().get_worker(request).await?.into_inner().worker
        }
        (Some(WorkerCommand::Drain(args)), None) => {
            let request = api.call(DrainWorkerRequest { name: name(&args.worker)? });
            api.workers().drain_worker(request).await?.into_inner().worker
        }
    };
    context.output.one(&worker.context("the server answered without a worker")?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let workers = pages::all(async |page_token| {
        let parent = context.project.clone();
        let request = context.api.call(ListWorkersRequest { parent, page_size: pages::MAX_PAGE, page_token });
        let page = context.api.workers().list_workers(request).await?.into_inner();
        Ok((page.workers, page.next_page_token))
    });
    context.output.list(&workers.await?)?;
    Ok(ExitCode::SUCCESS)
}
