//! A queue: settings that bound what is leased from it, and its figures.

use super::{retry_budget::RetryBudget, task::Micros};
use crate::ids::ProjectId;

/// How long a lease lasts without a heartbeat unless the queue says otherwise: three chances at a 20 s heartbeat.
pub const DEFAULT_LEASE_DURATION: Micros = 60 * super::task::SECOND;

/// A queue with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// What operators set.
    pub settings: QueueSettings,
    /// Tasks that wait and are due.
    pub ready: i64,
    /// Tasks that wait for their `run_time`.
    pub delayed: i64,
    /// Tasks that run.
    pub running: i64,
    /// Since when the due task that waits longest could have run.
    pub oldest_ready_time: Option<Micros>,
    /// What went through it lately.
    pub activity: QueueActivity,
    /// When it was first used.
    pub create_time: Micros,
    /// When its settings last changed.
    pub update_time: Micros,
}

/// What operators set.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QueueSettings {
    /// Nothing is leased.
    pub paused: bool,
    /// Why.
    pub pause_note: String,
    /// Most tasks that run at a time; 0 means no limit.
    pub max_running: i32,
    /// Most leases per time.
    pub rate: Option<Rate>,
    /// How long a lease lasts without a heartbeat.
    pub lease_duration: Option<Micros>,
    /// The policy for failed attempts of tasks that say nothing about them. Left out of the etag when it is not set, like
    /// the next one: version N−1 knows neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<String>,
    /// How many retries it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

impl QueueSettings {
    /// Whether something bounds how much runs or is leased.
    pub fn is_limited(&self) -> bool {
        self.max_running > 0 || self.rate.is_some()
    }
}

/// A number of leases per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rate {
    /// How many.
    pub count: i32,
    /// Per how long.
    pub interval: Micros,
    /// How many may start at once after a pause.
    pub burst: i32,
}

impl Rate {
    /// How many leases may start now, and what each costs in time, by GCRA (ITU-T I.371): `arrival` is the theoretical
    /// arrival time of the next lease; each lease moves it by [`Rate::cost`].
    pub fn allowed(&self, arrival: Micros, now: Micros) -> i64 {
        let cost = self.cost();
        // The bucket is full when the arrival time is `burst` leases behind the clock's edge.
        let tolerance = cost.saturating_mul(i64::from(self.burst));
        ((now.saturating_add(tolerance)).saturating_sub(arrival.max(now)) / cost).max(0)
    }

    /// The time one lease takes up, at least 1 µs.
    pub fn cost(&self) -> Micros {
        (self.interval / i64::from(self.count.max(1))).max(1)
    }

    /// The arrival time after `taken` leases.
    pub fn advance(&self, arrival: Micros, now: Micros, taken: i64) -> Micros {
        arrival.max(now).saturating_add(self.cost().saturating_mul(taken))
    }
}

/// What went through a queue in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueActivity {
    /// Tasks submitted.
    pub submitted: i64,
    /// Leases granted.
    pub leased: i64,
    /// Tasks SUCCEEDED.
    pub succeeded: i64,
    /// Attempts that did not succeed.
    pub failed: i64,
}

/// New values for settings. None leaves one as it is; an inner none clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePatch {
    /// Most tasks that run at a time.
    pub max_running: Option<i32>,
    /// Most leases per time.
    pub rate: Option<Option<Rate>>,
    /// How long a lease lasts without a heartbeat.
    pub lease_duration: Option<Option<Micros>>,
    /// The policy for failed attempts.
    pub retry_policy: Option<Option<String>>,
    /// How many retries it takes.
    pub retry_budget: Option<Option<RetryBudget>>,
}

impl QueueSettings {
    /// The settings with a patch applied.
    pub fn patched(&self, patch: QueuePatch) -> Self {
        Self {
            max_running: patch.max_running.unwrap_or(self.max_running),
            rate: patch.rate.unwrap_or(self.rate),
            lease_duration: patch.lease_duration.unwrap_or(self.lease_duration),
            retry_policy: patch.retry_policy.unwrap_or_else(|| self.retry_policy.clone()),
            retry_budget: patch.retry_budget.unwrap_or(self.retry_budget),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_per_cost() {
        let rate = Rate { count: 10, interval: 1_000_000, burst: 3 };
        let now = 5_000_000;
        assert_eq!(rate.allowed(0, now), 3);
        let arrival = rate.advance(0, now, 3);
        assert_eq!(rate.allowed(arrival, now), 0);
        assert_eq!(rate.allowed(arrival, now + 99_999), 0);
        assert_eq!(rate.allowed(arrival, now + 100_000), 1);
        assert_eq!(rate.allowed(arrival, now + 10_000_000), 3);
    }
}
