//! The whole life of N tasks: submitted, run with an empty handler, SUCCEEDED. Afterwards the server is asked how many
//! there are, so that what our own books say is checked against the truth.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{
    Tell,
    load::{Load, MAX_BATCH, connections, task_number},
    report::{Lifecycle, Measuring, per_second, rounded},
    runner::{PAUSE, may_pass},
    session::{Session, Witness},
};
use crate::{
    cli::{Context, connect::Api, pages, time::to_duration},
    pb::{
        CompleteTasksRequest, GetQueueRequest, LeaseTasksRequest, LeasedTask, ListTasksRequest, ReportResult,
        TaskCompletion, task::State,
    },
};

/// Nothing succeeding for this long means that nothing will: longer than a lease, which must run out before a task
/// whose worker was lost comes again.
const STALLED: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(2);
const UNARY_WAIT: Duration = Duration::from_secs(1);

/// How many, by how many.
#[derive(Args, Debug)]
pub struct LifecycleArgs {
    /// So many tasks
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    tasks: u64,
    /// So many workers
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "W")]
    workers: u32,
    /// So many tasks in a submit or a report
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH as i64), value_name = "B")]
    batch: u32,
    /// The size of each input
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    payload_bytes: usize,
    /// So many submits in flight
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
    submitters: u32,
    /// Over so many connections
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// Workers use LeaseTasks and CompleteTasks instead of sessions
    #[arg(long)]
    unary: bool,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Submits, runs, checks.
pub async fn run(context: &Context, args: &LifecycleArgs) -> anyhow::Result<Lifecycle> {
    let load = Load::new(context, args.payload_bytes);
    let apis = connections(context, args.connections);
    let batch = usize::try_from(args.batch)?;

    let measuring = Measuring::begin();
    let began = Instant::now();
    load.submit_all(&apis, usize::try_from(args.tasks)?, batch, usize::try_from(args.submitters)?).await?;
    let submitting = began.elapsed();
    eprintln!("submitted {} in {submitting:.2?}", args.tasks);

    let began_work = Instant::now();
    let mut granted = work(&load, &apis, args, batch).await?;
    let working = began_work.elapsed();
    let seconds = measuring.end();
    eprintln!("processed in {working:.2?}");

    let succeeded = count_succeeded(context, &load).await?;
    Ok(Lifecycle {
        scenario: "lifecycle",
        tasks: args.tasks,
        seconds: rounded(seconds.as_secs_f64()),
        tasks_per_s: per_second(args.tasks, seconds),
        submit_per_s: per_second(args.tasks, submitting),
        process_per_s: per_second(args.tasks, working),
        lost: args.tasks.saturating_sub(succeeded),
        duplicated: count_repeated(&mut granted),
    })
}

/// Runs the workers until all succeeded or nothing moves any more; answers every grant.
async fn work(load: &Load, apis: &[Api], args: &LifecycleArgs, batch: usize) -> anyhow::Result<Vec<u128>> {
    let succeeded = Arc::new(AtomicU64::new(0));
    let done = CancellationToken::new();
    let mut workers: JoinSet<anyhow::Result<Books>> = JoinSet::new();
    for number in 0..usize::try_from(args.workers)? {
        let api = apis[number % apis.len()].clone();
        let books = Books { succeeded: succeeded.clone(), granted: Vec::new() };
        let (load, done) = (load.clone(), done.clone());
        if args.unary {
            workers.spawn(work_unary(load, api, number, batch, books, done));
        } else {
            let session = Session {
                api,
                project: load.project.clone(),
                identity: load.worker(number, 2 * batch),
                // One batch is reported while the next one is on its way.
                credits: 2 * batch,
                batch,
                witness: books,
            };
            workers.spawn(session.run(done));
        }
    }
    let mut granted = Vec::new();
    let outcome = until_done(load, &apis[0], &succeeded, args.tasks, &mut workers, &mut granted).await;
    done.cancel();
    while let Some(books) = workers.join_next().await {
        granted.extend(books??.granted);
    }
    outcome.map(|()| granted)
}

