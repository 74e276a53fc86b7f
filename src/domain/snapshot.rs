//! A task as its journal row keeps it: the BASIC view after the change, as compact JSON that operators can read with
//! SQL, and the old values of what changed. Together they give the task before and after without a second read.
//!
//! Fields at their default are left out; a field name, once shipped, keeps its meaning, because old rows are read for as
//! long as the history is kept.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    retry::{Retry, RetryMore},
    task::{DEFAULT_TIMEOUT, Lease, Payload, Progress, Spec, Task, TaskError},
    task_state::TaskState,
};
use crate::ids::{ProjectId, TaskId};

/// Bytes of the snapshot of a running task with a few labels.
const USUAL_SNAPSHOT: usize = 512;

/// Whether a field is left out of what is kept.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The snapshot, borrowing from the task it is made of.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Snapshot<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    queue: Cow<'a, str>,
    #[serde(skip_serializing_if = "is_default")]
    priority: i32,
    create_time: i64,
    run_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<(i32, i64, i64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_more: Option<RetryMore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_ttl: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    labels: Cow<'a, BTreeMap<String, String>>,
    state: u8,
    #[serde(skip_serializing_if = "is_default")]
    epoch: i64,
    #[serde(skip_serializing_if = "is_default")]
    attempt_count: i32,
    #[serde(skip_serializing_if = "is_default")]
    crash_count: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseSnapshot<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct LeaseSnapshot<'a> {
    #[serde(borrow)]
    worker: Cow<'a, str>,
    #[serde(skip_serializing_if = "is_default")]
    incarnation: Cow<'a, str>,
    start_time: i64,
    expire_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<(f64, Cow<'a, str>)>,
}

impl<'a> From<&'a Task> for Snapshot<'a> {
    fn from(task: &'a Task) -> Self {
        let spec = &*task.spec;
        Self {
            r#type: Cow::Borrowed(&spec.task_type),
            queue: Cow::Borrowed(&spec.queue),
            priority: spec.priority,
            create_time: spec.create_time,
            run_time: task.run_time,
            timeout: Some(spec.timeout).filter(|t| *t != DEFAULT_TIMEOUT),
            expire_time: spec.expire_time,
            retry: Some(spec.retry.numbers()).filter(|numbers| *numbers != Retry::Unsaid.numbers()),
            retry_more: spec.retry.more(),
            open_time: spec.open_time,
            unique_key: spec.unique_key.as_deref().map(Cow::Borrowed),
            unique_ttl: spec.unique_ttl,
            labels: Cow::Borrowed(&spec.labels),
            state: task.state as u8,
            epoch: task.epoch,
            attempt_count: task.attempt_count,
            crash_count: task.crash_count,
            lease: task.lease.as_ref().map(|lease| LeaseSnapshot {
                worker: Cow::Borrowed(&lease.worker),
                incarnation: Cow::Borrowed(&lease.incarnation),
                start_time: lease.start_time,
                expire_time: lease.expire_time,
                cancel_time: lease.cancel_time,
                cancel_reason: lease.cancel_reason.as_deref().map(Cow::Borrowed),
                progress: lease.progress.as_ref().map(|p| (p.percent, Cow::Borrowed(p.message.as_str()))),
            }),
            error: task
                .error
                .as_ref()
                .map(|e| (Cow::Borrowed(e.error_type.as_str()), Cow::Borrowed(e.message.as_str()))),
            cancel_reason: task.cancel_reason.as_deref().map(Cow::Borrowed),
            finish_time: task.finish_time,
        }
    }
}

/// The snapshot of a task after a change, as JSON.
pub fn encode(task: &Task) -> String {
    json(&Snapshot::from(task))
}

/// The old values of what a change changed, as JSON; `null` for what was absent.
pub fn encode_diff(before: &Task, after: &Task) -> String {
    json(&Diff {
        before: Snapshot::from(before),
        after: Snapshot::from(after),
        update_time: before.update_time,
        has_new_spec: !Arc::ptr_eq(&before.spec, &after.spec),
        // Nothing else changes the input, and comparing it takes a while.
        input: [before, after].map(|task| task.input.as_ref().filter(|_| opens_again(before, after))),
    })
}

