//! The fields of tasks, of dead letters and of audit entries, what type each is of, and what a comparison with it means. The only place where a name from
//! the caller becomes something the rest of the service knows.

use std::fmt;

use uuid::Uuid;

use super::cursor::{Comparator, Literal, WILDCARD};
use super::error::{Fault, echo};
use super::pattern::Pattern;
use super::timestamp;
use super::tree::{
    AuditField, ChoiceField, IntField, Node, Relation, Test, TextField, TextSource, TextTest, TimeField,
};
use crate::domain::audit::{self, Outcome};
use crate::domain::dead_letter::DeadLetterState;
use crate::domain::task_state::TaskState;
use crate::domain::transition::DeadLetterReason;

/// A field name as written, cut at its dots.
#[derive(Debug)]
pub(super) struct Path {
    /// Where it begins.
    pub(super) at: usize,
    /// At least one name, none of them empty.
    pub(super) names: Vec<String>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join("."))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    State,
    Name,
    CancelRequested,
    Action,
    ActorSort,
    Outcome,
    Choice(ChoiceField),
    Text(TextField),
    Int(IntField),
    Time(TimeField),
}

/// What filters of one kind of resource may ask.
pub(super) struct Schema {
    fields: &'static [(&'static str, Kind)],
    has_labels: bool,
    /// What stands before the id in a full name.
    collection: &'static str,
    /// What one of them is called.
    noun: &'static str,
}

/// Filters of tasks.
pub(super) static TASKS: Schema = Schema { fields: &TASK_FIELDS, has_labels: true, collection: "tasks", noun: "task" };

/// Filters of dead letters.
pub(super) static DEAD_LETTERS: Schema =
    Schema { fields: &DEAD_LETTER_FIELDS, has_labels: false, collection: "deadLetters", noun: "dead letter" };

/// Filters of audit entries.
pub(super) static AUDIT_ENTRIES: Schema =
    Schema { fields: &AUDIT_FIELDS, has_labels: false, collection: "auditEntries", noun: "audit entry" };

const AUDIT_FIELDS: [(&str, Kind); 11] = [
    ("actor", Kind::Text(TextField::Audit(AuditField::Actor))),
    ("actor_kind", Kind::ActorSort),
    ("credential", Kind::Text(TextField::Audit(AuditField::Credential))),
    ("method", Kind::Text(TextField::Audit(AuditField::Method))),
    ("resource", Kind::Text(TextField::Audit(AuditField::Resource))),
    ("action", Kind::Action),
    ("outcome", Kind::Outcome),
    ("event_time", Kind::Time(TimeField::Create)),
    ("request_id", Kind::Text(TextField::Audit(AuditField::RequestId))),
    ("address", Kind::Text(TextField::Audit(AuditField::Address))),
    ("user_agent", Kind::Text(TextField::Audit(AuditField::Agent))),
];

const DEAD_LETTER_FIELDS: [(&str, Kind); 9] = [
    ("state", Kind::Choice(ChoiceField::DeadLetterState)),
    ("reason", Kind::Choice(ChoiceField::DeadLetterReason)),
    ("queue", Kind::Text(TextField::Queue)),
    ("type", Kind::Text(TextField::Type)),
    ("error.type", Kind::Text(TextField::ErrorType)),
    ("error.message", Kind::Text(TextField::ErrorMessage)),
    ("fingerprint", Kind::Text(TextField::Fingerprint)),
    ("create_time", Kind::Time(TimeField::Create)),
    ("name", Kind::Name),
];

