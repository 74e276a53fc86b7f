//! `WorkerService`, the unary calls: lease, heartbeat, report, registry, drain. The stream is in session.rs.

use prost::Message as _;
use serde_json::json as value;
use tasktower::{
    client::payload,
    pb::{self, task::State},
};
use tonic::Code;
use tonic_types::Status as RpcStatus;

use super::{Rpc, code, completion, json, refused, seconds, task, token, worker};
use crate::support::backend::for_each_backend;

fn lost(token: &pb::LeaseToken) -> pb::LeaseToken {
    pb::LeaseToken { epoch: token.epoch + 1, ..token.clone() }
}

/// The reason and the field paths in the status of an item.
fn told(status: Option<RpcStatus>) -> (String, Vec<String>) {
    let status = status.expect("an item has a status");
    let details = bytes::Bytes::from(status.encode_to_vec());
    let status = tonic::Status::with_details(Code::from_i32(status.code), status.message, details);
    (super::reason(&status), super::fields(&status))
}

#[tokio::test]
async fn each_report_is_answered_on_its_own() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        rpc.submit_many(&task("t"), 4).await;
        let leased = rpc.lease(10).await;
        let [a, b, c, d] = leased.iter().map(token).collect::<Vec<_>>().try_into().unwrap();
        assert!(leased.iter().all(|one| one.lease_duration == Some(seconds(60))));
        assert!(leased.iter().all(|one| one.attempt_timeout == Some(seconds(3_600))));

        // Heartbeats: one good with progress, one lost, one wrong in itself.
        let progress = |percent| Some(pb::Progress { percent, message: "half".into() });
        let leases = vec![
            pb::LeaseHeartbeat { token: Some(a.clone()), progress: progress(50.0) },
            pb::LeaseHeartbeat { token: Some(lost(&b)), progress: None },
            pb::LeaseHeartbeat { token: Some(c.clone()), progress: progress(101.0) },
        ];
        let request = pb::HeartbeatRequest { worker: "w".into(), leases, ..Default::default() };
        let answer = workers.heartbeat(request).await.unwrap().into_inner();
        assert!(!answer.drain);
        let [good, stale, wrong] = answer.results.try_into().unwrap();
        assert_eq!(good.status.as_ref().unwrap().code, 0);
        assert_eq!((good.lease_duration, good.cancel_requested), (Some(seconds(60)), false));
        assert_eq!(told(stale.status), ("LEASE_LOST".to_owned(), vec![]));
        let expected = ("FIELD_INVALID".to_owned(), vec!["leases[2].progress.percent".to_owned()]);
        assert_eq!(told(wrong.status), expected);
        assert_eq!(rpc.get(&a.task).await.progress, progress(50.0));

        // Completions.
        let result = Some(json(value!({"n": 1})));
        let completions = vec![
            completion(a.clone(), result.clone()),
            completion(lost(&b), None),
            pb::TaskCompletion { token: None, result: None },
        ];
        let request = pb::CompleteTasksRequest { completions, ..Default::default() };
        let answer = workers.complete_tasks(request).await.unwrap().into_inner();
        assert_eq!(
            answer.results.iter().map(code).collect::<Vec<_>>(),
            [Code::Ok, Code::Aborted, Code::InvalidArgument]
        );
        assert_eq!(answer.results[0].state(), State::Succeeded);
        assert_eq!(answer.results[1].token, Some(lost(&b)));
        assert_eq!(told(answer.results[2].status.clone()).1, ["completions[2].token"]);
        // The same again is fine and changes nothing; another result is not.
        let before = rpc.get(&a.task).await;
        let request = |result| pb::CompleteTasksRequest {
            completions: vec![completion(a.clone(), result)],
            ..Default::default()
        };
        let again = workers.complete_tasks(request(result)).await.unwrap().into_inner();
        assert_eq!((code(&again.results[0]), again.results[0].state()), (Code::Ok, State::Succeeded));
        let other = workers.complete_tasks(request(None)).await.unwrap().into_inner();
        assert_eq!(told(other.results[0].status.clone()).0, "LEASE_LOST");
        let after = rpc.get(&a.task).await;
        assert_eq!(after, before);
        assert_eq!(payload::to_json(after.result.as_ref()).unwrap(), value!({"n": 1}));

        // Failures: with back-off, final, without an error.
        let error = Some(pb::TaskError { r#type: "E".into(), ..Default::default() });
        let failure =
            |token: &pb::LeaseToken, error| pb::TaskFailure { token: Some(token.clone()), error, ..Default::default() };
        let failures = vec![
            failure(&b, error.clone()),
            pb::TaskFailure { r#final: true, ..failure(&c, error) },
            failure(&d, None),
        ];
        let request = pb::FailTasksRequest { failures, ..Default::default() };
        let answer = workers.fail_tasks(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].state(), State::Retrying);
        assert_eq!(answer.results[1].state(), State::Failed);
        assert_eq!(told(answer.results[2].status.clone()).1, ["failures[2].error"]);

        // Releases.
        let releases = vec![
            pb::TaskRelease { token: Some(d.clone()), delay: Some(seconds(3_600)) },
            pb::TaskRelease { token: Some(a.clone()), delay: None },
        ];
        let request = pb::ReleaseTasksRequest { releases, ..Default::default() };
        let answer = workers.release_tasks(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].state(), State::Pending);
        assert_eq!(told(answer.results[1].status.clone()).0, "LEASE_LOST");
        assert_eq!(rpc.get(&d.task).await.attempt_count, 0, "given back is not counted");
    })
    .await;
}

