//! How far apart tasks come back that failed together: N tasks are leased and failed at once, and each says when its next
//! attempt is due. Nobody waits for it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::{
    Tell,
    load::{Load, MAX_BATCH},
    report::{Measuring, Retry},
};
use crate::{
    cli::{
        Context,
        connect::Api,
        time::{parse_duration, to_duration},
    },
    pb::{
        BatchGetTasksRequest, FailTasksRequest, LeaseTasksRequest, RetrySettings, SubmitTaskRequest, TaskError,
        TaskFailure,
    },
};

/// How many fail, and how long they wait at most.
#[derive(Args, Debug)]
pub struct RetryArgs {
    /// So many tasks fail together
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    tasks: u64,
    /// The bound of their first wait
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    backoff: Duration,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Submits, leases, fails, and counts the seconds in which they come back.
pub async fn run(context: &Context, args: &RetryArgs) -> anyhow::Result<Retry> {
    let load = Load::new(context, 0);
    let api = &context.api;
    let count = usize::try_from(args.tasks)?;
    let mut names = Vec::with_capacity(count);
    while names.len() < count {
        let mut batch = load.submit_batch(MAX_BATCH.min(count - names.len()));
        batch.requests.iter_mut().for_each(|request| repeat_after(request, args.backoff));
        let answer = api.tasks().batch_submit_tasks(api.call(batch)).await?.into_inner();
        names.extend(answer.responses.into_iter().map(|response| response.name));
    }
    let mut leased = Vec::with_capacity(count);
    while leased.len() < count {
        let request = LeaseTasksRequest {
            parent: load.project.clone(),
            identity: Some(load.worker(0, count)),
            max_tasks: i32::try_from(MAX_BATCH.min(count - leased.len()))?,
            ..Default::default()
        };
        let found = api.workers().lease_tasks(api.call(request)).await?.into_inner().tasks;
        ensure!(!found.is_empty(), "{} of {count} tasks were leased, and no more are due", leased.len());
        leased.extend(found);
    }
    let measuring = Measuring::begin();
    for batch in leased.chunks(MAX_BATCH) {
        let failures = batch.iter().map(|leased| TaskFailure {
            token: leased.token.clone(),
            error: Some(TaskError { r#type: "Down".to_owned(), ..Default::default() }),
            ..Default::default()
        });
        let request = FailTasksRequest { parent: load.project.clone(), failures: failures.collect() };
        let results = api.workers().fail_tasks(api.call(request)).await?.into_inner().results;
        for status in results.iter().filter_map(|result| result.status.as_ref()) {
            ensure!(status.code == 0, "a failure was refused: {}", status.message);
        }
    }
    let failing = measuring.end();
    let seconds = returns(&load, api, &names).await?;
    // From the first to the last second, with those in between that are empty.
    let (first, last) = seconds.first_key_value().zip(seconds.last_key_value()).context("nothing comes back")?;
    let span = u64::try_from(last.0 - first.0 + 1)?;
    let most = seconds.values().copied().max().unwrap_or(0);
    let mean = args.tasks as f64 / span as f64;
    Ok(Retry {
        scenario: "retry",
        tasks: args.tasks,
        failing_s: failing.as_secs_f64(),
        seconds: span,
        mean_per_s: mean,
        most_per_s: most,
        most_over_mean: most as f64 / mean,
    })
}

fn repeat_after(request: &mut SubmitTaskRequest, backoff: Duration) {
    if let Some(task) = &mut request.task {
        task.retry = Some(RetrySettings { initial_backoff: Some(to_duration(backoff)), ..Default::default() });
    }
}

/// How many tasks are due in each second.
async fn returns(load: &Load, api: &Api, names: &[String]) -> anyhow::Result<BTreeMap<i64, u64>> {
    let mut seconds = BTreeMap::new();
    for names in names.chunks(MAX_BATCH) {
        let request =
            BatchGetTasksRequest { parent: load.project.clone(), names: names.to_vec(), ..Default::default() };
        for task in api.tasks().batch_get_tasks(api.call(request)).await?.into_inner().tasks {
            let due = task.run_time.context("a task without a time")?;
            *seconds.entry(due.seconds).or_default() += 1;
        }
    }
    Ok(seconds)
}
