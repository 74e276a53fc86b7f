//! How fast tasks are read.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{
    Tell,
    load::{Load, connections},
    report::{Throughput, per_second},
    runner::keep_in_flight,
};
use crate::{
    cli::Context,
    pb::{GetTaskRequest, ListTasksRequest},
};

/// One call in so many is a ListTasks.
const LIST_EVERY: u32 = 10;
/// The size of a page as people read it.
const PAGE: i32 = 50;

/// How much, for how long.
#[derive(Args, Debug)]
pub struct ReadArgs {
    /// For so many seconds
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// So many calls at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "K")]
    inflight: u32,
    /// Among so many tasks
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    tasks: u32,
    /// GetTask only
    #[arg(long)]
    get_only: bool,
    /// Over so many connections
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// The size of each input
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    payload_bytes: usize,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Prepares tasks and reads them for a time. `submitted` counts the calls: the keys are those of `submit`.
pub async fn run(context: &Context, args: &ReadArgs) -> anyhow::Result<Throughput> {
    let load = Load::new(context, args.payload_bytes);
    let names: Arc<[String]> = load.prepare(&context.api, usize::try_from(args.tasks)?).await?.into();
    let apis = connections(context, args.connections);
    let list_every = if args.get_only { None } else { Some(LIST_EVERY) };
    let filter = format!("queue = \"{}\"", load.queue);
    let measured = keep_in_flight(usize::try_from(args.inflight)?, Duration::from_secs(args.seconds), move |lane| {
        let mut tasks = apis[lane % apis.len()].tasks();
        let is_list = list_every.is_some_and(|every| rand::random_range(0..every) == 0);
        let list = is_list.then(|| ListTasksRequest {
            parent: load.project.clone(),
            page_size: PAGE,
            filter: filter.clone(),
            ..Default::default()
        });
        let name = names[rand::random_range(0..names.len())].clone();
        // Without deadlines of the client, as the echo is called.
        async move {
            match list {
                Some(request) => tasks.list_tasks(request).await.map(|_| 1),
                None => tasks.get_task(GetTaskRequest { name, ..Default::default() }).await.map(|_| 1),
            }
        }
    })
    .await?;
    Ok(Throughput {
        scenario: "read",
        submitted: measured.items,
        per_s: per_second(measured.items, measured.elapsed),
        p50_ms: measured.times.quantile_ms(0.50),
        p95_ms: measured.times.quantile_ms(0.95),
        p99_ms: measured.times.quantile_ms(0.99),
    })
}
