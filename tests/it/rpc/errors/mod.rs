//! Bad input to every RPC: a code, a reason of the enum and a field path, never INTERNAL or UNKNOWN.
//!
//! The table is one `Case` for each way of being wrong; the last test of it compares the methods it covers with the
//! descriptors, so that a new RPC cannot stay without. SQLite alone: what is refused here never comes near a database.

mod api_key;
mod audit;
mod dead_letter;
mod project;
mod retention;
mod retry;
mod schedule;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use http_body::Frame;
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::{Value, value::Kind};
use tasktower::pb::{self, payload::Kind as PayloadKind};
use tonic::{
    Code, Request, Status,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::StatusExt as _;
use tower::{Service as _, ServiceExt as _};

use super::{Rpc, fields, in_seconds, reason, refused, seconds, task, worker};
use crate::support::{
    backend::{Database, for_each_backend},
    credentials::Wire,
    wait::{SOON, eventually},
};

const TASKS: &str = "tasktower.v1.TaskService";
const QUEUES: &str = "tasktower.v1.QueueService";
const PROJECTS: &str = "tasktower.v1.ProjectService";
const WORKERS: &str = "tasktower.v1.WorkerService";

/// A name that is well formed and of nothing.
const ID: &str = "0190a6c0-0000-7000-8000-000000000000";

/// Messages beyond this are refused: 4 MiB.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Sends and takes whatever bytes there are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls any method with any bytes and answers the first message, or how the call ends.
async fn call(channel: &Wire, method: &str, message: Bytes) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("connected");
    let path = format!("/{method}").parse().expect("a path");
    let request = Request::new(tokio_stream::once(message));
    let mut stream = grpc.streaming(request, path, Raw).await?.into_inner();
    Ok(stream.message().await?.unwrap_or_default())
}

