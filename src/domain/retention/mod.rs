//! How long final tasks are kept: the rules, the verdict on one task, and what a run of retention adds up.
//!
//! A run judges every task by the moment it began, so a preview, a run and a run that was interrupted come to the same.

mod daily;
mod run;

use serde::{Deserialize, Serialize};

pub use self::{
    daily::DailyTime,
    run::{Counts, RetentionRun, RunState, Tally, Trigger, next_batch, pause_after},
};
use super::{
    glob::glob_matches,
    task::{DAY, Micros},
    task_list::Position,
    task_state::TaskState,
};
use crate::ids::ProjectId;

/// Most rules of a project: each task is held against them one by one.
pub const MAX_RULES: usize = 100;
/// The longest age: a century, which is for ever and still far from where times end.
pub const MAX_AGE: Micros = 36_500 * DAY;

/// How long some final tasks are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRule {
    /// Only tasks that ended so; empty means however they ended.
    #[serde(with = "state_names")]
    pub states: Vec<TaskState>,
    /// Only types like this; empty means every type.
    #[serde(rename = "type")]
    pub task_type: String,
    /// Only queues like this; empty means every queue.
    pub queue: String,
    /// How long after they became final.
    pub age: Micros,
}

impl RetentionRule {
    fn matches(&self, candidate: &Candidate) -> bool {
        (self.states.is_empty() || self.states.contains(&candidate.state))
            && (self.task_type.is_empty() || glob_matches(&self.task_type, &candidate.task_type))
            && (self.queue.is_empty() || glob_matches(&self.queue, &candidate.queue))
    }
}

/// States as their names, so that what is stored can be read.
mod state_names {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::domain::task_state::TaskState;

    pub(super) fn serialize<S: Serializer>(states: &[TaskState], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(states.iter().map(|state| state.name()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<TaskState>, D::Error> {
        let names: Vec<String> = Vec::deserialize(from)?;
        let state = |name: &String| TaskState::from_name(name).ok_or_else(|| D::Error::custom("no state of a task"));
        names.iter().map(state).collect()
    }
}

/// The rules of a project and what applies where they say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// The first that matches decides.
    pub rules: Vec<RetentionRule>,
    /// The age of tasks that no rule matches.
    pub default_age: Micros,
}

/// What there is to know of a task that may have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place among the tasks of the project.
    pub place: Position,
    /// Its type.
    pub task_type: String,
    /// Its queue.
    pub queue: String,
    /// Its state; while it is open, any that is not final.
    pub state: TaskState,
    /// When it became final.
    pub finish_time: Option<Micros>,
    /// Whether a dead letter of it waits for somebody.
    pub has_open_dead_letter: bool,
}

/// What is to become of a task. A rule goes by its number; the default one comes after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It waits or runs: none of our business.
    NotFinal,
    /// It is not old enough.
    Young {
        /// Which rule says so.
        rule: usize,
    },
    /// It is old enough, but its dead letter is open.
    OpenDeadLetter,
    /// It goes.
    Due {
        /// Which rule says so.
        rule: usize,
    },
}

impl RetentionPolicy {
    /// What is to become of a task in a run that began at `at`. It goes when more than its age has passed since it became
    /// final; at exactly its age it stays.
    pub fn verdict(&self, candidate: &Candidate, at: Micros) -> Verdict {
        let Some(finish_time) = candidate.finish_time.filter(|_| candidate.state.is_final()) else {
            return Verdict::NotFinal;
        };
        let rule = self.rules.iter().position(|rule| rule.matches(candidate)).unwrap_or(self.rules.len());
        if finish_time >= at.saturating_sub(self.age_of(rule)) {
            Verdict::Young { rule }
        } else if candidate.has_open_dead_letter {
            Verdict::OpenDeadLetter
        } else {
            Verdict::Due { rule }
        }
    }

    /// No task submitted at this time or later can be due: it became final later still.
    pub fn horizon(&self, at: Micros) -> Micros {
        let ages = self.rules.iter().map(|rule| rule.age);
        at.saturating_sub(ages.fold(self.default_age, Micros::min))
    }

    /// Each rule, and the default one as a rule.
    pub fn all_rules(&self) -> impl Iterator<Item = RetentionRule> + '_ {
        let default = RetentionRule { age: self.default_age, ..RetentionRule::default() };
        self.rules.iter().cloned().chain([default])
    }

    fn age_of(&self, rule: usize) -> Micros {
        self.rules.get(rule).map_or(self.default_age, |rule| rule.age)
    }
}

/// The rules of a project as they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The project.
    pub project: ProjectId,
    /// The rules.
    pub rules: Vec<RetentionRule>,
    /// When they last changed.
    pub update_time: Option<Micros>,
    /// When the next daily run is due.
    pub next_run_time: Micros,
}

