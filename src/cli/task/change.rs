//! One-by-one changes: retry, run now, delete, cancel. Several tasks are done in turn; one that is refused is told about
//! and the others go on. The exit code is that of the first refusal.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{
    cli::{Context, failure, names, output},
    pb::{CancelTaskRequest, DeleteTaskRequest, RetryTaskRequest, RunTaskNowRequest, Task},
};

/// Opens tasks again.
pub async fn retry(context: &Context, tasks: &[String]) -> anyhow::Result<ExitCode> {
    each(context, tasks, async |name| {
        let request = context.api.call(RetryTaskRequest { name, ..Default::default() });
        Ok(context.api.tasks().retry_task(request).await?.into_inner().task)
    })
    .await
}

/// Makes tasks due.
pub async fn run_now(context: &Context, tasks: &[String]) -> anyhow::Result<ExitCode> {
    each(context, tasks, async |name| {
        let request = context.api.call(RunTaskNowRequest { name, ..Default::default() });
        Ok(context.api.tasks().run_task_now(request).await?.into_inner().task)
    })
    .await
}

/// Cancels tasks.
pub async fn cancel(context: &Context, tasks: &[String], reason: &str) -> anyhow::Result<ExitCode> {
    each(context, tasks, async |name| {
        let request = CancelTaskRequest { name, reason: reason.to_owned(), ..Default::default() };
        Ok(context.api.tasks().cancel_task(context.api.call(request)).await?.into_inner().task)
    })
    .await
}

/// Deletes final tasks; prints the names of those that are gone.
pub async fn delete(context: &Context, tasks: &[String], allow_missing: bool) -> anyhow::Result<ExitCode> {
    each(context, tasks, async |name| {
        let request = DeleteTaskRequest { name: name.clone(), allow_missing, ..Default::default() };
        context.api.tasks().delete_task(context.api.call(request)).await?;
        output::print(&name)?;
        Ok(None)
    })
    .await
}

async fn each(
    context: &Context,
    tasks: &[String],
    change: impl AsyncFn(String) -> anyhow::Result<Option<Task>>,
) -> anyhow::Result<ExitCode> {
    let mut changed = Vec::with_capacity(tasks.len());
    let mut first_refusal = None;
    for text in tasks {
        let outcome = match names::task(&context.api, &context.project, text).await {
            Ok(name) => change(name).await.with_context(|| text.clone()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(task) => changed.extend(task),
            Err(error) => {
                let code = failure::report(&error, context.talk);
                first_refusal.get_or_insert(code);
            }
        }
    }
    if !changed.is_empty() {
        context.output.list(&changed)?;
    }
    Ok(first_refusal.unwrap_or(ExitCode::SUCCESS))
}
