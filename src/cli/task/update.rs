//! `tasktower task update`. Labels and attempts are changed one by one here and as a whole on the wire, so the task is
//! read first and its etag sent back: somebody else's change in between is a refusal, never a loss.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use clap::Args;
use prost_types::FieldMask;

use super::submit::{parse_label, usage};
use crate::{
    cli::{
        Context,
        failure::Usage,
        help, names,
        time::{parse_duration, parse_moment, to_duration},
    },
    pb::{Task, TaskView, UpdateTaskRequest},
};

/// What to change.
#[derive(Args, Debug)]
#[command(before_help = help::UPDATE)]
pub struct UpdateArgs {
    /// The task: its name, its UUID, or the first digits of it
    task: String,
    /// Higher runs first
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    priority: Option<i32>,
    /// Not before this time: RFC 3339, or +5m
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// The most one attempt may take
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Fails if it still waits at this time: RFC 3339, +1h, or never
    #[arg(long, value_name = "TIME")]
    expire_at: Option<String>,
    /// Attempts in all
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "N")]
    max_attempts: Option<i32>,
    /// Sets a label, or removes it with `KEY-`; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE|KEY-")]
    labels: Vec<String>,
}

/// Changes a task and prints it.
pub async fn run(context: &Context, args: UpdateArgs) -> anyhow::Result<ExitCode> {
    let name = names::task(&context.api, &context.project, &args.task).await?;
    let current = super::read(context, name, TaskView::Basic).await?;
    let (task, paths) = changed(&args, current, crate::cli::time::now())?;
    if paths.is_empty() {
        bail!(Usage::new("nothing to change is given; see --help"));
    }
    let mask = FieldMask { paths: paths.into_iter().map(ToOwned::to_owned).collect() };
    let request = context.api.call(UpdateTaskRequest { task: Some(task), update_mask: Some(mask) });
    let answer = context.api.tasks().update_task(request).await?.into_inner();
    context.output.one(&answer.task.unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

/// The task with its new values, and which of them are new.
fn changed(args: &UpdateArgs, current: Task, now: SystemTime) -> anyhow::Result<(Task, Vec<&'static str>)> {
    let mut task = Task { name: current.name, ..Default::default() };
    let mut paths = Vec::new();
    if let Some(priority) = args.priority {
        task.priority = priority;
        paths.push("priority");
    }
    if let Some(text) = &args.run_at {
        task.run_time = Some(usage(parse_moment(text, now))?);
        paths.push("run_time");
    }
    if let Some(timeout) = args.timeout {
        task.timeout = Some(to_duration(timeout));
        paths.push("timeout");
    }
    if let Some(text) = &args.expire_at {
        task.expire_time = if text == "never" { None } else { Some(usage(parse_moment(text, now))?) };
        paths.push("expire_time");
    }
    if let Some(max_attempts) = args.max_attempts {
        let mut retry = current.retry.unwrap_or_default();
        retry.max_attempts = max_attempts;
        task.retry = Some(retry);
        task.etag.clone_from(&current.etag);
        paths.push("retry");
    }
    if !args.labels.is_empty() {
        task.labels = current.labels;
        for text in &args.labels {
            match text.strip_suffix('-').filter(|key| !key.contains('=')) {
                Some(key) => drop(task.labels.remove(key)),
                None => {
                    let (key, value) = parse_label(text)?;
                    task.labels.insert(key, value);
                }
            }
        }
        task.etag = current.etag;
        paths.push("labels");
    }
    Ok((task, paths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::RetrySettings;

    fn args() -> UpdateArgs {
        UpdateArgs {
            task: "x".into(),
            priority: None,
            run_at: None,
            timeout: None,
            expire_at: None,
            max_attempts: None,
            labels: Vec::new(),
        }
    }

    #[test]
    fn labels_are_merged_and_guarded_by_the_etag() {
        let current = Task {
            labels: [("old".to_owned(), "1".to_owned()), ("kept".to_owned(), "2".to_owned())].into(),
            etag: "\"e\"".into(),
            ..Default::default()
        };
        let args = UpdateArgs { labels: vec!["old-".into(), "team=core-".into()], ..args() };
        let (task, paths) = changed(&args, current, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(paths, ["labels"]);
        assert_eq!(task.etag, "\"e\"");
        assert_eq!(task.labels, [("kept".to_owned(), "2".to_owned()), ("team".to_owned(), "core-".to_owned())].into());
    }

    #[test]
    fn only_what_is_named_changes() {
        let backoff = Some(prost_types::Duration { seconds: 9, nanos: 0 });
        let retry = RetrySettings { max_attempts: 3, initial_backoff: backoff, ..Default::default() };
        let current = Task { priority: 7, retry: Some(retry), ..Default::default() };
        let args = UpdateArgs { max_attempts: Some(5), expire_at: Some("never".into()), ..args() };
        let (task, paths) = changed(&args, current, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(paths, ["expire_time", "retry"]);
        assert_eq!(task.priority, 0);
        assert_eq!(task.retry, Some(RetrySettings { max_attempts: 5, initial_backoff: backoff, ..Default::default() }));
    }
}