/// Waits until our books and the server's queue both say that all is done.
async fn until_done(
    load: &Load,
    api: &Api,
    succeeded: &AtomicU64,
    tasks: u64,
    workers: &mut JoinSet<anyhow::Result<Books>>,
    granted: &mut Vec<u128>,
) -> anyhow::Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now = succeeded.load(Ordering::Relaxed);
        if now >= tasks && queue_is_empty(load, api).await? {
            return Ok(());
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALLED {
            eprintln!("nothing moved for {STALLED:?}; {now} of {tasks} succeeded");
            return Ok(());
        }
        // A worker ends early only when the server refuses it.
        while let Some(books) = workers.try_join_next() {
            granted.extend(books??.granted);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn queue_is_empty(load: &Load, api: &Api) -> Result<bool, Status> {
    match api.queues().get_queue(api.call(GetQueueRequest { name: load.queue_name() })).await {
        Ok(answer) => {
            let queue = answer.into_inner().queue.unwrap_or_default();
            Ok(queue.ready_count + queue.delayed_count + queue.running_count == 0)
        }
        Err(status) if may_pass(&status) => Ok(false),
        Err(status) => Err(status),
    }
}

/// What one worker saw.
struct Books {
    /// Successes the server acknowledged, over all workers.
    succeeded: Arc<AtomicU64>,
    /// Every grant, repeated ones too.
    granted: Vec<u128>,
}

impl Witness for Books {
    fn granted(&mut self, tasks: &[LeasedTask], _now: Instant) -> anyhow::Result<()> {
        for token in tasks.iter().filter_map(|leased| leased.token.as_ref()) {
            self.granted.push(task_number(&token.task)?);
        }
        Ok(())
    }

    fn acknowledged(&mut self, results: &[ReportResult]) {
        let succeeded = results.iter().filter(|result| result.state() == State::Succeeded).count();
        self.succeeded.fetch_add(succeeded as u64, Ordering::Relaxed);
    }
}

async fn work_unary(
    load: Load,
    api: Api,
    number: usize,
    batch: usize,
    mut books: Books,
    done: CancellationToken,
) -> anyhow::Result<Books> {
    let identity = load.worker(number, batch);
    while !done.is_cancelled() {
        let lease = LeaseTasksRequest {
            parent: load.project.clone(),
            identity: Some(identity.clone()),
            max_tasks: i32::try_from(batch)?,
            wait: Some(to_duration(UNARY_WAIT)),
            request_id: Uuid::now_v7().to_string(),
        };
        let leased = loop {
            match api.workers().lease_tasks(api.call_waiting(lease.clone(), UNARY_WAIT)).await {
                Ok(answer) => break answer.into_inner().tasks,
                Err(status) if may_pass(&status) => tokio::time::sleep(PAUSE).await,
                Err(status) => return Err(status.into()),
            }
        };
        if leased.is_empty() {
            continue;
        }
        books.granted(&leased, Instant::now())?;
        let completions =
            leased.into_iter().map(|leased| TaskCompletion { token: leased.token, result: None }).collect();
        let complete = CompleteTasksRequest { parent: load.project.clone(), completions };
        loop {
            match api.workers().complete_tasks(api.call(complete.clone())).await {
                Ok(answer) => {
                    books.acknowledged(&answer.into_inner().results);
                    break;
                }
                Err(status) if may_pass(&status) => tokio::time::sleep(PAUSE).await,
                Err(status) => return Err(status.into()),
            }
        }
    }
    Ok(books)
}

/// How many tasks of this run the server has as SUCCEEDED.
async fn count_succeeded(context: &Context, load: &Load) -> anyhow::Result<u64> {
    let filter = format!("queue = \"{}\" AND state = SUCCEEDED", load.queue);
    let mut count = 0_u64;
    let mut page_token = String::new();
    loop {
        let request = ListTasksRequest {
            parent: load.project.clone(),
            page_size: pages::MAX_PAGE,
            page_token,
            filter: filter.clone(),
            ..Default::default()
        };
        let page = context.api.tasks().list_tasks(context.api.call(request)).await?.into_inner();
        count += page.tasks.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}

/// How many tasks were granted more than once.
fn count_repeated(granted: &mut [u128]) -> u64 {
    granted.sort_unstable();
    let runs = granted.chunk_by(|a, b| a == b);
    runs.filter(|run| run.len() > 1).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_granted_three_times_is_one_repeated_task() {
        assert_eq!(count_repeated(&mut [3, 1, 2]), 0);
        assert_eq!(count_repeated(&mut [3, 1, 3, 2, 3, 2]), 2);
    }
}