fn opens_again(before: &Task, after: &Task) -> bool {
    before.state.is_final() && !after.state.is_final()
}

/// What is told of an input: enough to know it again, and nothing of what is in it.
#[derive(Serialize)]
struct InputMark<'a> {
    bytes: usize,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
}

impl<'a> From<&'a Payload> for InputMark<'a> {
    fn from(input: &'a Payload) -> Self {
        let sha256 = Sha256::digest(&input.data).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes: input.data.len(), sha256, media_type: input.media_type.as_deref() }
    }
}

/// Two snapshots, written as the old values of what differs.
struct Diff<'a> {
    before: Snapshot<'a>,
    after: Snapshot<'a>,
    update_time: i64,
    has_new_spec: bool,
    /// Before and after, if it was read.
    input: [Option<&'a Payload>; 2],
}

impl Serialize for Diff<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (before, after) = (&self.before, &self.after);
        let mut old = serializer.serialize_map(None)?;
        macro_rules! compare {
            ($($field:ident),*) => {
                $(if before.$field != after.$field {
                    old.serialize_entry(stringify!($field), &before.$field)?;
                })*
            };
        }
        compare!(state, run_time, epoch, attempt_count, crash_count, lease, error, cancel_reason, finish_time);
        if self.has_new_spec {
            compare!(priority, timeout, expire_time, retry, retry_more, open_time, labels);
        }
        let [input, new_input] = self.input;
        if input != new_input {
            // Both, because the snapshot does not have the new one.
            old.serialize_entry("input", &self.input.map(|input| input.map(InputMark::from)))?;
        }
        old.serialize_entry("update_time", &self.update_time)?;
        old.end()
    }
}

fn json(content: &impl Serialize) -> String {
    let mut text = Vec::with_capacity(USUAL_SNAPSHOT);
    // Serialising plain structs with string keys cannot fail, and what comes of it is text.
    let outcome = serde_json::to_writer(&mut text, content);
    debug_assert!(outcome.is_ok());
    String::from_utf8(text).unwrap_or_default()
}

/// What a journal row says besides the snapshot.
pub struct Row<'a> {
    /// The project.
    pub project: &'a ProjectId,
    /// The task.
    pub id: TaskId,
    /// Its version after the change.
    pub version: i64,
    /// When it changed.
    pub time: i64,
    /// Who submitted it.
    pub owner: &'a str,
}

/// The tasks after and before a change, from a journal row. `diff` is none for a submit.
pub fn decode(row: &Row<'_>, snapshot: &str, diff: Option<&str>) -> serde_json::Result<(Task, Option<Task>)> {
    let after = restore(row, serde_json::from_str(snapshot)?, row.version, row.time);
    let Some(diff) = diff else { return Ok((after, None)) };
    let mut value: Map<String, Value> = serde_json::from_str(snapshot)?;
    let mut update_time = row.time;
    for (field, old) in serde_json::from_str::<Map<String, Value>>(diff)? {
        if field == "update_time" {
            update_time = old.as_i64().unwrap_or(update_time);
        } else if old.is_null() {
            value.remove(&field);
        } else {
            value.insert(field, old);
        }
    }
    // Through text, because a snapshot borrows its strings.
    let text = Value::Object(value).to_string();
    let before = restore(row, serde_json::from_str(&text)?, row.version - 1, update_time);
    Ok((after, Some(before)))
}

