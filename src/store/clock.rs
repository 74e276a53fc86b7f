//! What the database's clock says between two readings of it. A reading costs a round trip, which for a submit is as much
//! as all the rest.
//!
//! It is the database's clock all the same: the last reading, carried on for [`FRESH`] at most by a clock that only counts
//! what has passed. It lags by the way of that reading's answer, and is never ahead.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::task::Micros;

/// For so long a reading is carried on: clocks that are not steered drift by less than a tenth of a millisecond in it, and
/// a step of the database's clock is noticed after it.
const FRESH: Duration = Duration::from_secs(1);

/// The last reading. Empty at first.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(Micros, Instant)>>);

impl Clock {
    /// The database's clock was read; `at` is when the answer had come.
    pub(super) fn was_read(&self, time: Micros, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, at));
    }

    /// What it says now; none when it was not read lately.
    pub(super) fn time(&self, now: Instant) -> Option<Micros> {
        let (time, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = now.saturating_duration_since(at);
        (passed <= FRESH).then(|| time + i64::try_from(passed.as_micros()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_carried_on_while_it_is_fresh() {
        let (clock, at) = (Clock::default(), Instant::now());
        assert_eq!(clock.time(at), None);
        clock.was_read(1_000, at);
        assert_eq!(clock.time(at + Duration::from_micros(7)), Some(1_007));
        assert_eq!(clock.time(at + FRESH), Some(1_001_000));
        assert_eq!(clock.time(at + FRESH + Duration::from_micros(1)), None);
    }
}