const TASK_FIELDS: [(&str, Kind); 18] = [
    ("state", Kind::State),
    ("type", Kind::Text(TextField::Type)),
    ("queue", Kind::Text(TextField::Queue)),
    ("priority", Kind::Int(IntField::Priority)),
    ("create_time", Kind::Time(TimeField::Create)),
    ("update_time", Kind::Time(TimeField::Update)),
    ("run_time", Kind::Time(TimeField::Run)),
    ("finish_time", Kind::Time(TimeField::Finish)),
    ("expire_time", Kind::Time(TimeField::Expire)),
    ("attempt_count", Kind::Int(IntField::AttemptCount)),
    ("crash_count", Kind::Int(IntField::CrashCount)),
    ("worker", Kind::Text(TextField::Worker)),
    ("owner", Kind::Text(TextField::Owner)),
    ("unique_key", Kind::Text(TextField::UniqueKey)),
    ("cancel_requested", Kind::CancelRequested),
    ("error.type", Kind::Text(TextField::ErrorType)),
    ("error.message", Kind::Text(TextField::ErrorMessage)),
    ("name", Kind::Name),
];

/// The field whose members are the caller's own.
const LABELS: &str = "labels";
/// The longest label key, in bytes; no task has a longer one.
const MAX_LABEL_KEY: usize = 63;
/// The characters of a UUID in text, with dashes.
const UUID_LENGTH: usize = 36;
/// The places of the dashes among them.
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
/// The hexadecimal digits of a UUID.
const UUID_DIGITS: usize = 32;

impl Schema {
    fn kind(&self, path: &Path) -> Option<Kind> {
        let name = path.to_string();
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, kind)| *kind)
    }

    /// Whether the path begins with the field whose members are the caller's own.
    fn is_label(&self, path: &Path) -> bool {
        self.has_labels && path.names.first().is_some_and(|name| name == LABELS)
    }

    /// Whether the path names a field or a label.
    pub(super) fn is_field(&self, path: &Path) -> bool {
        self.kind(path).is_some() || self.is_label(path)
    }

    /// Gives a comparison its meaning.
    pub(super) fn restriction(
        &self,
        path: &Path,
        comparator: Comparator,
        value: &Literal<'_>,
        negated: bool,
    ) -> Result<Node, Fault> {
        // What a full name asks of the project, beside the test itself.
        let mut tests = Vec::new();
        let test = match path.names.split_first() {
            Some((_, [])) if self.is_label(path) => has_label(path, comparator, value)?,
            Some((_, key)) if self.is_label(path) => {
                // Labels are one flat map and their keys may hold dots, so the dots after the first belong to the key.
                let key = label_key(key.join("."), path.at)?;
                Test::Text(TextSource::Label(key), text_test(comparator, value)?)
            }
            _ => match self.kind(path).ok_or_else(|| self.unknown(path))? {
                Kind::State => state(path, comparator, value)?,
                Kind::Choice(field) => choice(field, path, comparator, value)?,
                Kind::Action => action(comparator, value)?,
                Kind::ActorSort => {
                    let negated = negated != is_negation(comparator);
                    return actor_kind(path, comparator, value, negated);
                }
                Kind::Outcome => {
                    let (wanted, kinds) = outcome(path, comparator, value)?;
                    return Ok(join(vec![Test::Kinds(kinds)], negated != (is_negation(comparator) == wanted)));
                }
                Kind::CancelRequested => {
                    // `= false` asks for the opposite of `= true`, and so does `!= true`.
                    let wanted = boolean(path, comparator, value)?;
                    return Ok(join(vec![Test::CancelRequested], negated != (is_negation(comparator) == wanted)));
                }
                Kind::Int(field) => int(field, path, comparator, value)?,
                Kind::Time(field) => time(field, path, comparator, value)?,
                Kind::Name => self.name(path, comparator, value, &mut tests)?,
                Kind::Text(TextField::Worker) => worker(comparator, value, &mut tests)?,
                Kind::Text(field) => Test::Text(TextSource::Field(field), text_test(comparator, value)?),
            },
        };
        tests.push(test);
        Ok(join(tests, negated != is_negation(comparator)))
    }

    fn unknown(&self, path: &Path) -> Fault {
        let mut names: Vec<_> = self.fields.iter().map(|(name, _)| *name).collect();
        names.extend(self.has_labels.then_some("labels.KEY"));
        let path_text = echo(&path.to_string());
        Fault::new(path.at, format!("{path_text} is not a field; the fields are {}", names.join(", ")))
    }

    fn name(
        &self,
        path: &Path,
        comparator: Comparator,
        value: &Literal<'_>,
        tests: &mut Vec<Test>,
    ) -> Result<Test, Fault> {
        only_equality(path, comparator, value)?;
        let mut id = value.text.as_str();
        if let Some((project, rest)) = full_name(self.collection, value)? {
            tests.push(Test::Project(project.to_owned()));
            id = rest;
        }
        let range = match id.strip_suffix(WILDCARD) {
            Some(prefix) => ids_with_prefix(prefix),
            None if id.len() == UUID_LENGTH => ids_with_prefix(id),
            None => None,
        };
        let Some((lowest, highest)) = range else {
            let (noun, collection) = (self.noun, self.collection);
            return Err(value.fault(format!(
                "{} does not name a {noun}; write a UUID, or the beginning of one and `*`, alone or after \
                 `projects/PROJECT/{collection}/`",
                echo(value.raw)
            )));
        };
        Ok(Test::Id { lowest, highest })
    }
}

