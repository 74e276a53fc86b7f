//! `tasktower retention …`: rules, a look at what they would delete, runs.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::{
    Context,
    failure::EXIT_TASK_FAILED,
    help, names,
    task::confirmed,
    time::{parse_duration, to_duration},
};
use crate::pb::{
    GetRetentionRequest, GetRetentionRunRequest, ListRetentionRunsRequest, PreviewRetentionRequest,
    PreviewRetentionResponse, Retention, RetentionRule, RetentionRules, RetentionRun, RunRetentionRequest,
    UpdateRetentionRequest, retention_run::State, task,
};

/// How often a run that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What to do about retention.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show the rules, and what applies where they say nothing
    Get,
    /// Replace the rules
    Set(SetArgs),
    /// Count what a run would delete now
    Preview,
    /// Delete now what is too old
    Run(RunArgs),
    /// List runs, newest first, or show one
    Runs(RunsArgs),
}

/// The new rules.
#[derive(Args, Debug)]
#[command(before_help = help::RETENTION_SET)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["rules", "no_rules"]))]
pub struct SetArgs {
    /// A rule; the first that matches counts
    #[arg(long = "rule", value_parser = parse_rule, value_name = "RULE")]
    rules: Vec<RetentionRule>,
    /// No rules: every task has the age set on the server
    #[arg(long)]
    no_rules: bool,
    /// Only if this is the etag of the rules
    #[arg(long, default_value = "", value_name = "ETAG")]
    etag: String,
    /// Only count what these rules would delete
    #[arg(long)]
    dry_run: bool,
}

/// Whether to ask.
#[derive(Args, Debug)]
#[command(before_help = help::RETENTION_RUN)]
pub struct RunArgs {
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

/// Which runs.
#[derive(Args, Debug)]
pub struct RunsArgs {
    /// This one only
    run: Option<String>,
    /// Stop after this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500), value_name = "N")]
    limit: i32,
}

/// Reads `state=FAILED+CANCELLED,type=mail.*,queue=bulk,age=7d`.
fn parse_rule(text: &str) -> anyhow::Result<RetentionRule> {
    let mut rule = RetentionRule::default();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').with_context(|| format!("`{part}` is not of the form key=value"))?;
        match key {
            "state" => {
                for name in value.split('+') {
                    let state = task::State::from_str_name(&format!("STATE_{name}"));
                    let state = state.with_context(|| format!("`{name}` is not SUCCEEDED, FAILED or CANCELLED"))?;
                    rule.states.push(state.into());
                }
            }
            "type" => rule.r#type = value.to_owned(),
            "queue" => rule.queue = value.to_owned(),
            "age" => rule.age = Some(to_duration(parse_duration(value)?)),
            other => bail!("`{other}` is nothing a rule has; write state=, type=, queue= or age="),
        }
    }
    if rule.age.is_none() {
        bail!("the rule has no age; write for example {text},age=30d");
    }
    Ok(rule)
}

/// Runs one of them.
pub async fn run(context: &Context, command: RetentionCommand) -> anyhow::Result<ExitCode> {
    match command {
        RetentionCommand::Get => {
            let request = context.api.call(GetRetentionRequest { name: name(context) });
            let retention = context.api.retention().get_retention(request).await?.into_inner().retention;
            context.output.one(&retention.context("the server answered without rules")?)?;
            Ok(ExitCode::SUCCESS)
        }
        RetentionCommand::Set(args) => set(context, args).await,
        RetentionCommand::Preview => {
            context.output.one(&preview(context, None).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        RetentionCommand::Run(args) => run_now(context, &args).await,
        RetentionCommand::Runs(args) => runs(context, args).await,
    }
}

fn name(context: &Context) -> String {
    format!("{}/retention", context.project)
}

async fn preview(context: &Context, rules: Option<Vec<RetentionRule>>) -> anyhow::Result<PreviewRetentionResponse> {
    let rules = rules.map(|rules| RetentionRules { rules });
    let request = context.api.call(PreviewRetentionRequest { name: name(context), rules });
    Ok(context.api.retention().preview_retention(request).await?.into_inner())
}

async fn set(context: &Context, args: SetArgs) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        context.output.one(&preview(context, Some(args.rules)).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let retention = Retention { name: name(context), rules: args.rules, etag: args.etag, ..Default::default() };
    let update_mask = Some(FieldMask { paths: vec!["rules".to_owned()] });
    let request = context.api.call(UpdateRetentionRequest { retention: Some(retention), update_mask });
    let retention = context.api.retention().update_retention(request).await?.into_inner().retention;
    context.output.one(&retention.context("the server answered without rules")?)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_now(context: &Context, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let preview = preview(context, None).await?;
    let at_least = if preview.is_partial { "at least " } else { "" };
    eprintln!(
        "{at_least}{} tasks and {} journal rows are too old",
        preview.deleted_count, preview.journal_deleted_count
    );
    if args.dry_run {
        context.output.one(&preview)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed("delete them?")? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    // By the rules that were looked at.
    let request = context.api.call(RunRetentionRequest { name: name(context), etag: preview.etag });
    let begun = context.api.retention().run_retention(request).await?.into_inner().retention_run;
    let run = to_end(context, begun.context("the server answered without a run")?).await?;
    context.output.one(&run)?;
    Ok(if run.state() == State::Succeeded { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TASK_FAILED) })
}

async fn to_end(context: &Context, mut run: RetentionRun) -> anyhow::Result<RetentionRun> {
    while matches!(run.state(), State::Running | State::Unspecified) {
        tokio::time::sleep(LOOK_EVERY).await;
        run = get_run(context, run.name).await?;
    }
    Ok(run)
}

async fn get_run(context: &Context, name: String) -> anyhow::Result<RetentionRun> {
    let request = context.api.call(GetRetentionRunRequest { name });
    let run = context.api.retention().get_retention_run(request).await?.into_inner().retention_run;
    run.context("the server answered without a run")
}

async fn runs(context: &Context, args: RunsArgs) -> anyhow::Result<ExitCode> {
    if let Some(run) = args.run {
        let name = names::child(&context.project, "retentionRuns", &run)?;
        context.output.one(&get_run(context, name).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let request =
        ListRetentionRunsRequest { parent: context.project.clone(), page_size: args.limit, ..Default::default() };
    let page = context.api.retention().list_retention_runs(context.api.call(request)).await?.into_inner();
    context.output.list(&page.retention_runs)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_people_write_them() {
        let rule = parse_rule("state=FAILED+CANCELLED,type=mail.*,queue=bulk,age=7d").unwrap();
        assert_eq!(rule.states, [task::State::Failed as i32, task::State::Cancelled as i32]);
        assert_eq!((rule.r#type.as_str(), rule.queue.as_str()), ("mail.*", "bulk"));
        assert_eq!(rule.age.unwrap().seconds, 7 * 86_400);
        for bad in ["", "state=FAILED", "age=7", "state=DONE,age=7d", "type,age=7d", "colour=red,age=7d"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
