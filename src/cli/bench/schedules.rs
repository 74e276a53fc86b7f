//! How late tasks come when N schedules are due at the same moment.
//!
//! Each schedule has one tick, the same for all. A watch sees their tasks; lateness is from the tick to the arrival at the
//! watch, on this machine's clock, which is to be the server's too. Then the schedules are deleted.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost_types::Timestamp;

use super::{
    Tell,
    load::Load,
    report::{Measuring, Schedules, Times},
};
use crate::{
    cli::{
        Context,
        connect::Api,
        time::{now, parse_duration, to_timestamp},
    },
    pb::{
        CreateScheduleRequest, DeleteScheduleRequest, Schedule, WatchTasksRequest, WatchTasksResponse, task_event::Type,
    },
};

/// The label that says which schedule made a task.
const SCHEDULE_LABEL: &str = "tasktower/schedule";
/// Schedules made and deleted at a time.
const LANES: usize = 32;
/// All are there this long before the tick.
const MARGIN: Duration = Duration::from_secs(5);
/// What has not come this long after the tick does not come.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// How many, and when.
#[derive(Args, Debug)]
pub struct SchedulesArgs {
    /// So many schedules are due at the same moment
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    schedules: u32,
    /// The tick is this long from now: time to create them
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    lead: Duration,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Creates the schedules, waits for their tasks, and deletes them.
pub async fn run(context: &Context, args: &SchedulesArgs) -> anyhow::Result<Schedules> {
    let load = Load::new(context, 0);
    let prefix = load.queue.clone();
    let tick = to_timestamp(now() + args.lead);
    let tick = Timestamp { seconds: tick.seconds + 1, nanos: 0 };
    let schedule = Schedule {
        cron: "* * * * * *".to_owned(),
        start_time: Some(tick),
        // The end must be later, and no second tick may fit.
        end_time: Some(Timestamp { nanos: 1_000, ..tick }),
        task: Some(load.task()),
        ..Default::default()
    };
    let create = async |api: &Api, schedule_id: String| {
        let parent = load.project.clone();
        let request = CreateScheduleRequest { parent, schedule_id, schedule: Some(schedule.clone()) };
        api.schedules().create_schedule(api.call(request)).await.map(|_| ())
    };
    each(context, &prefix, args.schedules, create).await.context("create a schedule")?;
    let moment = SystemTime::try_from(tick)?;
    let left = moment.duration_since(now()).unwrap_or_default();
    ensure!(left > MARGIN, "creating the schedules took too long; give more time with --lead");

    let filter = format!("queue = \"{}\"", load.queue);
    let request = WatchTasksRequest { parent: load.project.clone(), filter, ..Default::default() };
    let mut watch = context.api.tasks().watch_tasks(request).await?.into_inner();
    let measuring = Measuring::begin();
    let (mut times, mut seen) = (Times::new()?, HashMap::new());
    let arrivals = async {
        while seen.len() < usize::try_from(args.schedules).unwrap_or(usize::MAX) {
            let message = watch.message().await?.context("the watch ended")?;
            take(message, moment, &mut times, &mut seen);
        }
        anyhow::Ok(())
    };
    // Whatever is missing then is told as lost.
    match tokio::time::timeout(left + LAST_WAIT, arrivals).await {
        Ok(outcome) => outcome?,
        Err(_) => eprintln!("not all of them came"),
    }
    measuring.end();

    let delete = async |api: &Api, id: String| {
        let request = DeleteScheduleRequest { name: format!("{}/schedules/{id}", load.project), etag: String::new() };
        api.schedules().delete_schedule(api.call(request)).await.map(|_| ())
    };
    each(context, &prefix, args.schedules, delete).await.context("delete a schedule")?;
    let tasks: u64 = seen.values().sum();
    Ok(Schedules {
        scenario: "schedules",
        schedules: args.schedules.into(),
        p50_ms: times.quantile_ms(0.50),
        p95_ms: times.quantile_ms(0.95),
        p99_ms: times.quantile_ms(0.99),
        lost: u64::from(args.schedules) - u64::try_from(seen.len())?,
        duplicated: tasks - u64::try_from(seen.len())?,
    })
}

/// Times the tasks of a message, and counts them by schedule.
fn take(message: WatchTasksResponse, tick: SystemTime, times: &mut Times, seen: &mut HashMap<String, u64>) {
    let late = now().duration_since(tick).unwrap_or_default();
    for event in message.events {
        let added = event.r#type() == Type::Added;
        let Some(mut task) = event.task.filter(|_| added) else { continue };
        times.record(late);
        *seen.entry(task.labels.remove(SCHEDULE_LABEL).unwrap_or_default()).or_default() += 1;
    }
}

/// Calls for each schedule, [`LANES`] at a time.
async fn each(
    context: &Context,
    prefix: &str,
    count: u32,
    call: impl AsyncFn(&Api, String) -> Result<(), tonic::Status>,
) -> anyhow::Result<()> {
    let calls = stream::iter(0..count).map(|number| call(&context.api, format!("{}-{number}", short(prefix))));
    calls.buffer_unordered(LANES).try_collect::<()>().await?;
    Ok(())
}

/// Ids of schedules are shorter than names of queues: the random end of it is enough.
fn short(queue: &str) -> String {
    format!("bench-{}", queue.rsplit('-').next().unwrap_or_default())
}
