//! The language as its users meet it: what is accepted and what it means, what is refused and where.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const ID: &str = "0199a3c4-5678-7abc-8def-0123456789ab";

/// A task with a value in every field but those a test takes away.
#[derive(Clone)]
struct Sample {
    state: TaskState,
    cancel_requested: bool,
    worker: Option<&'static str>,
    error_message: Option<String>,
    finish_time: Option<i64>,
    priority: i64,
    labels: Vec<(&'static str, &'static str)>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            state: TaskState::Failed,
            cancel_requested: false,
            worker: None,
            error_message: Some("100% of \"it\" timed out".to_owned()),
            finish_time: None,
            priority: -5,
            labels: vec![("team", "core"), ("app.io/name", "x"), ("with-dash", "")],
        }
    }
}

impl Fields for Sample {
    fn project(&self) -> &str {
        "shop"
    }
    fn id(&self) -> Uuid {
        Uuid::try_parse(ID).expect("valid")
    }
    fn state(&self) -> TaskState {
        self.state
    }
    fn cancel_requested(&self) -> bool {
        self.cancel_requested
    }
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Type => Some("mail:send"),
            TextField::Queue => Some("email"),
            TextField::Owner => Some("ada@example.org"),
            TextField::UniqueKey => None,
            TextField::Worker => self.worker,
            TextField::ErrorType => Some("SmtpTimeout"),
            TextField::ErrorMessage => self.error_message.as_deref(),
            TextField::Fingerprint | TextField::Audit(_) => None,
        }
    }
    fn int(&self, field: IntField) -> i64 {
        match field {
            IntField::Priority => self.priority,
            IntField::AttemptCount => 3,
            IntField::CrashCount => 0,
        }
    }
    fn time(&self, field: TimeField) -> Option<i64> {
        match field {
            TimeField::Create | TimeField::Update | TimeField::Run => Some(1_767_323_045_000_000),
            TimeField::Finish => self.finish_time,
            TimeField::Expire => None,
        }
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

fn parse(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(text: &str) -> bool {
    parse(text).matches(&Sample::default())
}

#[test]
fn nothing_and_a_lone_asterisk_match_everything() {
    for text in ["", "  \n\t", "*", " * "] {
        assert!(parse(text).is_everything(), "{text:?}");
        assert!(matches(text));
    }
    assert!(!parse("priority > 1").is_everything());
    assert_eq!(Filter::default(), Filter::everything());
}

#[test]
fn filters_that_match_the_sample() {
    let cases = [
        "state = FAILED",
        "state=FAILED",
        "state != RUNNING",
        "state = \"FAILED\"",
        "type = mail:send",
        "type:mail",
        "type = 'mail:send'",
        "type != mail",
        "queue = e*l",
        "queue = \"*\"",
        "queue = **",
        "queue >= email queue <= email queue > Email queue < emaim",
        "owner = *@example.org",
        "owner:ada",
        "owner:\"\"",
        "owner:*",
        "priority = -5",
        "priority = \"-5\"",
        "priority > -6 priority < 0 priority >= -5 priority <= -5 priority != 5",
        "attempt_count = 3 AND crash_count = 0",
        "cancel_requested = false",
        "cancel_requested != true",
        "NOT cancel_requested = true",
        "-cancel_requested = true",
        "create_time = 2026-01-02T03:04:05Z",
        "create_time = \"2026-01-02T05:04:05+02:00\"",
        "create_time = 2026-01-02T05:04:05+02:00 update_time < 2026-01-02T03:04:05.000001Z",
        "run_time:*",
        "error.type = SmtpTimeout",
        "error.message:\"100% of\"",
        "error.message:\"\\\"it\\\"\"",
        "error.message:'\"it\" timed'",
        "error.message = \"100*out\"",
        "labels.team = core",
        "labels.team:co",
        "labels.team:*",
        "labels:team",
        "labels:\"app.io/name\"",
        "labels.app.io/name = x",
        "labels.\"app.io/name\" = x",
        "labels.'with-dash' = \"\"",
        "labels.with-dash:*",
    ];
    for text in cases {
        assert!(matches(text), "{text}");
    }
}

#[test]
fn filters_that_do_not_match_the_sample() {
    let cases = [
        "state = RUNNING",
        "state != FAILED",
        "type = MAIL:SEND",
        "type:MAIL",
        "queue = e",
        "queue = e*x",
        "queue = \"e\\*l\"",
        "queue = e\\*l",
        "queue > email",
        "priority = 5",
        "cancel_requested = true",
        "error.message:\"100_ of\"",
        "labels.team = Core",
        "labels.team != core",
        "labels:te",
        "labels.te:*",
    ];
    for text in cases {
        assert!(!matches(text), "{text}");
    }
}

#[test]
fn a_field_without_value_is_not_equal_to_anything() {
    for comparison in ["= x", "< x", "<= x", "> x", ">= x", ":x", ":*", "= \"*\"", "= \"\""] {
        for field in ["worker", "unique_key", "labels.none"] {
            assert!(!matches(&format!("{field} {comparison}")), "{field} {comparison}");
            assert!(matches(&format!("NOT {field} {comparison}")), "{field} {comparison}");
        }
    }
    assert!(matches("worker != x worker != \"*\" labels.none != \"\" labels.none != x"));
    assert!(!matches("finish_time < 2030-01-01T00:00:00Z"));
    assert!(!matches("finish_time > 2030-01-01T00:00:00Z"));
    assert!(matches("finish_time != 2030-01-01T00:00:00Z"));
    assert!(matches("NOT finish_time:*"));
    assert!(parse("finish_time:*").matches(&Sample { finish_time: Some(0), ..Sample::default() }));
}

#[test]
fn or_binds_tighter_than_and() {
    // With AND binding tighter these three would be the other way round.
    assert!(!matches("type = mail:send OR queue = email AND priority = 5"));
    assert!(!matches("priority = 5 AND type = mail:send OR queue = email"));
    assert!(!matches("type = mail:send OR queue = email priority = 5"));
    assert!(matches("type = mail:send OR (queue = email AND priority = 5)"));
    assert!(matches("priority = 5 OR queue = email state = FAILED"));
}

#[test]
fn negation_takes_one_term() {
    assert!(matches("NOT state = RUNNING state = FAILED"));
    assert!(matches("NOT (state = FAILED priority = 5)"));
    assert!(!matches("NOT (state = FAILED OR priority = 5)"));
    assert!(matches("-(state = RUNNING OR -(priority = -5 AND NOT(queue = other)))"));
    assert!(matches("NOT NOT state = FAILED"));
    assert!(matches("--state = FAILED"));
    assert!(matches("NOT state = RUNNING OR priority = 5"));
    assert!(matches("((((state=FAILED))AND((queue=email))))"));
}

#[test]
fn names_are_full_or_bare_and_may_end_in_a_wildcard() {
    let upper = ID.to_uppercase();
    for text in [
        format!("name = {ID}"),
        format!("name = \"{ID}\""),
        format!("name = {upper}"),
        format!("name = projects/shop/tasks/{ID}"),
        format!("name = \"projects/shop/tasks/{ID}\""),
        "name = 0*".to_owned(),
        "name = 0199a3*".to_owned(),
        "name = 0199a3c4*".to_owned(),
        "name = 0199a3c4-*".to_owned(),
        "name = 0199a3c4-5678-7abc-8def-0123456789a*".to_owned(),
        format!("name = {ID}*"),
        "name = *".to_owned(),
        "name = projects/shop/tasks/0199*".to_owned(),
        "name = projects/shop/tasks/*".to_owned(),
        "name != 0199a4*".to_owned(),
        format!("name != projects/other/tasks/{ID}"),
    ] {
        assert!(matches(&text), "{text}");
    }
    for text in [
        "name = 0199a4*".to_owned(),
        "name != 0199a3*".to_owned(),
        // The same id in another project is another task.
        format!("name = projects/other/tasks/{ID}"),
        format!("name != projects/shop/tasks/{ID}"),
    ] {
        assert!(!matches(&text), "{text}");
    }
}

#[test]
fn workers_are_found_by_id_and_by_full_name() {
    let task = Sample { worker: Some("w-1"), ..Sample::default() };
    for text in [
        "worker = w-1",
        "worker = projects/shop/workers/w-1",
        "worker = \"projects/shop/workers/w-*\"",
        "worker:-",
        "worker != projects/other/workers/w-1",
        "worker != projects/shop/workers/w-2",
    ] {
        assert!(parse(text).matches(&task), "{text}");
    }
    for text in ["worker = w-2", "worker = projects/other/workers/w-1", "worker != projects/shop/workers/*"] {
        assert!(!parse(text).matches(&task), "{text}");
    }
}

#[test]
fn refusals_say_where_and_what_to_do() {
    let cases = [
        // Grammar.
        ("foo", 1, "stands alone"),
        ("\"foo\"", 1, "a string stands alone"),
        ("\"state\" = FAILED", 1, "unquoted"),
        ("state", 1, "a comparator and a value must follow `state`"),
        ("state FAILED", 1, "a comparator and a value must follow `state`"),
        ("cancel_requested", 1, "cancel_requested = true"),
        ("state =", 8, "a value is missing after `=`"),
        ("(state = )", 10, "a value is missing after `=`"),
        ("state = AND queue = x", 9, "a value is missing before `AND`"),
        ("= FAILED", 1, "`=` cannot begin a term"),
        ("state = FAILED AND", 19, "a term is missing here"),
        ("state = FAILED OR  ", 20, "a term is missing here"),
        ("AND state = FAILED", 1, "a term is missing before `AND`"),
        ("state = FAILED AND OR queue = x", 20, "a term is missing before `OR`"),
        ("NOT", 4, "a term is missing here"),
        ("state = FAILED and queue = x", 16, "capitals: `AND`"),
        ("state = FAILED && queue = x", 16, "write `AND`"),
        ("state = FAILED || queue = x", 16, "write `OR`"),
        ("* AND state = FAILED", 1, "only when it is the whole filter"),
        ("(state = FAILED", 1, "never closed"),
        ("queue = a ((state = FAILED)", 11, "never closed"),
        ("state = FAILED)", 15, "closes nothing"),
        ("()", 2, "a term is missing here"),
        (")", 1, "a term is missing here"),
        ("state == FAILED", 7, "write `=`"),
        ("state <> FAILED", 7, "write `!=`"),
        ("!state = FAILED", 1, "cannot begin a term"),
        ("state ! FAILED", 7, "write `!=`"),
        ("state =< FAILED", 8, "`=<` is not a comparator"),
        ("state = (FAILED OR RUNNING)", 9, "a list cannot follow `=`"),
        ("now() = 5", 1, "functions are not supported"),
        ("queue = \"a", 9, "never closed"),
        ("queue = 'a\"", 9, "never closed"),
        ("queue = \"a\\\"", 9, "never closed"),
        ("queue = \"a\\q\"", 11, "is not an escape"),
        ("queue = a\\", 10, "a backslash ends the value"),
        ("queue = \"a\"b", 12, "cannot follow a value"),
        ("queue = a=b", 10, "cannot follow a value"),
        ("labels. = x", 8, "a name must follow the dot"),
        ("labels..a = x", 8, "a name must follow the dot"),
        (".a = x", 1, "cannot begin a term"),
        ("queue = \"a\0\"", 11, "NUL"),
        // Columns count characters, not bytes.
        ("queue = \"äöü\" AND foo = 1", 19, "`foo` is not a field"),
        // Fields and types.
        ("foo = 1", 1, "the fields are state, type"),
        ("error = x", 1, "error.type, error.message"),
        ("state.x = 1", 1, "`state.x` is not a field"),
        ("queue = a AND (Foo = 1)", 16, "`Foo` is not a field"),
        ("state = DONE", 9, "PENDING, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED"),
        ("state = failed", 9, "is not a state"),
        ("state = FAIL*", 9, "`FAIL*` is not a state"),
        ("state > FAILED", 9, "use = or !="),
        ("state:*", 7, "use = or !="),
        ("priority = high", 12, "whole number"),
        ("priority = 1.5", 12, "whole number"),
        ("priority = 9223372036854775808", 12, "whole number"),
        ("priority:5", 10, "`:` does not work on `priority`"),
        ("cancel_requested = yes", 20, "true or false"),
        ("cancel_requested > true", 20, "use = or !="),
        ("create_time > yesterday", 15, "RFC 3339"),
        ("create_time > 2026-01-02", 15, "must follow the date"),
        ("create_time > 2025-02-29T00:00:00Z", 15, "no such day"),
        ("create_time:2026", 13, "takes only `*`"),
        ("queue > a*", 9, "wildcard only after"),
        ("queue = \u{FFFD}*", 9, "put `*` in their place"),
        ("labels = x", 1, "name one label"),
        ("labels:*", 1, "name one label"),
        ("labels:Team", 8, "is not a label key"),
        ("labels.Team = x", 1, "is not a label key"),
        ("labels.\"a*\" = x", 1, "is not a label key"),
        ("labels.\"a\\\"b\" = x", 1, "is not a label key"),
        ("name = abc", 8, "does not name a task"),
        ("name = zz*", 8, "does not name a task"),
        ("name = 0199*-5678*", 8, "does not name a task"),
        ("name = projects/p/jobs/x", 8, "not a full name"),
        ("name = projects/*/tasks/0199*", 8, "not a full name"),
        ("name > 0*", 8, "use = or !="),
        ("worker = projects/p/x", 10, "not a full name"),
    ];
    for (text, column, part) in cases {
        let error = Filter::parse(text).expect_err(text);
        assert!(error.message.contains(part), "{text}: {error}");
        assert_eq!(error.column, column, "{text}: {error}");
    }
}

#[test]
fn dead_letters_have_fields_of_their_own() {
    for good in
        ["state = OPEN", "reason != POISON", "fingerprint = 00ff*", "error.message:x queue = q type = t", "name = 0*"]
    {
        assert!(Filter::parse_dead_letters(good).is_ok(), "{good}");
        let is_of_tasks_too = good.starts_with("error") || good.starts_with("name");
        assert_eq!(Filter::parse(good).is_ok(), is_of_tasks_too, "{good}");
    }
    for (bad, column, hint) in [
        ("state = FAILED", 9, "OPEN, PROCESSED"),
        ("state = REPLAYED", 9, "OPEN, PROCESSED"),
        ("state > OPEN", 9, "use = or !="),
        ("reason = final", 10, "EXHAUSTED, FINAL"),
        ("labels.team = a", 1, "the fields are state"),
        ("priority = 1", 1, "the fields are state"),
        ("name = projects/p/tasks/0*", 8, "projects/PROJECT/deadLetters/ID"),
        ("name = x", 8, "dead letter"),
    ] {
        let error = Filter::parse_dead_letters(bad).unwrap_err();
        assert_eq!(error.column, column, "{bad}: {error:?}");
        assert!(error.message.contains(hint), "{bad}: {error:?}");
    }
}

#[test]
fn sizes_are_bounded() {
    let longest = format!("queue = \"{}\"", "x".repeat(MAX_BYTES - 10));
    assert_eq!(longest.len(), MAX_BYTES);
    parse(&longest);
    let error = Filter::parse(&format!("{longest} ")).expect_err("too long");
    assert_eq!((error.column, error.message.contains("2049 bytes")), (MAX_BYTES + 1, true), "{error}");

    let terms = |count: usize| vec!["queue=a"; count].join(" ");
    parse(&terms(MAX_TERMS));
    let error = Filter::parse(&terms(MAX_TERMS + 1)).expect_err("too many terms");
    assert_eq!((error.column, error.message.contains("more than 50 terms")), (MAX_TERMS * 8 + 1, true), "{error}");

    let nested = |depth: usize| format!("{}queue=a{}", "(".repeat(depth), ")".repeat(depth));
    parse(&nested(MAX_DEPTH));
    let error = Filter::parse(&nested(MAX_DEPTH + 1)).expect_err("too deep");
    assert_eq!((error.column, error.message.contains("deeper than 20")), (MAX_DEPTH + 1, true), "{error}");
    // Far beyond the limit, and negated at every step.
    Filter::parse(&"(".repeat(MAX_BYTES)).expect_err("too deep");
    Filter::parse(&"-(".repeat(MAX_BYTES / 2)).expect_err("too deep");
    Filter::parse(&"-".repeat(MAX_BYTES)).expect_err("no term");
    Filter::parse(&"NOT ".repeat(MAX_BYTES / 4)).expect_err("no term");
}

#[test]
fn errors_stay_short_whatever_was_written() {
    let error = Filter::parse(&"\u{1}".repeat(MAX_BYTES)).expect_err("no field");
    assert!(error.message.len() < 1000, "{error}");
    assert!(!error.message.contains('\u{1}'), "{error}");
}

#[test]
fn required_states_are_found() {
    use TaskState::{Cancelled, Failed, Pending, Retrying, Running, Succeeded};
    let cases = [
        ("", None),
        ("queue = a", None),
        ("state = FAILED", Some(vec![Failed])),
        ("queue = a AND state = FAILED AND NOT labels.team = x", Some(vec![Failed])),
        ("state = RUNNING OR state = PENDING", Some(vec![Pending, Running])),
        ("state = RUNNING OR queue = a", None),
        ("(state = RUNNING queue = a) OR (state = FAILED queue = b)", Some(vec![Running, Failed])),
        ("state != FAILED", Some(vec![Pending, Running, Retrying, Succeeded, Cancelled])),
        ("NOT (state = FAILED OR state = CANCELLED OR state = SUCCEEDED)", Some(vec![Pending, Running, Retrying])),
        ("NOT (state = FAILED queue = a)", None),
        ("NOT (state != FAILED OR queue = a)", Some(vec![Failed])),
        ("state = FAILED state = RUNNING", Some(vec![])),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).required_states(), expected, "{text}");
    }
}

