//! How many retries of a queue come back a second, so that a storm of failures does not crowd out new tasks.
//!
//! A process keeps one [`RetryLedger`] a queue: the leases of the last seconds, and how many retries it let into each
//! second to come. A retry that finds its second full comes in the first that has room. None is dropped, and none is
//! moved by more than [`HORIZON`]: if there is no room till then it comes somewhere in between, so that even then they
//! do not come together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::task::{Micros, SECOND};

/// The leases of so many seconds count.
const WINDOW: i64 = 10;
/// A retry is moved by so many seconds at most.
const HORIZON: i64 = 60;
/// A share is kept as millionths, so that settings can be compared.
const MILLION: f64 = 1e6;

/// What a queue takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// Retries for a million leases.
    pub lease_millionths: i32,
    /// Retries a second whatever the leases.
    pub min_per_second: i32,
}

impl Default for RetryBudget {
    /// A fifth of the leases, and ten.
    fn default() -> Self {
        Self { lease_millionths: 200_000, min_per_second: 10 }
    }
}

impl RetryBudget {
    /// With a share of the leases between 0 and 1.
    pub fn new(lease_ratio: f64, min_per_second: i32) -> Self {
        Self { lease_millionths: (lease_ratio * MILLION).round() as i32, min_per_second }
    }

    /// The share of the leases.
    pub fn lease_ratio(&self) -> f64 {
        f64::from(self.lease_millionths) / MILLION
    }
}

/// What one queue did and is going to do, in seconds.
#[derive(Debug, Default)]
pub struct RetryLedger {
    leases: BTreeMap<i64, u64>,
    retries: BTreeMap<i64, u64>,
}

impl RetryLedger {
    /// So many leases were granted.
    pub fn leased(&mut self, count: usize, now: Micros) {
        *self.leases.entry(now / SECOND).or_default() += count as u64;
        self.forget(now);
    }

    /// When a retry comes that would come at `time`. `random` in [0, 1) spreads those that are moved.
    pub fn place(&mut self, budget: RetryBudget, time: Micros, now: Micros, random: f64) -> Micros {
        self.forget(now);
        let leases: u64 = self.leases.values().sum();
        let share = leases as f64 / WINDOW as f64 * budget.lease_ratio();
        let room = share as u64 + u64::from(budget.min_per_second.unsigned_abs());
        let wanted = time.max(now) / SECOND;
        let free = (wanted..wanted + HORIZON).find(|second| self.retries.get(second).is_none_or(|taken| *taken < room));
        let within = |seconds: i64| (seconds as f64 * SECOND as f64 * random) as Micros;
        let (second, moved) = match free {
            Some(second) if second == wanted => (second, time),
            Some(second) => (second, second * SECOND + within(1)),
            None => {
                let moved = wanted * SECOND + within(HORIZON);
                (moved / SECOND, moved)
            }
        };
        *self.retries.entry(second).or_default() += 1;
        // Never sooner than it would have come.
        moved.max(time)
    }

    /// Whether nothing of it matters any more.
    pub fn is_idle(&mut self, now: Micros) -> bool {
        self.forget(now);
        self.leases.is_empty() && self.retries.is_empty()
    }

    fn forget(&mut self, now: Micros) {
        let second = now / SECOND;
        while self.leases.first_key_value().is_some_and(|(first, _)| *first <= second - WINDOW) {
            self.leases.pop_first();
        }
        while self.retries.first_key_value().is_some_and(|(first, _)| *first < second) {
            self.retries.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_second(times: &[Micros]) -> BTreeMap<i64, usize> {
        let mut seconds = BTreeMap::new();
        for time in times {
            *seconds.entry(time / SECOND).or_default() += 1;
        }
        seconds
    }

    /// `count` retries that would all come at `time`.
    fn placed(ledger: &mut RetryLedger, count: usize, time: Micros, now: Micros) -> Vec<Micros> {
        (0..count).map(|n| ledger.place(RetryBudget::default(), time, now, n as f64 / count as f64)).collect()
    }

    #[test]
    fn what_fits_is_left_where_it_is_and_the_rest_comes_later() {
        let mut ledger = RetryLedger::default();
        let now = 1_000 * SECOND;
        let times = placed(&mut ledger, 25, now + 500, now);
        assert_eq!(times.iter().filter(|time| **time == now + 500).count(), 10);
        assert_eq!(by_second(&times).into_values().collect::<Vec<_>>(), [10, 10, 5]);
        // A second later its own place is free again.
        assert_eq!(ledger.place(RetryBudget::default(), now + 3 * SECOND, now + SECOND, 0.5), now + 3 * SECOND);
    }

    #[test]
    fn leases_make_room_for_retries() {
        let mut ledger = RetryLedger::default();
        let now = 1_000 * SECOND;
        for second in 0..10 {
            ledger.leased(1_000, now - second * SECOND);
        }
        let seconds = by_second(&placed(&mut ledger, 1_000, now, now));
        assert_eq!(seconds.values().copied().collect::<Vec<_>>(), [210, 210, 210, 210, 160]);
        // Old leases count no more.
        let later = now + 20 * SECOND;
        assert_eq!(by_second(&placed(&mut ledger, 20, later, later)).len(), 2);
    }

    #[test]
    fn without_room_they_are_spread_over_the_horizon_and_none_is_moved_further() {
        let mut ledger = RetryLedger::default();
        let now = 1_000 * SECOND;
        let times = placed(&mut ledger, 10_000, now, now);
        assert!(times.iter().all(|time| (now..now + HORIZON * SECOND).contains(time)));
        let seconds = by_second(&times);
        let most = seconds.values().max().copied().unwrap_or(0);
        assert!(most <= 2 * 10_000 / seconds.len(), "{seconds:?}");
        assert!(!ledger.is_idle(now) && ledger.is_idle(now + (HORIZON + 1) * SECOND));
    }
}
