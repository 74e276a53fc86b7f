//! The states of a task, with the numbers used on the wire and in the database.

use std::fmt;

/// Where a task is in its life.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Waits for its run time, for a place in its queue, or for a worker.
    Pending = 1,
    /// Leased by a worker.
    Running = 2,
    /// An attempt failed; waits for the next one.
    Retrying = 3,
    /// Final: a worker completed it.
    Succeeded = 4,
    /// Final: it will not be tried again by itself.
    Failed = 5,
    /// Final: it was cancelled.
    Cancelled = 6,
}

impl TaskState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Retrying, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name as people and filters write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Retrying => "RETRYING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The state of that name; upper case only.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the task has ended, until somebody opens it again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether the task waits to be leased.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying)
    }

    /// The number stored in the database and sent on the wire.
    pub const fn number(self) -> i16 {
        self as i16
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number that is no task state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the number of a task state")]
pub struct UnknownTaskState(pub i16);

impl TryFrom<i16> for TaskState {
    type Error = UnknownTaskState;

    fn try_from(number: i16) -> Result<Self, Self::Error> {
        Self::ALL.into_iter().find(|state| state.number() == number).ok_or(UnknownTaskState(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_the_state() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::from_name(state.name()), Some(state));
            assert_eq!(TaskState::try_from(state.number()), Ok(state));
        }
        assert_eq!(TaskState::from_name("pending"), None);
        assert_eq!(TaskState::try_from(0), Err(UnknownTaskState(0)));
        assert_eq!(TaskState::try_from(7), Err(UnknownTaskState(7)));
    }
}
