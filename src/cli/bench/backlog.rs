//! How fast tasks are leased while N wait: a claim should cost the same whether the queue is short or long.
//!
//! Only LeaseTasks is timed. Between two leases what was leased is completed and as many new tasks are submitted, so that
//! the queue stays as long as it is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::{
    Tell,
    load::{Load, MAX_BATCH},
    report::{Backlog, Measuring, Times, per_second},
};
use crate::{
    cli::{Context, connect::Api},
    pb::{CompleteTasksRequest, LeaseTasksRequest, TaskCompletion},
};

/// Inputs are small: it is the claim that is measured, not the copying.
const PAYLOAD_BYTES: usize = 100;
/// The first leases meet a server that has not seen the queue yet.
const WARM_UP: u32 = 5;

/// How many wait, how many leases.
#[derive(Args, Debug)]
pub struct BacklogArgs {
    /// So many tasks wait
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    waiting: u64,
    /// In this queue, which is filled up first; without, in one of its own
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// So many calls
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    leases: u32,
    /// So many tasks in a call
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH as i64), value_name = "B")]
    batch: u32,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Fills the queue and leases from it, one call after the other.
pub async fn run(context: &Context, args: &BacklogArgs) -> anyhow::Result<Backlog> {
    ensure!(u64::from(args.batch) <= args.waiting, "--batch must not be above --waiting");
    let load = match &args.queue {
        Some(queue) => Load::of_queue(context, queue, PAYLOAD_BYTES),
        None => Load::new(context, PAYLOAD_BYTES),
    };
    let api = &context.api;
    load.fill(std::slice::from_ref(api), args.waiting).await?;

    for _ in 0..WARM_UP {
        turn_over(&load, api, args.batch).await?;
    }
    let mut times = Times::new()?;
    let mut leasing = Duration::ZERO;
    let measuring = Measuring::begin();
    for _ in 0..args.leases {
        let time = turn_over(&load, api, args.batch).await?;
        times.record(time);
        leasing += time;
    }
    measuring.end();
    let leased = u64::from(args.leases) * u64::from(args.batch);
    Ok(Backlog {
        scenario: "backlog",
        waiting: args.waiting,
        leased,
        per_s: per_second(leased, leasing),
        p50_ms: times.quantile_ms(0.50),
        p95_ms: times.quantile_ms(0.95),
        p99_ms: times.quantile_ms(0.99),
    })
}

/// Leases a batch, completes it, and submits another in its place; answers how long the lease took.
pub(super) async fn turn_over(load: &Load, api: &Api, batch: u32) -> anyhow::Result<Duration> {
    let count = usize::try_from(batch)?;
    let request = LeaseTasksRequest {
        parent: load.project.clone(),
        identity: Some(load.worker(0, count)),
        max_tasks: i32::try_from(batch)?,
        ..Default::default()
    };
    let began = Instant::now();
    let leased = api.workers().lease_tasks(api.call(request)).await?.into_inner().tasks;
    let time = began.elapsed();
    ensure!(leased.len() == count, "{} tasks were leased although {batch} and more wait", leased.len());

    let completions = leased.into_iter().map(|leased| TaskCompletion { token: leased.token, result: None }).collect();
    let request = CompleteTasksRequest { parent: load.project.clone(), completions };
    let results = api.workers().complete_tasks(api.call(request)).await?.into_inner().results;
    for status in results.iter().filter_map(|result| result.status.as_ref()) {
        ensure!(status.code == 0, "a completion was refused: {}", status.message);
    }
    load.submit_surely(api, count).await.context("cannot fill up the queue again")?;
    Ok(time)
}
