//! When a failed attempt is repeated: exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff
//! And Jitter"), so that tasks which failed together do not come back together.

use super::task::{Micros, RetrySettings};

/// The wait after attempt `attempt` (1, 2, 3 …): `random` × min(cap, base × 2^(attempt − 1)).
pub fn backoff(settings: &RetrySettings, attempt: i32, random: f64) -> Micros {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(62);
    let ceiling = settings.initial_backoff.saturating_mul(1_i64 << doublings).min(settings.max_backoff);
    (ceiling as f64 * random) as Micros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_cap_and_never_overflows() {
        let settings = RetrySettings { max_attempts: 100, initial_backoff: 1_000, max_backoff: 60_000 };
        let ceilings: Vec<_> = [1, 2, 3, 6, 7, 90, i32::MAX].map(|n| backoff(&settings, n, 1.0)).to_vec();
        assert_eq!(ceilings, [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(backoff(&settings, 5, 0.0), 0);
    }
}
