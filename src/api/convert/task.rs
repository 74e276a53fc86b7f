//! Tasks: what is submitted, asked for and answered.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    fields::{Fields, Path},
    name, page, payload, request_id, retry_settings,
    scalar::{self, chars_bounded, duration, timestamp},
};
use crate::{
    app::task::{IdempotencyKey, NewSubmit, Submitted},
    domain::{
        etag,
        filter::Filter,
        retry::Retry,
        task::{Attempt, DAY, DEFAULT_TIMEOUT, Micros, Progress, SECOND, Spec, Task, TaskError},
        task_list::{ListQuery, Position},
        transition::NewTask,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, dead_letter_name, project_name, retry_policy_name, task_name, worker_name},
    pb,
};

const TIMEOUT: RangeInclusive<Micros> = SECOND..=7 * DAY;
/// Longer than anybody waits, and far from overflow.
const UNIQUE_TTL: RangeInclusive<Micros> = 1_000..=3_650 * DAY;
/// Most characters of a unique key.
const MAX_UNIQUE_KEY: usize = 256;
/// Most tasks of one batch.
pub const MAX_BATCH: usize = 1_000;
/// The longest wait of a long poll, in [`Micros`].
pub const MAX_WAIT: Micros = 30 * SECOND;
/// Most tasks read for one FULL page; with 512 KiB of payloads each that is what may be in memory for it.
const MAX_FULL_PAGE: i64 = 64;

/// A submit, ready to be carried out.
#[derive(Debug)]
pub struct Submit {
    /// Into this project.
    pub project: ProjectId,
    /// These tasks, all or none.
    pub tasks: Vec<NewSubmit>,
    /// Makes repeating safe.
    pub key: Option<IdempotencyKey>,
}

/// One task to submit. `metadata_key` is the key given as metadata, `owner` who submits.
pub fn submit(mut request: pb::SubmitTaskRequest, metadata_key: Option<String>, owner: &str) -> Result<Submit> {
    let mut fields = Fields::new();
    let key = request_id::key(&mut fields, std::mem::take(&mut request.request_id), metadata_key);
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &request.parent);
    let key = key.map(|key| {
        request.parent = project_name(&project);
        IdempotencyKey { key, method: "SubmitTask", fingerprint: request_id::fingerprint(&request) }
    });
    let pb::SubmitTaskRequest { parent: _, task, task_id, request_id: _ } = request;
    let task = new_task(&mut fields, &Path::Request, &project, task, &task_id, owner);
    fields.finish(Submit { project, tasks: task.into_iter().collect(), key })
}

/// Several tasks to submit.
pub fn batch_submit(
    mut request: pb::BatchSubmitTasksRequest,
    metadata_key: Option<String>,
    owner: &str,
) -> Result<Submit> {
    let mut fields = Fields::new();
    let key = request_id::key(&mut fields, std::mem::take(&mut request.request_id), metadata_key);
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &request.parent);
    let key = key.map(|key| {
        request.parent = project_name(&project);
        IdempotencyKey { key, method: "BatchSubmitTasks", fingerprint: request_id::fingerprint(&request) }
    });
    let pb::BatchSubmitTasksRequest { parent: _, requests, request_id: _ } = request;

    let list = Path::Request.field("requests");
    let mut tasks = Vec::new();
    if scalar::length(&mut fields, &list, requests.len(), 1..=MAX_BATCH) {
        tasks.reserve_exact(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let at = list.index(index);
            let pb::SubmitTaskRequest { parent, task, task_id, request_id } = request;
            if !parent.is_empty() && name::parent(&mut fields, &at.field("parent"), &parent) != project {
                fields.refuse(&at.field("parent"), "must be empty or equal to the parent of the batch");
            }
            if !request_id.is_empty() {
                fields.refuse(&at.field("request_id"), "must be empty; the batch has one request_id");
            }
            tasks.extend(new_task(&mut fields, &at, &project, task, &task_id, owner));
        }
    }
    fields.finish(Submit { project, tasks, key })
}

