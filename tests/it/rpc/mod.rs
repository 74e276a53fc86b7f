//! The server over the wire: the real binary, real clients, every database.
//!
//! `Rpc` is a server with a connection to it and the calls most tests begin with. `refused` says what every error must
//! be like. Each file is one service or one kind of client.

mod audit;
mod authentication;
mod cli;
mod dead_letter;
mod errors;
mod grpcurl;
mod project;
mod python;
mod queue;
mod readme;
mod retention;
mod retry;
mod schedule;
mod schedule_ticks;
mod server;
mod session;
mod task;
mod tls;
mod tokens;
mod watch;
mod worker;

use std::fmt::Debug;

use tasktower::pb;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::{backend::Database, client::Clients, server::Server};

/// A server and one connection to it.
pub struct Rpc {
    pub server: Server,
    pub clients: Clients,
}

impl Rpc {
    pub async fn start(database: &Database) -> Rpc {
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        Rpc { server, clients }
    }

    /// Submits and answers the name.
    pub async fn submit(&self, task: pb::Task) -> String {
        let request = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        self.clients.tasks().submit_task(request).await.expect("submitted").into_inner().name
    }

    /// Submits so many of the same and answers their names.
    pub async fn submit_many(&self, task: &pb::Task, count: usize) -> Vec<String> {
        let request = pb::SubmitTaskRequest { task: Some(task.clone()), ..Default::default() };
        let request = pb::BatchSubmitTasksRequest { requests: vec![request; count], ..Default::default() };
        let answer = self.clients.tasks().batch_submit_tasks(request).await.expect("submitted").into_inner();
        answer.responses.into_iter().map(|one| one.name).collect()
    }

    /// Reads, FULL.
    pub async fn get(&self, name: &str) -> pb::Task {
        let request = pb::GetTaskRequest { name: name.to_owned(), ..Default::default() };
        self.clients.tasks().get_task(request).await.expect("found").into_inner().task.expect("a task")
    }

    /// Leases what is due, up to `max_tasks`, for the worker `w` from the queue `default`.
    pub async fn lease(&self, max_tasks: i32) -> Vec<pb::LeasedTask> {
        self.lease_as(worker("w"), max_tasks).await
    }

    pub async fn lease_as(&self, identity: pb::WorkerIdentity, max_tasks: i32) -> Vec<pb::LeasedTask> {
        let request = pb::LeaseTasksRequest { identity: Some(identity), max_tasks, ..Default::default() };
        self.clients.workers().lease_tasks(request).await.expect("leased").into_inner().tasks
    }

    /// Completes and answers the code of each.
    pub async fn complete(&self, tokens: impl IntoIterator<Item = pb::LeaseToken>) -> Vec<Code> {
        let completions = tokens.into_iter().map(|token| completion(token, None)).collect();
        let request = pb::CompleteTasksRequest { completions, ..Default::default() };
        let answer = self.clients.workers().complete_tasks(request).await.expect("reported").into_inner();
        answer.results.iter().map(code).collect()
    }

    /// Fails for good.
    pub async fn fail(&self, token: pb::LeaseToken) {
        let error = pb::TaskError { r#type: "Broken".into(), message: "it broke".into(), ..Default::default() };
        let failure = pb::TaskFailure { token: Some(token), error: Some(error), r#final: true, retry_after: None };
        let request = pb::FailTasksRequest { failures: vec![failure], ..Default::default() };
        let answer = self.clients.workers().fail_tasks(request).await.expect("reported").into_inner();
        assert_eq!(answer.results.iter().map(code).collect::<Vec<_>>(), [Code::Ok]);
    }

    /// Submits a task and brings it to FAILED.
    pub async fn failed(&self) -> String {
        let name = self.submit(task("t")).await;
        let leased = self.lease(1).await;
        self.fail(token(&leased[0])).await;
        name
    }
}

/// A task of this type with nothing else said.
pub fn task(r#type: &str) -> pb::Task {
    pb::Task { r#type: r#type.into(), ..Default::default() }
}

/// A worker of this name that handles the type `t`.
pub fn worker(name: &str) -> pb::WorkerIdentity {
    pb::WorkerIdentity { worker: name.into(), types: vec!["t".into()], slots: 10, ..Default::default() }
}

pub fn token(leased: &pb::LeasedTask) -> pb::LeaseToken {
    leased.token.clone().expect("a lease has a token")
}

pub fn completion(token: pb::LeaseToken, result: Option<pb::Payload>) -> pb::TaskCompletion {
    pb::TaskCompletion { token: Some(token), result }
}

/// The code of one report's answer.
pub fn code(result: &pb::ReportResult) -> Code {
    Code::from_i32(result.status.as_ref().map_or(0, |status| status.code))
}

pub fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// A time that many seconds from now, by the clock of this machine, which is the server's too.
pub fn in_seconds(seconds: i64) -> prost_types::Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).expect("before the year 292 billion") + seconds,
        nanos: 0,
    }
}

pub fn json(value: serde_json::Value) -> pb::Payload {
    tasktower::client::payload::json(value).expect("JSON that fits")
}

/// The reason in the details of a status.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The field paths in the details of a status.
pub fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// A call must be refused with this code and reason, about these fields. Answers the status for a closer look.
#[track_caller]
pub fn refused<T: Debug>(answer: Result<Response<T>, Status>, code: Code, reason: &str, fields: &[&str]) -> Status {
    let status = answer.expect_err("must be refused");
    assert_eq!((status.code(), self::reason(&status).as_str()), (code, reason), "{status:?}");
    assert_eq!(self::fields(&status), fields, "{status:?}");
    status
}
