//! The audit and who may not: refused calls are noted, with what was asked for; and the record itself is for operators.

use std::convert::Infallible;

use http::{Request, Response};
use tasktower::{
    api::layers::{Layers, authentication::Authentication},
    context::Caller,
    domain::{member::Scope, permission::PermissionSet, role::Role},
    ids::ProjectId,
    pb::{self, task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient},
};
use tonic::{Code, body::Body};
use tower::{Layer as _, Service, ServiceExt as _};

use super::{InProcess, granted, is_denied, root};
use crate::support::backend::for_each_backend;

/// All of the server, for one caller: what the layers know of it is put in its place behind them.
fn behind_layers(
    server: &InProcess,
    caller: &Caller,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + use<> {
    let caller = caller.clone();
    let services = server.services.clone().map_request(move |mut request: Request<Body>| {
        request.extensions_mut().insert(caller.clone());
        request
    });
    Layers::load(Authentication::open(), server.app.notes().clone()).expect("the rules of this binary").layer(services)
}

async fn entries(server: &InProcess, parent: &str, filter: &str) -> Vec<pb::AuditEntry> {
    let list = pb::ListAuditEntriesRequest { parent: parent.into(), filter: filter.into(), ..Default::default() };
    let page: pb::ListAuditEntriesResponse =
        server.typed(&root(), "AuditService/ListAuditEntries", list).await.expect("a page");
    page.audit_entries
}

#[tokio::test]
async fn a_refused_call_is_noted_with_what_was_asked_for() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        let eve = granted("service:eve", "default", Role::Viewer.permissions());
        let mut tasks = TaskServiceClient::new(behind_layers(&server, &eve));
        let theirs = "projects/theirs/tasks/0190a6c0-0000-7000-8000-000000000000";
        let get = pb::GetTaskRequest { name: theirs.into(), ..Default::default() };
        assert!(is_denied(&tasks.get_task(get).await));
        let watch = pb::WatchTasksRequest { parent: "projects/theirs".into(), ..Default::default() };
        assert!(is_denied(&tasks.watch_tasks(watch).await));
        // What no database keeps, and the project that is meant when none is named.
        let odd = pb::CancelTaskRequest { name: "projects/theirs/tasks/\0\u{1b}[2J".into(), ..Default::default() };
        assert!(is_denied(&tasks.cancel_task(odd).await));
        let task = pb::Task { r#type: "t".into(), ..Default::default() };
        let submit = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        assert!(is_denied(&tasks.submit_task(submit).await));
        // What it may do is no refusal, and neither is what is not there.
        assert!(tasks.list_tasks(pb::ListTasksRequest::default()).await.is_ok());
        let absent = pb::GetTaskRequest { name: theirs.replace("theirs", "default"), ..Default::default() };
        assert_eq!(tasks.get_task(absent).await.unwrap_err().code(), Code::NotFound);
        // A session says in its first message what it is about, long after the layers let it in.
        let worker = granted("service:worker", "default", Role::Worker.permissions());
        let mut workers = WorkerServiceClient::new(behind_layers(&server, &worker));
        let hello = pb::SessionHello { parent: "projects/theirs".into(), ..Default::default() };
        let hello = pb::SessionRequest { message: Some(pb::session_request::Message::Hello(hello)) };
        let mut session = workers.session(tokio_stream::once(hello)).await.expect("a stream").into_inner();
        assert!(is_denied(&session.message().await));

        server.app.write_notes().await.expect("written");
        let mut noted: Vec<_> = entries(&server, "projects/system", "action = call.refused")
            .await
            .into_iter()
            .map(|entry| {
                assert_eq!(entry.outcome(), pb::audit_entry::Outcome::PermissionDenied);
                assert_eq!((entry.reason.as_str(), entry.count), ("PERMISSION_DENIED", 1));
                (entry.method, entry.resource)
            })
            .collect();
        noted.sort();
        let expected = [
            ("-", "projects/theirs"),
            ("TaskService/CancelTask", "projects/theirs/tasks/\u{fffd}\u{fffd}[2J"),
            ("TaskService/GetTask", theirs),
            ("TaskService/SubmitTask", "projects/default"),
            ("TaskService/WatchTasks", "projects/theirs"),
        ];
        assert!(noted.iter().map(|(method, resource)| (method.as_str(), resource.as_str())).eq(expected), "{noted:?}");
    })
    .await;
}

#[tokio::test]
async fn the_record_is_for_operators_and_that_of_the_system_for_those_of_all_projects() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        let default = || Scope::Project(ProjectId::new("default"));
        for role in Role::ALL {
            let principal = format!("service:{}", role.name());
            server.app.set_member(&root(), default(), principal, role).await.expect("a member");
        }
        let everywhere = "user:local/ada".to_owned();
        server.app.set_member(&root(), Scope::Everywhere, everywhere.clone(), Role::Operator).await.expect("a member");
        let list = |parent: &str| pb::ListAuditEntriesRequest { parent: parent.into(), ..Default::default() };
        let may = async |principal: &str, parent: &str| {
            let caller = server.member(principal).await;
            let method = "AuditService/ListAuditEntries";
            let answer = server.typed::<pb::ListAuditEntriesResponse>(&caller, method, list(parent)).await;
            assert!(answer.is_ok() || is_denied(&answer), "{answer:?}");
            answer.is_ok()
        };
        for role in Role::ALL {
            let principal = format!("service:{}", role.name());
            let is_reader = matches!(role, Role::Operator | Role::Admin);
            assert_eq!(may(&principal, "projects/default").await, is_reader, "{principal}");
            assert!(!may(&principal, "projects/system").await, "{principal}");
        }
        assert!(may(&everywhere, "projects/default").await && may(&everywhere, "projects/system").await);
        // Nobody becomes a member of the system alone.
        let system = Scope::Project(ProjectId::new("system"));
        let refused = server.app.set_member(&root(), system, everywhere.clone(), Role::Viewer).await;
        assert!(matches!(refused, Err(tasktower::error::Error::NotFound { .. })), "{refused:?}");

        // Who gave which role is in it, as the proto spells roles.
        let given = entries(&server, "projects/default", "action = member.set").await;
        let worker = given.iter().find(|entry| entry.resource == "projects/default/members/service:worker");
        let change = &worker.expect("an entry").changes[0];
        let new = change.new_value.as_ref().and_then(|value| value.kind.clone());
        assert_eq!(change.path, "role");
        assert_eq!(new, Some(prost_types::value::Kind::StringValue("ROLE_WORKER".to_owned())));
        let of_all = entries(&server, "projects/system", "action = member.set").await;
        assert_eq!(of_all[0].resource, format!("projects/*/members/{everywhere}"));
        // A credential that lets nothing through opens nothing, whatever its principal may.
        let nothing = server.app.authority(&everywhere.as_str().into(), PermissionSet::default()).await.expect("known");
        assert!(!nothing.permits_anywhere(tasktower::domain::permission::Permission::AuditRead));
    })
    .await;
}
