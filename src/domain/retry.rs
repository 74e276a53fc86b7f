//! What happens after a failed attempt: rules, back-off, limits. Pure: the draw of the jitter comes as an argument.
//!
//! [`RetrySettings`] hold rules in order; the first that matches error type, message and attempt decides. Waits follow an
//! exponential back-off with full jitter unless a rule says otherwise (AWS Architecture Blog, "Exponential Backoff And
//! Jitter"), so that tasks which failed together do not come back together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    glob::glob_matches,
    retry_pattern::Patterns,
    snapshot::is_default,
    task::{Micros, SECOND, TaskError},
};

/// How failed attempts are repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetrySettings {
    /// Attempts in all; the last failure ends the task.
    pub max_attempts: i32,
    /// The waits unless a rule has its own.
    pub backoff: Backoff,
    /// The first that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// No attempt starts later than this after the task was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Micros>,
    /// Expired leases that end the task.
    pub max_crashes: i32,
}

impl RetrySettings {
    /// Settings that say nothing but how often and how long.
    pub fn plain(max_attempts: i32, initial: Micros, max: Micros) -> Self {
        Self { max_attempts, backoff: Backoff { initial, max, ..Backoff::default() }, ..Self::default() }
    }

    /// Their three numbers, if they say nothing else: attempts, first and longest wait.
    pub fn as_plain(&self) -> Option<(i32, Micros, Micros)> {
        let numbers = (self.max_attempts, self.backoff.initial, self.backoff.max);
        (*self == Self::plain(numbers.0, numbers.1, numbers.2)).then_some(numbers)
    }
}

impl Default for RetrySettings {
    /// 25 attempts over half a day at most; three dead workers make poison.
    fn default() -> Self {
        Self { max_attempts: 25, backoff: Backoff::default(), rules: Vec::new(), max_age: None, max_crashes: 3 }
    }
}

/// How the waits grow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// The bound of the first wait.
    pub initial: Micros,
    /// The bound of all waits.
    pub max: Micros,
    /// Each bound is so many times the one before.
    #[serde(skip_serializing_if = "is_double")]
    pub factor: f64,
    /// How a wait is drawn below its bound.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Jitter,
    /// The bounds one by one, instead of the above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<Micros>,
}

const DOUBLE: f64 = 2.0;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_double(factor: &f64) -> bool {
    *factor == DOUBLE
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: SECOND, max: 3_600 * SECOND, factor: DOUBLE, jitter: Jitter::Full, delays: Vec::new() }
    }
}

impl Backoff {
    /// The bound of the wait after attempt `number`, 1, 2, 3 …
    fn bound(&self, number: i32) -> Micros {
        let steps = usize::try_from(number.max(1) - 1).unwrap_or(0);
        if let Some(delay) = self.delays.get(steps).or(self.delays.last()) {
            return *delay;
        }
        let bound = self.initial as f64 * self.factor.powi(number.max(1) - 1);
        // Also when it is infinite.
        if bound < self.max as f64 { bound as Micros } else { self.max }
    }

    /// The wait below a bound. `random` in [0, 1) draws it.
    fn draw(&self, bound: Micros, random: f64) -> Micros {
        let share = |of: Micros| (of as f64 * random) as Micros;
        match self.jitter {
            Jitter::Full => share(bound),
            Jitter::Equal => bound - bound / 2 + share(bound / 2),
            Jitter::None => bound,
        }
    }

    /// The wait after attempt `number`, not before the worker wants it. That time is a bound below: tasks that were all
    /// told the same time are spread behind it as far as they would be spread without.
    fn wait(&self, number: i32, retry_after: Option<Micros>, random: f64) -> Micros {
        let bound = self.bound(number);
        let drawn = self.draw(bound, random);
        let Some(after) = retry_after else { return drawn };
        let spread = if self.jitter == Jitter::None { 0 } else { (bound.min(after) as f64 * random) as Micros };
        drawn.max(after.saturating_add(spread))
    }
}