/// `at` is the path of the submit, with the fields `task` and `task_id`.
pub(super) fn new_task(
    fields: &mut Fields,
    at: &Path<'_>,
    project: &ProjectId,
    task: Option<pb::Task>,
    task_id: &str,
    owner: &str,
) -> Option<NewSubmit> {
    let id = match task_id {
        "" => TaskId::generate(),
        given => name::uuid(given).map(TaskId).unwrap_or_else(|| {
            fields.refuse(&at.field("task_id"), "must be a UUID such as 0190a6c0-0000-7000-8000-000000000000");
            TaskId(uuid::Uuid::nil())
        }),
    };
    let at = at.field("task");
    let Some(task) = task else {
        fields.refuse(&at, "is required");
        return None;
    };
    let pb::Task {
        r#type,
        queue,
        input,
        priority,
        run_time,
        timeout,
        expire_time,
        retry,
        retry_policy,
        unique_key,
        unique_ttl,
        labels,
        // What the server says about a task is ignored in what a client says.
        name: _,
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
        etag: _,
    } = task;
    if unique_key.is_empty() && unique_ttl.is_some() {
        fields.refuse(&at.field("unique_ttl"), "needs a unique_key");
    }
    let spec = Spec {
        task_type: scalar::identifier(fields, &at.field("type"), r#type),
        queue: scalar::queue(fields, &at.field("queue"), queue),
        priority,
        timeout: self::timeout(fields, &at.field("timeout"), timeout.as_ref()),
        expire_time: expire_time.map(|t| scalar::time(fields, &at.field("expire_time"), &t)),
        retry: retry_settings::of_task(fields, &at, retry, &retry_policy, project),
        unique_key: (!unique_key.is_empty())
            .then(|| chars_bounded(fields, &at.field("unique_key"), unique_key, MAX_UNIQUE_KEY)),
        unique_ttl: unique_ttl.map(|span| scalar::span(fields, &at.field("unique_ttl"), &span, &UNIQUE_TTL)),
        labels: scalar::labels(fields, &at.field("labels"), labels),
        owner: owner.to_owned(),
        // The store fills it in, by its clock.
        create_time: 0,
        open_time: None,
    };
    let input = payload::from_wire(fields, &at.field("input"), input);
    let run_time = run_time.map(|t| scalar::time(fields, &at.field("run_time"), &t));
    Some(NewSubmit { new: NewTask { id, spec, input, run_time }, id_given: !task_id.is_empty() })
}

/// The most an attempt may take.
pub(super) fn timeout(fields: &mut Fields, at: &Path<'_>, timeout: Option<&prost_types::Duration>) -> Micros {
    timeout.map_or(DEFAULT_TIMEOUT, |span| scalar::span(fields, at, span, &TIMEOUT))
}

/// What became of a submitted task.
pub fn submitted(project: &ProjectId, submitted: Submitted) -> pb::SubmitTaskResponse {
    let Submitted { id, existing, revision, create_time, etag } = submitted;
    let outcome =
        if existing { pb::submit_task_response::Outcome::Existing } else { pb::submit_task_response::Outcome::Created };
    pb::SubmitTaskResponse {
        name: task_name(project, TaskId(id)),
        outcome: outcome as i32,
        revision,
        create_time: Some(timestamp(create_time)),
        etag,
    }
}

/// One task, and whether with its payloads.
pub fn get(request: pb::GetTaskRequest) -> Result<(ProjectId, TaskId, bool)> {
    let mut fields = Fields::new();
    let pb::GetTaskRequest { name, view } = request;
    let (project, id) = name::task(&mut fields, &Path::Request.field("name"), &name);
    let full = is_full(&mut fields, view, true);
    fields.finish((project, id, full))
}

/// Several tasks of one project, and whether with their payloads.
pub fn batch_get(request: pb::BatchGetTasksRequest) -> Result<(ProjectId, Vec<TaskId>, bool)> {
    let mut fields = Fields::new();
    let pb::BatchGetTasksRequest { parent, names, view } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let list = Path::Request.field("names");
    let mut ids = Vec::new();
    if scalar::length(&mut fields, &list, names.len(), 1..=MAX_BATCH) {
        for (index, name) in names.iter().enumerate() {
            ids.push(name::task_of(&mut fields, &list.index(index), name, &project));
        }
    }
    let full = is_full(&mut fields, view, false);
    fields.finish((project, ids, full))
}

fn is_full(fields: &mut Fields, view: i32, unspecified: bool) -> bool {
    match pb::TaskView::try_from(view) {
        Ok(pb::TaskView::Unspecified) => unspecified,
        Ok(pb::TaskView::Basic) => false,
        Ok(pb::TaskView::Full) => true,
        Err(_) => {
            fields.refuse(&Path::Request.field("view"), format!("{view} is no view; BASIC is 1, FULL is 2"));
            unspecified
        }
    }
}

/// A list, before its page token is read.
#[derive(Debug)]
pub struct List {
    /// Of this project.
    pub project: ProjectId,
    /// What to read; `after` is still empty.
    pub query: ListQuery,
    /// The filter as it was written.
    pub filter: String,
    /// The page token as it was sent.
    pub page_token: String,
}

/// A page of tasks.
pub fn list(request: pb::ListTasksRequest) -> Result<List> {
    let mut fields = Fields::new();
    let pb::ListTasksRequest { parent, page_size, page_token, filter, order_by, view } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    let full = is_full(&mut fields, view, false);
    let ascending = is_ascending(&mut fields, &order_by);
    fields.finish(())?;
    let limit = if full { limit.min(MAX_FULL_PAGE) } else { limit }.unsigned_abs();
    let query = ListQuery { ascending, full, ..ListQuery::newest(self::filter(&filter)?, limit) };
    Ok(List { project, query, filter, page_token })
}

fn is_ascending(fields: &mut Fields, order_by: &str) -> bool {
    let mut words = order_by.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, ..) | (Some("create_time"), Some("desc"), None) => false,
        (Some("create_time"), None | Some("asc"), None) => true,
        _ => {
            fields.refuse(&Path::Request.field("order_by"), "must be create_time or create_time desc");
            false
        }
    }
}