/// The body of a request, byte for byte.
struct Body(Option<Bytes>);

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Calls a method with a body that need not be framed as gRPC says, and these headers besides.
async fn call_unframed(
    channel: &Wire,
    method: &str,
    headers: &[(&'static str, &str)],
    body: &[u8],
) -> Result<http::Response<tonic::body::Body>, Status> {
    let mut request = http::Request::post(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(Body(Some(Bytes::copy_from_slice(body))));
    let mut channel = channel.clone();
    let channel = channel.ready().await.expect("connected");
    let response =
        channel.call(request.body(body).expect("a request")).await.map_err(|error| Status::from_error(error.into()))?;
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(response.map(tonic::body::Body::new)),
    }
}

/// One bad request and what must be said of it.
pub struct Case {
    method: String,
    message: Bytes,
    code: Code,
    reason: &'static str,
    fields: Vec<String>,
}

/// FIELD_INVALID about these fields.
fn bad(service: &str, method: &str, message: impl Message, fields: &[&str]) -> Case {
    case(service, method, message, Code::InvalidArgument, "FIELD_INVALID", fields)
}

fn case(service: &str, method: &str, message: impl Message, code: Code, reason: &'static str, fields: &[&str]) -> Case {
    Case {
        method: format!("{service}/{method}"),
        message: message.encode_to_vec().into(),
        code,
        reason,
        fields: fields.iter().map(|&field| field.to_owned()).collect(),
    }
}

fn missing(service: &str, method: &str, message: impl Message) -> Case {
    case(service, method, message, Code::NotFound, "RESOURCE_NOT_FOUND", &[])
}

fn submit(task: pb::Task) -> pb::SubmitTaskRequest {
    pb::SubmitTaskRequest { task: Some(task), ..Default::default() }
}

fn json_value(kind: Kind) -> pb::Payload {
    pb::Payload { kind: Some(PayloadKind::Json(Value { kind: Some(kind) })) }
}

/// Lists inside one another.
fn nested(levels: usize) -> Kind {
    (0..levels).fold(Kind::NullValue(0), |inner, _| {
        Kind::ListValue(prost_types::ListValue { values: vec![Value { kind: Some(inner) }] })
    })
}

fn span(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

fn moment(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

fn labels(count: usize, key: &str, value: &str) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{key}{n}"), value.to_owned())).collect()
}

fn submit_cases() -> Vec<Case> {
    let case = |task: pb::Task, fields: &[&str]| bad(TASKS, "SubmitTask", submit(task), fields);
    let field = |task: pb::Task, field: &str| case(task, &[field]);
    let t = || task("t");
    let retry = |retry| pb::Task { retry: Some(retry), ..t() };
    let input = |kind| pb::Task { input: Some(json_value(kind)), ..t() };
    let blob = |content_type: &str, bytes: usize| pb::Task {
        input: Some(pb::Payload {
            kind: Some(PayloadKind::Blob(pb::Blob { content_type: content_type.into(), data: vec![0; bytes].into() })),
        }),
        ..t()
    };
    let retry_settings = pb::RetrySettings::default;
    vec![
        bad(TASKS, "SubmitTask", pb::SubmitTaskRequest::default(), &["task"]),
        bad(TASKS, "SubmitTask", pb::SubmitTaskRequest { parent: "nonsense".into(), ..submit(t()) }, &["parent"]),
        bad(TASKS, "SubmitTask", pb::SubmitTaskRequest { task_id: "7".into(), ..submit(t()) }, &["task_id"]),
        bad(TASKS, "SubmitTask", pb::SubmitTaskRequest { request_id: "a b".into(), ..submit(t()) }, &["request_id"]),
        bad(TASKS, "SubmitTask", pb::SubmitTaskRequest { request_id: "x".repeat(65), ..submit(t()) }, &["request_id"]),
        missing(TASKS, "SubmitTask", pb::SubmitTaskRequest { parent: "projects/none".into(), ..submit(t()) }),
        case(pb::Task { r#type: String::new(), queue: "no queue".into(), ..t() }, &["task.type", "task.queue"]),
        field(task(&"x".repeat(129)), "task.type"),
        field(task("a\0b"), "task.type"),
        field(pb::Task { timeout: span(0, 999), ..t() }, "task.timeout"),
        field(pb::Task { timeout: span(-5, 0), ..t() }, "task.timeout"),
        field(pb::Task { timeout: span(i64::MAX, i32::MAX), ..t() }, "task.timeout"),
        field(pb::Task { timeout: span(5, -5), ..t() }, "task.timeout"),
        field(pb::Task { timeout: span(7 * 86_400 + 1, 0), ..t() }, "task.timeout"),
        field(pb::Task { run_time: moment(i64::MAX, 0), ..t() }, "task.run_time"),
        field(pb::Task { run_time: moment(i64::MIN, 0), ..t() }, "task.run_time"),
        field(pb::Task { run_time: moment(0, -1), ..t() }, "task.run_time"),
        field(pb::Task { expire_time: moment(0, 1_000_000_000), ..t() }, "task.expire_time"),
        field(pb::Task { unique_key: "k".repeat(257), ..t() }, "task.unique_key"),
        field(pb::Task { unique_key: "k\0".into(), ..t() }, "task.unique_key"),
        field(pb::Task { unique_ttl: span(60, 0), ..t() }, "task.unique_ttl"),
        field(pb::Task { unique_key: "k".into(), unique_ttl: span(-1, 0), ..t() }, "task.unique_ttl"),
        field(pb::Task { labels: labels(65, "k", ""), ..t() }, "task.labels"),
        field(pb::Task { labels: [("Upper".to_owned(), String::new())].into(), ..t() }, "task.labels[\"Upper\"]"),
        field(pb::Task { labels: [("k".to_owned(), "v".repeat(257))].into(), ..t() }, "task.labels[\"k\"]"),
        field(pb::Task { labels: [("k".to_owned(), "v\0".to_owned())].into(), ..t() }, "task.labels[\"k\"]"),
        field(retry(pb::RetrySettings { max_attempts: -1, ..retry_settings() }), "task.retry.max_attempts"),
        field(retry(pb::RetrySettings { max_attempts: 1_001, ..retry_settings() }), "task.retry.max_attempts"),
        field(
            retry(pb::RetrySettings { initial_backoff: span(0, 1), ..retry_settings() }),
            "task.retry.initial_backoff",
        ),
        field(
            retry(pb::RetrySettings { max_backoff: span(0, 5_000_000), ..retry_settings() }),
            "task.retry.max_backoff",
        ),
        field(
            input(nested(25)),
            "task.input.json[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]",
        ),
        field(input(nested(60)), "request"),
        field(input(Kind::NumberValue(9_007_199_254_740_992.0)), "task.input.json"),
        field(input(Kind::NumberValue(f64::NAN)), "task.input.json"),
        field(input(Kind::NumberValue(f64::INFINITY)), "task.input.json"),
        field(input(Kind::StringValue("x".repeat(256 * 1024))), "task.input.json"),
        field(pb::Task { input: Some(pb::Payload { kind: None }), ..t() }, "task.input"),
        field(blob("", 256 * 1024 + 1), "task.input.blob.data"),
        field(blob("a\nb", 1), "task.input.blob.content_type"),
        field(blob(&"a".repeat(128), 1), "task.input.blob.content_type"),
    ]
}

fn task_cases() -> Vec<Case> {
    let name = || format!("projects/default/tasks/{ID}");
    let batch = |requests| pb::BatchSubmitTasksRequest { requests, ..Default::default() };
    let elsewhere = pb::SubmitTaskRequest { parent: "projects/other".into(), ..submit(task("t")) };
    let update = |task: pb::Task, paths: &[&str]| pb::UpdateTaskRequest {
        task: Some(pb::Task { name: name(), ..task }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
    };
    let list = pb::ListTasksRequest::default;
    let filter = |filter: &str, method: &str, message: Bytes| Case {
        method: format!("{TASKS}/{method}"),
        message,
        code: Code::InvalidArgument,
        reason: "FILTER_INVALID",
        fields: vec![filter.to_owned()],
    };
    let list_by = |text: String| {
        filter("filter", "ListTasks", pb::ListTasksRequest { filter: text, ..list() }.encode_to_vec().into())
    };
    let mut cases = vec![
        bad(TASKS, "BatchSubmitTasks", batch(vec![]), &["requests"]),
        bad(TASKS, "BatchSubmitTasks", batch(vec![submit(task("t")); 1_001]), &["requests"]),
        bad(TASKS, "BatchSubmitTasks", batch(vec![submit(task("t")), elsewhere]), &["requests[1].parent"]),
        bad(TASKS, "BatchSubmitTasks", batch(vec![pb::SubmitTaskRequest::default()]), &["requests[0].task"]),
        bad(TASKS, "GetTask", pb::GetTaskRequest::default(), &["name"]),
        bad(
            TASKS,
            "GetTask",
            pb::GetTaskRequest { name: "projects/default/tasks/7".into(), view: 9 },
            &["name", "view"],
        ),
        bad(TASKS, "GetTask", pb::GetTaskRequest { name: format!("{}\0", name()), view: 0 }, &["name"]),
        missing(TASKS, "GetTask", pb::GetTaskRequest { name: name(), view: 0 }),
        missing(TASKS, "GetTask", pb::GetTaskRequest { name: name().replace("default", "none"), view: 0 }),
        bad(TASKS, "BatchGetTasks", pb::BatchGetTasksRequest::default(), &["names"]),
        bad(
            TASKS,
            "BatchGetTasks",
            pb::BatchGetTasksRequest { names: vec![name(), "x".into()], ..Default::default() },
            &["names[1]"],
        ),
        bad(
            TASKS,
            "BatchGetTasks",
            pb::BatchGetTasksRequest { names: vec![name(); 1_001], ..Default::default() },
            &["names"],
        ),
        bad(TASKS, "ListTasks", pb::ListTasksRequest { page_size: -1, ..list() }, &["page_size"]),
        bad(
            TASKS,
            "ListTasks",
            pb::ListTasksRequest { order_by: "priority".into(), view: -1, ..list() },
            &["view", "order_by"],
        ),
        missing(TASKS, "ListTasks", pb::ListTasksRequest { parent: "projects/none".into(), ..list() }),
        bad(
            TASKS,
            "ListAttempts",
            pb::ListAttemptsRequest { page_size: -7, ..Default::default() },
            &["parent", "page_size"],
        ),
        missing(TASKS, "ListAttempts", pb::ListAttemptsRequest { parent: name(), ..Default::default() }),
        bad(TASKS, "UpdateTask", pb::UpdateTaskRequest::default(), &["task"]),
        bad(TASKS, "UpdateTask", update(pb::Task::default(), &["*", "priority"]), &["update_mask.paths[0]"]),
        bad(TASKS, "UpdateTask", update(pb::Task::default(), &["priority", ""]), &["update_mask.paths[1]"]),
        bad(
            TASKS,
            "UpdateTask",
            update(pb::Task { timeout: span(0, 0), ..Default::default() }, &[]),
            &["task.timeout"],
        ),
        bad(
            TASKS,
            "UpdateTask",
            update(pb::Task { etag: "x".repeat(129), labels: labels(65, "k", ""), ..Default::default() }, &[]),
            &["task.etag", "task.labels"],
        ),
        missing(TASKS, "UpdateTask", update(pb::Task { priority: 1, ..Default::default() }, &[])),
        bad(
            TASKS,
            "CancelTask",
            pb::CancelTaskRequest { name: "x".into(), reason: "r".repeat(1_025), etag: "\0".into() },
            &["reason", "name", "etag"],
        ),
        bad(
            TASKS,
            "CancelTask",
            pb::CancelTaskRequest { name: name(), reason: "\0".into(), ..Default::default() },
            &["reason"],
        ),
        missing(TASKS, "CancelTask", pb::CancelTaskRequest { name: name(), ..Default::default() }),
        bad(TASKS, "RetryTask", pb::RetryTaskRequest::default(), &["name"]),
        missing(TASKS, "RetryTask", pb::RetryTaskRequest { name: name(), ..Default::default() }),
        bad(TASKS, "RunTaskNow", pb::RunTaskNowRequest::default(), &["name"]),
        missing(TASKS, "RunTaskNow", pb::RunTaskNowRequest { name: name(), ..Default::default() }),
        bad(TASKS, "DeleteTask", pb::DeleteTaskRequest::default(), &["name"]),
        missing(TASKS, "DeleteTask", pb::DeleteTaskRequest { name: name(), ..Default::default() }),
        bad(TASKS, "WaitTask", pb::WaitTaskRequest { name: name(), wait: span(31, 0) }, &["wait"]),
        bad(TASKS, "WaitTask", pb::WaitTaskRequest { name: "x".into(), wait: span(-1, 0) }, &["name", "wait"]),
        missing(TASKS, "WaitTask", pb::WaitTaskRequest { name: name(), wait: None }),
        bad(
            TASKS,
            "WatchTasks",
            pb::WatchTasksRequest {
                task: name(),
                filter: "x".into(),
                resume_token: "x".into(),
                initial_state: true,
                ..Default::default()
            },
            &["task", "resume_token"],
        ),
        bad(
            TASKS,
            "WatchTasks",
            pb::WatchTasksRequest { resume_token: "\0".into(), ..Default::default() },
            &["resume_token"],
        ),
        missing(TASKS, "WatchTasks", pb::WatchTasksRequest { task: name(), ..Default::default() }),
        missing(TASKS, "WatchTasks", pb::WatchTasksRequest { parent: "projects/none".into(), ..Default::default() }),
        filter(
            "filter",
            "WatchTasks",
            pb::WatchTasksRequest { filter: "state = ".into(), ..Default::default() }.encode_to_vec().into(),
        ),
        case(
            TASKS,
            "WatchTasks",
            pb::WatchTasksRequest { resume_token: "x".into(), ..Default::default() },
            Code::InvalidArgument,
            "RESUME_INVALID",
            &["resume_token"],
        ),
        case(
            TASKS,
            "ListTasks",
            pb::ListTasksRequest { page_token: "x\0".into(), ..list() },
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
            &["page_token"],
        ),
    ];
    let deep = format!("{}priority = 1{}", "(".repeat(900), ")".repeat(900));
    let many = vec!["priority = 1"; 51].join(" OR ");
    let texts = [
        "state = ",
        "state = NONSENSE",
        "nonsense = 1",
        "priority = \"high\"",
        "priority = 99999999999999999999",
        "create_time > \"yesterday\"",
        "labels.Upper = \"x\"",
        "((((",
        "type = \"unfinished",
        "type = \"a\0b\"",
        &deep,
        &many,
        &"x".repeat(2_049),
    ];
    cases.extend(texts.map(|text| list_by(text.to_owned())));
    cases
}

fn bulk_cases() -> Vec<Case> {
    let name = || format!("projects/default/bulkJobs/{ID}");
    let filter = |method: &str, message: Bytes| Case {
        method: format!("{TASKS}/{method}"),
        message,
        code: Code::InvalidArgument,
        reason: "FILTER_INVALID",
        fields: vec!["filter".to_owned()],
    };
    let cancel = |text: &str| pb::BulkCancelTasksRequest { filter: text.into(), ..Default::default() };
    let purge = |text: &str| pb::BulkPurgeTasksRequest { filter: text.into(), ..Default::default() };
    vec![
        bad(TASKS, "BulkCancelTasks", cancel(""), &["filter"]),
        filter("BulkCancelTasks", cancel("state =").encode_to_vec().into()),
        bad(
            TASKS,
            "BulkCancelTasks",
            pb::BulkCancelTasksRequest { reason: "r".repeat(1_025), ..cancel("*") },
            &["reason"],
        ),
        missing(TASKS, "BulkCancelTasks", pb::BulkCancelTasksRequest { parent: "projects/none".into(), ..cancel("*") }),
        bad(TASKS, "BulkPurgeTasks", purge(""), &["filter"]),
        filter("BulkPurgeTasks", purge("(").encode_to_vec().into()),
        missing(TASKS, "BulkPurgeTasks", pb::BulkPurgeTasksRequest { parent: "projects/none".into(), ..purge("*") }),
        bad(TASKS, "GetBulkJob", pb::GetBulkJobRequest::default(), &["name"]),
        missing(TASKS, "GetBulkJob", pb::GetBulkJobRequest { name: name() }),
        bad(TASKS, "ListBulkJobs", pb::ListBulkJobsRequest { page_size: -1, ..Default::default() }, &["page_size"]),
        missing(
            TASKS,
            "ListBulkJobs",
            pb::ListBulkJobsRequest { parent: "projects/none".into(), ..Default::default() },
        ),
        bad(TASKS, "WatchBulkJob", pb::WatchBulkJobRequest { name: "x".into() }, &["name"]),
        missing(TASKS, "WatchBulkJob", pb::WatchBulkJobRequest { name: name() }),
        bad(TASKS, "CancelBulkJob", pb::CancelBulkJobRequest { name: "x".into() }, &["name"]),
        missing(TASKS, "CancelBulkJob", pb::CancelBulkJobRequest { name: name() }),
    ]
}

fn queue_and_project_cases() -> Vec<Case> {
    let name = || "projects/default/queues/none".to_owned();
    let update = |queue: pb::Queue| pb::UpdateQueueRequest {
        queue: Some(pb::Queue { name: name(), ..queue }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["*".into()] }),
    };
    let rate = |rate: pb::Rate| update(pb::Queue { rate: Some(rate), ..Default::default() });
    let project = |project: pb::Project| pb::CreateProjectRequest { project_id: "p".into(), project: Some(project) };
    vec![
        bad(QUEUES, "GetQueue", pb::GetQueueRequest::default(), &["name"]),
        bad(QUEUES, "GetQueue", pb::GetQueueRequest { name: "projects/default/queues/a b".into() }, &["name"]),
        missing(QUEUES, "GetQueue", pb::GetQueueRequest { name: name() }),
        bad(QUEUES, "ListQueues", pb::ListQueuesRequest { page_size: i32::MIN, ..Default::default() }, &["page_size"]),
        missing(QUEUES, "ListQueues", pb::ListQueuesRequest { parent: "projects/none".into(), ..Default::default() }),
        bad(QUEUES, "UpdateQueue", pb::UpdateQueueRequest::default(), &["queue"]),
        bad(QUEUES, "UpdateQueue", update(pb::Queue { max_running: -1, ..Default::default() }), &["queue.max_running"]),
        bad(
            QUEUES,
            "UpdateQueue",
            update(pb::Queue { lease_duration: span(4, 0), ..Default::default() }),
            &["queue.lease_duration"],
        ),
        bad(QUEUES, "UpdateQueue", rate(pb::Rate::default()), &["queue.rate.count"]),
        bad(
            QUEUES,
            "UpdateQueue",
            rate(pb::Rate { count: 5, interval: span(86_401, 0), burst: 6 }),
            &["queue.rate.interval", "queue.rate.burst"],
        ),
        missing(
            QUEUES,
            "UpdateQueue",
            update(pb::Queue { name: "projects/none/queues/q".into(), ..Default::default() }).in_project("none"),
        ),
        bad(QUEUES, "PauseQueue", pb::PauseQueueRequest { name: name(), note: "n".repeat(1_025) }, &["note"]),
        bad(QUEUES, "PauseQueue", pb::PauseQueueRequest { name: name(), note: "n\0".into() }, &["note"]),
        missing(
            QUEUES,
            "PauseQueue",
            pb::PauseQueueRequest { name: "projects/none/queues/q".into(), note: String::new() },
        ),
        bad(QUEUES, "ResumeQueue", pb::ResumeQueueRequest { name: "q".into() }, &["name"]),
        missing(QUEUES, "ResumeQueue", pb::ResumeQueueRequest { name: "projects/none/queues/q".into() }),
        bad(PROJECTS, "CreateProject", pb::CreateProjectRequest::default(), &["project_id"]),
        bad(
            PROJECTS,
            "CreateProject",
            pb::CreateProjectRequest { project_id: "P".into(), project: None },
            &["project_id"],
        ),
        bad(
            PROJECTS,
            "CreateProject",
            project(pb::Project { display_name: "n".repeat(64), description: "\0".into(), ..Default::default() }),
            &["project.display_name", "project.description"],
        ),
        bad(PROJECTS, "GetProject", pb::GetProjectRequest { name: "default".into(), view: 0 }, &["name"]),
        missing(PROJECTS, "GetProject", pb::GetProjectRequest { name: "projects/none".into(), view: 0 }),
        bad(PROJECTS, "ListProjects", pb::ListProjectsRequest { page_size: -1, ..Default::default() }, &["page_size"]),
        case(
            PROJECTS,
            "ListProjects",
            pb::ListProjectsRequest { page_token: "x".into(), ..Default::default() },
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
            &["page_token"],
        ),
    ]
}

/// The same queue in another project.
trait InProject {
    fn in_project(self, project: &str) -> Self;
}

impl InProject for pb::UpdateQueueRequest {
    fn in_project(mut self, project: &str) -> Self {
        if let Some(queue) = &mut self.queue {
            queue.name = format!("projects/{project}/queues/q");
        }
        self
    }
}

fn worker_cases() -> Vec<Case> {
    let lease = |identity: pb::WorkerIdentity| pb::LeaseTasksRequest { identity: Some(identity), ..Default::default() };
    let hello = |identity| pb::SessionRequest {
        message: Some(pb::session_request::Message::Hello(pb::SessionHello { parent: String::new(), identity })),
    };
    let w = || worker("w");
    let completions = |count| vec![pb::TaskCompletion::default(); count];
    vec![
        bad(
            WORKERS,
            "LeaseTasks",
            pb::LeaseTasksRequest::default(),
            &["identity", "identity.worker", "identity.types"],
        ),
        bad(WORKERS, "LeaseTasks", lease(pb::WorkerIdentity { worker: "a b".into(), ..w() }), &["identity.worker"]),
        bad(
            WORKERS,
            "LeaseTasks",
            lease(pb::WorkerIdentity { types: vec!["\0".into()], ..w() }),
            &["identity.types[0]"],
        ),
        bad(
            WORKERS,
            "LeaseTasks",
            lease(pb::WorkerIdentity { queues: vec!["q".into(); 101], ..w() }),
            &["identity.queues"],
        ),
        bad(WORKERS, "LeaseTasks", lease(pb::WorkerIdentity { slots: -1, ..w() }), &["identity.slots"]),
        bad(
            WORKERS,
            "LeaseTasks",
            lease(pb::WorkerIdentity { labels: labels(65, "k", ""), ..w() }),
            &["identity.labels"],
        ),
        bad(
            WORKERS,
            "LeaseTasks",
            pb::LeaseTasksRequest { max_tasks: 1_001, wait: span(31, 0), request_id: "é".into(), ..lease(w()) },
            &["request_id", "max_tasks", "wait"],
        ),
        missing(WORKERS, "LeaseTasks", pb::LeaseTasksRequest { parent: "projects/none".into(), ..lease(w()) }),
        bad(
            WORKERS,
            "Heartbeat",
            pb::HeartbeatRequest { worker: "a b".into(), incarnation: "\0".into(), ..Default::default() },
            &["incarnation", "worker"],
        ),
        bad(
            WORKERS,
            "Heartbeat",
            pb::HeartbeatRequest { leases: vec![pb::LeaseHeartbeat::default(); 1_001], ..Default::default() },
            &["leases"],
        ),
        missing(WORKERS, "Heartbeat", pb::HeartbeatRequest { parent: "projects/none".into(), ..Default::default() }),
        bad(WORKERS, "CompleteTasks", pb::CompleteTasksRequest::default(), &["completions"]),
        bad(
            WORKERS,
            "CompleteTasks",
            pb::CompleteTasksRequest { completions: completions(1_001), ..Default::default() },
            &["completions"],
        ),
        bad(
            WORKERS,
            "CompleteTasks",
            pb::CompleteTasksRequest { parent: "x".into(), completions: completions(1) },
            &["parent"],
        ),
        bad(WORKERS, "FailTasks", pb::FailTasksRequest::default(), &["failures"]),
        bad(WORKERS, "ReleaseTasks", pb::ReleaseTasksRequest::default(), &["releases"]),
        bad(WORKERS, "GetWorker", pb::GetWorkerRequest { name: "w".into() }, &["name"]),
        missing(WORKERS, "GetWorker", pb::GetWorkerRequest { name: "projects/default/workers/none".into() }),
        bad(WORKERS, "ListWorkers", pb::ListWorkersRequest { page_size: -1, ..Default::default() }, &["page_size"]),
        missing(
            WORKERS,
            "ListWorkers",
            pb::ListWorkersRequest { parent: "projects/none".into(), ..Default::default() },
        ),
        bad(WORKERS, "DrainWorker", pb::DrainWorkerRequest::default(), &["name"]),
        missing(WORKERS, "DrainWorker", pb::DrainWorkerRequest { name: "projects/default/workers/none".into() }),
        bad(WORKERS, "Session", pb::SessionRequest::default(), &["hello"]),
        bad(WORKERS, "Session", hello(None), &["hello.identity", "hello.identity.worker", "hello.identity.types"]),
        bad(WORKERS, "Session", hello(Some(pb::WorkerIdentity { slots: 10_001, ..w() })), &["hello.identity.slots"]),
    ]
}

fn cases() -> Vec<Case> {
    let services = [
        queue_and_project_cases(),
        api_key::cases(),
        project::cases(),
        retry::cases(),
        dead_letter::cases(),
        schedule::cases(),
        retention::cases(),
        audit::cases(),
        worker_cases(),
    ];
    [submit_cases(), task_cases(), bulk_cases()].into_iter().chain(services).flatten().collect()
}

/// Every method of ours, as `package.Service/Method`.
fn methods() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> =
            service.methods().map(|method| format!("{}/{}", service.full_name(), method.name())).collect();
        methods
    });
    methods.collect()
}

#[tokio::test]
async fn every_bad_request_is_told_what_is_wrong_with_it() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let mut problems = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let Case { method, message, code, reason: expected, fields: paths } = case;
        match call(&rpc.clients.channel(), &method, message).await {
            Ok(_) => problems.push(format!("{number} {method}: accepted; expected {code:?} {expected} {paths:?}")),
            Err(status) => {
                let told = (status.code(), reason(&status), fields(&status));
                if told != (code, expected.to_owned(), paths.clone()) {
                    problems.push(format!(
                        "{number} {method}: {told:?} {:?}; expected {code:?} {expected} {paths:?}",
                        status.message()
                    ));
                }
                let details = status.get_error_details();
                assert!(details.request_info().is_some_and(|info| !info.request_id.is_empty()), "{method}");
                assert_eq!(details.error_info().map(|info| info.domain.as_str()), Some("tasktower"), "{method}");
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    // Nothing of all that left a trace.
    let page = rpc.clients.tasks().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
    assert_eq!((page.tasks.len(), page.revision), (0, 0));
}

#[test]
fn every_method_has_a_bad_request() {
    let covered: BTreeSet<_> = cases().into_iter().map(|case| case.method).collect();
    assert_eq!(covered, methods());
}

#[tokio::test]
async fn garbage_is_a_bad_request_whatever_the_method() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let channel = rpc.clients.channel();
    let garbage: [&'static [u8]; 4] =
        [b"\xff\xff\xff\xff", b"garbage", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28"];
    for method in methods() {
        for bytes in garbage {
            let status = call(&channel, &method, Bytes::from_static(bytes)).await.expect_err("garbage is refused");
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::InvalidArgument, "FIELD_INVALID"),
                "{method} {bytes:?}: {status:?}"
            );
        }
    }
    // Deeper than the decoder goes, and larger than it takes.
    for method in ["SubmitTask", "WatchTasks"] {
        let large = call(&channel, &format!("{TASKS}/{method}"), vec![0; MAX_MESSAGE + 1].into()).await;
        let status = refused(large.map(tonic::Response::new), Code::InvalidArgument, "FIELD_INVALID", &["request"]);
        assert!(status.message().contains("4 MiB"), "{status:?}");
    }
    let large = call(&channel, &format!("{WORKERS}/Session"), vec![0; MAX_MESSAGE + 1].into()).await;
    refused(large.map(tonic::Response::new), Code::InvalidArgument, "FIELD_INVALID", &["request"]);
    // The same connection goes on.
    rpc.submit(task("t")).await;
}

#[tokio::test]
async fn a_body_that_breaks_the_framing_is_a_bad_request() {
    const GZIP: (&str, &str) = ("grpc-encoding", "gzip");
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let channel = rpc.clients.channel();
    let get = format!("{TASKS}/GetTask");
    for (headers, body) in [
        (&[][..], &b""[..]),
        // A length of five and three bytes.
        (&[], b"\0\0\0\0\x05abc"),
        (&[], b"\0\0"),
        // Compressed, but nobody said how; a flag that means nothing; something else than gzip.
        (&[], b"\x01\0\0\0\x01a"),
        (&[], b"\x07\0\0\0\x01a"),
        (&[GZIP], b"\x01\0\0\0\x05abcde"),
    ] {
        let answer = call_unframed(&channel, &get, headers, body).await.map(|_| tonic::Response::new(()));
        refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["request"]);
    }
    let unknown = call_unframed(&channel, &get, &[("grpc-encoding", "zstd")], b"\x01\0\0\0\x01a").await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented, "as gRPC wants it");

    // Small on the wire, too large in memory.
    let mut bomb = rpc.clients.tasks().send_compressed(CompressionEncoding::Gzip);
    let huge = pb::SubmitTaskRequest { parent: "x".repeat(16 * MAX_MESSAGE), ..Default::default() };
    refused(bomb.submit_task(huge).await, Code::InvalidArgument, "FIELD_INVALID", &["request"]);
    // What is compressed well is read, and the answer may be compressed too.
    let mut tasks =
        rpc.clients.tasks().send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    tasks.submit_task(submit(task("t"))).await.unwrap();

    // Metadata beyond 16 KiB ends the call, not the server.
    let large = "x".repeat(20 * 1024);
    let answer = call_unframed(&channel, &get, &[("x-large", &large)], b"").await;
    let is_refused = match &answer {
        Err(_) => true,
        Ok(response) => response.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    };
    assert!(is_refused, "{answer:?}");
    rpc.submit(task("t")).await;
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_said_so() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    for method in [format!("{TASKS}/Nonsense"), "other.Service/Get".to_owned()] {
        let status = call(&rpc.clients.channel(), &method, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains(&method), "{status:?}");
    }
}

