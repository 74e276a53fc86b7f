//! What earlier batches found out, so that the next ones need not ask. None of it is the truth: whatever is decided on a
//! hint is either checked by the write or harmless when it is wrong.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::claims::Claims;
use crate::{domain::task::Micros, ids::ProjectId, store::queues::SeenQueue};

/// Tasks whose time has come are marked due at most this often per project; the dispatch loop polls slower than this.
const PROMOTE_INTERVAL: Micros = 50_000;
/// After an optimistic batch has lost against another transaction, so long those of its project lock what they read.
/// Others work on the same rows, most likely a second replica, and a batch that loses is work for nothing.
const CAUTION: Duration = Duration::from_secs(1);

/// The hints of all projects.
#[derive(Debug, Default)]
pub(super) struct Hints(Mutex<HashMap<ProjectId, OfProject>>);

#[derive(Debug, Default)]
struct OfProject {
    /// Queues whose rows are known to exist. Only grows: queues are not deleted.
    known: HashSet<String>,
    /// Queues that had a limit when they were last claimed from: when a task of theirs ends, another may begin.
    limited: HashSet<String>,
    /// Queues without a limit as an optimistic batch last saw them.
    seen: HashMap<String, SeenQueue>,
    /// When tasks were last marked due, by the database's clock.
    promoted: Option<Micros>,
    /// When an optimistic batch last lost.
    lost: Option<Instant>,
}

impl Hints {
    /// Those of some queues that may not have a row yet.
    pub(super) fn new_queues<'a>(&self, project: &ProjectId, names: impl Iterator<Item = &'a str>) -> Vec<String> {
        let projects = self.lock();
        let known = projects.get(project).map(|hints| &hints.known);
        names.filter(|name| known.is_none_or(|known| !known.contains(*name))).map(str::to_owned).collect()
    }

    /// These queues have a row.
    pub(super) fn made(&self, project: &ProjectId, names: Vec<String>) {
        if !names.is_empty() {
            self.lock().entry(project.clone()).or_default().known.extend(names);
        }
    }

    /// What a batch has seen of the queues it claims from.
    pub(super) fn claimed(&self, project: &ProjectId, claims: &Claims) {
        if claims.settings.is_empty() {
            return;
        }
        let mut projects = self.lock();
        let hints = projects.entry(project.clone()).or_default();
        hints.seen.extend(claims.seen.iter().map(|(name, queue)| (name.clone(), *queue)));
        for name in claims.settings.keys() {
            if claims.allowed.contains_key(name) {
                hints.limited.insert(name.clone());
            } else {
                hints.limited.remove(name);
            }
        }
    }

    /// A queue as an optimistic batch last saw it.
    pub(super) fn seen(&self, project: &ProjectId, queue: &str) -> Option<SeenQueue> {
        self.lock().get(project)?.seen.get(queue).copied()
    }

    /// Those of some queues that have a limit.
    pub(super) fn limited<'a>(&self, project: &ProjectId, queues: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let projects = self.lock();
        let Some(hints) = projects.get(project).filter(|hints| !hints.limited.is_empty()) else { return Vec::new() };
        queues.filter(|queue| hints.limited.contains(*queue)).collect()
    }

    /// An optimistic batch lost: its project is careful for a while, and what it saw of queues may be old.
    pub(super) fn lost(&self, project: &ProjectId) {
        let mut projects = self.lock();
        let hints = projects.entry(project.clone()).or_default();
        hints.lost = Some(Instant::now());
        hints.seen.clear();
    }

    /// Whether batches of the project had better lock what they read.
    pub(super) fn is_careful(&self, project: &ProjectId) -> bool {
        let lost = self.lock().get(project).and_then(|hints| hints.lost);
        lost.is_some_and(|lost| lost.elapsed() < CAUTION)
    }

    /// Whether it is time to mark tasks due; says so once in an interval.
    pub(super) fn promotes_now(&self, project: &ProjectId, now: Micros) -> bool {
        let mut projects = self.lock();
        let hints = projects.entry(project.clone()).or_default();
        if hints.promoted.is_some_and(|last| (0..PROMOTE_INTERVAL).contains(&(now - last))) {
            return false;
        }
        hints.promoted = Some(now);
        true
    }

    /// Nothing was marked due after all.
    pub(super) fn did_not_promote(&self, project: &ProjectId) {
        if let Some(hints) = self.lock().get_mut(project) {
            hints.promoted = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, OfProject>> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