#[tokio::test]
async fn a_repeated_lease_answers_the_leases_still_held() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        rpc.submit_many(&task("t"), 5).await;
        let request = pb::LeaseTasksRequest {
            identity: Some(worker("w")),
            max_tasks: 2,
            request_id: "lease-1".into(),
            ..Default::default()
        };
        let first = workers.lease_tasks(request.clone()).await.unwrap();
        assert!(!first.metadata().contains_key("idempotency-replayed"));
        let tokens: Vec<_> = first.into_inner().tasks.iter().map(token).collect();
        let second = workers.lease_tasks(request.clone()).await.unwrap();
        assert_eq!(second.metadata().get("idempotency-replayed").unwrap(), "true");
        assert_eq!(second.into_inner().tasks.iter().map(token).collect::<Vec<_>>(), tokens);
        rpc.complete([tokens[0].clone()]).await;
        let third = workers.lease_tasks(request.clone()).await.unwrap().into_inner();
        assert_eq!(third.tasks.iter().map(token).collect::<Vec<_>>(), tokens[1..]);
        let other = pb::LeaseTasksRequest { max_tasks: 3, ..request };
        refused(workers.lease_tasks(other).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED", &[]);
    })
    .await;
}

#[tokio::test]
async fn a_leaser_waits_for_its_first_task() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        let request = |seconds| pb::LeaseTasksRequest {
            identity: Some(worker("w")),
            max_tasks: 5,
            wait: Some(prost_types::Duration { seconds, nanos: 50_000_000 }),
            ..Default::default()
        };
        let empty = workers.lease_tasks(request(0)).await.unwrap().into_inner();
        assert!(empty.tasks.is_empty() && !empty.drain);
        let waiter = tokio::spawn(async move { workers.lease_tasks(request(20)).await });
        rpc.submit(task("not.mine")).await;
        let name = rpc.submit(task("t")).await;
        let leased = waiter.await.unwrap().unwrap().into_inner().tasks;
        assert_eq!(leased.iter().map(|one| token(one).task).collect::<Vec<_>>(), [name]);
    })
    .await;
}

