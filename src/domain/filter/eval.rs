//! Runs a filter against one task, or one dead letter, in memory. Watchers do this for every event, so nothing here allocates.

use uuid::Uuid;

use super::tree::{ChoiceField, IntField, Node, Test, TextField, TextSource, TextTest, TimeField};
use crate::domain::task_state::TaskState;

/// What a filter may ask. `None` means that there is no such value.
pub trait Fields {
    /// The id of the project, without `projects/`.
    fn project(&self) -> &str;
    /// The last part of the name.
    fn id(&self) -> Uuid;
    /// The state.
    fn state(&self) -> TaskState;
    /// Whether cancellation was asked for.
    fn cancel_requested(&self) -> bool;
    /// A text field. Of the worker it is the id, without `projects/…/workers/`.
    fn text(&self, field: TextField) -> Option<&str>;
    /// A number.
    fn int(&self, field: IntField) -> i64;
    /// A time in microseconds since the epoch.
    fn time(&self, field: TimeField) -> Option<i64>;
    /// The number of a value out of a few. Tasks have none of these.
    fn choice(&self, _field: ChoiceField) -> Option<i16> {
        None
    }
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Node {
    pub(super) fn holds(&self, task: &impl Fields) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.holds(task)),
            Self::Or(nodes) => nodes.iter().any(|node| node.holds(task)),
            Self::Test { negated, test } => test.holds(task) != *negated,
        }
    }
}

impl Test {
    fn holds(&self, task: &impl Fields) -> bool {
        match self {
            Self::State(state) => task.state() == *state,
            Self::CancelRequested => task.cancel_requested(),
            Self::Choice(field, number) => task.choice(*field) == Some(*number),
            // Only the journal has kinds, and its filters run in the database.
            Self::Kinds(_) => false,
            Self::Project(project) => task.project() == project,
            Self::Id { lowest, highest } => (*lowest..=*highest).contains(&task.id()),
            Self::Int(field, relation, constant) => relation.holds(&task.int(*field), constant),
            Self::Time(field, relation, constant) => {
                task.time(*field).is_some_and(|time| relation.holds(&time, constant))
            }
            Self::TimePresent(field) => task.time(*field).is_some(),
            Self::Text(TextSource::Field(field), test) => test.holds(task.text(*field)),
            Self::Text(TextSource::Label(key), test) => test.holds(task.label(key)),
        }
    }
}

impl TextTest {
    pub(super) fn holds(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return false };
        match self {
            Self::Present => true,
            Self::Compare(relation, constant) => relation.holds(text, constant),
            Self::Matches(pattern) => pattern.matches(text),
        }
    }
}
