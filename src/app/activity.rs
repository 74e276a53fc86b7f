//! What went through each queue in the last minute.
//!
//! The database keeps running totals; a loop of every replica remembers them every few seconds for a minute. The activity
//! of a queue is its totals now less the oldest ones remembered, so every replica answers for all of them, and what is
//! lost at a restart is at most the memory of one minute.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::App;
use crate::{
    domain::queue::QueueActivity,
    error::Result,
    ids::ProjectId,
    store::queues::{self, QueueTotals, TOTALS_LIMIT},
};

/// How far the memory goes back.
const WINDOW: Duration = Duration::from_secs(60);
/// A sampler that is late by less than this still counts as one of the window: half its period.
const SLACK: Duration = Duration::from_millis(2_500);
/// Most samples kept, should the sampler run faster than it is meant to: one every 5 s, and one at each end.
const MAX_SAMPLES: usize = 14;

/// The samples of the last minute, oldest first.
#[derive(Debug, Default)]
pub struct Activity {
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    totals: HashMap<ProjectId, HashMap<String, QueueActivity>>,
    /// There were more queues than were read: one that is missing is not known to be new.
    cut: bool,
}

impl Activity {
    /// Remembers the totals as they are at a time, and forgets those that became too old.
    fn remember(&self, at: Instant, totals: Vec<QueueTotals>, cut: bool) {
        let mut by_project: HashMap<ProjectId, HashMap<String, QueueActivity>> = HashMap::new();
        for QueueTotals { project, name, totals } in totals {
            by_project.entry(project).or_default().insert(name, totals);
        }
        let mut samples = self.lock();
        samples.push_back(Sample { at, totals: by_project, cut });
        let is_old = |sample: &Sample| at.saturating_duration_since(sample.at) > WINDOW + SLACK;
        while samples.len() > MAX_SAMPLES || samples.front().is_some_and(is_old) {
            samples.pop_front();
        }
    }

    /// What went through a queue since the oldest sample, given its totals now. Zero before the first sample.
    pub fn of(&self, project: &ProjectId, queue: &str, now: QueueActivity) -> QueueActivity {
        let samples = self.lock();
        let Some(oldest) = samples.front() else { return QueueActivity::default() };
        let before = match oldest.totals.get(project).and_then(|queues| queues.get(queue)) {
            Some(before) => *before,
            // First used after that sample: all of it is recent.
            None if !oldest.cut => QueueActivity::default(),
            None => now,
        };
        QueueActivity {
            submitted: now.submitted - before.submitted,
            leased: now.leased - before.leased,
            succeeded: now.succeeded - before.succeeded,
            failed: now.failed - before.failed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        // A panic while it was held left nothing half-done: a sample is pushed whole.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Remembers the totals of all queues; called by a loop every few seconds.
    pub async fn sample_queues(&self) -> Result<()> {
        let totals = queues::totals(self.store()).await?;
        let cut = i64::try_from(totals.len()).is_ok_and(|read| read >= TOTALS_LIMIT);
        self.activity().remember(Instant::now(), totals, cut);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(name: &str, submitted: i64) -> Vec<QueueTotals> {
        vec![QueueTotals { project: ProjectId::new("p"), name: name.to_owned(), totals: activity(submitted) }]
    }

    fn activity(submitted: i64) -> QueueActivity {
        QueueActivity { submitted, ..QueueActivity::default() }
    }

    #[test]
    fn activity_is_what_came_since_the_oldest_sample_of_a_minute() {
        let project = ProjectId::new("p");
        let memory = Activity::default();
        assert_eq!(memory.of(&project, "q", activity(100)), activity(0));

        let start = Instant::now();
        memory.remember(start, totals("q", 100), false);
        assert_eq!(memory.of(&project, "q", activity(103)), activity(3));
        for step in 1..=40 {
            memory.remember(start + Duration::from_secs(5 * step), totals("q", 100 + 10 * step as i64), false);
        }
        // A minute is twelve steps of five seconds.
        assert_eq!(memory.of(&project, "q", activity(500)), activity(120));
    }

    #[test]
    fn all_of_a_new_queue_is_recent_unless_samples_are_cut() {
        let project = ProjectId::new("p");
        let memory = Activity::default();
        memory.remember(Instant::now(), totals("q", 1), false);
        assert_eq!(memory.of(&project, "new", activity(7)), activity(7));

        let memory = Activity::default();
        memory.remember(Instant::now(), totals("q", 1), true);
        assert_eq!(memory.of(&project, "new", activity(7)), activity(0));
    }
}
