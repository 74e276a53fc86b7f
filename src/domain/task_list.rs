//! What a page of tasks is asked for by, and where the next one goes on.

use super::{authority::Share, filter::Filter, task::Micros};
use crate::ids::TaskId;

/// A place in the list, between two tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// `create_time` of the last task seen.
    pub create_time: Micros,
    /// Its id.
    pub id: TaskId,
}

/// A page of tasks.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which tasks.
    pub filter: Filter,
    /// Of those the caller may reach.
    pub share: Share,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// Go on after this place.
    pub after: Option<Position>,
    /// Most tasks to answer.
    pub limit: u64,
    /// With input and result.
    pub full: bool,
}

impl ListQuery {
    /// The newest tasks that match, without payloads, of all that there are.
    pub fn newest(filter: Filter, limit: u64) -> Self {
        Self { filter, share: Share::All, ascending: false, after: None, limit, full: false }
    }
}
