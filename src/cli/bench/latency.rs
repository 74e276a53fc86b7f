//! From the start of a submit to the start of its handler, both in this process, on one clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use prost_types::value::Kind as JsonKind;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Tell,
    load::Load,
    report::{Latency, Measuring, Times, rounded},
    session::{Session, Witness},
};
use crate::shutdown;
use crate::{
    cli::Context,
    pb::{LeasedTask, Payload, ReportResult, payload::Kind},
};

/// Handlers that have not started this long after the last submit do not count.
const LAST_WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
const CREDITS: usize = 1_000;
const BATCH: usize = 100;
/// So many samples at most fit a sane run.
const MAX_SAMPLES: f64 = 10_000_000.0;

/// How fast, for how long.
#[derive(Args, Debug)]
pub struct LatencyArgs {
    /// Tasks a second
    #[arg(long, default_value_t = 100.0, value_name = "R")]
    rate: f64,
    /// For so many seconds
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// So many tasks at first are not counted: connections, caches and prepared statements are new to them
    #[arg(long, default_value_t = 0, value_name = "N")]
    warm_up: usize,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// When each submit began, in microseconds since the start of the run, plus one; 0 means not yet.
type Starts = Arc<Vec<AtomicU64>>;

struct Stopwatch {
    origin: Instant,
    starts: Starts,
    /// Tasks below this number are not counted.
    warm_up: usize,
    times: Times,
    seen: Arc<AtomicU64>,
}

impl Witness for Stopwatch {
    fn granted(&mut self, tasks: &[LeasedTask], now: Instant) -> anyhow::Result<()> {
        for task in tasks.iter().filter_map(|leased| leased.task.as_ref()) {
            let number = task.input.as_ref().and_then(number_of).context("a task came without its number")?;
            // A task that comes again after a lost session is not a second sample.
            let began = self.starts.get(number).map_or(0, |start| start.swap(0, Ordering::Relaxed));
            if let Some(began) = began.checked_sub(1) {
                let now = now.duration_since(self.origin);
                if number >= self.warm_up {
                    self.times.record(now.saturating_sub(Duration::from_micros(began)));
                }
                self.seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, _results: &[ReportResult]) {}
}

fn number_of(input: &Payload) -> Option<usize> {
    match &input.kind {
        Some(Kind::Json(prost_types::Value { kind: Some(JsonKind::NumberValue(number)) })) if *number >= 0.0 => {
            // We wrote a whole number below MAX_SAMPLES.
            Some(*number as usize)
        }
        _ => None,
    }
}

/// Submits at a fixed rate, whatever the answers do, and times the starts.
pub async fn run(context: &Context, args: &LatencyArgs) -> anyhow::Result<Latency> {
    let expected = args.rate * args.seconds as f64;
    anyhow::ensure!(args.rate > 0.0 && expected <= MAX_SAMPLES, "--rate times --seconds must be 1 to {MAX_SAMPLES}");
    // Bounded just above, and not negative.
    let expected = (expected as usize).max(1) + args.warm_up;
    let load = Load::new(context, 0);
    let origin = Instant::now();
    let starts: Starts = Arc::new((0..expected).map(|_| AtomicU64::new(0)).collect());
    let seen = Arc::new(AtomicU64::new(0));
    let done = CancellationToken::new();
    let worker = Session {
        api: context.api.another_connection(),
        project: load.project.clone(),
        identity: load.worker(0, CREDITS),
        credits: CREDITS,
        batch: BATCH,
        witness: Stopwatch {
            origin,
            starts: starts.clone(),
            warm_up: args.warm_up,
            times: Times::new()?,
            seen: seen.clone(),
        },
    };
    let worker = shutdown::spawn("latency", worker.run(done.clone()));

    let measuring = Measuring::begin();
    let mut calls = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    // A late tick is made up for, so the rate is kept.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..expected {
        tick.tick().await;
        let (api, starts, mut request) = (context.api.clone(), starts.clone(), load.submit());
        if let Some(task) = &mut request.task {
            // Whole numbers below MAX_SAMPLES are exact.
            task.input = Some(Payload { kind: Some(Kind::Json(prost_types::Value::from(number as f64))) });
        }
        calls.spawn(async move {
            let began = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
            starts[number].store(began + 1, Ordering::Relaxed);
            api.tasks().submit_task(api.call(request)).await
        });
        while let Some(answer) = calls.try_join_next() {
            answer??;
        }
    }
    while let Some(answer) = calls.join_next().await {
        answer??;
    }
    let last = Instant::now();
    while seen.load(Ordering::Relaxed) < expected as u64 && last.elapsed() < LAST_WAIT && !worker.is_finished() {
        tokio::time::sleep(POLL).await;
    }
    measuring.end();
    done.cancel();
    let times = worker.await??.times;
    Ok(Latency {
        scenario: "latency",
        rate: rounded(args.rate),
        p50_ms: times.quantile_ms(0.50),
        p95_ms: times.quantile_ms(0.95),
        p99_ms: times.quantile_ms(0.99),
        samples: times.count(),
    })
}
