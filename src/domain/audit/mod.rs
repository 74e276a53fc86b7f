//! A journal row as the audit sees it, and what proves that nobody changed it.
//!
//! `seal` hashes rows and chains the hashes, `check` computes them again and names the first bad row, `fault` tells what is
//! wrong with it, and `head` is what is signed and kept elsewhere.

pub mod check;
pub mod head;
pub mod seal;

mod fault;

pub use self::fault::Fault;

use super::{
    event::{ResourceKind, UNKNOWN_ACTION},
    task::Micros,
    transition::EventKind,
};
use crate::ids::{ProjectId, TaskId, task_name};

/// A whole row of the journal, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub struct JournalRow {
    pub project: ProjectId,
    pub revision: i64,
    pub time: Micros,
    pub kind: i16,
    pub task: Option<TaskId>,
    pub resource: Option<String>,
    pub version: i64,
    pub from_state: Option<i16>,
    pub to_state: Option<i16>,
    pub actor: String,
    pub owner: Option<String>,
    pub request_id: Option<String>,
    pub address: Option<String>,
    pub agent: Option<String>,
    pub credential: Option<String>,
    pub method: Option<String>,
    pub diff: Option<String>,
    pub snapshot: Option<String>,
}

/// How a call ended. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It was done.
    Ok = 1,
    /// The caller may not do it.
    PermissionDenied = 2,
    /// The caller is not known.
    Unauthenticated = 3,
}

impl Outcome {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ok, Self::PermissionDenied, Self::Unauthenticated];

    /// The name as people and filters write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The kind of the notes of calls that ended so; none for what was done.
    pub const fn kind(self) -> Option<ResourceKind> {
        match self {
            Self::Ok => None,
            Self::PermissionDenied => Some(ResourceKind::CallRefused),
            Self::Unauthenticated => Some(ResourceKind::CallUnauthenticated),
        }
    }
}

impl JournalRow {
    /// What happened, as noun and past tense.
    pub fn action(&self) -> &'static str {
        action_of(self.kind)
    }

    /// How the call ended: what is no note of a refusal was done.
    pub fn outcome(&self) -> Outcome {
        let refused = |outcome: &Outcome| outcome.kind().is_some_and(|kind| kind as i16 == self.kind);
        Outcome::ALL.into_iter().find(refused).unwrap_or(Outcome::Ok)
    }

    /// The name of what the row is about.
    pub fn resource_name(&self) -> String {
        match (self.task, &self.resource) {
            (Some(task), _) => task_name(&self.project, task),
            (None, resource) => resource.clone().unwrap_or_default(),
        }
    }

    /// The first row that was kept when retention cut off the old end of the journal, if that is what this row says.
    pub fn trimmed_to(&self) -> Option<i64> {
        if self.kind != ResourceKind::RetentionTrimmed as i16 {
            return None;
        }
        let diff: serde_json::Value = serde_json::from_str(self.diff.as_deref()?).ok()?;
        diff.get("oldest")?.get(1)?.as_i64()
    }
}

/// All actions there are, with the numbers of their rows.
pub fn actions() -> impl Iterator<Item = (i16, &'static str)> {
    let of_tasks = EventKind::ALL.into_iter().map(|kind| (kind as i16, kind.action()));
    of_tasks.chain(ResourceKind::ALL.iter().map(|kind| (*kind as i16, kind.action())))
}

fn action_of(number: i16) -> &'static str {
    actions().find(|(kind, _)| *kind == number).map_or(UNKNOWN_ACTION, |(_, action)| action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_name_of_its_own_and_a_form() {
        let mut names: Vec<_> = actions().map(|(_, name)| name).collect();
        let form = |name: &str| {
            let part = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            name.split_once('.').is_some_and(|(noun, verb)| part(noun) && part(verb))
        };
        assert_eq!(names.iter().find(|name| !form(name)), None);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!((action_of(1), action_of(102), action_of(999)), ("task.submitted", "queue.paused", "unknown"));
    }
}