#[test]
fn a_pinned_task_is_found() {
    let id = Uuid::try_parse(ID).expect("valid");
    let cases = [
        (format!("name = {ID}"), Some(id)),
        (format!("state = FAILED (queue = a name = projects/p/tasks/{ID})"), Some(id)),
        (format!("NOT name != {ID}"), Some(id)),
        (format!("name != {ID}"), None),
        (format!("name = {ID} OR queue = a"), None),
        ("name = 0199*".to_owned(), None),
        ("queue = a".to_owned(), None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(&text).pinned_task(), expected, "{text}");
    }
}

#[test]
fn a_pinned_queue_is_found() {
    for (text, expected) in [
        ("queue = a", Some("a")),
        ("state = FAILED (type = t AND queue = a)", Some("a")),
        ("NOT queue != a", Some("a")),
        ("queue != a", None),
        ("queue = a*", None),
        ("queue:a", None),
        ("queue = a OR state = FAILED", None),
        ("type = a", None),
        ("", None),
    ] {
        assert_eq!(parse(text).pinned_queue(), expected, "{text}");
    }
}

/// Terms of every kind, as text.
fn term() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "state = FAILED",
        "state != RUNNING",
        "queue = e*l",
        "type:mail",
        "priority > -7",
        "priority < -9",
        "cancel_requested = true",
        "finish_time:*",
        "finish_time != 2026-01-02T03:04:05Z",
        "create_time >= 2026-01-02T03:04:05Z",
        "labels.team = \"core\"",
        "labels.\"none\" != 'x'",
        "labels:none",
        "worker = projects/shop/workers/w",
        "error.message = \"a\\\"b\\\\*\"",
        "name != 0199*",
    ])
    .prop_map(str::to_owned)
}

