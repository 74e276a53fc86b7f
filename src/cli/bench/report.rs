//! What a run ends with. The keys are fixed: other programs read them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Tell;
use crate::cli::output::{print, to_yaml};

/// Latencies are recorded in microseconds up to this; anything slower counts as this.
const LONGEST_MICROS: u64 = 600_000_000;
/// Three digits: within 0.1 %.
const DIGITS: u8 = 3;
const MICROS_PER_MILLI: f64 = 1_000.0;
/// Figures are told to three decimals; more would be noise.
const DECIMALS: f64 = 1_000.0;

/// Result of `bench lifecycle`.
#[derive(Debug, Serialize)]
pub struct Lifecycle {
    pub scenario: &'static str,
    pub tasks: u64,
    pub seconds: f64,
    pub tasks_per_s: f64,
    pub submit_per_s: f64,
    pub process_per_s: f64,
    pub lost: u64,
    pub duplicated: u64,
}

/// Result of `bench submit` and `bench read`.
#[derive(Debug, Serialize)]
pub struct Throughput {
    pub scenario: &'static str,
    pub submitted: u64,
    pub per_s: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

/// Result of `bench latency`.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub scenario: &'static str,
    pub rate: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub samples: u64,
}

/// Result of `bench watch`.
#[derive(Debug, Serialize)]
pub struct Watch {
    pub scenario: &'static str,
    pub streams: u64,
    pub delivered: u64,
    pub missed: u64,
    pub duplicated: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub server_rss_per_stream_bytes: Option<u64>,
}

/// Result of `bench retry`.
#[derive(Debug, Serialize)]
pub struct Retry {
    pub scenario: &'static str,
    pub tasks: u64,
    /// How long it took to fail them.
    pub failing_s: f64,
    /// From the first second in which one comes back to the last.
    pub seconds: u64,
    pub mean_per_s: f64,
    pub most_per_s: u64,
    pub most_over_mean: f64,
}

/// Result of `bench list`.
#[derive(Debug, Serialize)]
pub struct List {
    pub scenario: &'static str,
    pub tasks: u64,
    pub pages: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// The 95th percentile of each kind of page.
    pub p95_ms_by_filter: BTreeMap<&'static str, f64>,
}

/// Result of `bench backlog`.
#[derive(Debug, Serialize)]
pub struct Backlog {
    pub scenario: &'static str,
    pub waiting: u64,
    pub leased: u64,
    /// Tasks a second of time spent in LeaseTasks.
    pub per_s: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

/// Result of `bench bulk-retry`.
#[derive(Debug, Serialize)]
pub struct BulkRetried {
    pub scenario: &'static str,
    pub tasks: u64,
    pub retried: u64,
    /// As asked for.
    pub rate: i32,
    /// As it was, over the whole job.
    pub per_s: f64,
    /// How far the one is from the other.
    pub error_percent: f64,
    /// With `--fail`: from the first failure to the end of the job.
    pub stopped_after_s: Option<f64>,
    pub window_s: Option<f64>,
}

/// Result of `bench schedules`.
#[derive(Debug, Serialize)]
pub struct Schedules {
    pub scenario: &'static str,
    pub schedules: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub lost: u64,
    pub duplicated: u64,
}

/// Result of `bench retention`.
#[derive(Debug, Serialize)]
pub struct Retention {
    pub scenario: &'static str,
    pub deleted: u64,
    pub deleted_per_s: f64,
    /// LeaseTasks while nothing is deleted.
    pub alone_p50_ms: f64,
    pub alone_p99_ms: f64,
    /// LeaseTasks meanwhile.
    pub beside_p50_ms: f64,
    pub beside_p99_ms: f64,
    pub p99_ratio: f64,
    /// How many leases there were meanwhile.
    pub samples: u64,
}

/// Result of `bench audit`.
#[derive(Debug, Serialize)]
pub struct Audit {
    pub scenario: &'static str,
    pub rows: u64,
    pub seconds: f64,
    pub rows_per_s: f64,
    /// Rows that were not sealed when the last change was answered.
    pub behind_rows: i64,
    /// How long it took to seal them.
    pub caught_up_s: f64,
    /// The most memory that the server held during the verification beyond what it held before.
    pub server_rss_growth_bytes: Option<u64>,
}

/// Encloses on stderr what the figures are of: whoever reads the CPU times of the processes beside us reads them when
/// these lines come.
pub struct Measuring(Instant);

impl Measuring {
    /// The preparations are over.
    pub fn begin() -> Self {
        eprintln!("measuring");
        Self(Instant::now())
    }