/// How a wait is drawn below its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Anywhere from 0.
    #[default]
    Full,
    /// Anywhere from its half.
    Equal,
    /// The bound itself.
    None,
}

/// What is done about some errors. What is not said matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A glob on the error type; empty matches all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_type: String,
    /// What the message must be like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageTest>,
    /// The first attempt it holds for; 0 and 1 are the same.
    #[serde(skip_serializing_if = "is_default")]
    pub first_attempt: i32,
    /// The last; 0 means all.
    #[serde(skip_serializing_if = "is_default")]
    pub last_attempt: i32,
    /// What to do.
    pub action: Action,
}

impl Rule {
    fn matches(&self, failed: &FailedAttempt<'_>, patterns: &mut Patterns) -> bool {
        let in_range =
            failed.number >= self.first_attempt && (self.last_attempt == 0 || failed.number <= self.last_attempt);
        in_range
            && (self.error_type.is_empty() || glob_matches(&self.error_type, &failed.error.error_type))
            && match &self.message {
                None => true,
                Some(MessageTest::Contains(part)) => failed.error.message.contains(part.as_str()),
                Some(MessageTest::Regex(pattern)) => patterns.is_match(pattern, &failed.error.message),
            }
    }
}

/// What a message must be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageTest {
    /// It has this in it.
    Contains(String),
    /// It matches this expression somewhere.
    Regex(String),
}

/// What a rule does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Repeat after the back-off of the settings.
    #[default]
    Default,
    /// Repeat after a back-off of its own.
    Backoff(Backoff),
    /// Repeat after this time; the attempt does not count.
    Snooze(Micros),
    /// End the task.
    DeadLetter,
}

/// What a task says about its failed attempts.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Retry {
    /// Nothing: what its queue, its type or the product says holds.
    #[default]
    Unsaid,
    /// The policy of this id holds.
    Policy(Arc<str>),
    /// These settings hold.
    Settings(Arc<RetrySettings>),
}

/// What [`Retry::numbers`] do not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMore {
    /// The policy of this id holds.
    Policy(Arc<str>),
    /// These settings hold.
    Settings(Arc<RetrySettings>),
}

impl Retry {
    /// Attempts, first and longest wait: what is kept of it in columns of their own, and all that most tasks say.
    pub fn numbers(&self) -> (i32, Micros, Micros) {
        let of = |settings: &RetrySettings| (settings.max_attempts, settings.backoff.initial, settings.backoff.max);
        match self {
            Self::Settings(settings) => of(settings),
            Self::Unsaid | Self::Policy(_) => of(&RetrySettings::default()),
        }
    }

    /// The rest; none if the numbers say it all.
    pub fn more(&self) -> Option<RetryMore> {
        match self {
            Self::Unsaid => None,
            Self::Policy(id) => Some(RetryMore::Policy(id.clone())),
            // The default numbers alone say nothing.
            Self::Settings(settings) if settings.as_plain().is_some() && self.numbers() != Self::Unsaid.numbers() => {
                None
            }
            Self::Settings(settings) => Some(RetryMore::Settings(settings.clone())),
        }
    }

    /// From both.
    pub fn restore(numbers: (i32, Micros, Micros), more: Option<RetryMore>) -> Self {
        match more {
            Some(RetryMore::Policy(id)) => Self::Policy(id),
            Some(RetryMore::Settings(settings)) => Self::Settings(settings),
            None if numbers == Self::Unsaid.numbers() => Self::Unsaid,
            None => Self::Settings(Arc::new(RetrySettings::plain(numbers.0, numbers.1, numbers.2))),
        }
    }
}

/// An attempt that failed or timed out.
#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt<'a> {
    /// Why.
    pub error: &'a TaskError,
    /// Which attempt it was of those that count: 1, 2, 3 …
    pub number: i32,
    /// How long the task has been open.
    pub age: Micros,
    /// The worker wants the next attempt no sooner.
    pub retry_after: Option<Micros>,
}

