//! What a connection is there for: whether a call of it is under way, and which of two that have none goes first when
//! there is no place left for a new one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// One connection's calls.
#[derive(Debug)]
pub struct Visit {
    /// Which one it was, of all connections.
    number: u64,
    /// Under way.
    calls: AtomicUsize,
    /// When its last call began, in calls of all connections; 0 before its first.
    last: AtomicU64,
    clock: Arc<AtomicU64>,
}

impl Visit {
    /// Of a new connection. The clock is the same for all of them.
    pub fn new(number: u64, clock: Arc<AtomicU64>) -> Self {
        Self { number, calls: AtomicUsize::new(0), last: AtomicU64::new(0), clock }
    }

    /// A call begins.
    pub fn begin(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.last.store(self.clock.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A call is over.
    pub fn end(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Where it stands among those that can go, the smallest first; none when it cannot. Those that never called go before
    /// those that did, and of each kind the ones that have been so for longest: who comes new has time to call.
    pub fn rank(&self) -> Option<(u64, u64)> {
        let is_idle = self.calls.load(Ordering::Relaxed) == 0;
        is_idle.then(|| (self.last.load(Ordering::Relaxed), self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_never_called_goes_first_and_nobody_in_a_call() {
        let clock = Arc::default();
        let visits: Vec<_> = (0..4).map(|number| Visit::new(number, Arc::clone(&clock))).collect();
        let first = || visits.iter().filter_map(Visit::rank).min().map(|(_, number)| number);
        assert_eq!(first(), Some(0));
        for number in [1, 0, 2] {
            visits[number].begin();
        }
        assert_eq!(first(), Some(3));
        visits[3].begin();
        assert_eq!(first(), None);
        for visit in &visits {
            visit.end();
        }
        assert_eq!(first(), Some(1));
    }
}
