//! So many at once, and then so many a second: a token bucket that says how long to rest.

use std::time::{Duration, Instant};

/// Counts what is taken, and asks for a rest when it is too much.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: i64,
    /// A second.
    rate: u32,
    /// What may still be taken; below zero it is time for a rest.
    left: i64,
    refilled: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, rate: u32, now: Instant) -> Self {
        Self { burst: burst.into(), rate, left: burst.into(), refilled: now }
    }

    /// So many more.
    pub(super) fn take(&mut self, count: u32) {
        self.left = self.left.saturating_sub(count.into());
    }

    /// How long to rest; none when it is within bounds.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Duration> {
        if self.left >= 0 {
            return None;
        }
        let refill = now.saturating_duration_since(self.refilled).as_micros() * u128::from(self.rate) / 1_000_000;
        self.left = self.left.saturating_add(i64::try_from(refill).unwrap_or(self.burst)).min(self.burst);
        self.refilled = now;
        let missing = u32::try_from(-self.left).ok().filter(|missing| *missing > 0)?;
        Some(Duration::from_secs(1) * missing / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_rests_until_its_time_has_come() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, 50, now);
        bucket.take(100);
        assert_eq!(bucket.rest(now), None);
        bucket.take(50);
        assert_eq!(bucket.rest(now), Some(Duration::from_secs(1)));
        assert_eq!(bucket.rest(now + Duration::from_millis(400)), Some(Duration::from_millis(600)));
        assert_eq!(bucket.rest(now + Duration::from_secs(60)), None);
        assert_eq!(bucket.left, 100, "no more than at first");
    }
}