/// What happens to the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again after this time.
    Retry(Micros),
    /// It is tried again after this time, and the attempt does not count.
    Snooze(Micros),
    /// It ends.
    DeadLetter,
}

/// Why. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// A rule says so.
    Rule = 1,
    /// No rule matched.
    Default = 2,
    /// No attempt is left.
    MaxAttempts = 3,
    /// The next attempt would come too late.
    MaxAge = 4,
    /// The worker said that the error is final.
    Final = 5,
    /// Too many leases expired.
    MaxCrashes = 6,
    /// The task reached its `expire_time`.
    Expired = 7,
}

impl TryFrom<i16> for Cause {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Rule, Self::Default, Self::MaxAttempts, Self::MaxAge, Self::Final, Self::MaxCrashes, Self::Expired]
            .into_iter()
            .find(|cause| *cause as i16 == number)
            .ok_or(number)
    }
}

/// What was decided about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// The number of the rule that matched, from 1; 0 if none did or none was asked.
    pub rule: i32,
}

impl Decision {
    /// The end, without a look at the rules.
    pub fn end(cause: Cause) -> Self {
        Self { verdict: Verdict::DeadLetter, cause, rule: 0 }
    }
}

/// Decides about a failed attempt. `random` in [0, 1) draws the wait.
///
/// Attempts and age limit what any rule says. Whether the task comes back in time does not depend on the draw: it ends
/// only if even the shortest wait is too long, and a longer one is cut.
pub fn decide(settings: &RetrySettings, failed: &FailedAttempt<'_>, patterns: &mut Patterns, random: f64) -> Decision {
    let matched = settings.rules.iter().position(|rule| rule.matches(failed, patterns));
    let number = matched.map_or(0, |index| i32::try_from(index + 1).unwrap_or(i32::MAX));
    let cause = if matched.is_some() { Cause::Rule } else { Cause::Default };
    let ends = |cause| Decision { verdict: Verdict::DeadLetter, cause, rule: number };
    let action = matched.and_then(|index| settings.rules.get(index)).map_or(&Action::Default, |rule| &rule.action);

    let (backoff, snooze) = match action {
        Action::DeadLetter => return ends(cause),
        Action::Snooze(time) => (None, Some(*time)),
        Action::Backoff(backoff) => (Some(backoff), None),
        Action::Default => (Some(&settings.backoff), None),
    };
    if snooze.is_none() && failed.number >= settings.max_attempts {
        return ends(Cause::MaxAttempts);
    }
    let wait = |random| match (backoff, snooze) {
        (Some(backoff), _) => backoff.wait(failed.number, failed.retry_after, random),
        (None, snooze) => snooze.unwrap_or(0).max(failed.retry_after.unwrap_or(0)),
    };
    let mut drawn = wait(random);
    if let Some(max_age) = settings.max_age {
        let left = max_age.saturating_sub(failed.age);
        if wait(0.0) > left || left <= 0 {
            return ends(Cause::MaxAge);
        }
        drawn = drawn.min(left);
    }
    let verdict = if snooze.is_some() { Verdict::Snooze(drawn) } else { Verdict::Retry(drawn) };
    Decision { verdict, cause, rule: number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &TaskError, number: i32) -> FailedAttempt<'_> {
        FailedAttempt { error, number, age: 0, retry_after: None }
    }

    fn decided(settings: &RetrySettings, error_type: &str, message: &str, number: i32) -> (Verdict, Cause, i32) {
        let error = TaskError::own(error_type, message);
        let decision = decide(settings, &failed(&error, number), &mut Patterns::default(), 0.5);
        (decision.verdict, decision.cause, decision.rule)
    }

    #[test]
    fn back_off_grows_up_to_its_cap_and_never_overflows() {
        let plain = Backoff { initial: 1_000, max: 60_000, ..Backoff::default() };
        let bounds = |backoff: &Backoff| [1, 2, 3, 6, 7, 90, i32::MAX].map(|number| backoff.bound(number));
        assert_eq!(bounds(&plain), [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(bounds(&Backoff { factor: 1.0, ..plain.clone() }), [1_000; 7]);
        let listed = Backoff { delays: vec![5, 70, 6], ..plain.clone() };
        assert_eq!(bounds(&listed), [5, 70, 6, 6, 6, 6, 6]);

        let drawn = |jitter, random| Backoff { jitter, ..plain.clone() }.wait(1, None, random);
        assert_eq!([0.0, 0.5].map(|random| drawn(Jitter::Full, random)), [0, 500]);
        assert_eq!([0.0, 0.5].map(|random| drawn(Jitter::Equal, random)), [500, 750]);
        assert_eq!([0.0, 0.5].map(|random| drawn(Jitter::None, random)), [1_000, 1_000]);
    }

    #[test]
    fn what_the_worker_asks_for_is_a_bound_below_and_is_spread() {
        let backoff = Backoff { initial: 1_000, max: 60_000, ..Backoff::default() };
        let wait = |number, random| backoff.wait(number, Some(5_000), random);
        assert_eq!([0.0, 0.5].map(|random| wait(1, random)), [5_000, 5_500]);
        // As far as the back-off would go, but no further than it is away.
        assert_eq!([0.0, 0.5].map(|random| wait(6, random)), [5_000, 16_000]);
        let exact = Backoff { jitter: Jitter::None, ..backoff };
        assert_eq!([1, 6].map(|number| exact.wait(number, Some(5_000), 0.5)), [5_000, 32_000]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |error_type: &str, action| Rule { error_type: error_type.into(), action, ..Rule::default() };
        let contains = |part: &str| Some(MessageTest::Contains(part.into()));
        let regex = |pattern: &str| Some(MessageTest::Regex(pattern.into()));
        let settings = RetrySettings {
            max_attempts: 10,
            backoff: Backoff { initial: 1_000, max: 1_000, ..Backoff::default() },
            rules: vec![
                Rule { message: contains("no such user"), ..rule("Smtp*", Action::DeadLetter) },
                Rule { message: regex(r"^5\d\d "), ..rule("Http", Action::Snooze(7_000)) },
                Rule { first_attempt: 3, last_attempt: 4, ..rule("Http", Action::DeadLetter) },
                rule("?ttp", Action::Backoff(Backoff { delays: vec![40], ..Backoff::default() })),
                Rule { last_attempt: 1, ..rule("", Action::Default) },
            ],
            max_age: None,
            max_crashes: 3,
        };
        let cases = [
            ("SmtpError", "550 no such user here", 1, (Verdict::DeadLetter, Cause::Rule, 1)),
            ("SmtpError", "550 No Such User", 1, (Verdict::Retry(500), Cause::Rule, 5)),
            ("SmtpError", "timeout", 2, (Verdict::Retry(500), Cause::Default, 0)),
            ("smtp", "no such user", 2, (Verdict::Retry(500), Cause::Default, 0)),
            ("Http", "503 busy", 1, (Verdict::Snooze(7_000), Cause::Rule, 2)),
            // A snooze uses up no attempt, so it needs none.
            ("Http", "503 busy", 10, (Verdict::Snooze(7_000), Cause::Rule, 2)),
            ("Http", "status 503 busy", 2, (Verdict::Retry(20), Cause::Rule, 4)),
            ("Http", "404", 3, (Verdict::DeadLetter, Cause::Rule, 3)),
            ("Http", "404", 5, (Verdict::Retry(20), Cause::Rule, 4)),
            ("http", "404", 5, (Verdict::Retry(20), Cause::Rule, 4)),
            ("Http", "404", 10, (Verdict::DeadLetter, Cause::MaxAttempts, 4)),
            ("Other", "", 10, (Verdict::DeadLetter, Cause::MaxAttempts, 0)),
            ("Other", "", i32::MAX, (Verdict::DeadLetter, Cause::MaxAttempts, 0)),
        ];
        for (error_type, message, number, expected) in cases {
            assert_eq!(
                decided(&settings, error_type, message, number),
                expected,
                "{error_type}: {message}, attempt {number}"
            );
        }
    }

    #[test]
    fn the_age_ends_a_task_only_if_no_wait_is_short_enough_and_cuts_longer_ones() {
        let error = TaskError::own("E", "");
        let settings = RetrySettings { max_age: Some(100_000), ..RetrySettings::plain(9, 50_000, 50_000) };
        let verdict = |age, retry_after, random| {
            let failed = FailedAttempt { age, retry_after, ..failed(&error, 1) };
            let decision = decide(&settings, &failed, &mut Patterns::default(), random);
            (decision.verdict, decision.cause)
        };
        assert_eq!(verdict(0, None, 0.5), (Verdict::Retry(25_000), Cause::Default));
        assert_eq!(verdict(90_000, None, 0.5), (Verdict::Retry(10_000), Cause::Default));
        assert_eq!(verdict(99_999, None, 0.9), (Verdict::Retry(1), Cause::Default));
        assert_eq!(verdict(100_000, None, 0.0), (Verdict::DeadLetter, Cause::MaxAge));
        assert_eq!(verdict(i64::MAX, None, 0.0), (Verdict::DeadLetter, Cause::MaxAge));
        assert_eq!(verdict(50_000, Some(50_000), 0.9), (Verdict::Retry(50_000), Cause::Default));
        assert_eq!(verdict(50_001, Some(50_000), 0.0), (Verdict::DeadLetter, Cause::MaxAge));
    }

    #[test]
    fn what_a_task_says_is_kept_in_numbers_and_what_they_do_not_say() {
        let plain = |attempts| Retry::Settings(Arc::new(RetrySettings::plain(attempts, SECOND, 3_600 * SECOND)));
        let rich = RetrySettings { max_age: Some(1), ..RetrySettings::default() };
        for (retry, has_more) in [
            (Retry::Unsaid, false),
            (plain(3), false),
            (plain(25), true),
            (Retry::Policy("p".into()), true),
            (Retry::Settings(Arc::new(rich)), true),
        ] {
            assert_eq!(retry.more().is_some(), has_more, "{retry:?}");
            assert_eq!(Retry::restore(retry.numbers(), retry.more()), retry);
        }
    }

    #[test]
    fn settings_are_kept_as_short_text_and_read_back() {
        let text = |settings: &RetrySettings| serde_json::to_string(settings).unwrap();
        let plain = RetrySettings::plain(3, 5, 9);
        assert_eq!(text(&plain), r#"{"max_attempts":3,"backoff":{"initial":5,"max":9},"max_crashes":3}"#);
        assert_eq!(plain.as_plain(), Some((3, 5, 9)));
        let rule = Rule { message: Some(MessageTest::Regex("x".into())), ..Rule::default() };
        let full = RetrySettings { rules: vec![rule], max_age: Some(1), ..plain };
        assert_eq!(full.as_plain(), None);
        assert_eq!(serde_json::from_str::<RetrySettings>(&text(&full)).unwrap(), full);
    }

    #[test]
    fn ten_thousand_that_fail_together_come_back_spread() {
        let error = TaskError::own("E", "");
        let settings = RetrySettings::plain(25, 10 * SECOND, 3_600 * SECOND);
        let mut seconds = [0_u32; 10];
        for step in 0..10_000 {
            let random = f64::from(step) / 10_000.0;
            let decision = decide(&settings, &failed(&error, 1), &mut Patterns::default(), random);
            let Verdict::Retry(wait) = decision.verdict else { panic!("{decision:?}") };
            seconds[usize::try_from(wait / SECOND).unwrap()] += 1;
        }
        assert_eq!(seconds, [1_000; 10]);
    }
}
