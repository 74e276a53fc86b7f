//! Changes of one task: update, cancel, retry, run now, delete.

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, retry_settings, scalar, task,
};
use crate::{
    app::task::TaskChange,
    domain::transition::Patch,
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    pb,
};

/// A change of a task, ready to be carried out.
#[derive(Debug)]
pub struct Change {
    /// In this project.
    pub project: ProjectId,
    /// Of this task.
    pub id: TaskId,
    /// What to do.
    pub change: TaskChange,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// New values for some fields.
pub fn update(request: pb::UpdateTaskRequest) -> Result<Change> {
    const RULES: [(&str, Rule); 24] = [
        ("priority", Rule::Changes),
        ("run_time", Rule::Changes),
        ("timeout", Rule::Changes),
        ("expire_time", Rule::Changes),
        ("retry", Rule::Changes),
        ("retry_policy", Rule::Changes),
        ("labels", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("state", Rule::OutputOnly),
        ("version", Rule::OutputOnly),
        ("attempt_count", Rule::OutputOnly),
        ("crash_count", Rule::OutputOnly),
        ("worker", Rule::OutputOnly),
        ("lease_expire_time", Rule::OutputOnly),
        ("progress", Rule::OutputOnly),
        ("cancel_requested", Rule::OutputOnly),
        ("cancel_reason", Rule::OutputOnly),
        ("error", Rule::OutputOnly),
        ("result", Rule::OutputOnly),
        ("owner", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("finish_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
        // Not `type`, `queue`, `input`, `unique_key`, `unique_ttl`: those never change, and who names them should know.
    ];
    let mut fields = Fields::new();
    let pb::UpdateTaskRequest { task, update_mask } = request;
    let at = Path::Request.field("task");
    let Some(task) = task else {
        return Err(Error::field("task", "is required"));
    };
    let pb::Task {
        name,
        priority,
        run_time,
        timeout,
        expire_time,
        retry,
        retry_policy,
        labels,
        etag,
        r#type: _,
        queue: _,
        input: _,
        unique_key: _,
        unique_ttl: _,
        state: _,
        version: _,
        attempt_count: _,
        crash_count: _,
        worker: _,
        lease_expire_time: _,
        progress: _,
        cancel_requested: _,
        cancel_reason: _,
        error: _,
        result: _,
        owner: _,
        create_time: _,
        update_time: _,
        finish_time: _,
    } = task;
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let (project, id) = name::task(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let mut patch = Patch::default();
    if mask.changes("priority", priority != 0) {
        patch.priority = Some(priority);
    }
    if mask.changes("run_time", run_time.is_some()) {
        // Without a time it is due at once, as in a submit.
        patch.run_time = Some(run_time.map_or(0, |t| scalar::time(&mut fields, &at.field("run_time"), &t)));
    }
    if mask.changes("timeout", timeout.is_some()) {
        patch.timeout = Some(task::timeout(&mut fields, &at.field("timeout"), timeout.as_ref()));
    }
    if mask.changes("expire_time", expire_time.is_some()) {
        patch.expire_time = Some(expire_time.map(|t| scalar::time(&mut fields, &at.field("expire_time"), &t)));
    }
    let names_policy = mask.changes("retry_policy", !retry_policy.is_empty());
    let has_settings = mask.changes("retry", retry.is_some());
    if names_policy || has_settings {
        let (settings, policy) =
            (retry.filter(|_| has_settings), if names_policy { retry_policy.as_str() } else { "" });
        patch.retry = Some(retry_settings::of_task(&mut fields, &at, settings, policy, &project));
    }
    if mask.changes("labels", !labels.is_empty()) {
        patch.labels = Some(scalar::labels(&mut fields, &at.field("labels"), labels));
    }
    fields.finish(Change { project, id, change: TaskChange::Update(patch), etag })
}

/// The wish that it ends.
pub fn cancel(request: pb::CancelTaskRequest) -> Result<Change> {
    let mut fields = Fields::new();
    let pb::CancelTaskRequest { name, reason, etag } = request;
    let reason = scalar::bytes_bounded(&mut fields, &Path::Request.field("reason"), reason, scalar::SHORT_TEXT);
    change(fields, &name, etag, TaskChange::Cancel { reason })
}

/// A final task opens again.
pub fn retry(request: pb::RetryTaskRequest) -> Result<Change> {
    let pb::RetryTaskRequest { name, etag } = request;
    change(Fields::new(), &name, etag, TaskChange::Retry)
}

/// A waiting task is due now.
pub fn run_now(request: pb::RunTaskNowRequest) -> Result<Change> {
    let pb::RunTaskNowRequest { name, etag } = request;
    change(Fields::new(), &name, etag, TaskChange::RunNow)
}

/// A final task goes away.
pub fn delete(request: pb::DeleteTaskRequest) -> Result<Change> {
    let pb::DeleteTaskRequest { name, etag, allow_missing } = request;
    change(Fields::new(), &name, etag, TaskChange::Delete { allow_missing })
}

fn change(mut fields: Fields, name: &str, etag: String, change: TaskChange) -> Result<Change> {
    let (project, id) = name::task(&mut fields, &Path::Request.field("name"), name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish(Change { project, id, change, etag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::Retry;

    fn patch(task: pb::Task, paths: &[&str]) -> Result<Patch> {
        let id = uuid::Uuid::nil();
        let task = pb::Task { name: format!("projects/p/tasks/{id}"), ..task };
        let mask = prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() };
        match update(pb::UpdateTaskRequest { task: Some(task), update_mask: Some(mask) })?.change {
            TaskChange::Update(patch) => Ok(patch),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_the_mask_names_changes() {
        let task = pb::Task { priority: 7, labels: [("a".to_owned(), "b".to_owned())].into(), ..Default::default() };
        let set = patch(task.clone(), &[]).unwrap();
        assert_eq!(set, Patch { priority: Some(7), labels: Some(task.labels.clone()), ..Default::default() });
        let one = patch(task.clone(), &["priority", "state", "etag"]).unwrap();
        assert_eq!(one, Patch { priority: Some(7), ..Default::default() });
        let all = patch(task, &["*"]).unwrap();
        assert_eq!(all.expire_time, Some(None));
        assert_eq!(all.run_time, Some(0));
        assert_eq!(all.retry, Some(Retry::Unsaid));
    }

    #[test]
    fn what_never_changes_is_refused() {
        for path in ["type", "queue", "input", "unique_key", "unique_ttl", "retry.max_attempts", "nonsense"] {
            assert!(patch(pb::Task::default(), &[path]).is_err(), "{path}");
        }
        assert!(update(pb::UpdateTaskRequest::default()).is_err());
        let request = pb::CancelTaskRequest { name: "x".into(), reason: "r".repeat(1025), etag: "e\0".into() };
        assert_eq!(cancel(request).unwrap_err().to_string().matches("; ").count(), 2);
    }
}