fn is_negation(comparator: Comparator) -> bool {
    comparator == Comparator::NotEqual
}

/// All of the tests, or the negation of that.
fn join(tests: Vec<Test>, negated: bool) -> Node {
    Node::join(tests.into_iter().map(|test| Node::Test { negated, test }).collect(), !negated)
}

/// The relation a comparator asks for, but for `:`; `!=` is a negated `=`.
const fn relation(comparator: Comparator) -> Option<Relation> {
    match comparator {
        Comparator::Equal | Comparator::NotEqual => Some(Relation::Equal),
        Comparator::Less => Some(Relation::Less),
        Comparator::LessOrEqual => Some(Relation::LessOrEqual),
        Comparator::Greater => Some(Relation::Greater),
        Comparator::GreaterOrEqual => Some(Relation::GreaterOrEqual),
        Comparator::Has => None,
    }
}

fn only_equality(path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<(), Fault> {
    match comparator {
        Comparator::Equal | Comparator::NotEqual => Ok(()),
        other => Err(value.fault(format!("`{}` does not work on `{path}`; use = or !=", other.symbol()))),
    }
}

/// The text of a value in which a wildcard makes no sense.
fn plain<'v>(value: &'v Literal<'_>) -> Result<&'v str, Fault> {
    if value.has_wildcard() {
        return Err(value.fault(r"`*` is a wildcard only after = != and : on text; write \* for an asterisk"));
    }
    Ok(&value.text)
}

fn state(path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    only_equality(path, comparator, value)?;
    TaskState::from_name(&value.text).map(Test::State).ok_or_else(|| {
        let names = TaskState::ALL.map(TaskState::name).join(", ");
        value.fault(format!("{} is not a state; the states are {names}", echo(value.raw)))
    })
}

fn choice(field: ChoiceField, path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    only_equality(path, comparator, value)?;
    let choices: Vec<(&str, i16)> = match field {
        // What was replayed is in no list.
        ChoiceField::DeadLetterState => {
            [DeadLetterState::Open, DeadLetterState::Processed].map(|state| (state.name(), state as i16)).into()
        }
        ChoiceField::DeadLetterReason => {
            DeadLetterReason::ALL.iter().map(|reason| (reason.name(), *reason as i16)).collect()
        }
    };
    let found = choices.iter().find(|(name, _)| *name == value.text);
    found.map(|(_, number)| Test::Choice(field, *number)).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        value.fault(format!("{} is not a {path}; there are {}", echo(value.raw), names.join(", ")))
    })
}

