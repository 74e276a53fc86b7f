//! Retry policies, and what is said about failures.

use super::{count, first_line, length, moment, moment_in_full, or_dash, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{
        EvaluateRetryResponse, GetRetryStatisticsResponse, RetryBackoff, RetryCounts, RetryDecision, RetryJitter,
        RetryPolicy, RetryRule, RetrySettings, SimulatePolicyResponse,
        retry_decision::Verdict,
        retry_rule::{Action, Message},
    },
};

/// A description in a column.
const MAX_DESCRIPTION_CHARS: usize = 40;

fn settings(policy: &RetryPolicy) -> RetrySettings {
    policy.settings.clone().unwrap_or_default()
}

fn types(policy: &RetryPolicy) -> String {
    policy.task_types.join(", ")
}

fn jitter(jitter: i32) -> &'static str {
    let jitter = RetryJitter::try_from(jitter).unwrap_or_default();
    strip(jitter.as_str_name(), "RETRY_JITTER_")
}

/// `1s × 2 up to 1h, FULL jitter`.
fn backoff(backoff: &RetryBackoff) -> String {
    let jitter = jitter(backoff.jitter);
    if !backoff.delays.is_empty() {
        let delays: Vec<String> = backoff.delays.iter().map(|delay| length(Some(delay))).collect();
        return format!("{}, {jitter} jitter", delays.join(", "));
    }
    let (first, most) = (length(backoff.initial_backoff.as_ref()), length(backoff.max_backoff.as_ref()));
    format!("{first} × {} up to {most}, {jitter} jitter", backoff.backoff_factor)
}

/// `2. Smtp*, message has "no such user", attempts 1–3: dead letter (typo in the address)`.
fn rule(number: usize, rule: &RetryRule) -> String {
    let mut tests = vec![if rule.error_type.is_empty() { "any error" } else { &rule.error_type }.to_owned()];
    tests.extend(rule.message.as_ref().map(|message| match message {
        Message::MessageContains(part) => format!("message has {part:?}"),
        Message::MessageRegex(pattern) => format!("message matches /{pattern}/"),
    }));
    match (rule.first_attempt.max(1), rule.last_attempt) {
        (1, 0) => {}
        (first, 0) => tests.push(format!("attempt {first} and later")),
        (first, last) => tests.push(format!("attempts {first}–{last}")),
    }
    let action = match &rule.action {
        None => "retry".to_owned(),
        Some(Action::Backoff(own)) => format!("retry after {}", backoff(own)),
        Some(Action::Snooze(time)) => format!("snooze {}", length(Some(time))),
        Some(Action::DeadLetter(_)) => "dead letter".to_owned(),
    };
    let why = if rule.description.is_empty() { String::new() } else { format!(" ({})", rule.description) };
    format!("{number}. {}: {action}{why}", tests.join(", "))
}

impl Resource for RetryPolicy {
    const PROTO: &'static str = "tasktower.v1.RetryPolicy";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["POLICY", "VERSION", "RULES", "ATTEMPTS", "TYPES", "UPDATED", "DESCRIPTION"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let settings = settings(self);
        let description =
            if look.wide { self.description.clone() } else { first_line(&self.description, MAX_DESCRIPTION_CHARS) };
        vec![
            names::id(&self.name).into(),
            self.version.to_string().into(),
            settings.rules.len().to_string().into(),
            settings.max_attempts.to_string().into(),
            or_dash(types(self)),
            moment(self.update_time.as_ref(), look),
            or_dash(description),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let settings = settings(self);
        let default = backoff(&RetryBackoff {
            initial_backoff: settings.initial_backoff,
            max_backoff: settings.max_backoff,
            backoff_factor: settings.backoff_factor,
            jitter: settings.jitter,
            delays: Vec::new(),
        });
        let mut details = vec![
            ("Policy", Styled::new(&self.name, Color::Bold)),
            ("Description", self.description.as_str().into()),
            ("Version", self.version.to_string().into()),
            ("Task types", types(self).into()),
            ("Attempts", settings.max_attempts.to_string().into()),
            ("Crashes", settings.max_crashes.to_string().into()),
            ("Age", length(settings.max_age.as_ref()).into()),
        ];
        let rules = settings.rules.iter().enumerate().map(|(index, each)| ("Rule", rule(index + 1, each).into()));
        details.extend(rules);
        details.extend([
            ("Otherwise", format!("retry after {default}").into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("Etag", self.etag.as_str().into()),
        ]);
        details
    }
}

/// What happens to the task.
pub(super) fn verdict(decision: Option<&RetryDecision>) -> Styled {
    let verdict = decision.map(RetryDecision::verdict).unwrap_or_default();
    let color = match verdict {
        Verdict::Retry => Color::Green,
        Verdict::Snooze => Color::Yellow,
        Verdict::DeadLetter => Color::Red,
        Verdict::Unspecified => Color::Dim,
    };
    Styled::new(strip(verdict.as_str_name(), "VERDICT_"), color)
}

/// `rule 2 of flaky, version 3`.
pub(super) fn by(decision: &RetryDecision) -> String {
    let cause = strip(decision.cause().as_str_name(), "CAUSE_");
    let rule = if decision.rule == 0 { String::new() } else { format!(", rule {}", decision.rule) };
    let policy = if decision.retry_policy.is_empty() {
        String::new()
    } else {
        format!(" of {}, version {}", names::id(&decision.retry_policy), decision.retry_policy_version)
    };
    format!("{cause}{rule}{policy}")
}

impl Resource for EvaluateRetryResponse {
    const PROTO: &'static str = "tasktower.v1.EvaluateRetryResponse";

