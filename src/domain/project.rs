//! A project: the unit of isolation, ordering and quota.

use super::task::{DAY, Micros, SECOND, Task};
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
    /// When it was deleted, and until when that can be taken back.
    pub deletion: Option<Deletion>,
}

/// The deletion of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// When.
    pub time: Micros,
    /// Until when it can be taken back.
    pub purge_time: Micros,
}

/// How long a deletion can be taken back.
pub const UNDELETE_WINDOW: Micros = 30 * DAY;

/// From the deletion of a project until its tasks are cancelled: every replica has heard of it by then, so none of them
/// takes another task.
pub const CANCEL_DELAY: Micros = 10 * SECOND;

/// What an update of a project changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectPatch {
    /// A name for people.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

/// What a list of projects is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectQuery {
    /// Those the caller may see; none for all.
    pub visible: Option<Vec<ProjectId>>,
    /// Only those with this text in them, in small letters; empty for all.
    pub text: String,
    /// By the time they were created, not by id.
    pub by_time: bool,
    /// The last first.
    pub descending: bool,
    /// Also deleted ones.
    pub show_deleted: bool,
    /// Go on after this one: when it was created, its id.
    pub after: Option<(Micros, String)>,
    /// Most to answer.
    pub limit: i64,
}

/// A bounded look at the tasks of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProjectTasks {
    /// PENDING, up to a bound.
    pub pending: i64,
    /// RETRYING, up to a bound.
    pub retrying: i64,
    /// RUNNING.
    pub running: i64,
    /// FAILED, up to a bound.
    pub failed: i64,
    /// CANCELLED, up to a bound.
    pub cancelled: i64,
    /// All that ever succeeded.
    pub succeeded: i64,
    /// The newest.
    pub latest: Vec<Task>,
}
