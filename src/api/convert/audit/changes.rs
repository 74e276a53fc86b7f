//! What changed, by path of fields: the old value and the new one.
//!
//! A row about a task holds the task after the change and old values of what differs; both tasks are put together, turned into
//! messages and compared field by field. A row about another resource holds paths with old and new values as the service
//! keeps them; they get the form of the wire by the descriptor of the field. Either way a field that the proto marks
//! `debug_redact` is named, and its values are left out.
//!
//! A row that somebody tampered with may hold anything. What cannot be read is not shown; VerifyAudit is who tells.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value as Json, json};

use super::{POOL, to_json, wire_value};
use crate::{
    api::convert::{
        scalar::{duration, timestamp},
        task,
    },
    domain::{audit::JournalRow, event::ResourceKind, snapshot, task::Task},
    pb,
};

/// Fields of a task that every change changes, or that say where it is kept.
const OF_EVERY_TASK: [&str; 5] = ["name", "version", "update_time", "etag", "create_time"];
/// Messages inside one another that are gone into; none of ours is deeper.
const MAX_DEPTH: usize = 8;

/// What a note says.
pub(super) struct Note {
    pub(super) count: i64,
    pub(super) reason: String,
}

/// What the row says, if it is a note.
pub(super) fn note(row: &JournalRow) -> Option<Note> {
    const NOTES: [ResourceKind; 3] =
        [ResourceKind::CallRefused, ResourceKind::CallUnauthenticated, ResourceKind::PayloadRead];
    if !NOTES.iter().any(|kind| *kind as i16 == row.kind) {
        return None;
    }
    let diff: Json = row.diff.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let count = diff["count"][1].as_i64().unwrap_or(1);
    Some(Note { count, reason: diff["reason"][1].as_str().unwrap_or_default().to_owned() })
}

/// What changed.
pub(super) fn of(row: &JournalRow) -> Vec<pb::FieldChange> {
    if row.task.is_some() { of_task(row).unwrap_or_default() } else { of_resource(row).unwrap_or_default() }
}

fn of_task(row: &JournalRow) -> Option<Vec<pb::FieldChange>> {
    let owner = row.owner.as_deref().unwrap_or_default();
    let place = snapshot::Row { project: &row.project, id: row.task?, version: row.version, time: row.time, owner };
    let (after, before) = snapshot::decode(&place, row.snapshot.as_deref()?, row.diff.as_deref()).ok()?;
    let mut changes = Vec::new();
    let message = POOL.get_message_by_name("tasktower.v1.Task")?;
    let [before, after] = [before.as_ref(), Some(&after)].map(|task| task.and_then(fields_of).unwrap_or_default());
    compare(&message, &before, &after, "", 0, &mut changes);
    changes.retain(|change| !OF_EVERY_TASK.contains(&change.path.as_str()));
    // Of an input only the hash is kept.
    let diff: Json = row.diff.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if diff.get("input").is_some() {
        changes.push(pb::FieldChange { path: "input".to_owned(), masked: true, ..Default::default() });
    }
    Some(changes)
}

fn fields_of(task: &Task) -> Option<Map<String, Json>> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    match to_json(&task::task(task, false), "tasktower.v1.Task", &options)? {
        Json::Object(fields) => Some(fields),
        _ => None,
    }
}

/// Compares the fields of two messages, in the order of the proto.
fn compare(
    message: &MessageDescriptor,
    old: &Map<String, Json>,
    new: &Map<String, Json>,
    prefix: &str,
    depth: usize,
    changes: &mut Vec<pb::FieldChange>,
) {
    let none = Map::new();
    let members = |value: Option<&Json>| value.and_then(Json::as_object).cloned().unwrap_or_else(|| none.clone());
    for field in message.fields() {
        let (before, after) = (old.get(field.name()), new.get(field.name()));
        if before == after {
            continue;
        }
        let path = format!("{prefix}{}", field.name());
        let inner = inner_message(&field).filter(|_| depth < MAX_DEPTH && !is_redacted(&field));
        if let Some(inner) = inner {
            compare(&inner, &members(before), &members(after), &format!("{path}."), depth + 1, changes);
        } else if field.is_map() && !is_redacted(&field) {
            let (before, after) = (members(before), members(after));
            let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
                changes.push(change(format!("{path}.{key}"), before.get(key), after.get(key), false));
            }
        } else {
            changes.push(change(path, before, after, is_redacted(&field)));
        }
    }
}

/// The message of a field, if it has fields of its own that are worth a path.
fn inner_message(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else { return None };
    let is_plain = !field.is_list() && !field.is_map() && !message.full_name().starts_with("google.");
    is_plain.then_some(message)
}

