//! A project: the unit of isolation, ordering and quota.

use super::task::Micros;
use crate::ids::ProjectId;

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// A name for people.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// When it was created.
    pub create_time: Micros,
    /// When it last changed.
    pub update_time: Micros,
    /// The last revision of its journal.
    pub revision: i64,
}
