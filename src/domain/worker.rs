//! Workers: known by name, alive by their incarnations.

use std::collections::BTreeMap;

use super::task::{Micros, SECOND};
use crate::ids::ProjectId;

/// An incarnation that was not seen for this long is taken for gone: three missed heartbeats.
pub const PRESENCE_LIMIT: Micros = 60 * SECOND;

/// Incarnations are shown, and kept, for this long after they were last seen.
pub const INCARNATION_KEPT: Micros = 3600 * SECOND;

/// What a worker says of itself when it asks for tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub worker: String,
    /// Which process of it.
    pub incarnation: String,
    /// The task types it handles.
    pub types: Vec<String>,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// How many tasks it runs at a time.
    pub slots: i32,
    /// Anything else.
    pub labels: BTreeMap<String, String>,
}

/// A worker with the processes seen lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: WorkerState,
    /// Its processes.
    pub incarnations: Vec<Incarnation>,
    /// Tasks it runs now.
    pub running_count: i64,
    /// When it was first seen.
    pub create_time: Micros,
    /// When it was last seen.
    pub last_seen_time: Micros,
}

/// One process of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// What it calls itself.
    pub incarnation: String,
    /// The task types it handles.
    pub types: Vec<String>,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// How many tasks it runs at a time.
    pub slots: i32,
    /// Anything else.
    pub labels: BTreeMap<String, String>,
    /// Whether it was told to drain.
    pub draining: bool,
    /// When it was first seen.
    pub start_time: Micros,
    /// When it was last seen.
    pub last_seen_time: Micros,
}

/// How a worker is. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkerState {
    /// At least one incarnation was seen within [`PRESENCE_LIMIT`] and does not drain.
    Online = 1,
    /// All incarnations seen lately drain.
    Draining = 2,
    /// None was seen lately.
    Offline = 3,
}

impl WorkerState {
    /// The state of a worker with these processes.
    pub fn of(incarnations: &[Incarnation], now: Micros) -> Self {
        let mut live = incarnations.iter().filter(|i| now - i.last_seen_time <= PRESENCE_LIMIT).peekable();
        if live.peek().is_none() {
            Self::Offline
        } else if live.all(|i| i.draining) {
            Self::Draining
        } else {
            Self::Online
        }
    }
}
