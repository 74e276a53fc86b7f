//! Retry settings and rules, from and to the wire, with their bounds.

use std::{ops::RangeInclusive, sync::Arc};

use super::{
    fields::{Fields, Path},
    name,
    scalar::{self, chars_bounded, duration},
};
use crate::{
    domain::{
        retry::{Action, Backoff, Decision, Jitter, MessageTest, Retry, RetrySettings, Rule, Verdict},
        retry_pattern::{self, PatternError},
        retry_policy::PolicyVersion,
        task::{DAY, Micros, SECOND},
    },
    ids::{ProjectId, retry_policy_name},
    pb,
};

const MAX_ATTEMPTS: RangeInclusive<i32> = 1..=1000;
const INITIAL_BACKOFF: RangeInclusive<Micros> = 1_000..=DAY;
const MAX_BACKOFF: RangeInclusive<Micros> = 1_000..=30 * DAY;
const MAX_AGE: RangeInclusive<Micros> = SECOND..=365 * DAY;
const MAX_CRASHES: RangeInclusive<i32> = 1..=100;
const FACTOR: RangeInclusive<f64> = 1.0..=10.0;
/// Most rules: beyond it nobody sees which one decides.
const MAX_RULES: usize = 50;
/// Most delays of a list.
const MAX_DELAYS: usize = 32;
/// Most characters of a description.
const MAX_DESCRIPTION: usize = 128;
/// Most characters of a pattern of any kind, as of an error type.
const MAX_PATTERN: usize = 256;
/// What settings that a task carries may take as JSON, in bytes: every row of its journal has them.
const MAX_CARRIED: usize = 2 * 1024;

/// What a task says about failed attempts: nothing, a policy of its project, or settings of its own.
pub fn of_task(
    fields: &mut Fields,
    at: &Path<'_>,
    settings: Option<pb::RetrySettings>,
    policy: &str,
    project: &ProjectId,
) -> Retry {
    let policy =
        (!policy.is_empty()).then(|| name::retry_policy_of(fields, &at.field("retry_policy"), policy, project));
    let at_settings = at.field("retry");
    let settings = settings.map(|settings| self::settings(fields, &at_settings, settings));
    match (settings, policy) {
        (Some(_), Some(_)) => {
            fields.refuse(&at.field("retry_policy"), "cannot be given together with retry; give one of them");
            Retry::Unsaid
        }
        (None, Some(policy)) => Retry::Policy(policy.into()),
        (Some(settings), None) => {
            // Settings always serialise.
            let bytes = serde_json::to_string(&settings).map_or(0, |text| text.len());
            if settings.as_plain().is_none() && bytes > MAX_CARRIED {
                let text =
                    format!("takes {bytes} bytes, {MAX_CARRIED} are allowed; make it a retry policy and name that");
                fields.refuse(&at_settings, text);
            }
            Retry::Settings(Arc::new(settings))
        }
        (None, None) => Retry::Unsaid,
    }
}

/// Settings.
pub fn settings(fields: &mut Fields, at: &Path<'_>, settings: pb::RetrySettings) -> RetrySettings {
    let default = RetrySettings::default();
    let pb::RetrySettings {
        max_attempts,
        initial_backoff,
        max_backoff,
        backoff_factor,
        jitter,
        rules,
        max_age,
        max_crashes,
    } = settings;
    let max_attempts =
        scalar::number_or(fields, &at.field("max_attempts"), max_attempts, MAX_ATTEMPTS, default.max_attempts);
    let wire = pb::RetryBackoff { initial_backoff, max_backoff, backoff_factor, jitter, delays: Vec::new() };
    let backoff = backoff(fields, at, wire);
    let max_age = max_age.map(|span| scalar::span(fields, &at.field("max_age"), &span, &MAX_AGE));
    let list = at.field("rules");
    let rules = if scalar::length(fields, &list, rules.len(), 0..=MAX_RULES) {
        let rule = |(index, rule)| self::rule(fields, &list.index(index), rule, max_age.is_some());
        rules.into_iter().enumerate().map(rule).collect()
    } else {
        Vec::new()
    };
    let max_crashes =
        scalar::number_or(fields, &at.field("max_crashes"), max_crashes, MAX_CRASHES, default.max_crashes);
    RetrySettings { max_attempts, backoff, rules, max_age, max_crashes }
}