fn change(path: String, old: Option<&Json>, new: Option<&Json>, masked: bool) -> pb::FieldChange {
    let value = |json: Option<&Json>| json.filter(|_| !masked).and_then(wire_value);
    pb::FieldChange { path, old_value: value(old), new_value: value(new), masked }
}

/// Whether the proto says that the values of a field are not to be shown.
fn is_redacted(field: &FieldDescriptor) -> bool {
    let option = field.options().get_field_by_name("debug_redact").and_then(|value| value.as_bool());
    option.unwrap_or(false)
}

fn of_resource(row: &JournalRow) -> Option<Vec<pb::FieldChange>> {
    let Json::Object(diff) = serde_json::from_str(row.diff.as_deref()?).ok()? else { return None };
    let message = message_of(row.resource.as_deref().unwrap_or_default());
    let changes = diff.into_iter().map(|(path, pair)| {
        let field = message.as_ref().and_then(|message| field_at(message, &path));
        let (old, new) = match pair {
            Json::Array(mut pair) if pair.len() == 2 => {
                let new = pair.pop().unwrap_or_default();
                (pair.pop().unwrap_or_default(), new)
            }
            other => (Json::Null, other),
        };
        let masked = field.as_ref().is_some_and(is_redacted);
        let shown = |value| match &field {
            Some(field) => in_form(field, value, 0),
            None => value,
        };
        let [old, new] = if masked { [Json::Null, Json::Null] } else { [old.clone(), new.clone()].map(shown) };
        change(path, Some(&old), Some(&new), masked)
    });
    Some(changes.collect())
}

/// The message of a resource, by its name.
fn message_of(resource: &str) -> Option<MessageDescriptor> {
    let parts: Vec<&str> = resource.split('/').collect();
    let message = match parts[..] {
        ["projects", _] => "Project",
        ["projects", _, "retention"] => "Retention",
        ["projects", _, collection, ..] | [collection, _] => match collection {
            "members" => "Member",
            "queues" => "Queue",
            "workers" => "Worker",
            "bulkJobs" => "BulkJob",
            "retryPolicies" => "RetryPolicy",
            "deadLetters" => "DeadLetter",
            "schedules" => "Schedule",
            "retentionRuns" => "RetentionRun",
            _ => return None,
        },
        _ => return None,
    };
    POOL.get_message_by_name(&format!("tasktower.v1.{message}"))
}

fn field_at(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let mut message = message.clone();
    let mut parts = path.split('.').peekable();
    loop {
        let field = message.get_field_by_name(parts.next()?)?;
        if parts.peek().is_none() {
            return Some(field);
        }
        message = field.kind().as_message()?.clone();
    }
}

/// The value of an enum in full: the service leaves out what all of its names begin with.
fn in_full(names: &EnumDescriptor, value: Json) -> Json {
    let unspecified = names.default_value();
    let prefix = unspecified.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    let full = value.as_str().map(|short| format!("{prefix}{}", short.to_uppercase()));
    match full.filter(|full| names.values().any(|value| value.name() == full)) {
        Some(full) => Json::String(full),
        None => value,
    }
}

/// A value as the service keeps it, in the form of the wire: times and spans are numbers of microseconds there. What does not
/// fit the field stays as it is, and what the proto says is not to be shown is left out.
fn in_form(field: &FieldDescriptor, value: Json, depth: usize) -> Json {
    if is_redacted(field) {
        return Json::Null;
    }
    let message = match field.kind() {
        Kind::Message(message) => message,
        Kind::Enum(names) => return in_full(&names, value),
        _ => return value,
    };
    match (message.full_name(), value) {
        (_, Json::Array(values)) => values.into_iter().map(|value| in_form(field, value, depth)).collect(),
        ("google.protobuf.Timestamp", Json::Number(number)) => {
            number.as_i64().map_or(Json::Null, |micros| json!(timestamp(micros).to_string()))
        }
        ("google.protobuf.Duration", Json::Number(number)) => {
            number.as_i64().map_or(Json::Null, |micros| json!(duration(micros).to_string()))
        }
        (_, Json::Object(fields)) if depth < MAX_DEPTH => {
            let inner = |(name, value): (String, Json)| {
                let value = match message.get_field_by_name(&name) {
                    Some(field) => in_form(&field, value, depth + 1),
                    None => value,
                };
                (name, value)
            };
            Json::Object(fields.into_iter().map(inner).collect())
        }
        (_, other) => other,
    }
}