/// A filter.
pub fn filter(text: &str) -> Result<Filter> {
    Filter::parse(text).map_err(|error| Error::Filter { column: error.column, message: error.message })
}

/// The place of a task in a list.
pub fn position(task: &Task) -> Position {
    Position { create_time: task.spec.create_time, id: task.id }
}

/// A list of attempts, before its page token is read: project, task, size, page token.
pub fn list_attempts(request: pb::ListAttemptsRequest) -> Result<(ProjectId, TaskId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListAttemptsRequest { parent, page_size, page_token } = request;
    let (project, id) = name::task(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, id, limit, page_token))
}

/// A wait for a task.
pub fn wait(request: pb::WaitTaskRequest) -> Result<(ProjectId, TaskId, Duration)> {
    let mut fields = Fields::new();
    let pb::WaitTaskRequest { name, wait } = request;
    let (project, id) = name::task(&mut fields, &Path::Request.field("name"), &name);
    let wait = wait.map_or(MAX_WAIT, |wait| wait_from_wire(&mut fields, &wait));
    fields.finish((project, id, Duration::from_micros(wait.unsigned_abs())))
}

/// How long a long poll may wait.
pub(super) fn wait_from_wire(fields: &mut Fields, wait: &prost_types::Duration) -> Micros {
    scalar::span(fields, &Path::Request.field("wait"), wait, &(0..=MAX_WAIT))
}

