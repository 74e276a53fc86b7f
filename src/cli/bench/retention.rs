//! How much leasing feels of retention: LeaseTasks is timed by itself for a while, then while N finished tasks are
//! deleted, in the same run.
//!
//! Both are one call after the other from a queue in which tasks wait, as in `backlog`. The rules of the project are put
//! back in the end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio::task::JoinSet;

use super::{
    Tell,
    backlog::turn_over,
    load::{Load, MAX_BATCH, connections},
    report::{Measuring, Retention as Figures, Times, per_second, rounded},
};
use crate::{
    cli::{Context, connect::Api},
    pb::{
        CompleteTasksRequest, GetRetentionRequest, GetRetentionRunRequest, LeaseTasksRequest, Retention, RetentionRule,
        RetentionRun, RunRetentionRequest, TaskCompletion, UpdateRetentionRequest, retention_run::State,
    },
};

const PAYLOAD_BYTES: usize = 100;
/// Tasks that wait while it is leased from them.
const WAITING: u64 = 10_000;
/// Workers that finish the tasks to be deleted.
const FINISHERS: usize = 4;
/// The first leases meet a server that has not seen the queue yet.
const WARM_UP: u32 = 20;

/// How many are deleted, and how leasing is timed.
#[derive(Args, Debug)]
pub struct RetentionArgs {
    /// So many finished tasks are deleted
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    tasks: u64,
    /// So many times over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    cycles: u32,
    /// Leasing is timed for so many seconds by itself
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// So many tasks in a lease
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH as i64), value_name = "B")]
    batch: u32,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Times leases, alone and beside runs.
pub async fn run(context: &Context, args: &RetentionArgs) -> anyhow::Result<Figures> {
    let (load, old) = (Load::new(context, PAYLOAD_BYTES), Load::new(context, PAYLOAD_BYTES));
    let leaser = Leaser { load, api: context.api.another_connection(), batch: args.batch };
    leaser.load.fill(std::slice::from_ref(&leaser.api), WAITING).await?;
    for _ in 0..WARM_UP {
        leaser.turn().await?;
    }
    let kept = rules(context).await?;
    let outcome = measure(context, args, &leaser, &old).await;
    set_rules(context, kept).await?;
    outcome
}

async fn measure(context: &Context, args: &RetentionArgs, leaser: &Leaser, old: &Load) -> anyhow::Result<Figures> {
    let (mut alone, mut beside) = (Times::new()?, Times::new()?);
    let (mut deleted, mut deleting) = (0, Duration::ZERO);
    let measuring = Measuring::begin();
    for _ in 0..args.cycles {
        finish(context, old, args.tasks).await?;
        let end = Instant::now() + Duration::from_secs(args.seconds);
        while Instant::now() < end {
            alone.record(leaser.turn().await?);
        }
        let age = Some(prost_types::Duration::default());
        let rule = RetentionRule { queue: old.queue.clone(), age, ..Default::default() };
        set_rules(context, vec![rule]).await?;
        let began = Instant::now();
        let request = RunRetentionRequest { name: name(context), etag: String::new() };
        let run = context.api.retention().run_retention(context.api.call(request)).await?.into_inner().retention_run;
        let run = run.context("the server answered without a run")?.name;
        let run = loop {
            beside.record(leaser.turn().await?);
            let run = look(context, &run).await?;
            if run.state() != State::Running {
                break run;
            }
        };
        ensure!(run.state() == State::Succeeded, "the run FAILED: {}", run.error_message);
        ensure!(
            u64::try_from(run.deleted_count)? >= args.tasks,
            "{} of {} tasks were deleted",
            run.deleted_count,
            args.tasks
        );
        deleted += u64::try_from(run.deleted_count)?;
        deleting += began.elapsed();
    }
    measuring.end();
    let p99 = [alone.quantile_ms(0.99), beside.quantile_ms(0.99)];
    Ok(Figures {
        scenario: "retention",
        deleted,
        deleted_per_s: per_second(deleted, deleting),
        alone_p50_ms: alone.quantile_ms(0.50),
        alone_p99_ms: p99[0],
        beside_p50_ms: beside.quantile_ms(0.50),
        beside_p99_ms: p99[1],
        p99_ratio: rounded(p99[1] / p99[0].max(f64::MIN_POSITIVE)),
        samples: beside.count(),
    })
}

/// Leases from a queue that stays as long as it is.
struct Leaser {
    load: Load,
    api: Api,
    batch: u32,
}

impl Leaser {
    async fn turn(&self) -> anyhow::Result<Duration> {
        turn_over(&self.load, &self.api, self.batch).await
    }
}

/// Submits tasks and brings them to their end.
async fn finish(context: &Context, load: &Load, tasks: u64) -> anyhow::Result<()> {
    let apis = connections(context, FINISHERS);
    load.submit_all(&apis, usize::try_from(tasks)?, MAX_BATCH, FINISHERS).await?;
    let mut workers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for (number, api) in apis.into_iter().enumerate() {
        let load = load.clone();
        workers.spawn(async move {
            while complete_some(&load, &api, number).await? {}
            Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

/// Leases and completes a batch; false when nothing is left.
async fn complete_some(load: &Load, api: &Api, number: usize) -> anyhow::Result<bool> {
    let request = LeaseTasksRequest {
        parent: load.project.clone(),
        identity: Some(load.worker(number, MAX_BATCH)),
        max_tasks: i32::try_from(MAX_BATCH)?,
        ..Default::default()
    };
    let leased = api.workers().lease_tasks(api.call(request)).await?.into_inner().tasks;
    let completions: Vec<_> =
        leased.into_iter().map(|leased| TaskCompletion { token: leased.token, result: None }).collect();
    if completions.is_empty() {
        return Ok(false);
    }
    let request = CompleteTasksRequest { parent: load.project.clone(), completions };
    let results = api.workers().complete_tasks(api.call(request)).await?.into_inner().results;
    for status in results.iter().filter_map(|result| result.status.as_ref()) {
        ensure!(status.code == 0, "a completion was refused: {}", status.message);
    }
    Ok(true)
}

fn name(context: &Context) -> String {
    format!("{}/retention", context.project)
}

async fn rules(context: &Context) -> anyhow::Result<Vec<RetentionRule>> {
    let request = context.api.call(GetRetentionRequest { name: name(context) });
    let retention = context.api.retention().get_retention(request).await?.into_inner().retention;
    Ok(retention.context("the server answered without rules")?.rules)
}

async fn set_rules(context: &Context, rules: Vec<RetentionRule>) -> anyhow::Result<()> {
    let retention = Some(Retention { name: name(context), rules, ..Default::default() });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["rules".to_owned()] });
    let request = context.api.call(UpdateRetentionRequest { retention, update_mask });
    context.api.retention().update_retention(request).await?;
    Ok(())
}

async fn look(context: &Context, name: &str) -> anyhow::Result<RetentionRun> {
    let request = context.api.call(GetRetentionRunRequest { name: name.to_owned() });
    let run = context.api.retention().get_retention_run(request).await?.into_inner().retention_run;
    run.context("the server answered without a run")
}
