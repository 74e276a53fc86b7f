//! Workers: who leases, the leased tasks, the workers as operators see them.

use std::time::Duration;

use super::{
    fields::{Fields, Path},
    name, page, request_id,
    scalar::{self, duration, timestamp},
    task::{self, MAX_BATCH},
};
use crate::{
    app::{task::IdempotencyKey, worker::LeaseRequest},
    domain::{
        task::Task,
        worker::{Identity, Incarnation, Worker},
    },
    error::Result,
    ids::{ProjectId, project_name, task_name, worker_name},
    pb,
};

/// Most types, and most queues, of a worker.
const MAX_LANES: usize = 100;

/// Most tasks a worker says it runs at a time.
const MAX_SLOTS: i32 = 10_000;

/// What a worker asks for.
pub fn lease(mut request: pb::LeaseTasksRequest, metadata_key: Option<String>) -> Result<(ProjectId, LeaseRequest)> {
    let mut fields = Fields::new();
    let key = request_id::key(&mut fields, std::mem::take(&mut request.request_id), metadata_key);
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &request.parent);
    let key = key.map(|key| {
        request.parent = project_name(&project);
        IdempotencyKey { key, method: "LeaseTasks", fingerprint: request_id::fingerprint(&request) }
    });
    let pb::LeaseTasksRequest { parent: _, identity, max_tasks, wait, request_id: _ } = request;
    let identity = self::identity(&mut fields, &Path::Request.field("identity"), identity);
    let at = Path::Request.field("max_tasks");
    let max_tasks = scalar::number_or(&mut fields, &at, max_tasks, 1..=MAX_BATCH as i32, 1);
    let wait = wait.map_or(0, |wait| task::wait_from_wire(&mut fields, &wait));
    let wait = Duration::from_micros(wait.unsigned_abs());
    fields.finish((project, LeaseRequest { identity, max_tasks: max_tasks.unsigned_abs() as usize, wait, key }))
}

/// The first message of a session.
pub fn hello(hello: pb::SessionHello) -> Result<(ProjectId, Identity)> {
    let mut fields = Fields::new();
    let pb::SessionHello { parent, identity } = hello;
    let at = Path::Request.field("hello");
    let project = name::parent(&mut fields, &at.field("parent"), &parent);
    let identity = self::identity(&mut fields, &at.field("identity"), identity);
    fields.finish((project, identity))
}

/// Who works, and what for.
fn identity(fields: &mut Fields, at: &Path<'_>, identity: Option<pb::WorkerIdentity>) -> Identity {
    if identity.is_none() {
        fields.refuse(at, "is required");
    }
    let pb::WorkerIdentity { worker, incarnation, types, queues, slots, labels } = identity.unwrap_or_default();
    let worker = scalar::identifier(fields, &at.field("worker"), worker);
    let incarnation = if incarnation.is_empty() {
        worker.clone()
    } else {
        scalar::identifier(fields, &at.field("incarnation"), incarnation)
    };
    let types = identifiers(fields, &at.field("types"), types, 1);
    let mut queues = identifiers(fields, &at.field("queues"), queues, 0);
    if queues.is_empty() {
        queues.push(scalar::DEFAULT_QUEUE.to_owned());
    }
    if !(0..=MAX_SLOTS).contains(&slots) {
        fields.refuse(&at.field("slots"), "must be 0 to 10,000");
    }
    let labels = scalar::labels(fields, &at.field("labels"), labels);
    Identity { worker, incarnation, types, queues, slots, labels }
}

/// Types or queues, each once.
fn identifiers(fields: &mut Fields, at: &Path<'_>, texts: Vec<String>, least: usize) -> Vec<String> {
    let mut distinct = Vec::new();
    if scalar::length(fields, at, texts.len(), least..=MAX_LANES) {
        for (index, text) in texts.into_iter().enumerate() {
            let text = scalar::identifier(fields, &at.index(index), text);
            if !distinct.contains(&text) {
                distinct.push(text);
            }
        }
    }
    distinct
}

