//! The pace of work that is done so many times a second, kept in the database: whoever goes on with it keeps the pace.
//!
//! It is one number: when the next piece is due. Each piece moves it on by the interval, so over the whole work the rate is
//! exact, however the pieces fall together. Who comes late catches up by [`CATCH_UP`] at most; what was lost beyond that
//! stays lost, so that a replica that was away does not make up for it with a flood.

use super::task::{Micros, SECOND};

/// How far behind the next piece may be and still be made up for: more than a turn takes to change hands.
const CATCH_UP: Micros = 2 * SECOND;

/// When the next piece of work is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two pieces.
    interval: Micros,
    /// When the next one is due.
    next: Micros,
}

impl Pace {
    /// So many pieces a second (1 at least, a million at most), the next one at `next`.
    pub fn new(per_second: i32, next: Micros) -> Self {
        Self { interval: SECOND / Micros::from(per_second).clamp(1, SECOND), next }
    }

    /// When the next piece is due.
    pub fn next(&self) -> Micros {
        self.next
    }

    /// How many pieces are due at `now`.
    pub fn due(&self, now: Micros) -> usize {
        let next = self.next.max(now.saturating_sub(CATCH_UP));
        if next > now { 0 } else { usize::try_from((now - next) / self.interval + 1).unwrap_or(usize::MAX) }
    }

    /// The pace after so many pieces were done at `now`.
    #[must_use]
    pub fn after(self, pieces: usize, now: Micros) -> Self {
        let next = self.next.max(now.saturating_sub(CATCH_UP));
        let pieces = Micros::try_from(pieces).unwrap_or(Micros::MAX);
        Self { next: next.saturating_add(self.interval.saturating_mul(pieces)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Comes back after each of these waits, and does all that is due, at most `most` at a time.
    fn run(per_second: i32, waits: impl Iterator<Item = Micros>, most: usize) -> (usize, Micros) {
        let (mut pace, mut now, mut done) = (Pace::new(per_second, 0), 0, 0);
        for wait in waits {
            now += wait;
            let due = pace.due(now).min(most);
            pace = pace.after(due, now);
            done += due;
        }
        (done, now)
    }

    #[test]
    fn the_rate_holds_however_often_one_comes() {
        for (per_second, wait) in [(1, 100_000), (7, 130_000), (300, 97_000), (1_000, 110_000), (10, 999_999)] {
            let (done, time) = run(per_second, (0..2_000).map(|n| wait + n % 17), 200);
            let expected = f64::from(per_second) * time as f64 / SECOND as f64;
            assert!((done as f64 / expected - 1.0).abs() < 0.01, "{done} instead of {expected}");
        }
    }

    #[test]
    fn a_long_absence_is_not_made_up_for() {
        assert_eq!(run(100, [0, 3_600 * SECOND].into_iter(), usize::MAX).0, 1 + 201);
        let pace = Pace::new(100, 5 * SECOND);
        assert_eq!((pace.due(5 * SECOND - 1), pace.due(5 * SECOND), pace.due(6 * SECOND)), (0, 1, 101));
        // As it comes from the database.
        for (per_second, next) in [(0, 0), (-1, Micros::MAX), (i32::MAX, Micros::MIN)] {
            let pace = Pace::new(per_second, next);
            assert!(pace.after(pace.due(Micros::MAX), Micros::MAX).next() > Micros::MIN);
        }
    }
}