fn backoff(fields: &mut Fields, at: &Path<'_>, backoff: pb::RetryBackoff) -> Backoff {
    let default = Backoff::default();
    let pb::RetryBackoff { initial_backoff, max_backoff, backoff_factor, jitter, delays } = backoff;
    let list = at.field("delays");
    if !delays.is_empty() {
        if initial_backoff.is_some() || max_backoff.is_some() || backoff_factor != 0.0 {
            fields.refuse(&list, "cannot be given together with initial_backoff, max_backoff or backoff_factor");
        }
        scalar::length(fields, &list, delays.len(), 1..=MAX_DELAYS);
    }
    let delay = |(index, span)| scalar::span(fields, &list.index(index), span, &MAX_BACKOFF);
    let delays = delays.iter().take(MAX_DELAYS).enumerate().map(delay).collect();
    let initial = initial_backoff
        .map_or(default.initial, |span| scalar::span(fields, &at.field("initial_backoff"), &span, &INITIAL_BACKOFF));
    let max = match max_backoff {
        None => default.max.max(initial),
        Some(span) => scalar::span(fields, &at.field("max_backoff"), &span, &MAX_BACKOFF),
    };
    if max < initial {
        fields.refuse(&at.field("max_backoff"), "must not be less than initial_backoff");
    }
    let factor = if backoff_factor == 0.0 { default.factor } else { backoff_factor };
    if !FACTOR.contains(&factor) {
        fields.refuse(&at.field("backoff_factor"), "must be 1 to 10");
    }
    let jitter = match pb::RetryJitter::try_from(jitter) {
        Ok(pb::RetryJitter::Unspecified | pb::RetryJitter::Full) => Jitter::Full,
        Ok(pb::RetryJitter::Equal) => Jitter::Equal,
        Ok(pb::RetryJitter::None) => Jitter::None,
        Err(_) => {
            fields.refuse(&at.field("jitter"), format!("{jitter} is none; FULL is 1, EQUAL is 2, NONE is 3"));
            Jitter::Full
        }
    };
    Backoff { initial, max, factor, jitter, delays }
}

fn rule(fields: &mut Fields, at: &Path<'_>, rule: pb::RetryRule, has_max_age: bool) -> Rule {
    use pb::retry_rule::{Action as WireAction, Message};

    let pb::RetryRule { description, error_type, message, first_attempt, last_attempt, action } = rule;
    let mut attempt = |field, number| scalar::number_or(fields, &at.field(field), number, MAX_ATTEMPTS, 0);
    let (first_attempt, last_attempt) =
        (attempt("first_attempt", first_attempt), attempt("last_attempt", last_attempt));
    if last_attempt != 0 && last_attempt < first_attempt {
        fields.refuse(&at.field("last_attempt"), "must not be less than first_attempt");
    }
    let message = message.map(|message| match message {
        Message::MessageContains(part) => {
            let at = at.field("message_contains");
            if part.is_empty() {
                fields.refuse(&at, "must not be empty: every message has that; leave it out");
            }
            MessageTest::Contains(chars_bounded(fields, &at, part, MAX_PATTERN))
        }
        Message::MessageRegex(pattern) => MessageTest::Regex(regex(fields, &at.field("message_regex"), pattern)),
    });
    let action = match action {
        None => Action::Default,
        Some(WireAction::Backoff(wire)) => Action::Backoff(backoff(fields, &at.field("backoff"), wire)),
        Some(WireAction::Snooze(span)) => {
            let at = at.field("snooze");
            if !has_max_age {
                fields.refuse(
                    &at,
                    "needs a max_age in the settings: a snoozed attempt does not count, so it might go on for ever",
                );
            }
            Action::Snooze(scalar::span(fields, &at, &span, &MAX_BACKOFF))
        }
        Some(WireAction::DeadLetter(pb::RetryDeadLetter {})) => Action::DeadLetter,
    };
    Rule {
        description: chars_bounded(fields, &at.field("description"), description, MAX_DESCRIPTION),
        error_type: chars_bounded(fields, &at.field("error_type"), error_type, MAX_PATTERN),
        message,
        first_attempt,
        last_attempt,
        action,
    }
}