/// A task for the wire; `full` adds the payloads.
pub fn task(task: &Task, full: bool) -> pb::Task {
    let spec = &*task.spec;
    let lease = task.lease.as_ref();
    let payload = |payload: &Option<_>| payload.as_ref().filter(|_| full).map(payload::to_wire);
    let cancel_reason = task.cancel_reason.as_ref().or_else(|| lease.and_then(|l| l.cancel_reason.as_ref()));
    pb::Task {
        name: task_name(&task.project, task.id),
        r#type: spec.task_type.clone(),
        queue: spec.queue.clone(),
        input: payload(&task.input),
        priority: spec.priority,
        run_time: Some(timestamp(task.run_time)),
        timeout: Some(duration(spec.timeout)),
        expire_time: spec.expire_time.map(timestamp),
        retry: match &spec.retry {
            Retry::Settings(settings) => Some(retry_settings::settings_to_wire(settings)),
            Retry::Unsaid | Retry::Policy(_) => None,
        },
        retry_policy: match &spec.retry {
            Retry::Policy(id) => retry_policy_name(&task.project, id),
            Retry::Unsaid | Retry::Settings(_) => String::new(),
        },
        unique_key: spec.unique_key.clone().unwrap_or_default(),
        unique_ttl: spec.unique_ttl.map(duration),
        labels: spec.labels.clone(),
        // The numbers of the domain are those of the wire.
        state: i32::from(task.state.number()),
        version: task.version,
        attempt_count: task.attempt_count,
        crash_count: task.crash_count,
        worker: lease.map(|l| worker_name(&task.project, &l.worker)).unwrap_or_default(),
        lease_expire_time: lease.map(|l| timestamp(l.expire_time)),
        progress: lease.and_then(|l| l.progress.as_ref()).map(progress),
        cancel_requested: task.cancel_requested(),
        cancel_reason: cancel_reason.cloned().unwrap_or_default(),
        error: task.error.as_ref().map(error),
        result: payload(&task.result),
        owner: spec.owner.clone(),
        create_time: Some(timestamp(spec.create_time)),
        update_time: Some(timestamp(task.update_time)),
        finish_time: task.finish_time.map(timestamp),
        etag: etag::task_etag(task),
    }
}

/// An attempt for the wire; `replayed` is the task whose dead letter it came of.
pub fn attempt(project: &ProjectId, attempt: &Attempt, replayed: Option<TaskId>) -> pb::Attempt {
    pb::Attempt {
        epoch: attempt.epoch,
        worker: worker_name(project, &attempt.worker),
        outcome: attempt.outcome as i32,
        start_time: Some(timestamp(attempt.start_time)),
        end_time: attempt.end_time.map(timestamp),
        error: attempt.error.as_ref().map(error),
        progress: attempt.progress.as_ref().map(progress),
        retry_time: attempt.retry_time.map(timestamp),
        number: attempt.number,
        retry_decision: attempt
            .decision
            .as_ref()
            .map(|decided| retry_settings::decision(project, &decided.decision, decided.policy.as_ref())),
        dead_letter: replayed.map(|task| dead_letter_name(project, task)).unwrap_or_default(),
    }
}

fn progress(progress: &Progress) -> pb::Progress {
    pb::Progress { percent: progress.percent, message: progress.message.clone() }
}

