//! The parsed filter. Negation sits only on the tests at the leaves (the parser pushes it down), so that each test is
//! made two-valued in one place and the rest is plain AND and OR.

use uuid::Uuid;

use super::pattern::Pattern;
use crate::domain::task_state::TaskState;

/// A condition on a task, a dead letter or an audit entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// All of them hold; of none, true.
    And(Vec<Node>),
    /// At least one of them holds.
    Or(Vec<Node>),
    /// The test holds, or, negated, does not.
    Test {
        /// Whether the test must fail.
        negated: bool,
        /// What is tested.
        test: Test,
    },
}

/// One test on one field. On a field without a value it is false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// The task is in this state.
    State(TaskState),
    /// Cancellation was asked for.
    CancelRequested,
    /// The field has the value of this number.
    Choice(ChoiceField, i16),
    /// The audit entry is of one of these kinds of journal rows.
    Kinds(Vec<i16>),
    /// The task belongs to this project. It comes from full names like `projects/p/tasks/…`.
    Project(String),
    /// The task's id is in this range, both ends included. An exact name is the range of one.
    Id {
        /// The first id.
        lowest: Uuid,
        /// The last id.
        highest: Uuid,
    },
    /// A number compared with a constant.
    Int(IntField, Relation, i64),
    /// A time compared with a constant, in microseconds since the epoch.
    Time(TimeField, Relation, i64),
    /// The time is set.
    TimePresent(TimeField),
    /// A test on a text.
    Text(TextSource, TextTest),
}

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextSource {
    /// A field.
    Field(TextField),
    /// The label of this key.
    Label(String),
}

/// A test on a text. Order is the order of the UTF-8 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextTest {
    /// There is a text, be it empty.
    Present,
    /// The text compared with a constant.
    Compare(Relation, String),
    /// The text has this form.
    Matches(Pattern),
}

/// How a value stands to a constant. "Not equal" is a negated `Equal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Relation {
    /// Whether `value` stands in this relation to `constant`.
    pub fn holds<T: PartialOrd + ?Sized>(self, value: &T, constant: &T) -> bool {
        match self {
            Self::Equal => value == constant,
            Self::Less => value < constant,
            Self::LessOrEqual => value <= constant,
            Self::Greater => value > constant,
            Self::GreaterOrEqual => value >= constant,
        }
    }
}

/// The fields that hold a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextField {
    /// `type`
    Type,
    /// `queue`
    Queue,
    /// `owner`
    Owner,
    /// `unique_key`
    UniqueKey,
    /// `worker`: the worker's id, not its full name.
    Worker,
    /// `error.type`
    ErrorType,
    /// `error.message`
    ErrorMessage,
    /// `fingerprint`, of dead letters.
    Fingerprint,
    /// One of audit entries.
    Audit(AuditField),
}

/// The fields of audit entries that hold a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditField {
    /// `actor`
    Actor,
    /// `credential`
    Credential,
    /// `method`
    Method,
    /// `resource`: the whole name.
    Resource,
    /// `request_id`
    RequestId,
    /// `address`
    Address,
    /// `user_agent`
    Agent,
}

/// The fields that hold one value out of a few, but for the state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoiceField {
    /// `state`, of dead letters: the numbers of `DeadLetterState`.
    DeadLetterState,
    /// `reason`, of dead letters: the numbers of `DeadLetterReason`.
    DeadLetterReason,
}

/// The fields that hold a number. Every task has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntField {
    /// `priority`
    Priority,
    /// `attempt_count`
    AttemptCount,
    /// `crash_count`
    CrashCount,
}

/// The fields that hold a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeField {
    /// `create_time`; of audit entries `event_time`.
    Create,
    /// `update_time`
    Update,
    /// `run_time`
    Run,
    /// `finish_time`
    Finish,
    /// `expire_time`
    Expire,
}

/// A set of task states, one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct StateSet(u8);

impl StateSet {
    const EMPTY: Self = Self(0);

    const fn of(state: TaskState) -> Self {
        Self(1 << state as u8)
    }

    fn full() -> Self {
        TaskState::ALL.into_iter().fold(Self::EMPTY, |set, state| Self(set.0 | Self::of(state).0))
    }

    pub(super) fn is_full(self) -> bool {
        self == Self::full()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = TaskState> {
        TaskState::ALL.into_iter().filter(move |state| self.0 & Self::of(*state).0 != 0)
    }
}

impl Node {
    /// Joins the parts of an AND, or of an OR; one part stays as it is.
    pub(super) fn join(mut nodes: Vec<Self>, and: bool) -> Self {
        match (nodes.pop(), nodes.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => {
                nodes.push(last);
                if and { Self::And(nodes) } else { Self::Or(nodes) }
            }
            (None, _) => Self::And(nodes),
        }
    }

    /// The states in which the condition can hold: never too few, sometimes too many.
    pub(super) fn states(&self) -> StateSet {
        match self {
            Self::And(nodes) => nodes.iter().fold(StateSet::full(), |set, node| StateSet(set.0 & node.states().0)),
            Self::Or(nodes) => nodes.iter().fold(StateSet::EMPTY, |set, node| StateSet(set.0 | node.states().0)),
            Self::Test { test: Test::State(state), negated: false } => StateSet::of(*state),
            Self::Test { test: Test::State(state), negated: true } => {
                StateSet(StateSet::full().0 & !StateSet::of(*state).0)
            }
            Self::Test { .. } => StateSet::full(),
        }
    }

    /// The one task for which the condition can hold, if a part that must hold says so.
    pub(super) fn pinned_task(&self) -> Option<Uuid> {
        match self {
            Self::And(nodes) => nodes.iter().find_map(Self::pinned_task),
            Self::Test { test: Test::Id { lowest, highest }, negated: false } if lowest == highest => Some(*lowest),
            Self::Or(_) | Self::Test { .. } => None,
        }
    }

    /// The span of `create_time` outside of which the condition cannot hold, as far as parts that must hold say so.
    pub(super) fn create_span(&self) -> (i64, i64) {
        match self {
            Self::And(nodes) => nodes
                .iter()
                .map(Self::create_span)
                .fold((i64::MIN, i64::MAX), |(from, to), (low, high)| (from.max(low), to.min(high))),
            Self::Test { test: Test::Time(TimeField::Create, relation, time), negated: false } => match relation {
                Relation::Equal => (*time, *time),
                Relation::Less | Relation::LessOrEqual => (i64::MIN, *time),
                Relation::Greater | Relation::GreaterOrEqual => (*time, i64::MAX),
            },
            Self::Or(_) | Self::Test { .. } => (i64::MIN, i64::MAX),
        }
    }

    /// The one queue in which the condition can hold, if a part that must hold says so.
    pub(super) fn pinned_queue(&self) -> Option<&str> {
        match self {
            Self::And(nodes) => nodes.iter().find_map(Self::pinned_queue),
            Self::Test {
                test: Test::Text(TextSource::Field(TextField::Queue), TextTest::Compare(Relation::Equal, queue)),
                negated: false,
            } => Some(queue),
            Self::Or(_) | Self::Test { .. } => None,
        }
    }
}