    /// A decision has no name; the policy is the most useful word.
    fn name(&self) -> &str {
        self.decision.as_ref().map_or("", |decision| &decision.retry_policy)
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["VERDICT", "BY", "WAIT"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        self.details(look).into_iter().map(|(_, cell)| cell).collect()
    }

    fn details(&self, _look: &Look) -> Vec<(&'static str, Styled)> {
        let wait = match (&self.min_wait, &self.max_wait) {
            (Some(min), Some(max)) if min == max => length(Some(min)),
            (Some(min), Some(max)) => format!("{} to {}", length(Some(min)), length(Some(max))),
            _ => String::new(),
        };
        vec![
            ("Verdict", verdict(self.decision.as_ref())),
            ("By", self.decision.as_ref().map(by).unwrap_or_default().into()),
            ("Wait", or_dash(wait)),
        ]
    }
}

impl Resource for SimulatePolicyResponse {
    const PROTO: &'static str = "tasktower.v1.SimulatePolicyResponse";

    fn name(&self) -> &'static str {
        ""
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["EXAMINED", "SAME", "SAVED", "DEAD-LETTERED", "OTHER"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        [self.examined_count, self.same_count, self.saved_count, self.dead_lettered_count, self.other_count]
            .into_iter()
            .map(|count| count.to_string().into())
            .collect()
    }

    fn details(&self, _look: &Look) -> Vec<(&'static str, Styled)> {
        let mut details = vec![
            (
                "Examined",
                format!("{}{}", self.examined_count, if self.truncated { ", and there are more" } else { "" }).into(),
            ),
            ("Same", self.same_count.to_string().into()),
            ("Saved", count(self.saved_count, Color::Green)),
            ("Dead-lettered", count(self.dead_lettered_count, Color::Red)),
            ("Other", self.other_count.to_string().into()),
        ];
        details.extend(self.differences.iter().map(|difference| {
            let error = difference.error.as_ref().map(|error| format!("{}: {}", error.r#type, error.message));
            let would_be = difference.would_be.as_ref();
            let text = format!(
                "{} attempt {}: {} ({}), not {} – {}",
                names::id(&difference.task),
                difference.number,
                verdict(would_be).text,
                would_be.map(by).unwrap_or_default(),
                verdict(difference.was.as_ref()).text,
                error.unwrap_or_default()
            );
            ("Difference", text.into())
        }));
        details
    }
}

fn counted(counts: Option<&RetryCounts>) -> String {
    let counts = counts.copied().unwrap_or_default();
    format!(
        "{} failed: {} retried, {} snoozed, {} dead-lettered; {} tasks, {} of them recovered",
        counts.failed_count,
        counts.retried_count,
        counts.snoozed_count,
        counts.dead_lettered_count,
        counts.task_count,
        counts.recovered_task_count
    )
}

impl Resource for GetRetryStatisticsResponse {
    const PROTO: &'static str = "tasktower.v1.GetRetryStatisticsResponse";

    fn name(&self) -> &'static str {
        ""
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["TOTAL"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        vec![counted(self.total.as_ref()).into()]
    }

    fn details(&self, _look: &Look) -> Vec<(&'static str, Styled)> {
        let more = if self.truncated { " (the latest; there are more)" } else { "" };
        let mut details = vec![("Total", format!("{}{more}", counted(self.total.as_ref())).into())];
        details.extend(self.rules.iter().map(|rule| {
            let policy = if rule.retry_policy.is_empty() {
                "settings".to_owned()
            } else {
                format!("{} version {}", names::id(&rule.retry_policy), rule.retry_policy_version)
            };
            let number = if rule.rule == 0 { "no rule".to_owned() } else { format!("rule {}", rule.rule) };
            ("Rule", format!("{policy}, {number}: {}", counted(rule.counts.as_ref())).into())
        }));
        details.extend(self.error_types.iter().map(|of_type| {
            ("Error type", format!("{}: {}", of_type.error_type, counted(of_type.counts.as_ref())).into())
        }));
        details
    }
}
