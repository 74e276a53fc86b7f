//! Rules of retention, previews, runs.

use super::{count, length, moment, moment_in_full, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{
        PreviewRetentionResponse, Retention, RetentionRule, RetentionRun, RetentionTally,
        retention_run::{State, Trigger},
        task,
    },
};

/// A rule as `retention set` reads it.
fn rule(rule: &RetentionRule) -> String {
    let states: Vec<&str> = rule
        .states
        .iter()
        .filter_map(|number| task::State::try_from(*number).ok())
        .map(|state| strip(state.as_str_name(), "STATE_"))
        .collect();
    let mut parts = Vec::new();
    for (key, value) in [("state", states.join("+")), ("type", rule.r#type.clone()), ("queue", rule.queue.clone())] {
        if !value.is_empty() {
            parts.push(format!("{key}={value}"));
        }
    }
    parts.push(format!("age={}", age(rule.age.as_ref())));
    parts.join(",")
}

/// An age as `retention set` reads it: in days, if it is whole ones.
fn age(age: Option<&prost_types::Duration>) -> String {
    const DAY: i64 = 86_400;
    match age {
        None => String::new(),
        Some(prost_types::Duration { seconds: 0, nanos: 0 }) => "0s".to_owned(),
        Some(prost_types::Duration { seconds, nanos: 0 }) if seconds % DAY == 0 => format!("{}d", seconds / DAY),
        other => length(other),
    }
}

/// A line for each rule: what it deletes, what it keeps.
fn tallies(tallies: &[RetentionTally], look: &Look) -> String {
    let line = |tally: &RetentionTally| {
        let rule = tally.rule.as_ref().map(rule).unwrap_or_default();
        let default = if tally.is_default { " (default)" } else { "" };
        let oldest = tally.oldest_finish_time.as_ref().map(|time| crate::cli::time::relative(time, look.now));
        let oldest = oldest.map(|oldest| format!(", the oldest ended {oldest}")).unwrap_or_default();
        format!("{rule}{default}: {} deleted{oldest}, {} kept", tally.deleted_count, tally.kept_count)
    };
    tallies.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Resource for Retention {
    const PROTO: &'static str = "tasktower.v1.Retention";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["RETENTION", "RULES", "DEFAULT AGE", "NEXT RUN"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            self.name.as_str().into(),
            self.rules.len().to_string().into(),
            age(self.default_age.as_ref()).into(),
            moment(self.next_run_time.as_ref(), look),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Retention", Styled::new(&self.name, Color::Bold)),
            ("Rules", self.rules.iter().map(rule).collect::<Vec<_>>().join("\n").into()),
            ("Default age", age(self.default_age.as_ref()).into()),
            ("Feed", age(self.feed_age.as_ref()).into()),
            ("Audit", age(self.audit_age.as_ref()).into()),
            ("Journal", age(self.journal_age.as_ref()).into()),
            ("Daily at", format!("{} {}", self.daily_time, self.time_zone).into()),
            ("Next run", moment_in_full(self.next_run_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("ETag", self.etag.as_str().into()),
        ]
    }
}

impl Resource for PreviewRetentionResponse {
    const PROTO: &'static str = "tasktower.v1.PreviewRetentionResponse";

    /// A preview has no name; the etag says of which rules it is.
    fn name(&self) -> &str {
        &self.etag
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["TO DELETE", "KEPT", "OPEN DEAD LETTERS", "JOURNAL ROWS"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        [self.deleted_count, self.kept_count, self.open_dead_letter_count, self.journal_deleted_count]
            .map(|number| number.to_string().into())
            .into()
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let partial = if self.is_partial { "the oldest tasks only: there are too many to count" } else { "" };
        vec![
            ("To delete", self.deleted_count.to_string().into()),
            ("Kept", self.kept_count.to_string().into()),
            ("Open dead letters", self.open_dead_letter_count.to_string().into()),
            ("Journal rows", self.journal_deleted_count.to_string().into()),
            ("Counted", Styled::new(partial, Color::Yellow)),
            ("By rule", tallies(&self.tallies, look).into()),
        ]
    }
}

fn state(run: &RetentionRun) -> Styled {
    let color = match run.state() {
        State::Running => Color::Cyan,
        State::Succeeded => Color::Green,
        State::Failed => Color::Red,
        State::Unspecified => Color::Dim,
    };
    Styled::new(strip(run.state().as_str_name(), "STATE_"), color)
}

fn trigger(run: &RetentionRun) -> &'static str {
    match run.trigger() {
        Trigger::Daily => "DAILY",
        Trigger::Call => "CALL",
        Trigger::Unspecified => "",
    }
}

impl Resource for RetentionRun {
    const PROTO: &'static str = "tasktower.v1.RetentionRun";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["RETENTION RUN", "TRIGGER", "STATE", "DELETED", "KEPT", "JOURNAL", "ERRORS", "CREATED", "OWNER"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            names::id(&self.name).into(),
            trigger(self).into(),
            state(self),
            self.deleted_count.to_string().into(),
            self.kept_count.to_string().into(),
            self.journal_deleted_count.to_string().into(),
            count(self.error_count, Color::Red),
            moment(self.create_time.as_ref(), look),
            self.owner.as_str().into(),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Retention run", Styled::new(&self.name, Color::Bold)),
            ("Trigger", trigger(self).into()),
            ("Owner", self.owner.as_str().into()),
            ("State", state(self)),
            ("Deleted", self.deleted_count.to_string().into()),
            ("Kept", self.kept_count.to_string().into()),
            ("Open dead letters", self.open_dead_letter_count.to_string().into()),
            ("Busy", self.busy_count.to_string().into()),
            ("Journal rows", self.journal_deleted_count.to_string().into()),
            ("By rule", tallies(&self.tallies, look).into()),
            ("Errors", count(self.error_count, Color::Red)),
            ("Error", Styled::new(&self.error_message, Color::Red)),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("Finished", moment_in_full(self.finish_time.as_ref(), look)),
        ]
    }
}