    /// What comes now is counting and comparing.
    pub fn end(self) -> Duration {
        let elapsed = self.0.elapsed();
        eprintln!("measured");
        elapsed
    }
}

/// Prints a result: one line of JSON, or key by key for people.
pub(super) fn tell(result: &impl Serialize, tell: Tell) -> anyhow::Result<()> {
    print(&if tell.json { serde_json::to_string(result)? } else { to_yaml(result)? })
}

/// Times of calls.
pub struct Times(Histogram<u64>);

impl Times {
    /// No times yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?))
    }

    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_MICROS).max(1));
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which this share of the calls ended, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        // Microseconds up to 2^53 are exact as f64.
        rounded(self.0.value_at_quantile(share) as f64 / MICROS_PER_MILLI)
    }
}

/// To three decimals.
pub fn rounded(number: f64) -> f64 {
    (number * DECIMALS).round() / DECIMALS
}

/// So many in this time, per second.
pub fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys are a promise to the programs that read them.
    #[test]
    fn keys_are_as_promised() {
        let keys = |value: serde_json::Value| {
            let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        let lifecycle = Lifecycle {
            scenario: "lifecycle",
            tasks: 1,
            seconds: 1.0,
            tasks_per_s: 1.0,
            submit_per_s: 1.0,
            process_per_s: 1.0,
            lost: 0,
            duplicated: 0,
        };
        assert_eq!(
            keys(serde_json::to_value(lifecycle).unwrap()),
            "duplicated lost process_per_s scenario seconds submit_per_s tasks tasks_per_s"
        );
        let submit = Throughput { scenario: "submit", submitted: 1, per_s: 1.0, p50_ms: 1.0, p95_ms: 1.0, p99_ms: 1.0 };
        assert_eq!(keys(serde_json::to_value(submit).unwrap()), "p50_ms p95_ms p99_ms per_s scenario submitted");
        let latency = Latency { scenario: "latency", rate: 1.0, p50_ms: 1.0, p95_ms: 1.0, p99_ms: 1.0, samples: 1 };
        assert_eq!(keys(serde_json::to_value(latency).unwrap()), "p50_ms p95_ms p99_ms rate samples scenario");
        let watch = Watch {
            scenario: "watch",
            streams: 1,
            delivered: 1,
            missed: 0,
            duplicated: 0,
            p50_ms: 1.0,
            p99_ms: 1.0,
            server_rss_per_stream_bytes: None,
        };
        assert_eq!(
            keys(serde_json::to_value(watch).unwrap()),
            "delivered duplicated missed p50_ms p99_ms scenario server_rss_per_stream_bytes streams"
        );
        let list = List {
            scenario: "list",
            tasks: 1,
            pages: 1,
            p50_ms: 1.0,
            p95_ms: 1.0,
            p99_ms: 1.0,
            p95_ms_by_filter: BTreeMap::new(),
        };
        assert_eq!(
            keys(serde_json::to_value(list).unwrap()),
            "p50_ms p95_ms p95_ms_by_filter p99_ms pages scenario tasks"
        );
        let backlog =
            Backlog { scenario: "backlog", waiting: 1, leased: 1, per_s: 1.0, p50_ms: 1.0, p95_ms: 1.0, p99_ms: 1.0 };
        let retention = Retention {
            scenario: "retention",
            deleted: 1,
            deleted_per_s: 1.0,
            alone_p50_ms: 1.0,
            alone_p99_ms: 1.0,
            beside_p50_ms: 1.0,
            beside_p99_ms: 1.0,
            p99_ratio: 1.0,
            samples: 1,
        };
        assert_eq!(
            keys(serde_json::to_value(retention).unwrap()),
            "alone_p50_ms alone_p99_ms beside_p50_ms beside_p99_ms deleted deleted_per_s p99_ratio samples scenario"
        );
        assert_eq!(keys(serde_json::to_value(backlog).unwrap()), "leased p50_ms p95_ms p99_ms per_s scenario waiting");
        let schedules = Schedules {
            scenario: "schedules",
            schedules: 1,
            p50_ms: 1.0,
            p95_ms: 1.0,
            p99_ms: 1.0,
            lost: 0,
            duplicated: 0,
        };
        assert_eq!(
            keys(serde_json::to_value(schedules).unwrap()),
            "duplicated lost p50_ms p95_ms p99_ms scenario schedules"
        );
    }

    #[test]
    fn times_are_told_in_milliseconds() {
        let mut times = Times::new().unwrap();
        for millis in 1..=100 {
            times.record(Duration::from_millis(millis));
        }
        let mut all = Times::new().unwrap();
        all.add(&times).unwrap();
        assert_eq!(all.count(), 100);
        assert!((all.quantile_ms(0.5) - 50.0).abs() < 0.1);
        assert!((all.quantile_ms(0.99) - 99.0).abs() < 0.1);
        assert!(per_second(10, Duration::from_secs(4)) == 2.5);
    }
}
