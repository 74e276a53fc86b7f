//! What batches need to decide about failed attempts: the policies of each project, compiled expressions, and how many
//! retries each queue has let in.
//!
//! Policies are read before a transaction begins, and remembered for a second; a change made here is forgotten at once. So
//! a change holds everywhere a second later, and a storm of failures costs a read a second. The ledgers of retries are of
//! this process alone: each replica lets in what its own leases allow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::decide::Facts;
use crate::{
    domain::{
        retry_budget::RetryLedger,
        retry_pattern::Patterns,
        retry_policy::{Decider, Judge, Policies},
        task::{Micros, Spec},
        transition::{Change, EventKind},
    },
    ids::ProjectId,
    store::{Store, StoreResult, retry_policies},
};

/// How long policies are remembered: how long after a change elsewhere they may still be asked.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Policies of projects, and ledgers of queues, that are kept before those of no more use are thrown away.
const MANY: usize = 1_024;

/// For all projects.
#[derive(Debug, Default)]
pub(super) struct Judging {
    policies: Mutex<HashMap<ProjectId, (Arc<Policies>, Instant)>>,
    bench: Mutex<Bench>,
}

/// What changes with every decision.
#[derive(Debug, Default)]
pub(super) struct Bench {
    patterns: Patterns,
    ledgers: Ledgers,
}

type Ledgers = HashMap<(ProjectId, String), RetryLedger>;

impl Judging {
    /// The policies of a project, a second old at most.
    pub(super) async fn policies(&self, store: &Store, project: &ProjectId) -> StoreResult<Arc<Policies>> {
        let known = self.remembered().get(project).filter(|(_, read)| read.elapsed() < REMEMBERED).cloned();
        if let Some((policies, _)) = known {
            return Ok(policies);
        }
        let asked = Instant::now();
        let policies = Arc::new(retry_policies::all(store, project).await?);
        let mut remembered = self.remembered();
        if remembered.len() >= MANY {
            remembered.retain(|_, (_, read)| read.elapsed() < REMEMBERED);
        }
        remembered.insert(project.clone(), (policies.clone(), asked));
        Ok(policies)
    }

    /// The policies of a project have changed.
    pub(super) fn forget(&self, project: &ProjectId) {
        self.remembered().remove(project);
    }

    /// For the decisions of a batch.
    pub(super) fn bench(&self) -> MutexGuard<'_, Bench> {
        // A panic while it was held left nothing half-done that matters.
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the leases that a batch granted.
    pub(super) fn granted<'a>(&self, project: &ProjectId, changes: impl Iterator<Item = &'a Change>, now: Micros) {
        let mut leases: HashMap<&str, usize> = HashMap::new();
        for change in changes.filter(|change| change.kind == EventKind::Leased) {
            *leases.entry(&change.after.spec.queue).or_default() += 1;
        }
        if leases.is_empty() {
            return;
        }
        let mut bench = self.bench();
        for (queue, count) in leases {
            ledger(&mut bench.ledgers, project, queue, now).leased(count, now);
        }
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<ProjectId, (Arc<Policies>, Instant)>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bench {
    /// The judge of a task. `random` in [0, 1) draws its wait.
    pub(super) fn judge<'a>(
        &'a mut self,
        facts: &Facts<'_>,
        spec: &Spec,
        decider: &'a Decider,
        random: f64,
    ) -> Judge<'a> {
        let Self { patterns, ledgers } = self;
        let ledger = ledger(ledgers, facts.project, &spec.queue, facts.now);
        Judge { decider, patterns, budget: facts.policies.budget(&spec.queue), ledger, random }
    }
}

fn ledger<'a>(ledgers: &'a mut Ledgers, project: &ProjectId, queue: &str, now: Micros) -> &'a mut RetryLedger {
    if ledgers.len() >= MANY {
        ledgers.retain(|_, ledger| !ledger.is_idle(now));
    }
    ledgers.entry((project.clone(), queue.to_owned())).or_default()
}