fn action(comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    let test = text_test(comparator, value)?;
    let kinds: Vec<i16> = audit::actions().filter(|(_, name)| test.holds(Some(name))).map(|(kind, _)| kind).collect();
    let is_exact = matches!(comparator, Comparator::Equal | Comparator::NotEqual) && !value.has_wildcard();
    if is_exact && kinds.is_empty() {
        let raw = echo(value.raw);
        return Err(value.fault(format!(
            "{raw} is not an action; those are for example task.submitted and queue.paused, and \"queue.*\" means all of \
             queues"
        )));
    }
    Ok(Test::Kinds(kinds))
}

/// What begins the names of actors that are no part of the server.
const ACTOR_PREFIXES: [(&str, &str); 2] = [("SERVICE", "service:"), ("USER", "user:")];

fn actor_kind(path: &Path, comparator: Comparator, value: &Literal<'_>, negated: bool) -> Result<Node, Fault> {
    only_equality(path, comparator, value)?;
    let begins = |prefix: &str| {
        let pattern = Pattern::new(&format!("{prefix}{WILDCARD}"));
        Test::Text(TextSource::Field(TextField::Audit(AuditField::Actor)), TextTest::Matches(pattern))
    };
    if value.text == "SYSTEM" {
        let others = ACTOR_PREFIXES.map(|(_, prefix)| Node::Test { negated: !negated, test: begins(prefix) });
        return Ok(Node::join(others.into(), !negated));
    }
    let known = ACTOR_PREFIXES.into_iter().find(|(kind, _)| *kind == value.text);
    let (_, prefix) = known.ok_or_else(|| {
        value.fault(format!("{} is not an actor_kind; there are SYSTEM, SERVICE, USER", echo(value.raw)))
    })?;
    Ok(Node::Test { negated, test: begins(prefix) })
}

/// The kinds that have, or do not have, the outcome.
fn outcome(path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<(bool, Vec<i16>), Fault> {
    only_equality(path, comparator, value)?;
    let kind = |outcome: Outcome| outcome.kind().map(|kind| kind as i16);
    match Outcome::ALL.into_iter().find(|outcome| outcome.name() == value.text) {
        Some(Outcome::Ok) => Ok((false, Outcome::ALL.into_iter().filter_map(kind).collect())),
        Some(refused) => Ok((true, kind(refused).into_iter().collect())),
        None => {
            let names = Outcome::ALL.map(Outcome::name).join(", ");
            Err(value.fault(format!("{} is not an outcome; there are {names}", echo(value.raw))))
        }
    }
}

fn boolean(path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<bool, Fault> {
    only_equality(path, comparator, value)?;
    match value.text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(value.fault(format!("`{path}` is true or false, not {}", echo(value.raw)))),
    }
}

fn int(field: IntField, path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    let Some(relation) = relation(comparator) else {
        return Err(value.fault(format!("`:` does not work on `{path}`; use = != < <= > or >=")));
    };
    let number = value.text.parse().map_err(|_| {
        value.fault(format!("`{path}` is compared with a whole number of 64 bits, not {}", echo(value.raw)))
    })?;
    Ok(Test::Int(field, relation, number))
}

fn time(field: TimeField, path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    let Some(relation) = relation(comparator) else {
        if value.is_lone_wildcard() {
            return Ok(Test::TimePresent(field));
        }
        let message = format!("`:` on `{path}` takes only `*`, which asks whether it is set; use = != < <= > or >=");
        return Err(value.fault(message));
    };
    let micros = timestamp::parse(&value.text).map_err(|reason| {
        let raw = echo(value.raw);
        value.fault(format!("{raw} is not a time: {reason}; write it as in RFC 3339, for example 2026-01-02T03:04:05Z"))
    })?;
    Ok(Test::Time(field, relation, micros))
}

fn text_test(comparator: Comparator, value: &Literal<'_>) -> Result<TextTest, Fault> {
    match relation(comparator) {
        None => pattern(&format!("{WILDCARD}{}{WILDCARD}", value.text), value),
        Some(Relation::Equal) if value.has_wildcard() => pattern(&value.text, value),
        Some(relation) => Ok(TextTest::Compare(relation, plain(value)?.to_owned())),
    }
}

fn pattern(literal: &str, value: &Literal<'_>) -> Result<TextTest, Fault> {
    // SQLite's pattern matching takes these three for one another, so it would not agree with the rest of the service.
    if literal.contains(['\u{FFFD}', '\u{FFFE}', '\u{FFFF}']) {
        return Err(
            value.fault("U+FFFD, U+FFFE and U+FFFF cannot stand beside `*` or after `:`; put `*` in their place")
        );
    }
    let pattern = Pattern::new(literal);
    Ok(if pattern.is_any() { TextTest::Present } else { TextTest::Matches(pattern) })
}

/// `labels:KEY`, which asks whether the label is there.
fn has_label(path: &Path, comparator: Comparator, value: &Literal<'_>) -> Result<Test, Fault> {
    if comparator != Comparator::Has || value.has_wildcard() {
        return Err(Fault::new(
            path.at,
            "name one label: `labels.team = \"core\"` compares it, `labels:team` asks whether it is there",
        ));
    }
    let key = label_key(value.text.clone(), value.at)?;
    Ok(Test::Text(TextSource::Label(key), TextTest::Present))
}

/// Refuses keys that no label can have. It also keeps quotes and escapes out of JSON paths.
fn label_key(key: String, at: usize) -> Result<String, Fault> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._/-".contains(&byte);
    if (1..=MAX_LABEL_KEY).contains(&key.len()) && key.bytes().all(allowed) {
        return Ok(key);
    }
    let shown = echo(&key);
    Err(Fault::new(
        at,
        format!("{shown} is not a label key; those are 1 to {MAX_LABEL_KEY} characters of [a-z0-9._/-]"),
    ))
}