/// Why an attempt failed, for the wire.
pub(super) fn error(error: &TaskError) -> pb::TaskError {
    pb::TaskError { r#type: error.error_type.clone(), message: error.message.clone(), details: error.details.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::transition;

    fn violations<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
        match result {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|v| v.path).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn span(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn a_task_takes_its_defaults_from_the_domain() {
        let task = pb::Task { r#type: "mail".into(), ..Default::default() };
        let request = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let submit = submit(request, None, "system:dev").unwrap();
        assert_eq!(submit.project.as_str(), "default");
        assert!(submit.key.is_none());
        let spec = &submit.tasks[0].new.spec;
        assert_eq!((&*spec.queue, spec.timeout, spec.retry.clone()), ("default", DEFAULT_TIMEOUT, Retry::Unsaid));
        assert!(!submit.tasks[0].id_given);
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let bad = pb::Task {
            queue: "a b".into(),
            timeout: span(0),
            retry: Some(pb::RetrySettings {
                max_attempts: -1,
                initial_backoff: span(60),
                max_backoff: span(1),
                ..Default::default()
            }),
            unique_ttl: span(5),
            labels: [("Bad Key".to_owned(), String::new())].into(),
            run_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            input: Some(pb::Payload { kind: None }),
            ..Default::default()
        };
        let good = pb::SubmitTaskRequest {
            task: Some(pb::Task { r#type: "mail".into(), ..Default::default() }),
            ..Default::default()
        };
        let bad = pb::SubmitTaskRequest {
            parent: "projects/other".into(),
            task: Some(bad),
            task_id: "1".into(),
            request_id: "x".into(),
        };
        let request = pb::BatchSubmitTasksRequest {
            requests: vec![good, bad, pb::SubmitTaskRequest::default()],
            ..Default::default()
        };
        let paths = violations(batch_submit(request, None, "system:dev"));
        let expected = [
            "requests[1].parent",
            "requests[1].request_id",
            "requests[1].task_id",
            "requests[1].task.unique_ttl",
            "requests[1].task.type",
            "requests[1].task.queue",
            "requests[1].task.timeout",
            "requests[1].task.retry.max_attempts",
            "requests[1].task.retry.max_backoff",
            "requests[1].task.labels[\"Bad Key\"]",
            "requests[1].task.input",
            "requests[1].task.run_time",
            "requests[2].task",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn batches_are_bounded() {
        assert_eq!(violations(batch_submit(pb::BatchSubmitTasksRequest::default(), None, "x")), ["requests"]);
        let requests = vec![pb::SubmitTaskRequest::default(); MAX_BATCH + 1];
        let request = pb::BatchSubmitTasksRequest { requests, ..Default::default() };
        assert_eq!(violations(batch_submit(request, None, "x")), ["requests"]);
    }

    #[test]
    fn the_same_request_has_the_same_fingerprint_whatever_its_key() {
        let request = |parent: &str, request_id: &str, priority| pb::SubmitTaskRequest {
            parent: parent.into(),
            request_id: request_id.into(),
            task: Some(pb::Task { r#type: "mail".into(), priority, ..Default::default() }),
            ..Default::default()
        };
        let print = |parent, id, metadata: Option<&str>, priority| {
            let request = request(parent, id, priority);
            submit(request, metadata.map(str::to_owned), "x").unwrap().key.unwrap().fingerprint
        };
        let first = print("", "a", None, 1);
        assert_eq!(first, print("projects/default", "b", None, 1));
        assert_eq!(first, print("", "", Some("c"), 1));
        assert_ne!(first, print("", "a", None, 2));
        assert_ne!(first, print("projects/other", "a", None, 1));
    }

    #[test]
    fn a_task_is_answered_as_it_was_submitted() {
        let input = pb::Payload {
            kind: Some(pb::payload::Kind::Json(super::super::json::from_text(b"{\"to\":[1,2]}").unwrap())),
        };
        let wanted = pb::Task {
            r#type: "mail".into(),
            queue: "slow".into(),
            input: Some(input),
            priority: -3,
            timeout: span(90),
            unique_key: "k".into(),
            unique_ttl: span(60),
            labels: [("team".to_owned(), "core".to_owned())].into(),
            ..Default::default()
        };
        let request = pb::SubmitTaskRequest { task: Some(wanted.clone()), ..Default::default() };
        let submit = submit(request, None, "system:dev").unwrap();
        let new = submit.tasks.into_iter().next().unwrap().new;
        let stored = transition::submit(&submit.project, new, 1_700_000_000_000_001).after;

        let full = task(&stored, true);
        assert_eq!(full.state(), pb::task::State::Pending);
        assert_eq!(full.create_time, Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 1_000 }));
        let echoed = pb::Task {
            r#type: full.r#type.clone(),
            queue: full.queue.clone(),
            input: full.input.clone(),
            priority: full.priority,
            timeout: full.timeout,
            unique_key: full.unique_key.clone(),
            unique_ttl: full.unique_ttl,
            labels: full.labels.clone(),
            ..Default::default()
        };
        assert_eq!(echoed, wanted);
        let basic = task(&stored, false);
        assert_eq!(basic, pb::Task { input: None, ..full });
    }

    #[test]
    fn lists_and_views_are_checked() {
        let list_of =
            |order_by: &str, view| list(pb::ListTasksRequest { order_by: order_by.into(), view, ..Default::default() });
        assert!(!list_of("", 0).unwrap().query.ascending);
        assert!(!list_of("create_time desc", 0).unwrap().query.ascending);
        assert!(list_of(" create_time  asc", 0).unwrap().query.ascending);
        assert_eq!(violations(list_of("priority", 9)), ["view", "order_by"]);
        let bad = list(pb::ListTasksRequest { filter: "state = ".into(), ..Default::default() });
        assert!(matches!(bad, Err(Error::Filter { .. })));
        let full = list(pb::ListTasksRequest { page_size: 500, view: 2, ..Default::default() }).unwrap();
        assert_eq!(full.query.limit, 64);
    }
}
