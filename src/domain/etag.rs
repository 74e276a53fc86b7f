//! Strong etags (RFC 9110 §8.8.3): SHA-256 of what a caller can change and of the state, in quotes. Progress, lease and
//! counters are left out, so that a running task does not slip from under an operator's hands.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    api_key::{ApiKey, KeySettings},
    project::Project,
    queue::{Queue, QueueSettings},
    retention::RetentionRule,
    retry::RetryMore,
    retry_policy::RetryPolicy,
    schedule::{Schedule, Settings},
    task::Task,
};
use crate::ids::ProjectId;

/// Bytes of the hash that go into the etag: 128 bits are beyond any collision by accident.
const ETAG_BYTES: usize = 16;

/// Bytes of the content of a task with a few labels.
const USUAL_CONTENT: usize = 512;

/// The etag of a task.
pub fn task_etag(task: &Task) -> String {
    #[derive(Serialize)]
    struct Content<'a> {
        id: uuid::Uuid,
        r#type: &'a str,
        queue: &'a str,
        priority: i32,
        run_time: i64,
        timeout: i64,
        expire_time: Option<i64>,
        retry: (i32, i64, i64),
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_more: Option<RetryMore>,
        labels: &'a std::collections::BTreeMap<String, String>,
        state: u8,
        cancel_requested: bool,
    }
    let spec = &task.spec;
    of(&Content {
        id: task.id.0,
        r#type: &spec.task_type,
        queue: &spec.queue,
        priority: spec.priority,
        run_time: task.run_time,
        timeout: spec.timeout,
        expire_time: spec.expire_time,
        retry: spec.retry.numbers(),
        retry_more: spec.retry.more(),
        labels: &spec.labels,
        state: task.state as u8,
        cancel_requested: task.cancel_requested(),
    })
}

/// The etag of a queue: its settings.
pub fn queue_etag(queue: &Queue) -> String {
    queue_settings_etag(&queue.project, &queue.name, &queue.settings)
}

/// The etag of a queue with these settings.
pub fn queue_settings_etag(project: &ProjectId, name: &str, settings: &QueueSettings) -> String {
    of(&(project.as_str(), name, settings))
}

/// The etag of a project.
pub fn project_etag(project: &Project) -> String {
    let content = (project.id.as_str(), &project.display_name, &project.description);
    match project.deletion {
        None => of(&content),
        Some(deletion) => of(&(content, deletion.time)),
    }
}

/// The etag of the rules of retention of a project.
pub fn retention_etag(project: &ProjectId, rules: &[RetentionRule]) -> String {
    of(&(project.as_str(), "retention", rules))
}

/// The etag of an API key.
pub fn api_key_etag(key: &ApiKey) -> String {
    let KeySettings { display_name, scopes, networks, expire_time } = &key.settings;
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let settings = (display_name, scopes.bits(), networks, expire_time);
    of(&(&key.id, &key.principal, settings, key.rotate_time, key.revoke_time))
}

/// The etag of a retry policy.
pub fn retry_policy_etag(policy: &RetryPolicy) -> String {
    of(&(policy.project.as_str(), &policy.id, &policy.content))
}

/// The etag of a schedule: its settings.
pub fn schedule_etag(schedule: &Schedule) -> String {
    let Settings { display_name, description, timing, template, overlap, catch_up, paused, pause_note } =
        &schedule.settings;
    let input = template.input.as_ref().map(|input| (&input.media_type, input.data.as_ref()));
    let names = (schedule.project.as_str(), schedule.uid, display_name, description);
    of(&(names, timing, template.encode(), input, overlap, catch_up, paused, pause_note))
}

/// The etag of any content whose serialisation is canonical (structs and sorted maps are).
pub fn of(content: &impl Serialize) -> String {
    // In one piece: hashing the many small writes of a serialiser takes several times as long.
    let mut text = Vec::with_capacity(USUAL_CONTENT);
    // Serialising plain structs into memory cannot fail: no I/O, no map with keys that are not strings.
    let outcome = serde_json::to_writer(&mut text, content);
    debug_assert!(outcome.is_ok());
    let digest = Sha256::digest(&text);
    let mut etag = String::with_capacity(2 + 2 * ETAG_BYTES);
    etag.push('"');
    for byte in &digest[..ETAG_BYTES] {
        etag.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        etag.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    etag.push('"');
    etag
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn an_etag_is_a_quoted_golden_hash_of_the_content() {
        assert_eq!(of(&serde_json::json!({"a": 1})), "\"015abd7f5cc57a2dd94b7590f04ad808\"");
        assert_ne!(of(&1), of(&2));
    }
}