/// Cuts `projects/{project}/{collection}/{rest}`. `None` if the text is no full name at all.
fn full_name<'v>(collection: &str, value: &'v Literal<'_>) -> Result<Option<(&'v str, &'v str)>, Fault> {
    let Some(tail) = value.text.strip_prefix("projects/") else { return Ok(None) };
    let mut parts = tail.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(project), Some(found), Some(rest))
            if found == collection && !project.is_empty() && !project.contains(WILDCARD) =>
        {
            Ok(Some((project, rest)))
        }
        _ => Err(value.fault(format!(
            "{} is not a full name; write `projects/PROJECT/{collection}/ID` or the id alone, with `*` only in the id",
            echo(value.raw)
        ))),
    }
}

fn worker(comparator: Comparator, value: &Literal<'_>, tests: &mut Vec<Test>) -> Result<Test, Fault> {
    let mut id = value.text.as_str();
    if matches!(comparator, Comparator::Equal | Comparator::NotEqual)
        && let Some((project, rest)) = full_name("workers", value)?
    {
        tests.push(Test::Project(project.to_owned()));
        id = rest;
    }
    let value = Literal { at: value.at, raw: value.raw, text: id.to_owned() };
    Ok(Test::Text(TextSource::Field(TextField::Worker), text_test(comparator, &value)?))
}

/// The range of the UUIDs whose text begins like this; of a whole UUID, that one. A range needs no text of the ids and
/// so can use their index.
fn ids_with_prefix(prefix: &str) -> Option<(Uuid, Uuid)> {
    if prefix.len() > UUID_LENGTH {
        return None;
    }
    let mut number: u128 = 0;
    let mut digits = 0;
    for (place, c) in prefix.chars().enumerate() {
        if UUID_DASHES.contains(&place) {
            if c != '-' {
                return None;
            }
        } else {
            number = number << 4 | u128::from(c.to_digit(16)?);
            digits += 1;
        }
    }
    let open_bits = 4 * (UUID_DIGITS - digits) as u32;
    let lowest = number.checked_shl(open_bits).unwrap_or(0);
    let highest = lowest | u128::MAX.checked_shr(u128::BITS - open_bits).unwrap_or(0);
    Some((Uuid::from_u128(lowest), Uuid::from_u128(highest)))
}
