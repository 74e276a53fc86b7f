//! The filter language: AIP-160 over the fields of a task, of a dead letter, or of an audit entry.
//!
//! The cast: `cursor` cuts the text into words and strings, `parser` knows the grammar, `schema` knows the fields of each and
//! what may be compared with what, `tree` is the result, `eval` runs it against a task in memory. The store turns the
//! same tree into SQL. A filter is immutable and owns nothing but its tree. A text that is no filter gives one
//! `FilterError` with the column and what to write instead; no text makes this panic or recurse beyond `MAX_DEPTH`.
//!
//! What surprises people: OR binds tighter than AND, so `a OR b AND c` is `(a OR b) AND c`. A field without a value is
//! not equal to anything: every comparison with it is false, and `!=`, like any negation, is true. There is no third
//! truth value.

mod cursor;
mod error;
mod eval;
mod parser;
mod pattern;
mod schema;
mod timestamp;
mod tree;

use uuid::Uuid;

pub use self::error::FilterError;
pub use self::eval::Fields;
pub use self::pattern::Pattern;
pub use self::tree::{
    AuditField, ChoiceField, IntField, Node, Relation, Test, TextField, TextSource, TextTest, TimeField,
};
use super::task_state::TaskState;

/// The longest filter, in bytes. Filters live in page tokens, alert rules and URLs.
pub const MAX_BYTES: usize = 2048;
/// The most comparisons in a filter. Each of them is work for every row looked at.
pub const MAX_TERMS: usize = 50;
/// The deepest nesting of parentheses. It bounds every recursion over the tree.
pub const MAX_DEPTH: usize = 20;

/// A parsed filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    root: Node,
}

impl Filter {
    /// The filter that matches every task.
    pub const fn everything() -> Self {
        Self { root: Node::And(Vec::new()) }
    }

    /// Reads a filter. The empty text and `*` match every task.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Self::parse_with(text, &schema::TASKS)
    }

    /// Reads a filter of dead letters.
    pub fn parse_dead_letters(text: &str) -> Result<Self, FilterError> {
        Self::parse_with(text, &schema::DEAD_LETTERS)
    }

    /// Reads a filter of audit entries.
    pub fn parse_audit_entries(text: &str) -> Result<Self, FilterError> {
        Self::parse_with(text, &schema::AUDIT_ENTRIES)
    }

    fn parse_with(text: &str, schema: &schema::Schema) -> Result<Self, FilterError> {
        match parser::parse(text, schema) {
            Ok(root) => Ok(Self { root }),
            Err(fault) => Err(fault.locate(text)),
        }
    }

    /// Whether the task matches.
    pub fn matches(&self, task: &impl Fields) -> bool {
        self.root.holds(task)
    }

    /// Whether it matches every task because it asks for nothing.
    pub fn is_everything(&self) -> bool {
        matches!(&self.root, Node::And(nodes) if nodes.is_empty())
    }

    /// The only states a matching task can be in, in the order of their numbers; `None` when it can be in any. An empty
    /// list means that no task matches.
    pub fn required_states(&self) -> Option<Vec<TaskState>> {
        let states = self.root.states();
        (!states.is_full()).then(|| states.iter().collect())
    }

    /// The only task that can match, if the filter names one. The filter may ask for more than the name.
    pub fn pinned_task(&self) -> Option<Uuid> {
        self.root.pinned_task()
    }

    /// The only queue a matching task can be in, if the filter names one. The filter may ask for more than the queue.
    pub fn pinned_queue(&self) -> Option<&str> {
        self.root.pinned_queue()
    }

    /// What matches was created, or happened, in this span, both ends included.
    pub fn create_span(&self) -> (i64, i64) {
        self.root.create_span()
    }

    /// The filter that matches what this one matches and what meets another condition too.
    #[must_use]
    pub fn and(self, condition: Node) -> Self {
        Self { root: Node::And(vec![self.root, condition]) }
    }

    /// The tree, for those who turn it into something else.
    pub fn root(&self) -> &Node {
        &self.root
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::everything()
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