fn regex(fields: &mut Fields, at: &Path<'_>, pattern: String) -> String {
    let pattern = chars_bounded(fields, at, pattern, MAX_PATTERN);
    // Not even looked at when it is too long.
    if pattern.chars().count() <= MAX_PATTERN {
        match retry_pattern::check(&pattern) {
            Ok(()) => {}
            Err(PatternError::Syntax { column, message }) => {
                fields.refuse(at, format!("column {column}: {message}"));
            }
            Err(PatternError::TooLarge) => {
                fields.refuse(at, "is too large when compiled; use smaller classes or fewer repetitions");
            }
        }
    }
    pattern
}

/// Settings for the wire.
pub fn settings_to_wire(settings: &RetrySettings) -> pb::RetrySettings {
    let RetrySettings { max_attempts, backoff, rules, max_age, max_crashes } = settings;
    let pb::RetryBackoff { initial_backoff, max_backoff, backoff_factor, jitter, delays: _ } = backoff_to_wire(backoff);
    pb::RetrySettings {
        max_attempts: *max_attempts,
        initial_backoff,
        max_backoff,
        backoff_factor,
        jitter,
        rules: rules.iter().map(rule_to_wire).collect(),
        max_age: max_age.map(duration),
        max_crashes: *max_crashes,
    }
}

fn backoff_to_wire(backoff: &Backoff) -> pb::RetryBackoff {
    let Backoff { initial, max, factor, jitter, delays } = backoff;
    let jitter = match jitter {
        Jitter::Full => pb::RetryJitter::Full,
        Jitter::Equal => pb::RetryJitter::Equal,
        Jitter::None => pb::RetryJitter::None,
    };
    // What is sent back must be taken: a list excludes the rest.
    let grows = delays.is_empty();
    pb::RetryBackoff {
        initial_backoff: grows.then(|| duration(*initial)),
        max_backoff: grows.then(|| duration(*max)),
        backoff_factor: if grows { *factor } else { 0.0 },
        jitter: jitter as i32,
        delays: delays.iter().copied().map(duration).collect(),
    }
}

fn rule_to_wire(rule: &Rule) -> pb::RetryRule {
    use pb::retry_rule::{Action as WireAction, Message};

    let Rule { description, error_type, message, first_attempt, last_attempt, action } = rule;
    pb::RetryRule {
        description: description.clone(),
        error_type: error_type.clone(),
        first_attempt: *first_attempt,
        last_attempt: *last_attempt,
        message: message.as_ref().map(|message| match message {
            MessageTest::Contains(part) => Message::MessageContains(part.clone()),
            MessageTest::Regex(pattern) => Message::MessageRegex(pattern.clone()),
        }),
        action: match action {
            Action::Default => None,
            Action::Backoff(backoff) => Some(WireAction::Backoff(backoff_to_wire(backoff))),
            Action::Snooze(time) => Some(WireAction::Snooze(duration(*time))),
            Action::DeadLetter => Some(WireAction::DeadLetter(pb::RetryDeadLetter {})),
        },
    }
}