/// A task with its lease, for the one who is to run it.
pub fn leased(leased: &Task) -> pb::LeasedTask {
    let lease = leased.lease.as_ref();
    pb::LeasedTask {
        task: Some(task::task(leased, true)),
        token: Some(pb::LeaseToken { task: task_name(&leased.project, leased.id), epoch: leased.epoch }),
        lease_duration: lease.map(|lease| duration(lease.duration)),
        attempt_timeout: lease.map(|lease| duration(lease.deadline_time - lease.start_time)),
    }
}

/// One worker.
pub fn get(request: pb::GetWorkerRequest) -> Result<(ProjectId, String)> {
    let pb::GetWorkerRequest { name } = request;
    named(&name)
}

/// One worker to drain.
pub fn drain(request: pb::DrainWorkerRequest) -> Result<(ProjectId, String)> {
    let pb::DrainWorkerRequest { name } = request;
    named(&name)
}

fn named(name: &str) -> Result<(ProjectId, String)> {
    let mut fields = Fields::new();
    let (project, worker) = name::worker(&mut fields, &Path::Request.field("name"), name);
    fields.finish((project, worker.to_owned()))
}

/// A page of workers, before its page token is read: project, size, page token.
pub fn list(request: pb::ListWorkersRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListWorkersRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, limit, page_token))
}

/// A worker for the wire.
pub fn worker(worker: Worker) -> pb::Worker {
    let Worker { project, name, state, incarnations, running_count, create_time, last_seen_time } = worker;
    pb::Worker {
        name: worker_name(&project, &name),
        // The numbers of the domain are those of the wire.
        state: state as i32,
        incarnations: incarnations.into_iter().map(incarnation).collect(),
        running_count,
        create_time: Some(timestamp(create_time)),
        last_seen_time: Some(timestamp(last_seen_time)),
    }
}

fn incarnation(incarnation: Incarnation) -> pb::WorkerIncarnation {
    let Incarnation { incarnation, types, queues, slots, labels, draining, start_time, last_seen_time } = incarnation;
    pb::WorkerIncarnation {
        incarnation,
        types,
        queues,
        slots,
        labels,
        draining,
        start_time: Some(timestamp(start_time)),
        last_seen_time: Some(timestamp(last_seen_time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(identity: pb::WorkerIdentity) -> pb::LeaseTasksRequest {
        pb::LeaseTasksRequest { identity: Some(identity), ..Default::default() }
    }

    #[test]
    fn an_identity_takes_its_defaults() {
        let identity = pb::WorkerIdentity {
            worker: "w".into(),
            types: vec!["a".into(), "b".into(), "a".into()],
            ..Default::default()
        };
        let (project, lease) = lease(request(identity), None).unwrap();
        assert_eq!((project.as_str(), lease.max_tasks, lease.wait), ("default", 1, Duration::ZERO));
        assert_eq!(lease.identity.incarnation, "w");
        assert_eq!(lease.identity.types, ["a", "b"]);
        assert_eq!(lease.identity.queues, ["default"]);
    }

    #[test]
    fn an_identity_out_of_bounds_is_refused() {
        let identity = pb::WorkerIdentity {
            incarnation: "a b".into(),
            types: vec!["ok".into(), "not ok".into()],
            queues: vec!["q".into(); 101],
            slots: -1,
            ..Default::default()
        };
        let mut bad = request(identity);
        bad.max_tasks = 1001;
        bad.wait = Some(prost_types::Duration { seconds: 31, nanos: 0 });
        let text = lease(bad, None).unwrap_err().to_string();
        for path in ["worker", "incarnation", "types[1]", "queues", "slots"] {
            assert!(text.contains(&format!("identity.{path}: ")), "{path} in {text}");
        }
        assert!(text.contains("max_tasks: must be 1 to 1000") && text.contains("wait: must be 0 to 30 s"), "{text}");
        assert!(
            lease(pb::LeaseTasksRequest::default(), None).unwrap_err().to_string().contains("identity: is required")
        );
    }
}
