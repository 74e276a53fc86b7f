//! Failures of the past: counted, and put to a policy that was not there.

use super::{
    retry::{Cause, Decision, FailedAttempt, RetrySettings, Verdict, decide},
    retry_pattern::Patterns,
    retry_policy::PolicyVersion,
    task::{Decided, Micros, TaskError},
};
use crate::ids::TaskId;

/// Which failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Those that ended from this time on,
    pub start: Micros,
    /// and before this one;
    pub end: Micros,
    /// of this queue, unless it is empty;
    pub queue: String,
    /// of this type, unless it is empty.
    pub task_type: String,
}

/// An attempt that failed or timed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The task.
    pub task: TaskId,
    /// The epoch of its lease.
    pub epoch: i64,
    /// Why; without details.
    pub error: TaskError,
    /// How long the task had been open.
    pub age: Micros,
    /// Which attempt it was; 0 if that was not kept.
    pub number: i32,
    /// What was decided; none if that was not kept.
    pub decided: Option<Decided>,
}

/// Counts of failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryCounts {
    /// All.
    pub failed: i64,
    /// Followed by another attempt.
    pub retried: i64,
    /// Snoozed.
    pub snoozed: i64,
    /// The end of their task.
    pub dead_lettered: i64,
    /// Their tasks.
    pub tasks: i64,
    /// Those of them that have succeeded since.
    pub recovered_tasks: i64,
}

/// The failures of a window, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryStatistics {
    /// All of them.
    pub total: RetryCounts,
    /// By policy and rule.
    pub rules: Vec<(Option<PolicyVersion>, i32, RetryCounts)>,
    /// By error type.
    pub error_types: Vec<(String, RetryCounts)>,
    /// There are more, which are not counted.
    pub truncated: bool,
}

/// What settings would have decided otherwise.
#[derive(Clone, Debug, Default)]
pub struct Simulation {
    /// Failures looked at.
    pub examined: i64,
    /// With the same verdict.
    pub same: i64,
    /// Tried again instead of ended.
    pub saved: i64,
    /// Ended instead of tried again.
    pub dead_lettered: i64,
    /// Retried instead of snoozed, or the other way round.
    pub other: i64,
    /// The first [`MAX_DIFFERENCES`] of those with another verdict: the failure, what was decided, what would have been.
    pub differences: Vec<(Failure, Decided, Decision)>,
    /// There are more failures than were looked at.
    pub truncated: bool,
}

/// Most failures that are told one by one.
pub const MAX_DIFFERENCES: usize = 100;

/// The wait does not matter for what a simulation compares.
const DRAW: f64 = 0.5;

impl Simulation {
    /// Puts a failure to settings. What a worker called final, and what was not kept, is passed over.
    pub fn put(&mut self, failure: Failure, settings: &RetrySettings, patterns: &mut Patterns) {
        let asked = |decided: &Decided| !matches!(decided.decision.cause, Cause::Final | Cause::Expired);
        let Some(was) = failure.decided.clone().filter(asked) else { return };
        let failed =
            FailedAttempt { error: &failure.error, number: failure.number, age: failure.age, retry_after: None };
        let would_be = decide(settings, &failed, patterns, DRAW);
        self.examined += 1;
        let count = match (was.decision.verdict, would_be.verdict) {
            (Verdict::Retry(_), Verdict::Retry(_))
            | (Verdict::Snooze(_), Verdict::Snooze(_))
            | (Verdict::DeadLetter, Verdict::DeadLetter) => {
                self.same += 1;
                return;
            }
            (Verdict::DeadLetter, _) => &mut self.saved,
            (_, Verdict::DeadLetter) => &mut self.dead_lettered,
            _ => &mut self.other,
        };
        *count += 1;
        if self.differences.len() < MAX_DIFFERENCES {
            self.differences.push((failure, was, would_be));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::{Action, Rule};

    #[test]
    fn a_simulation_counts_what_would_have_been_decided_otherwise() {
        let failure = |error_type: &str, number, verdict, cause| Failure {
            task: TaskId(uuid::Uuid::nil()),
            epoch: 1,
            error: TaskError::own(error_type, ""),
            age: 0,
            number,
            decided: Some(Decided { decision: Decision { verdict, cause, rule: 0 }, policy: None }),
        };
        let rule = |error_type: &str, action| Rule { error_type: error_type.into(), action, ..Rule::default() };
        let settings = RetrySettings {
            max_attempts: 3,
            rules: vec![rule("Fatal", Action::DeadLetter), rule("Busy", Action::Snooze(1))],
            ..RetrySettings::default()
        };
        let failures = vec![
            failure("Any", 1, Verdict::Retry(1), Cause::Default),
            failure("Any", 2, Verdict::DeadLetter, Cause::MaxAttempts),
            failure("Any", 3, Verdict::Retry(9), Cause::Default),
            failure("Fatal", 1, Verdict::Retry(9), Cause::Default),
            failure("Busy", 9, Verdict::Retry(9), Cause::Default),
            failure("Any", 1, Verdict::DeadLetter, Cause::Final),
            Failure { decided: None, ..failure("Any", 0, Verdict::DeadLetter, Cause::Rule) },
        ];
        let (mut simulation, mut patterns) = (Simulation::default(), Patterns::default());
        for failure in failures {
            simulation.put(failure, &settings, &mut patterns);
        }
        let Simulation { examined, same, saved, dead_lettered, other, differences, truncated: _ } = simulation;
        assert_eq!((examined, same, saved, dead_lettered, other), (5, 1, 1, 2, 1));
        let told: Vec<Verdict> = differences.iter().map(|(_, _, would_be)| would_be.verdict).collect();
        use Verdict::{DeadLetter, Retry, Snooze};
        assert!(matches!(told[..], [Retry(_), DeadLetter, DeadLetter, Snooze(_)]), "{told:?}");
    }
}
