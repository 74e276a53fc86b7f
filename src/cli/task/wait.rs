//! `tasktower task wait`, and the waiting of `submit --wait`.
//!
//! The answer comes from `WaitTask`, which the server holds until the task is final; it is asked again until then. At a
//! terminal a watch beside it shows progress. Should the watch end or fail, only the display stands still.

use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tonic::{Code, Status};

use crate::{
    cli::{
        Context, failure, help, names,
        time::{parse_duration, to_duration},
        views,
    },
    pb::{Task, WaitTaskRequest, WatchTasksRequest, task::State},
};

/// The longest the server holds one call.
const LONGEST_HOLD: Duration = Duration::from_secs(30);
/// A server that stops or restarts is asked again this long before we give up.
const MAX_OUTAGE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the display moves.
const TICK: Duration = Duration::from_millis(120);

/// Which task, and how long.
#[derive(Args, Debug)]
#[command(before_help = help::WAIT)]
pub struct WaitArgs {
    /// The task: its name, its UUID, or the first digits of it
    task: String,
    /// Give up after this long [default: never]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
}

/// Waits for a task and prints it.
pub async fn run(context: &Context, args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let name = names::task(&context.api, &context.project, &args.task).await?;
    until_final(context, name, args.timeout).await
}

/// Waits until the task is final, prints it, and answers 0 if it SUCCEEDED, else 3.
pub async fn until_final(context: &Context, name: String, limit: Option<Duration>) -> anyhow::Result<ExitCode> {
    let bar = spinner(&name);
    let display = std::io::stderr().is_terminal().then(|| {
        let (context, name, bar) = (context.clone(), name.clone(), bar.clone());
        tokio::spawn(async move { show_progress(&context, name, &bar).await })
    });
    let task = wait(context, &name, limit).await;
    if let Some(display) = display {
        display.abort();
    }
    bar.finish_and_clear();
    let task = task?;
    context.output.one(&task)?;
    let succeeded = task.state() == State::Succeeded;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::from(failure::EXIT_TASK_FAILED) })
}

async fn wait(context: &Context, name: &str, limit: Option<Duration>) -> anyhow::Result<Task> {
    let began = Instant::now();
    let mut last_answer: Option<Instant> = None;
    let mut state = State::Unspecified;
    loop {
        let left = limit.map_or(LONGEST_HOLD, |limit| limit.saturating_sub(began.elapsed()));
        if left.is_zero() {
            let text = format!("{name} is still {} after {:?}", views::state_name(state), limit.unwrap_or_default());
            return Err(Status::deadline_exceeded(text).into());
        }
        let hold = left.min(LONGEST_HOLD);
        let request = WaitTaskRequest { name: name.to_owned(), wait: Some(to_duration(hold)) };
        match context.api.tasks().wait_task(context.api.call_waiting(request, hold)).await {
            Ok(answer) => {
                last_answer = Some(Instant::now());
                let answer = answer.into_inner();
                let task = answer.task.context("the server answered without a task")?;
                if answer.done {
                    return Ok(task);
                }
                state = task.state();
            }
            // A server that restarts loses nothing; waiting goes on when it is back. One that never answered is not there.
            Err(status)
                if failure::true_code(&status) == Code::Unavailable
                    && last_answer.is_some_and(|answer| answer.elapsed() < MAX_OUTAGE) =>
            {
                tokio::time::sleep(RETRY_PAUSE.min(left)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

fn spinner(name: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
        bar.set_style(style);
    }
    bar.set_message(format!("waiting for {}", names::id(name)));
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

async fn show_progress(context: &Context, task: String, bar: &ProgressBar) -> Result<(), Status> {
    let request =
        WatchTasksRequest { parent: context.project.clone(), task, initial_state: true, ..Default::default() };
    let mut stream = context.api.tasks().watch_tasks(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        for task in message.events.into_iter().filter_map(|event| event.task) {
            let progress = task.progress.as_ref().map(|p| format!("  {:.0} % {}", p.percent, p.message));
            bar.set_message(format!("{}{}", views::state_name(task.state()), progress.unwrap_or_default()));
        }
    }
    Ok(())
}