/// A formula beside its text: an oracle for precedence, negation and parentheses.
#[derive(Debug, Clone)]
enum Formula {
    Term(String),
    Not(&'static str, Box<Formula>),
    Or(Vec<Formula>),
    And(&'static str, Vec<Formula>),
}

impl Formula {
    fn text(&self) -> String {
        match self {
            Self::Term(term) => term.clone(),
            Self::Not(operator, formula) => match &**formula {
                Self::Term(term) => format!("{operator}{term}"),
                other => format!("{operator}({})", other.text()),
            },
            // OR binds tighter than AND, so an AND inside an OR needs parentheses and an OR inside an AND none.
            Self::Or(formulas) => {
                let texts = formulas.iter().map(|formula| match formula {
                    Self::And(..) | Self::Or(_) => format!("({})", formula.text()),
                    _ => formula.text(),
                });
                texts.collect::<Vec<_>>().join(" OR ")
            }
            Self::And(operator, formulas) => {
                let texts = formulas.iter().map(|formula| match formula {
                    Self::And(..) => format!("({})", formula.text()),
                    _ => formula.text(),
                });
                texts.collect::<Vec<_>>().join(operator)
            }
        }
    }

    fn holds(&self, task: &Sample) -> bool {
        match self {
            Self::Term(term) => parse(term).matches(task),
            Self::Not(_, formula) => !formula.holds(task),
            Self::Or(formulas) => formulas.iter().any(|formula| formula.holds(task)),
            Self::And(_, formulas) => formulas.iter().all(|formula| formula.holds(task)),
        }
    }
}

fn formula() -> impl Strategy<Value = Formula> {
    term().prop_map(Formula::Term).prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            (prop::sample::select(vec!["-", "- ", "NOT ", "NOT\n"]), inner.clone())
                .prop_map(|(operator, formula)| Formula::Not(operator, Box::new(formula))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Formula::Or),
            (prop::sample::select(vec![" AND ", " ", "\n"]), prop::collection::vec(inner, 1..4))
                .prop_map(|(operator, formulas)| Formula::And(operator, formulas)),
        ]
    })
}