/// A decision for the wire.
pub fn decision(project: &ProjectId, decision: &Decision, policy: Option<&PolicyVersion>) -> pb::RetryDecision {
    let verdict = match decision.verdict {
        Verdict::Retry(_) => pb::retry_decision::Verdict::Retry,
        Verdict::Snooze(_) => pb::retry_decision::Verdict::Snooze,
        Verdict::DeadLetter => pb::retry_decision::Verdict::DeadLetter,
    };
    pb::RetryDecision {
        verdict: verdict as i32,
        // The numbers of the domain are those of the wire.
        cause: i32::from(decision.cause as u8),
        rule: decision.rule,
        retry_policy: policy.map(|policy| retry_policy_name(project, &policy.id)).unwrap_or_default(),
        retry_policy_version: policy.map_or(0, |policy| policy.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn read(settings: pb::RetrySettings) -> Result<RetrySettings, Vec<String>> {
        let mut fields = Fields::new();
        let settings = super::settings(&mut fields, &Path::Request.field("settings"), settings);
        fields.finish(settings).map_err(|error| match error {
            Error::Invalid(violations) => violations.iter().map(ToString::to_string).collect(),
            other => panic!("{other}"),
        })
    }

    fn span(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn settings_come_back_as_they_went() {
        use pb::retry_rule::{Action as WireAction, Message};
        let listed = pb::RetryBackoff { delays: vec![span(1).unwrap(), span(60).unwrap()], ..Default::default() };
        let grown = pb::RetryBackoff { initial_backoff: span(2), jitter: 2, ..Default::default() };
        let rules = vec![
            pb::RetryRule {
                error_type: "Smtp*".into(),
                action: Some(WireAction::Backoff(listed)),
                ..Default::default()
            },
            pb::RetryRule {
                message: Some(Message::MessageRegex(r"^5\d\d".into())),
                first_attempt: 2,
                last_attempt: 4,
                action: Some(WireAction::Snooze(span(9).unwrap())),
                ..Default::default()
            },
            pb::RetryRule { action: Some(WireAction::Backoff(grown)), ..Default::default() },
            pb::RetryRule {
                message: Some(Message::MessageContains("x".into())),
                action: Some(WireAction::DeadLetter(pb::RetryDeadLetter {})),
                ..Default::default()
            },
        ];
        let sent = pb::RetrySettings { rules, max_age: span(3_600), max_crashes: 7, jitter: 3, ..Default::default() };
        let settings = read(sent).unwrap();
        assert_eq!((settings.max_attempts, settings.max_crashes, settings.rules.len()), (25, 7, 4));
        assert_eq!(settings.backoff, Backoff { jitter: Jitter::None, ..Backoff::default() });
        assert_eq!(read(settings_to_wire(&settings)).unwrap(), settings);
        assert_eq!(read(pb::RetrySettings::default()).unwrap(), RetrySettings::default());
    }

    #[test]
    fn what_cannot_be_is_refused_at_its_place() {
        use pb::retry_rule::{Action as WireAction, Message};
        let rule = |rule| pb::RetrySettings { rules: vec![pb::RetryRule::default(), rule], ..Default::default() };
        let regex = |pattern: &str| {
            rule(pb::RetryRule { message: Some(Message::MessageRegex(pattern.into())), ..Default::default() })
        };
        let act = |action| rule(pb::RetryRule { action: Some(action), ..Default::default() });
        let many = pb::RetryBackoff { delays: vec![span(1).unwrap(); 33], ..Default::default() };
        let both = pb::RetryBackoff { initial_backoff: span(1), delays: vec![span(1).unwrap()], ..Default::default() };
        for (settings, wrong) in [
            (regex("a(b"), "settings.rules[1].message_regex: column 2: "),
            (regex(r"(\w{100}){100}"), "settings.rules[1].message_regex: is too large"),
            (regex(&"x".repeat(257)), "settings.rules[1].message_regex: is longer than 256"),
            (
                rule(pb::RetryRule { message: Some(Message::MessageContains(String::new())), ..Default::default() }),
                "settings.rules[1].message_contains: must not be empty",
            ),
            (
                rule(pb::RetryRule { first_attempt: 3, last_attempt: 2, ..Default::default() }),
                "settings.rules[1].last_attempt: must not be less",
            ),
            (act(WireAction::Snooze(span(1).unwrap())), "settings.rules[1].snooze: needs a max_age"),
            (act(WireAction::Backoff(many)), "settings.rules[1].backoff.delays: has 33 elements"),
            (act(WireAction::Backoff(both)), "settings.rules[1].backoff.delays: cannot be given together"),
            (
                pb::RetrySettings { rules: vec![pb::RetryRule::default(); 51], ..Default::default() },
                "settings.rules: has 51",
            ),
            (pb::RetrySettings { backoff_factor: f64::NAN, ..Default::default() }, "settings.backoff_factor: must be"),
            (pb::RetrySettings { backoff_factor: 0.5, ..Default::default() }, "settings.backoff_factor: must be"),
            (pb::RetrySettings { jitter: 9, ..Default::default() }, "settings.jitter: 9 is none"),
            (pb::RetrySettings { max_crashes: -1, ..Default::default() }, "settings.max_crashes: must be"),
        ] {
            let found = read(settings).unwrap_err();
            assert!(found[0].starts_with(wrong), "{found:?}, not {wrong}");
        }
    }
}
