//! Tells the worker sessions of this process what cannot wait for their next heartbeat: cancellation and drain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::ids::{ProjectId, TaskId};

/// Signals that may wait in a session. One that does not fit is not lost: the next heartbeat says the same.
const SIGNAL_LIMIT: usize = 256;

/// What a session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop an attempt.
    Cancel {
        /// The task.
        task: TaskId,
        /// The epoch of its lease.
        epoch: i64,
        /// Why.
        reason: String,
    },
    /// Take no more tasks.
    Drain,
}

/// The open sessions of this process.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    by_worker: HashMap<(ProjectId, String), HashMap<u64, Session>>,
}

#[derive(Debug)]
struct Session {
    incarnation: String,
    signals: mpsc::Sender<Signal>,
}

/// A session's place in the registry; dropping it leaves.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<Sessions>,
    key: (ProjectId, String),
    id: u64,
}

impl Sessions {
    /// Enters a session of a worker's incarnation.
    pub fn enter(
        self: &Arc<Self>,
        project: &ProjectId,
        worker: &str,
        incarnation: &str,
    ) -> (Registration, mpsc::Receiver<Signal>) {
        let (sender, signals) = mpsc::channel(SIGNAL_LIMIT);
        let key = (project.clone(), worker.to_owned());
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.by_worker
            .entry(key.clone())
            .or_default()
            .insert(id, Session { incarnation: incarnation.to_owned(), signals: sender });
        (Registration { sessions: self.clone(), key, id }, signals)
    }

    /// Tells the sessions of one incarnation of a worker.
    pub fn tell(&self, project: &ProjectId, worker: &str, incarnation: &str, signal: &Signal) {
        self.send(project, worker, |name| name == incarnation, signal);
    }

    /// Tells all sessions of a worker.
    pub fn tell_all(&self, project: &ProjectId, worker: &str, signal: &Signal) {
        self.send(project, worker, |_| true, signal);
    }

    fn send(&self, project: &ProjectId, worker: &str, to: impl Fn(&str) -> bool, signal: &Signal) {
        let open = self.lock();
        let Some(sessions) = open.by_worker.get(&(project.clone(), worker.to_owned())) else { return };
        for session in sessions.values().filter(|session| to(&session.incarnation)) {
            // Full or gone: the heartbeat answer carries it.
            let _ = session.signals.try_send(signal.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A panic while it was held left nothing half-done: every step leaves the registry consistent.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        if let Some(sessions) = open.by_worker.get_mut(&self.key) {
            sessions.remove(&self.id);
            if sessions.is_empty() {
                open.by_worker.remove(&self.key);
            }
        }
    }
}
