//! How results are told, and the loop that keeps K calls in flight.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::JoinSet;

/// Latencies are recorded in microseconds up to this; anything slower counts as this.
const LONGEST_MICROS: u64 = 600_000_000;
/// Three digits: within 0.1 %.
const DIGITS: u8 = 3;
const MICROS_PER_MILLI: f64 = 1_000.0;

/// Encloses what is measured, for the runner that reads CPU times when it sees these lines.
pub struct Measuring(Instant);

impl Measuring {
    pub fn begin() -> Self {
        eprintln!("measuring");
        Self(Instant::now())
    }

    pub fn end(self) -> Duration {
        let elapsed = self.0.elapsed();
        eprintln!("measured");
        elapsed
    }
}

/// Says `done?` and waits until the runner, which can read the peer's store, answers with a line.
pub async fn ask_runner() -> anyhow::Result<()> {
    eprintln!("done?");
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
    line.transpose()?.context("the runner went away")?;
    Ok(())
}

pub fn times() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?)
}

pub fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_MICROS).max(1));
}

fn millis(times: &Histogram<u64>, share: f64) -> f64 {
    times.value_at_quantile(share) as f64 / MICROS_PER_MILLI
}

pub fn tell_throughput(done: u64, elapsed: Duration) {
    println!("{}", json!({ "tasks": done, "per_s": done as f64 / elapsed.as_secs_f64() }));
}

pub fn tell_times(times: &Histogram<u64>, elapsed: Duration) {
    println!(
        "{}",
        json!({
            "tasks": times.len(),
            "per_s": times.len() as f64 / elapsed.as_secs_f64(),
            "p50_ms": millis(times, 0.50),
            "p99_ms": millis(times, 0.99),
        })
    );
}

/// Runs `lanes` loops of calls for `time` and tells how long the calls took. `call` is given the number of its lane.
pub async fn keep_in_flight<C, F>(lanes: usize, time: Duration, call: C) -> anyhow::Result<()>
where
    C: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let measuring = Measuring::begin();
    let end = Instant::now() + time;
    let mut running: JoinSet<anyhow::Result<Histogram<u64>>> = JoinSet::new();
    for lane in 0..lanes {
        let call = call.clone();
        running.spawn(async move {
            let mut times = times()?;
            while Instant::now() < end {
                let began = Instant::now();
                call(lane).await?;
                record(&mut times, began.elapsed());
            }
            Ok(times)
        });
    }
    let mut all = times()?;
    while let Some(lane) = running.join_next().await {
        all.add(lane??)?;
    }
    tell_times(&all, measuring.end());
    Ok(())
}
