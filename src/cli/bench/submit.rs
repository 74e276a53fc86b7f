//! How fast tasks are taken in, and how long a caller waits.

use std::time::Duration;

use clap::Args;

use super::{
    Tell,
    load::{Load, MAX_BATCH, connections},
    report::{Throughput, per_second},
    runner::keep_in_flight,
};
use crate::cli::Context;

/// How much, for how long.
#[derive(Args, Debug)]
pub struct SubmitArgs {
    /// For so many seconds
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// So many calls at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "K")]
    inflight: u32,
    /// So many tasks in a call; 1 means SubmitTask
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH as i64), value_name = "B")]
    batch: u32,
    /// Over so many connections
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// The size of each input
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    payload_bytes: usize,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Submits for a time. The tasks stay PENDING in their queue.
pub async fn run(context: &Context, args: &SubmitArgs) -> anyhow::Result<Throughput> {
    let load = Load::new(context, args.payload_bytes);
    let apis = connections(context, args.connections);
    let batch = usize::try_from(args.batch)?;
    let measured = keep_in_flight(usize::try_from(args.inflight)?, Duration::from_secs(args.seconds), move |lane| {
        let mut tasks = apis[lane % apis.len()].tasks();
        let (one, many) = (load.submit(), (batch > 1).then(|| load.submit_batch(batch)));
        // Without deadlines of the client, as the echo is called.
        async move {
            match many {
                None => tasks.submit_task(one).await.map(|_| 1),
                Some(many) => {
                    tasks.batch_submit_tasks(many).await.map(|answer| answer.get_ref().responses.len() as u64)
                }
            }
        }
    })
    .await?;
    Ok(Throughput {
        scenario: "submit",
        submitted: measured.items,
        per_s: per_second(measured.items, measured.elapsed),
        p50_ms: measured.times.quantile_ms(0.50),
        p95_ms: measured.times.quantile_ms(0.95),
        p99_ms: measured.times.quantile_ms(0.99),
    })
}
