//! `tasktower task …`.

mod bulk;
mod change;
mod input;
mod list;
mod submit;
mod update;
mod wait;
pub mod watch;

use std::process::ExitCode;

pub use bulk::{CancelArgs, PurgeArgs, confirmed, follow_bulk_job};
use clap::{Args, Subcommand};
pub use input::from_wire as json_from_wire;
pub use input::to_wire as json_to_wire;
pub use input::{read_payload, read_text};
pub use list::ListArgs;
pub use submit::{SubmitArgs, parse_label, usage};
pub use update::UpdateArgs;
pub use wait::WaitArgs;
pub use watch::WatchArgs;

use super::{Context, names, pages};
use crate::pb::{GetTaskRequest, ListAttemptsRequest, Task, TaskView};

/// What to do with tasks. A TASK is its name, its UUID, or the first digits of it (at least four) if no other task's id
/// begins so.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Submit a task
    Submit(SubmitArgs),
    /// Show a task
    Get(GetArgs),
    /// List tasks, newest first
    List(ListArgs),
    /// Follow tasks live
    Watch(WatchArgs),
    /// Wait until a task is final
    Wait(WaitArgs),
    /// Cancel tasks, by name or by filter
    Cancel(CancelArgs),
    /// Open FAILED or CANCELLED tasks again
    Retry(TasksArgs),
    /// Run waiting tasks now, whatever their time
    RunNow(TasksArgs),
    /// Change a task
    Update(UpdateArgs),
    /// Delete final tasks
    Delete(DeleteArgs),
    /// Delete every final task a filter matches
    Purge(PurgeArgs),
    /// Show the attempts of a task
    Attempts(GetArgs),
}

/// One task.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The task: its name, its UUID, or the first digits of it
    task: String,
}

/// Several tasks.
#[derive(Args, Debug)]
pub struct TasksArgs {
    /// The tasks: names, UUIDs, or first digits
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

/// Several tasks that may be gone already.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[command(flatten)]
    tasks: TasksArgs,
    /// A task that does not exist is no error
    #[arg(long)]
    allow_missing: bool,
}

/// Runs one of them.
pub async fn run(context: &Context, command: TaskCommand) -> anyhow::Result<ExitCode> {
    match command {
        TaskCommand::Submit(args) => submit::run(context, args).await,
        TaskCommand::Get(args) => get(context, &args).await,
        TaskCommand::List(args) => list::run(context, args).await,
        TaskCommand::Watch(args) => watch::run(context, args).await,
        TaskCommand::Wait(args) => wait::run(context, &args).await,
        TaskCommand::Cancel(args) => bulk::cancel(context, args).await,
        TaskCommand::Retry(args) => change::retry(context, &args.tasks).await,
        TaskCommand::RunNow(args) => change::run_now(context, &args.tasks).await,
        TaskCommand::Update(args) => update::run(context, args).await,
        TaskCommand::Delete(args) => change::delete(context, &args.tasks.tasks, args.allow_missing).await,
        TaskCommand::Purge(args) => bulk::purge(context, args).await,
        TaskCommand::Attempts(args) => attempts(context, &args).await,
    }
}

async fn get(context: &Context, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let name = names::task(&context.api, &context.project, &args.task).await?;
    context.output.one(&read(context, name, TaskView::Full).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads one task.
async fn read(context: &Context, name: String, view: TaskView) -> anyhow::Result<Task> {
    let request = context.api.call(GetTaskRequest { name, view: view as i32 });
    let answer = context.api.tasks().get_task(request).await?.into_inner();
    answer.task.ok_or_else(|| anyhow::anyhow!("the server answered without a task"))
}

async fn attempts(context: &Context, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let parent = names::task(&context.api, &context.project, &args.task).await?;
    let attempts = pages::all(async |page_token| {
        let parent = parent.clone();
        let request = context.api.call(ListAttemptsRequest { parent, page_size: pages::MAX_PAGE, page_token });
        let page = context.api.tasks().list_attempts(request).await?.into_inner();
        Ok((page.attempts, page.next_page_token))
    });
    context.output.list(&attempts.await?)?;
    Ok(ExitCode::SUCCESS)
}
