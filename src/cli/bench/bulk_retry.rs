//! Whether a bulk retry keeps the rate it was given, and how soon it stops when the tasks fail again.
//!
//! N tasks are failed for good, then a job retries them. In the first form nobody runs them, and the rate is counted from
//! the job's times. With `--fail` a worker fails whatever comes, and the job is to stop by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::{
    Tell,
    load::{Load, MAX_BATCH},
    report::{BulkRetried, Measuring, per_second},
};
use crate::{
    cli::{
        Context,
        connect::Api,
        time::{from_duration, micros, to_duration},
    },
    pb::{
        BulkJob, BulkRetryDeadLettersRequest, FailTasksRequest, GetBulkJobRequest, LeaseTasksRequest, TaskError,
        TaskFailure, bulk_job::State,
    },
};

/// Inputs are small: it is the pace that is measured.
const PAYLOAD_BYTES: usize = 100;
/// Batches in flight while tasks are submitted.
const FILLERS: usize = 4;
/// Between two looks at the job, which is also how late its end is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// A job of `--fail` stops when more than this share fails again.
const MAX_FAILURE_PERCENT: i32 = 50;

/// How many, how fast.
#[derive(Args, Debug)]
pub struct BulkRetryArgs {
    /// So many dead letters
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    tasks: u64,
    /// Retried at so many a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..=1_000), value_name = "N")]
    rate: i32,
    /// Fail again whatever is retried: the job stops when more than half do, within this time
    #[arg(long, value_parser = crate::cli::time::parse_duration, value_name = "WINDOW")]
    fail: Option<Duration>,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Fails the tasks, retries them, and tells the rate.
pub async fn run(context: &Context, args: &BulkRetryArgs) -> anyhow::Result<BulkRetried> {
    let load = Load::new(context, PAYLOAD_BYTES);
    let api = &context.api;
    load.submit_all(std::slice::from_ref(api), usize::try_from(args.tasks)?, MAX_BATCH, FILLERS).await?;
    let mut failed = 0;
    while failed < args.tasks {
        failed += fail(&load, api).await?;
    }

    let request = BulkRetryDeadLettersRequest {
        parent: load.project.clone(),
        filter: format!("queue = \"{}\"", load.queue),
        rate: args.rate,
        force: true,
        max_failure_percent: if args.fail.is_some() { MAX_FAILURE_PERCENT } else { 0 },
        failure_window: args.fail.map(to_duration),
        ..Default::default()
    };
    let measuring = Measuring::begin();
    let answer = api.dead_letters().bulk_retry_dead_letters(api.call(request)).await?.into_inner();
    let mut job = answer.bulk_job.context("the server answered without a job")?;
    ensure!(job.matched_count == i64::try_from(args.tasks)?, "{} entries match", job.matched_count);
    // The first failure is what the time until the stop counts from.
    let mut first_failure: Option<Instant> = None;
    while job.state() == State::Running {
        if args.fail.is_some() && fail(&load, api).await? > 0 {
            first_failure.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(LOOK).await;
        let request = api.call(GetBulkJobRequest { name: job.name });
        job = api.tasks().get_bulk_job(request).await?.into_inner().bulk_job.context("the job is gone")?;
    }
    measuring.end();
    let expected = if args.fail.is_some() { State::Failed } else { State::Succeeded };
    ensure!(job.state() == expected, "the job ended as {}: {}", job.state().as_str_name(), job.error_message);
    let retried = u64::try_from(job.done_count)?;
    let per_s = per_second(retried, took(&job)?);
    Ok(BulkRetried {
        scenario: "bulk-retry",
        tasks: args.tasks,
        retried,
        rate: args.rate,
        per_s,
        error_percent: (per_s / f64::from(args.rate) - 1.0) * 100.0,
        stopped_after_s: first_failure.map(|first| first.elapsed().as_secs_f64()),
        window_s: job.retry.and_then(|retry| retry.failure_window).map(|window| from_duration(&window).as_secs_f64()),
    })
}

/// From the start of the job to its end, by the clock of the database.
fn took(job: &BulkJob) -> anyhow::Result<Duration> {
    let (start, end) = job.create_time.zip(job.finish_time).context("the job has no times")?;
    Ok(Duration::from_micros(u64::try_from(micros(&end) - micros(&start))?))
}

/// Fails for good what is due; answers how much that was.
async fn fail(load: &Load, api: &Api) -> anyhow::Result<u64> {
    let request = LeaseTasksRequest {
        parent: load.project.clone(),
        identity: Some(load.worker(0, MAX_BATCH)),
        max_tasks: i32::try_from(MAX_BATCH)?,
        ..Default::default()
    };
    let leased = api.workers().lease_tasks(api.call(request)).await?.into_inner().tasks;
    let error =
        TaskError { r#type: "Bench".to_owned(), message: "fails for the bench".to_owned(), ..Default::default() };
    let failure = |token| TaskFailure { token, error: Some(error.clone()), r#final: true, retry_after: None };
    let failures: Vec<_> = leased.into_iter().map(|leased| failure(leased.token)).collect();
    let count = failures.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    let request = FailTasksRequest { parent: load.project.clone(), failures };
    let results = api.workers().fail_tasks(api.call(request)).await?.into_inner().results;
    for status in results.iter().filter_map(|result| result.status.as_ref()) {
        ensure!(status.code == 0, "a failure was refused: {}", status.message);
    }
    Ok(count)
}
