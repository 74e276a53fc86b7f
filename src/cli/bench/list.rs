//! How fast pages are listed among N tasks, by the filters people use.
//!
//! Two queues: one of all the tasks, and one of few tasks that are older than all of them. Lists are newest first, so a
//! filter for the few that has no index to go by walks over everything before it finds them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    Tell,
    load::{Load, connections},
    report::{List, Times},
    runner::keep_in_flight,
};
use crate::{cli::Context, pb::ListTasksRequest};

/// The size of a page as people read it.
const PAGE: i32 = 50;
/// More than a page.
const FEW: u64 = 200;
const PAYLOAD_BYTES: usize = 100;

/// Among how many, for how long.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Among so many waiting tasks
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    tasks: u64,
    /// In this queue, which is filled up first; without, in one of its own
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// For so many seconds
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// So many calls at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "K")]
    inflight: u32,
    /// Over so many connections
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// A kind of page.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    filter: String,
    /// Goes on with the page after the last one it saw, instead of the first.
    onward: bool,
}

fn kinds(load: &Load, few: &Load) -> Vec<Kind> {
    let kind = |name, filter: String| Kind { name, filter, onward: false };
    let of = |load: &Load| format!("queue = \"{}\"", load.queue);
    vec![
        kind("newest", String::new()),
        Kind { name: "onward", filter: String::new(), onward: true },
        kind("state", "state = PENDING".to_owned()),
        kind("queue", of(load)),
        kind("small_queue", of(few)),
        kind("small_queue_and_state", format!("{} AND state = PENDING", of(few))),
    ]
}

/// Fills the queues and lists for a time, all kinds in turn.
pub async fn run(context: &Context, args: &ListArgs) -> anyhow::Result<List> {
    let load = match &args.queue {
        Some(queue) => Load::of_queue(context, queue, PAYLOAD_BYTES),
        None => Load::new(context, PAYLOAD_BYTES),
    };
    let few = Load::of_queue(context, &format!("{}-small", load.queue), PAYLOAD_BYTES);
    let apis = connections(context, args.connections);
    few.fill(&apis, FEW).await?;
    load.fill(&apis, args.tasks).await?;

    let kinds = kinds(&load, &few);
    let mut by_kind: BTreeMap<&'static str, Times> = BTreeMap::new();
    for kind in &kinds {
        by_kind.insert(kind.name, Times::new()?);
    }
    let by_kind = Arc::new(Mutex::new(by_kind));
    let places: Arc<Mutex<BTreeMap<usize, Place>>> = Arc::default();
    let (parent, notes) = (load.project.clone(), by_kind.clone());
    let time = Duration::from_secs(args.seconds);
    let measured = keep_in_flight(usize::try_from(args.inflight)?, time, move |lane| {
        let (api, places, notes) = (apis[lane % apis.len()].clone(), places.clone(), notes.clone());
        // Each lane goes through the kinds in turn, and pages onward by itself.
        let Place { turn, next } = lock(&places).get(&lane).cloned().unwrap_or_default();
        let kind = kinds[turn % kinds.len()].clone();
        let request = ListTasksRequest {
            parent: parent.clone(),
            page_size: PAGE,
            page_token: if kind.onward { next.clone() } else { String::new() },
            filter: kind.filter,
            ..Default::default()
        };
        async move {
            let began = Instant::now();
            let page = api.tasks().list_tasks(api.call(request)).await?.into_inner();
            if let Some(times) = lock(&notes).get_mut(kind.name) {
                times.record(began.elapsed());
            }
            if page.tasks.is_empty() {
                return Err(tonic::Status::internal(format!("the page {} is empty", kind.name)));
            }
            let next = if kind.onward { page.next_page_token } else { next };
            lock(&places).insert(lane, Place { turn: turn + 1, next });
            Ok(1)
        }
    })
    .await?;
    let p95_ms_by_filter = lock(&by_kind).iter().map(|(name, times)| (*name, times.quantile_ms(0.95))).collect();
    Ok(List {
        scenario: "list",
        tasks: args.tasks,
        pages: measured.items,
        p50_ms: measured.times.quantile_ms(0.50),
        p95_ms: measured.times.quantile_ms(0.95),
        p99_ms: measured.times.quantile_ms(0.99),
        p95_ms_by_filter,
    })
}

/// Where a lane is.
#[derive(Clone, Default)]
struct Place {
    turn: usize,
    /// The token of the page to read next onward.
    next: String,
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