fn restore(row: &Row<'_>, s: Snapshot<'_>, version: i64, update_time: i64) -> Task {
    let retry = Retry::restore(s.retry.unwrap_or(Retry::Unsaid.numbers()), s.retry_more);
    Task {
        project: row.project.clone(),
        id: row.id,
        spec: Arc::new(Spec {
            task_type: s.r#type.into_owned(),
            queue: s.queue.into_owned(),
            priority: s.priority,
            timeout: s.timeout.unwrap_or(DEFAULT_TIMEOUT),
            expire_time: s.expire_time,
            retry,
            unique_key: s.unique_key.map(Cow::into_owned),
            unique_ttl: s.unique_ttl,
            labels: s.labels.into_owned(),
            owner: row.owner.to_owned(),
            create_time: s.create_time,
            open_time: s.open_time,
        }),
        input: None,
        run_time: s.run_time,
        state: TaskState::try_from(i16::from(s.state)).unwrap_or(TaskState::Pending),
        version,
        epoch: s.epoch,
        attempt_count: s.attempt_count,
        crash_count: s.crash_count,
        lease: s.lease.map(|lease| Lease {
            worker: lease.worker.into_owned(),
            incarnation: lease.incarnation.into_owned(),
            start_time: lease.start_time,
            expire_time: lease.expire_time,
            // Not part of the BASIC view; nothing decides on a snapshot.
            deadline_time: lease.expire_time,
            duration: 0,
            waiting_state: TaskState::Pending,
            cancel_time: lease.cancel_time,
            cancel_reason: lease.cancel_reason.map(Cow::into_owned),
            progress: lease.progress.map(|(percent, message)| Progress { percent, message: message.into_owned() }),
            progress_time: None,
            progress_pending: false,
        }),
        error: s.error.map(|(error_type, message)| TaskError {
            error_type: error_type.into_owned(),
            message: message.into_owned(),
            details: String::new(),
        }),
        result: None,
        cancel_reason: s.cancel_reason.map(Cow::into_owned),
        update_time,
        finish_time: s.finish_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_the_task_before_and_after_its_change() {
        let project = ProjectId::new("p");
        let row = |version, time| Row { project: &project, id: TaskId(uuid::Uuid::nil()), version, time, owner: "o" };
        let text = r#"{"type":"t","queue":"q","create_time":1,"run_time":2,"labels":{"a":"b"},"state":1}"#;
        let (before, none) = decode(&row(1, 5), text, None).unwrap();
        assert_eq!((encode(&before).as_str(), none), (text, None));

        let lease = r#"{"worker":"w","start_time":7,"expire_time":9}"#;
        let changed =
            r#"{"type":"t","queue":"q","priority":3,"create_time":1,"run_time":2,"state":2,"epoch":1,"lease":"#;
        let (after, _) = decode(&row(2, 7), &format!("{changed}{lease}}}"), None).unwrap();
        let diff = encode_diff(&before, &after);
        assert_eq!(diff, r#"{"state":1,"epoch":0,"lease":null,"priority":0,"labels":{"a":"b"},"update_time":5}"#);
        let decoded = decode(&row(2, 7), &encode(&after), Some(&diff)).unwrap();
        assert_eq!(decoded, (after, Some(before)));
    }

    #[test]
    fn a_new_input_is_told_by_its_hash() {
        let project = ProjectId::new("p");
        let row = Row { project: &project, id: TaskId(uuid::Uuid::nil()), version: 2, time: 5, owner: "o" };
        let text = r#"{"type":"t","queue":"q","create_time":1,"run_time":2,"state":5}"#;
        let (failed, _) = decode(&row, text, None).unwrap();
        let input = |data: &'static str| Some(Payload { media_type: None, data: data.into() });
        let before = Task { input: input("1"), ..failed };
        let open = |input| Task { state: TaskState::Pending, input, ..before.clone() };
        let mark = |of: &str| format!(r#"{{"bytes":1,"sha256":"{of}"}}"#);
        let one = mark("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b");
        let two = mark("d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35");
        let diff = encode_diff(&before, &open(input("2")));
        assert_eq!(diff, format!(r#"{{"state":5,"input":[{one},{two}],"update_time":5}}"#));
        assert_eq!(encode_diff(&before, &open(input("1"))), r#"{"state":5,"update_time":5}"#);
        let (after, again) = decode(&row, &encode(&open(None)), Some(&diff)).unwrap();
        assert_eq!((after.state, again.unwrap().state), (TaskState::Pending, TaskState::Failed));
    }
}
