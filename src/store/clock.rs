//! What the database's clock says between two readings of it. A reading costs a round trip, which for a submit is as much
//! as all the rest.
//!
//! It is the database's clock all the same: the last reading, carried on for [`FRESH`] at most by a clock that only counts
//! what has passed. It lags by the way of that reading's answer, and is never ahead. As answers take more or less time, it
//! would go back by the difference; instead it stands still for so long.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::task::Micros;

/// For so long a reading is carried on: clocks that are not steered drift by less than a tenth of a millisecond in it, and
/// a step of the database's clock is noticed after it.
const FRESH: Duration = Duration::from_secs(1);

/// A step back by more than this is one of the database's clock, and is followed.
const STEP: Micros = 100_000;

/// The last reading. Empty at first.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What was read last, and when the answer had come.
    reading: Option<(Micros, Instant)>,
    /// The latest time that was read or told.
    last: Micros,
}

impl State {
    /// Not before the last one.
    fn tell(&mut self, time: Micros) -> Micros {
        let stands = (0..STEP).contains(&(self.last - time));
        if !stands {
            self.last = time;
        }
        self.last
    }
}

impl Clock {
    /// The database's clock was read; `at` is when the answer had come. Returns what to take for it.
    pub(super) fn was_read(&self, time: Micros, at: Instant) -> Micros {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.reading = Some((time, at));
        state.tell(time)
    }

    /// What it says now; none when it was not read lately.
    pub(super) fn time(&self, now: Instant) -> Option<Micros> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (time, at) = state.reading?;
        let passed = now.saturating_duration_since(at);
        (passed <= FRESH).then(|| state.tell(time + i64::try_from(passed.as_micros()).unwrap_or(0)))
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

    #[test]
    fn it_stands_still_after_an_answer_that_took_longer_and_follows_a_step() {
        let (clock, at) = (Clock::default(), Instant::now());
        clock.was_read(1_000_000, at);
        assert_eq!(clock.time(at + Duration::from_micros(500)), Some(1_000_500));
        let later = at + Duration::from_micros(600);
        assert_eq!(clock.was_read(1_000_400, later), 1_000_500, "200 µs of it were the way of the answer");
        assert_eq!(clock.time(later + Duration::from_micros(50)), Some(1_000_500));
        assert_eq!(clock.time(later + Duration::from_micros(150)), Some(1_000_550));
        assert_eq!(clock.was_read(500_000, later), 500_000);
        assert_eq!(clock.time(later), Some(500_000));
    }
}