/// What a server is told about retention.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionSettings {
    /// How long final tasks are kept that no rule matches.
    pub history: Micros,
    /// How old the first change may be that a resume token has not seen.
    pub feed: Micros,
    /// How long the record of who changed what is kept at least.
    pub audit: Micros,
    /// When the daily run is.
    pub daily: DailyTime,
}

impl RetentionSettings {
    /// How long rows of the journal are kept: it is history, feed and audit in one.
    pub fn journal(&self) -> Micros {
        self.history.max(self.feed).max(self.audit)
    }
}

impl Default for RetentionSettings {
    /// 30 days of history, 7 of the feed, 90 of the audit; at 02:00 UTC.
    fn default() -> Self {
        Self { history: 30 * DAY, feed: 7 * DAY, audit: 90 * DAY, daily: DailyTime::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;

    fn candidate(state: TaskState, task_type: &str, queue: &str, finish_time: Micros) -> Candidate {
        Candidate {
            place: Position { create_time: 0, id: TaskId::generate() },
            task_type: task_type.to_owned(),
            queue: queue.to_owned(),
            state,
            finish_time: Some(finish_time),
            has_open_dead_letter: false,
        }
    }

    fn policy() -> RetentionPolicy {
        let rule = |states: &[TaskState], task_type: &str, queue: &str, age| RetentionRule {
            states: states.to_vec(),
            task_type: task_type.to_owned(),
            queue: queue.to_owned(),
            age,
        };
        let rules = vec![
            rule(&[TaskState::Failed], "", "", 1_000),
            rule(&[], "mail.*", "bulk", 10),
            rule(&[TaskState::Succeeded, TaskState::Cancelled], "mail.*", "", 20),
        ];
        RetentionPolicy { rules, default_age: 100 }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use TaskState::{Cancelled, Failed, Succeeded};
        for (state, task_type, queue, rule) in [
            (Failed, "mail.send", "bulk", 0),
            (Succeeded, "mail.send", "bulk", 1),
            (Succeeded, "mail.send", "other", 2),
            (Cancelled, "mail.", "bulky", 2),
            (Succeeded, "mail", "bulk", 3),
            (Succeeded, "x.mail.send", "bulk", 3),
        ] {
            let old = candidate(state, task_type, queue, -1_000_000);
            assert_eq!(policy().verdict(&old, 0), Verdict::Due { rule }, "{state} {task_type} {queue}");
        }
    }

    #[test]
    fn a_task_goes_one_microsecond_after_its_age() {
        let at = 5_000;
        for (rule, age) in [(3, 100), (0, 1_000)] {
            let state = if rule == 0 { TaskState::Failed } else { TaskState::Succeeded };
            let verdict = |finish_time| policy().verdict(&candidate(state, "t", "q", finish_time), at);
            assert_eq!(verdict(at - age - 1), Verdict::Due { rule });
            assert_eq!(verdict(at - age), Verdict::Young { rule });
            assert_eq!(verdict(at - age + 1), Verdict::Young { rule });
        }
        assert_eq!(policy().horizon(at), at - 10);
    }

    #[test]
    fn what_is_not_final_and_open_dead_letters_stay() {
        for state in [TaskState::Pending, TaskState::Running, TaskState::Retrying] {
            assert_eq!(policy().verdict(&candidate(state, "t", "q", 0), Micros::MAX), Verdict::NotFinal);
        }
        let unknown = Candidate { finish_time: None, ..candidate(TaskState::Failed, "t", "q", 0) };
        assert_eq!(policy().verdict(&unknown, Micros::MAX), Verdict::NotFinal);
        let letter = Candidate { has_open_dead_letter: true, ..candidate(TaskState::Failed, "t", "q", 0) };
        assert_eq!(policy().verdict(&letter, 1_000), Verdict::Young { rule: 0 });
        assert_eq!(policy().verdict(&letter, 1_001), Verdict::OpenDeadLetter);
    }

    #[test]
    fn rules_come_back_from_what_is_stored() {
        let text = serde_json::to_string(&policy()).unwrap();
        assert!(text.contains(r#"{"states":["SUCCEEDED","CANCELLED"],"type":"mail.*","queue":"","age":20}"#), "{text}");
        assert_eq!(serde_json::from_str::<RetentionPolicy>(&text).unwrap(), policy());
        assert!(serde_json::from_str::<RetentionPolicy>(&text.replace("FAILED", "BORED")).is_err());
    }

    #[test]
    fn the_journal_is_kept_for_whoever_needs_it_longest() {
        let settings = RetentionSettings::default();
        assert_eq!(settings.journal(), 90 * DAY);
        assert_eq!(RetentionSettings { history: 365 * DAY, ..settings.clone() }.journal(), 365 * DAY);
        assert_eq!(RetentionSettings { feed: 100 * DAY, ..settings }.journal(), 100 * DAY);
    }
}