#[tokio::test]
async fn what_is_at_the_edge_is_accepted() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let edge = pb::Task {
            r#type: "x".repeat(128),
            queue: "A-z0._:-".into(),
            timeout: Some(seconds(7 * 86_400)),
            run_time: Some(in_seconds(10 * 365 * 86_400)),
            unique_key: "ключ".repeat(64),
            unique_ttl: Some(seconds(1)),
            labels: (0..64).map(|n| (format!("{n:063}"), "é".repeat(256))).collect(),
            input: Some(json_value(nested(24))),
            priority: i32::MIN,
            ..Default::default()
        };
        let name = rpc.submit(edge.clone()).await;
        let found = rpc.get(&name).await;
        assert_eq!((found.r#type, found.labels, found.input), (edge.r#type, edge.labels, edge.input));
        let integers = Kind::ListValue(prost_types::ListValue {
            values: [9_007_199_254_740_991.0, -9_007_199_254_740_991.0, 1e-7, 0.1]
                .map(|number| Value { kind: Some(Kind::NumberValue(number)) })
                .into(),
        });
        let input = json_value(integers);
        let name = rpc.submit(pb::Task { input: Some(input.clone()), ..task("t") }).await;
        assert_eq!(rpc.get(&name).await.input, Some(input));
        // A time long gone is now.
        let name = rpc.submit(pb::Task { run_time: moment(-62_135_596_800, 0), ..task("t") }).await;
        let leased = rpc.lease(5).await;
        assert!(leased.iter().any(|one| super::token(one).task == name));
        let text = "NUL is a character of JSON: \0";
        let input = json_value(Kind::StringValue(text.into()));
        let name = rpc.submit(pb::Task { input: Some(input.clone()), ..task("t") }).await;
        assert_eq!(rpc.get(&name).await.input, Some(input));

        // The largest payloads, read in pages that clients accept.
        let large = pb::Payload {
            kind: Some(PayloadKind::Blob(pb::Blob { content_type: String::new(), data: vec![7; 256 * 1024].into() })),
        };
        let large = pb::Task { input: Some(large), ..task("large") };
        let mut names = BTreeSet::new();
        for _ in 0..2 {
            names.extend(rpc.submit_many(&large, 10).await);
        }
        let (mut seen, mut pages, mut page_token) = (BTreeSet::new(), 0, String::new());
        loop {
            let request = pb::ListTasksRequest {
                filter: "type = \"large\"".into(),
                view: pb::TaskView::Full as i32,
                page_size: 500,
                page_token,
                ..Default::default()
            };
            let page = rpc.clients.tasks().list_tasks(request).await.unwrap().into_inner();
            pages += 1;
            seen.extend(page.tasks.into_iter().map(|task| task.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert!(seen == names && pages > 1, "{} of {} in {pages} pages", seen.len(), names.len());
        let request = pb::BatchGetTasksRequest {
            names: names.into_iter().collect(),
            view: pb::TaskView::Full as i32,
            ..Default::default()
        };
        refused(rpc.clients.tasks().batch_get_tasks(request).await, Code::InvalidArgument, "FIELD_INVALID", &["names"]);
        // So are leases; what does not fit is not lost.
        let identity = pb::WorkerIdentity { types: vec!["large".into()], ..worker("w") };
        let mut leased = 0;
        while leased < 20 {
            let some = rpc.lease_as(identity.clone(), 1_000).await;
            assert!(!some.is_empty());
            leased += some.len();
        }
    })
    .await;
}

/// The client has a timer of its own, which ends the call a few milliseconds after the server does. On a loaded machine
/// it may be first, and then nothing was learnt.
async fn ended_by_the_server<T: std::fmt::Debug>(
    mut call: impl AsyncFnMut() -> Result<tonic::Response<T>, Status>,
) -> Result<tonic::Response<T>, Status> {
    eventually("the server is faster than this client's own timer", SOON, async || match call().await {
        Err(status) if std::error::Error::source(&status).is_some() => Err("the client's timer was"),
        answer => Ok(answer),
    })
    .await
}

#[tokio::test]
async fn a_long_poll_ends_at_the_deadline_of_its_caller() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let name = rpc.submit(task("other")).await;
    let deadline = Duration::from_millis(200);
    let answer = ended_by_the_server(async || {
        let mut request = Request::new(pb::WaitTaskRequest { name: name.clone(), wait: Some(seconds(30)) });
        request.set_timeout(deadline);
        rpc.clients.tasks().wait_task(request).await
    })
    .await;
    refused(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[]);
    let answer = ended_by_the_server(async || {
        let lease =
            pb::LeaseTasksRequest { identity: Some(worker("w")), wait: Some(seconds(30)), ..Default::default() };
        let mut request = Request::new(lease);
        request.set_timeout(deadline);
        rpc.clients.workers().lease_tasks(request).await
    })
    .await;
    refused(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[]);
}