#[tokio::test]
async fn workers_are_known_and_told_to_drain() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        let identity = pb::WorkerIdentity {
            incarnation: "first".into(),
            queues: vec!["default".into(), "mail".into()],
            labels: [("version".to_owned(), "7".to_owned())].into(),
            ..worker("alpha")
        };
        rpc.submit(task("t")).await;
        let leased = rpc.lease_as(identity.clone(), 5).await.remove(0);
        rpc.lease_as(worker("beta"), 1).await;

        let get = |name: &str| pb::GetWorkerRequest { name: format!("projects/default/workers/{name}") };
        let alpha = workers.get_worker(get("alpha")).await.unwrap().into_inner().worker.unwrap();
        assert_eq!((alpha.state(), alpha.running_count), (pb::worker::State::Online, 1));
        let [incarnation] = alpha.incarnations.try_into().unwrap();
        assert_eq!(
            (incarnation.incarnation, incarnation.types),
            (identity.incarnation.clone(), identity.types.clone())
        );
        assert_eq!((incarnation.queues, incarnation.labels), (identity.queues.clone(), identity.labels.clone()));
        refused(workers.get_worker(get("none")).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        let page = workers.list_workers(pb::ListWorkersRequest { page_size: 1, ..Default::default() }).await.unwrap();
        let page = page.into_inner();
        assert_eq!(page.workers[0].name, "projects/default/workers/alpha");
        let rest = pb::ListWorkersRequest { page_token: page.next_page_token, ..Default::default() };
        let rest = workers.list_workers(rest).await.unwrap().into_inner();
        assert_eq!(rest.workers[0].name, "projects/default/workers/beta");

        let drain = pb::DrainWorkerRequest { name: get("alpha").name };
        let drained = workers.drain_worker(drain).await.unwrap().into_inner().worker.unwrap();
        assert_eq!(drained.state(), pb::worker::State::Draining);
        let none = pb::DrainWorkerRequest { name: get("none").name };
        refused(workers.drain_worker(none).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        // It is told with the next answer, gets no more, and still may report.
        rpc.submit(task("t")).await;
        let beat = pb::HeartbeatRequest {
            worker: "alpha".into(),
            incarnation: "first".into(),
            leases: vec![pb::LeaseHeartbeat { token: leased.token.clone(), progress: None }],
            ..Default::default()
        };
        let answer = workers.heartbeat(beat).await.unwrap().into_inner();
        assert!(answer.drain);
        assert_eq!(answer.results[0].status.as_ref().unwrap().code, 0);
        let lease = |identity| pb::LeaseTasksRequest { identity: Some(identity), max_tasks: 5, ..Default::default() };
        let answer = workers.lease_tasks(lease(identity.clone())).await.unwrap().into_inner();
        assert!(answer.drain && answer.tasks.is_empty());
        assert_eq!(rpc.complete([token(&leased)]).await, [Code::Ok]);
        // A new process of the same name starts afresh.
        let fresh = pb::WorkerIdentity { incarnation: "second".into(), ..identity };
        let answer = workers.lease_tasks(lease(fresh)).await.unwrap().into_inner();
        assert!(!answer.drain && answer.tasks.len() == 1);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_item_is_told_its_field_and_spoils_no_other() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        rpc.submit_many(&task("t"), 2).await;
        let leased = rpc.lease(2).await;
        let [good, held] = leased.iter().map(token).collect::<Vec<_>>().try_into().unwrap();
        let missing = "projects/default/tasks/0190a6c0-0000-7000-8000-000000000000";
        let missing = pb::LeaseToken { task: missing.to_owned(), epoch: 1 };

        let failure = |error: pb::TaskError| pb::TaskFailure {
            token: Some(held.clone()),
            error: Some(error),
            ..Default::default()
        };
        let error = || pb::TaskError { r#type: "E".into(), ..Default::default() };
        let wait = |seconds| pb::TaskFailure { retry_after: Some(super::seconds(seconds)), ..failure(error()) };
        let with_token = |token| pb::TaskFailure { token: Some(token), ..failure(error()) };
        let cases = [
            (failure(pb::TaskError::default()), "error.type"),
            (failure(pb::TaskError { r#type: "x".repeat(257), ..error() }), "error.type"),
            (failure(pb::TaskError { r#type: "a\0".into(), ..error() }), "error.type"),
            (failure(pb::TaskError { message: "m\0".into(), ..error() }), "error.message"),
            (failure(pb::TaskError { details: "d\0".into(), ..error() }), "error.details"),
            (failure(pb::TaskError { details: "d".repeat(16 * 1024), ..error() }), "error"),
            (wait(-1), "retry_after"),
            (wait(31 * 86_400), "retry_after"),
            (with_token(pb::LeaseToken { epoch: 0, ..held.clone() }), "token.epoch"),
            (with_token(pb::LeaseToken { task: "x".into(), epoch: 1 }), "token.task"),
            (with_token(pb::LeaseToken { task: good.task.replace("default", "other"), epoch: 1 }), "token.task"),
        ];
        let expected: Vec<_> =
            cases.iter().enumerate().map(|(at, (_, field))| format!("failures[{at}].{field}")).collect();
        let mut failures: Vec<_> = cases.into_iter().map(|(failure, _)| failure).collect();
        failures.push(pb::TaskFailure { r#final: true, token: Some(good), ..failure(error()) });
        failures.push(with_token(missing));
        failures.push(with_token(pb::LeaseToken { epoch: i64::MAX, ..held.clone() }));
        let request = pb::FailTasksRequest { failures, ..Default::default() };
        let mut results = workers.fail_tasks(request).await.unwrap().into_inner().results;
        for (result, field) in results.iter().zip(expected) {
            assert_eq!((code(result), result.state()), (Code::InvalidArgument, State::Unspecified), "{field}");
            assert_eq!(told(result.status.clone()), ("FIELD_INVALID".to_owned(), vec![field]));
        }
        let [future, missing, fine] = [results.pop(), results.pop(), results.pop()].map(|result| result.unwrap());
        assert_eq!((code(&fine), fine.state()), (Code::Ok, State::Failed));
        assert_eq!(told(missing.status).0, "LEASE_LOST");
        assert_eq!(told(future.status).0, "LEASE_LOST");

        // The same report twice in one batch: both are answered well, one counts.
        let twice = vec![completion(held.clone(), None), completion(held.clone(), None)];
        let request = pb::CompleteTasksRequest { completions: twice, ..Default::default() };
        let answer = workers.complete_tasks(request).await.unwrap().into_inner();
        assert_eq!(answer.results.iter().map(code).collect::<Vec<_>>(), [Code::Ok, Code::Ok]);
        assert_eq!(rpc.get(&held.task).await.version, 3);
    })
    .await;
}

#[tokio::test]
async fn a_task_is_leased_once_however_many_ask_at_once() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.submit_many(&task("t"), 100).await;
        let asking = (0..16).map(|n| {
            let rpc = &rpc;
            async move { rpc.lease_as(worker(&format!("w{n}")), 10).await }
        });
        let leased: Vec<_> = futures_util::future::join_all(asking).await.into_iter().flatten().collect();
        let distinct: std::collections::BTreeSet<_> = leased.iter().map(|one| token(one).task).collect();
        assert_eq!((leased.len(), distinct.len()), (100, 100));
        assert!(rpc.complete(leased.iter().map(token)).await.iter().all(|code| *code == Code::Ok));
    })
    .await;
}