/// Parsing neither panics nor points outside the text; what is accepted can be evaluated.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    match Filter::parse(text) {
        Ok(filter) => {
            filter.matches(&Sample::default());
            filter.required_states();
            filter.pinned_task();
        }
        Err(error) => {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}");
            prop_assert!(!error.message.is_empty() && error.message.len() < 1000, "{error}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), near in "[a-z_.*:=!<>()\"'\\\\ 0-9éAND ORT-]{0,80}") {
        check_any(&text)?;
        check_any(&near)?;
    }

    #[test]
    fn no_mutation_of_a_filter_panics(
        formula in formula(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<char>()), 1..5),
    ) {
        let mut chars: Vec<char> = formula.text().chars().collect();
        for (place, edit, c) in edits {
            let place = place.index(chars.len() + 1);
            match edit {
                0 => chars.insert(place, c),
                1 => chars.truncate(place),
                _ if place < chars.len() => { chars.remove(place); }
                _ => {}
            }
        }
        check_any(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn a_formula_means_what_its_parts_mean(formula in formula(), priority in -10..0i64, finished in any::<bool>()) {
        let task = Sample { priority, finish_time: finished.then_some(0), ..Sample::default() };
        let text = formula.text();
        let filter = parse(&text);
        prop_assert_eq!(filter.matches(&task), formula.holds(&task), "{}", text);
        if filter.matches(&task) {
            prop_assert!(filter.required_states().is_none_or(|states| states.contains(&task.state)));
        }
    }

    #[test]
    fn every_string_can_be_asked_for(value in "[^\0]{0,40}") {
        let mut escaped = String::new();
        for c in value.chars() {
            if matches!(c, '\\' | '"' | '*') {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        let task = Sample { error_message: Some(value), ..Sample::default() };
        let text = format!("error.message = \"{escaped}\"");
        prop_assert!(parse(&text).matches(&task), "{}", text);
    }
}
