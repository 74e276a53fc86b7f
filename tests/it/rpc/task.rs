//! `TaskService`, but for the stream of `WatchTasks` (watch.rs) and bad input (errors.rs).

use std::collections::BTreeSet;

use serde_json::json as value;
use tasktower::{
    client::payload,
    pb::{self, submit_task_response::Outcome, task::State},
};
use tonic::{Code, Request};

use super::{Rpc, completion, in_seconds, json, refused, seconds, task, token, worker};
use crate::support::{
    backend::for_each_backend,
    credentials::PRINCIPAL,
    wait::{SOON, eventually},
};

const MISSING: &str = "projects/default/tasks/0190a6c0-0000-7000-8000-000000000000";

#[tokio::test]
async fn a_submitted_task_is_found_as_it_was_sent() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let sent = pb::Task {
            queue: "mail".into(),
            input: Some(json(value!({"to": ["ada@example.org"], "n": 7, "x": null}))),
            priority: -3,
            timeout: Some(seconds(90)),
            expire_time: Some(in_seconds(3_600)),
            retry: Some(pb::RetrySettings { max_attempts: 3, ..Default::default() }),
            unique_key: "order-7".into(),
            unique_ttl: Some(seconds(60)),
            labels: [("team".to_owned(), "core".to_owned())].into(),
            // What the server says about a task is ignored.
            state: State::Succeeded as i32,
            owner: "somebody".into(),
            ..task("mail.send")
        };
        let task_id = uuid::Uuid::now_v7().to_string();
        let request =
            pb::SubmitTaskRequest { task: Some(sent.clone()), task_id: task_id.clone(), ..Default::default() };
        let mut tasks = rpc.clients.tasks();
        let created = tasks.submit_task(request.clone()).await.unwrap().into_inner();
        assert_eq!(created.outcome(), Outcome::Created);
        assert_eq!(created.name, format!("projects/default/tasks/{task_id}"));
        assert_eq!(created.revision, 1);

        let full = rpc.get(&created.name).await;
        assert_eq!((full.state(), full.version, full.owner.as_str()), (State::Pending, 1, PRINCIPAL));
        assert_eq!((&full.etag, full.create_time), (&created.etag, created.create_time));
        assert_eq!(full.retry.as_ref().unwrap().max_attempts, 3);
        let echoed = pb::Task {
            r#type: full.r#type.clone(),
            queue: full.queue.clone(),
            input: full.input.clone(),
            priority: full.priority,
            timeout: full.timeout,
            expire_time: full.expire_time,
            retry: sent.retry.clone(),
            unique_key: full.unique_key.clone(),
            unique_ttl: full.unique_ttl,
            labels: full.labels.clone(),
            state: sent.state,
            owner: sent.owner.clone(),
            ..Default::default()
        };
        assert_eq!(echoed, sent);
        let basic = pb::GetTaskRequest { name: created.name.clone(), view: pb::TaskView::Basic as i32 };
        let basic = tasks.get_task(basic).await.unwrap().into_inner().task.unwrap();
        assert_eq!(basic, pb::Task { input: None, ..full });

        // The id is taken.
        let taken = pb::SubmitTaskRequest { task: Some(task("t")), ..request };
        refused(tasks.submit_task(taken).await, Code::AlreadyExists, "RESOURCE_EXISTS", &[]);
        // An open task holds the key.
        let again = pb::Task { unique_key: "order-7".into(), ..task("mail.send") };
        let again = pb::SubmitTaskRequest { task: Some(again), ..Default::default() };
        let existing = tasks.submit_task(again).await.unwrap().into_inner();
        assert_eq!((existing.outcome(), existing.revision), (Outcome::Existing, 0));
        assert_eq!(existing.name, created.name);
    })
    .await;
}

#[tokio::test]
async fn a_repeated_submit_answers_the_same_and_says_so() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let request =
            pb::SubmitTaskRequest { task: Some(task("t")), request_id: "once-1".into(), ..Default::default() };
        let first = tasks.submit_task(request.clone()).await.unwrap();
        assert!(!first.metadata().contains_key("idempotency-replayed"));
        let second = tasks.submit_task(request.clone()).await.unwrap();
        assert_eq!(second.metadata().get("idempotency-replayed").unwrap(), "true");
        assert_eq!(first.get_ref(), second.get_ref());

        // The key may come as metadata instead.
        let bare = pb::SubmitTaskRequest { request_id: String::new(), ..request.clone() };
        let with_key = |key: &str| {
            let mut request = Request::new(bare.clone());
            request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
            request
        };
        let third = tasks.submit_task(with_key("once-1")).await.unwrap();
        assert_eq!(third.metadata().get("idempotency-replayed").unwrap(), "true");
        assert_eq!(first.get_ref(), third.get_ref());
        let other = tasks.submit_task(with_key("once-2")).await.unwrap();
        assert_ne!(first.get_ref().name, other.get_ref().name);

        let reused = pb::SubmitTaskRequest { task: Some(task("other")), ..request.clone() };
        refused(tasks.submit_task(reused).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED", &[]);
        let mut differs = Request::new(request);
        differs.metadata_mut().insert("idempotency-key", "another".parse().unwrap());
        refused(tasks.submit_task(differs).await, Code::InvalidArgument, "FIELD_INVALID", &["request_id"]);

        // A batch has one key for all of it.
        let one = pb::SubmitTaskRequest { task: Some(task("t")), ..Default::default() };
        let batch = pb::BatchSubmitTasksRequest {
            requests: vec![one.clone(), one],
            request_id: "batch-1".into(),
            ..Default::default()
        };
        let first = tasks.batch_submit_tasks(batch.clone()).await.unwrap();
        let second = tasks.batch_submit_tasks(batch).await.unwrap();
        assert_eq!(second.metadata().get("idempotency-replayed").unwrap(), "true");
        assert_eq!(first.get_ref(), second.get_ref());
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_all_or_none() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let id = uuid::Uuid::now_v7().to_string();
        let one = |task: pb::Task| pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let batch = |requests| pb::BatchSubmitTasksRequest { requests, ..Default::default() };

        let mut bad = vec![one(task("t")); 5];
        bad[3].task.as_mut().unwrap().r#type = "not a type".into();
        bad[4].request_id = "mine".into();
        let answer = tasks.batch_submit_tasks(batch(bad)).await;
        refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["requests[3].task.type", "requests[4].request_id"]);

        let taken = pb::SubmitTaskRequest { task_id: id.clone(), ..one(task("t")) };
        let answer = tasks.batch_submit_tasks(batch(vec![one(task("t")), taken.clone(), taken.clone()])).await;
        refused(answer, Code::AlreadyExists, "RESOURCE_EXISTS", &[]);
        let left = tasks.list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
        assert_eq!((left.tasks.len(), left.revision), (0, 0), "nothing of a refused batch is there");

        let unique = pb::Task { unique_key: "k".into(), ..task("t") };
        let requests = vec![taken, one(unique.clone()), one(unique)];
        let answer = tasks.batch_submit_tasks(batch(requests)).await.unwrap().into_inner().responses;
        assert!(answer[0].name.ends_with(&id));
        assert_eq!(answer.iter().map(|one| one.revision).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(answer[2].outcome(), Outcome::Existing);
        assert_eq!(answer[1].name, answer[2].name);

        // A full batch, read again in the order asked.
        let names = rpc.submit_many(&task("t"), 1_000).await;
        let mut backwards = names.clone();
        backwards.reverse();
        let request = pb::BatchGetTasksRequest { names: backwards.clone(), ..Default::default() };
        let found = tasks.batch_get_tasks(request).await.unwrap().into_inner().tasks;
        assert_eq!(found.into_iter().map(|task| task.name).collect::<Vec<_>>(), backwards);
        let request = pb::BatchGetTasksRequest { names: vec![names[0].clone(), MISSING.into()], ..Default::default() };
        let status = refused(tasks.batch_get_tasks(request).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        assert!(status.message().contains(MISSING), "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let urgent = pb::Task { priority: 5, labels: [("team".into(), "core".into())].into(), ..task("t") };
        let mut names = rpc.submit_many(&task("t"), 7).await;
        names.extend(rpc.submit_many(&urgent, 4).await);

        let request = |filter: &str, order_by: &str, page_size, page_token: &str| pb::ListTasksRequest {
            filter: filter.into(),
            order_by: order_by.into(),
            page_size,
            page_token: page_token.into(),
            ..Default::default()
        };
        // Ascending is the order of submission, descending is that backwards; pages of 3 hold each once.
        for (order_by, expected) in
            [("create_time", names.clone()), ("create_time desc", names.iter().rev().cloned().collect())]
        {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let page = tasks.list_tasks(request("", order_by, 3, &token)).await.unwrap().into_inner();
                assert_eq!(page.revision, 11);
                assert!(page.tasks.len() <= 3);
                seen.extend(page.tasks.into_iter().map(|task| task.name));
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
                // A task that is submitted meanwhile shifts no page.
            }
            if order_by == "create_time" {
                assert_eq!(seen, expected);
            } else {
                assert_eq!(seen.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
                assert_eq!(seen, expected);
            }
        }
        for (filter, count) in [
            ("state = PENDING", 11),
            ("priority > 0 AND labels.team = \"core\"", 4),
            ("NOT labels.team = \"core\"", 7),
            ("type = \"t\" OR queue = \"none\"", 11),
            ("state = FAILED", 0),
            ("create_time > \"2020-01-01T00:00:00Z\"", 11),
            (&format!("name = \"{}\"", names[0]), 1),
        ] {
            let page = tasks.list_tasks(request(filter, "", 0, "")).await.unwrap().into_inner();
            assert_eq!(page.tasks.len(), count, "{filter}");
        }

        let token = tasks.list_tasks(request("", "", 3, "")).await.unwrap().into_inner().next_page_token;
        // Another size is no other list; everything else is.
        assert!(tasks.list_tasks(request("", "", 5, &token)).await.is_ok());
        for foreign in [
            request("state = PENDING", "", 3, &token),
            request("", "create_time", 3, &token),
            request("", "", 3, "nonsense"),
            pb::ListTasksRequest { view: pb::TaskView::Full as i32, ..request("", "", 3, &token) },
        ] {
            let answer = tasks.list_tasks(foreign).await;
            refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);
        }
        let other_list = pb::ListQueuesRequest { page_token: token, ..Default::default() };
        let answer = rpc.clients.queues().list_queues(other_list).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);
    })
    .await;
}

#[tokio::test]
async fn attempts_tell_the_story_of_a_task() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let (mut tasks, mut workers) = (rpc.clients.tasks(), rpc.clients.workers());
        let name = rpc.submit(task("t")).await;
        let first = rpc.lease(1).await.remove(0);
        let release = pb::TaskRelease { token: first.token, delay: None };
        let request = pb::ReleaseTasksRequest { releases: vec![release], ..Default::default() };
        workers.release_tasks(request).await.unwrap();

        let second = rpc.lease(1).await.remove(0);
        let error = pb::TaskError { r#type: "Smtp".into(), message: "no route".into(), details: "trace".into() };
        let failure = pb::TaskFailure {
            token: second.token,
            error: Some(error.clone()),
            retry_after: Some(seconds(3_600)),
            ..Default::default()
        };
        let request = pb::FailTasksRequest { failures: vec![failure], ..Default::default() };
        let answer = workers.fail_tasks(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].state(), State::Retrying);
        let waiting = rpc.get(&name).await;
        assert_eq!((waiting.state(), waiting.attempt_count), (State::Retrying, 1));
        assert_eq!(waiting.error.as_ref(), Some(&error));
        assert!(rpc.lease(1).await.is_empty(), "the next attempt is an hour away");

        let request = pb::RunTaskNowRequest { name: name.clone(), ..Default::default() };
        tasks.run_task_now(request).await.unwrap();
        let third = rpc.lease(1).await.remove(0);
        let leased = third.task.clone().unwrap();
        assert_eq!((leased.state(), leased.attempt_count), (State::Running, 2));

        let request =
            |page_size, page_token: String| pb::ListAttemptsRequest { parent: name.clone(), page_size, page_token };
        let page = tasks.list_attempts(request(2, String::new())).await.unwrap().into_inner();
        let rest = tasks.list_attempts(request(2, page.next_page_token.clone())).await.unwrap().into_inner();
        assert!(rest.next_page_token.is_empty());
        let attempts: Vec<_> = page.attempts.into_iter().chain(rest.attempts).collect();
        use pb::attempt::Outcome::{Failed, Released, Running};
        let told: Vec<_> = attempts.iter().map(|attempt| (attempt.epoch, attempt.outcome())).collect();
        assert_eq!(told, [(1, Released), (2, Failed), (3, Running)]);
        assert_eq!(attempts[1].error.as_ref(), Some(&error));
        assert!(attempts[1].retry_time.is_some() && attempts[1].end_time.is_some());
        assert!(attempts[2].end_time.is_none());
        assert!(attempts.iter().all(|attempt| attempt.worker == "projects/default/workers/w"));
        let foreign =
            pb::ListAttemptsRequest { parent: rpc.submit(task("t")).await, ..request(2, page.next_page_token) };
        refused(tasks.list_attempts(foreign).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);
    })
    .await;
}

#[tokio::test]
async fn an_update_changes_what_the_mask_says() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let name = rpc.submit(pb::Task { priority: 1, timeout: Some(seconds(60)), ..task("t") }).await;
        let update = |task: pb::Task, paths: &[&str]| pb::UpdateTaskRequest {
            task: Some(pb::Task { name: name.clone(), ..task }),
            update_mask: (!paths.is_empty())
                .then(|| prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
        };
        let before = rpc.get(&name).await;

        let labels = [("a".to_owned(), "b".to_owned())].into();
        let set = pb::Task { priority: 9, labels, ..Default::default() };
        let after = tasks.update_task(update(set.clone(), &["priority"])).await.unwrap().into_inner().task.unwrap();
        assert_eq!((after.priority, after.labels.len(), after.version), (9, 0, 2));
        assert_ne!(after.etag, before.etag);
        // Without a mask: what is set.
        let after = tasks.update_task(update(set, &[])).await.unwrap().into_inner().task.unwrap();
        assert_eq!((after.priority, after.labels.len()), (9, 1));
        // `*`: everything that can change, back to its default.
        let after = tasks.update_task(update(pb::Task::default(), &["*"])).await.unwrap().into_inner().task.unwrap();
        assert_eq!((after.priority, after.labels.len(), after.timeout), (0, 0, Some(seconds(3_600))));
        // Nothing new is no change.
        let paths = ["priority", "timeout", "expire_time", "retry", "labels"];
        let same = tasks.update_task(update(pb::Task::default(), &paths)).await.unwrap().into_inner().task.unwrap();
        assert_eq!((same.version, &same.etag), (after.version, &after.etag));
        // Output-only paths change nothing; what never changes is refused.
        let state = pb::Task { state: State::Failed as i32, ..Default::default() };
        let same = tasks.update_task(update(state, &["state"])).await.unwrap().into_inner().task.unwrap();
        assert_eq!(same.state(), State::Pending);
        for path in ["type", "nonsense", "input", "unique_key"] {
            let answer = tasks.update_task(update(pb::Task::default(), &[path])).await;
            refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["update_mask.paths[0]"]);
        }

        let stale = pb::Task { priority: 3, etag: before.etag, ..Default::default() };
        refused(tasks.update_task(update(stale, &[])).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let fresh = pb::Task { priority: 3, etag: same.etag, ..Default::default() };
        tasks.update_task(update(fresh, &[])).await.unwrap();

        // A running task keeps its settings; labels may change in every state.
        let leased = rpc.lease(1).await.remove(0);
        let priority = pb::Task { priority: 4, ..Default::default() };
        refused(tasks.update_task(update(priority, &[])).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        let labels = pb::Task { labels: [("k".to_owned(), "v".to_owned())].into(), ..Default::default() };
        tasks.update_task(update(labels, &[])).await.unwrap();
        assert_eq!(rpc.complete([token(&leased)]).await, [Code::Ok], "the lease still holds");
        let labels = pb::Task { labels: [("k".to_owned(), "w".to_owned())].into(), ..Default::default() };
        tasks.update_task(update(labels, &["labels"])).await.unwrap();
        let done = rpc.get(&name).await;
        assert_eq!((done.state(), done.labels["k"].as_str()), (State::Succeeded, "w"));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once_and_a_running_one_by_its_worker() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let cancel =
            |name: &str| pb::CancelTaskRequest { name: name.into(), reason: "spam".into(), etag: String::new() };

        let waiting = rpc.submit(task("t")).await;
        let stale = pb::CancelTaskRequest { etag: "\"other\"".into(), ..cancel(&waiting) };
        refused(tasks.cancel_task(stale).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let task_ = tasks.cancel_task(cancel(&waiting)).await.unwrap().into_inner().task.unwrap();
        assert_eq!((task_.state(), task_.cancel_reason.as_str()), (State::Cancelled, "spam"));
        let again = tasks.cancel_task(cancel(&waiting)).await.unwrap().into_inner().task.unwrap();
        assert_eq!(again, task_, "cancelling again changes nothing");

        // Running: the worker hears of it with its heartbeat, and what it reports then ends the task.
        let running = rpc.submit(task("t")).await;
        let leased = rpc.lease(1).await.remove(0);
        let asked = tasks.cancel_task(cancel(&running)).await.unwrap().into_inner().task.unwrap();
        assert_eq!((asked.state(), asked.cancel_requested), (State::Running, true));
        let beat = pb::LeaseHeartbeat { token: leased.token.clone(), progress: None };
        let request = pb::HeartbeatRequest { leases: vec![beat], ..Default::default() };
        let answer = rpc.clients.workers().heartbeat(request).await.unwrap().into_inner().results.remove(0);
        assert!(answer.cancel_requested && answer.cancel_reason == "spam", "{answer:?}");
        let failure = pb::TaskFailure {
            token: leased.token,
            error: Some(pb::TaskError { r#type: "Stopped".into(), ..Default::default() }),
            ..Default::default()
        };
        let request = pb::FailTasksRequest { failures: vec![failure], ..Default::default() };
        let answer = rpc.clients.workers().fail_tasks(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].state(), State::Cancelled);

        // A success that comes first still counts, and is not taken back.
        let running = rpc.submit(task("t")).await;
        let leased = rpc.lease(1).await.remove(0);
        tasks.cancel_task(cancel(&running)).await.unwrap();
        assert_eq!(rpc.complete([token(&leased)]).await, [Code::Ok]);
        assert_eq!(rpc.get(&running).await.state(), State::Succeeded);
        let status =
            refused(tasks.cancel_task(cancel(&running)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        assert!(status.message().contains("SUCCEEDED"), "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn tasks_are_opened_again_run_at_once_and_deleted() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        let delete = |name: &str| pb::DeleteTaskRequest { name: name.into(), ..Default::default() };
        let retry = |name: &str| pb::RetryTaskRequest { name: name.into(), ..Default::default() };

        // FAILED: has a dead letter, so it is retried or purged, not deleted.
        let name = rpc.failed().await;
        let failed = rpc.get(&name).await;
        assert_eq!((failed.state(), failed.error.unwrap().r#type), (State::Failed, "Broken".to_owned()));
        refused(tasks.delete_task(delete(&name)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        let stale = pb::RetryTaskRequest { etag: "\"x\"".into(), ..retry(&name) };
        refused(tasks.retry_task(stale).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let open = tasks.retry_task(retry(&name)).await.unwrap().into_inner().task.unwrap();
        assert_eq!((open.state(), open.attempt_count), (State::Pending, 0));
        refused(tasks.retry_task(retry(&name)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        let leased = rpc.lease(1).await.remove(0);
        assert_eq!(token(&leased).epoch, 2, "the epoch goes on");
        refused(tasks.delete_task(delete(&name)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        rpc.complete([token(&leased)]).await;
        let stale = pb::DeleteTaskRequest { etag: "\"x\"".into(), ..delete(&name) };
        refused(tasks.delete_task(stale).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        tasks.delete_task(delete(&name)).await.unwrap();
        refused(tasks.delete_task(delete(&name)).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        tasks.delete_task(pb::DeleteTaskRequest { allow_missing: true, ..delete(&name) }).await.unwrap();
        let gone = pb::GetTaskRequest { name, ..Default::default() };
        refused(tasks.get_task(gone).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        let name = rpc.submit(pb::Task { run_time: Some(in_seconds(3_600)), ..task("t") }).await;
        let run_now = pb::RunTaskNowRequest { name: name.clone(), ..Default::default() };
        assert!(rpc.lease(1).await.is_empty());
        tasks.run_task_now(run_now.clone()).await.unwrap();
        assert_eq!(rpc.lease(1).await.len(), 1);
        refused(tasks.run_task_now(run_now).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
    })
    .await;
}

#[tokio::test]
async fn a_wait_ends_with_the_task_or_with_its_time() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let name = rpc.submit(task("t")).await;
        let wait = |millis: i32| pb::WaitTaskRequest {
            name: name.clone(),
            wait: Some(prost_types::Duration { seconds: i64::from(millis / 1000), nanos: millis % 1000 * 1_000_000 }),
        };
        let mut tasks = rpc.clients.tasks();
        let answer = tasks.wait_task(wait(50)).await.unwrap().into_inner();
        assert!(!answer.done);
        assert_eq!(answer.task.unwrap().state(), State::Pending);

        // The task is answered as it is at the end of the wait, not as it was at its beginning.
        let mut waiting = rpc.clients.tasks();
        let waiter = tokio::spawn({
            let request = wait(600);
            async move { waiting.wait_task(request).await }
        });
        let leased = rpc.lease(1).await.remove(0);
        let answer = waiter.await.unwrap().unwrap().into_inner();
        assert!(!answer.done);
        assert_eq!(answer.task.unwrap().state(), State::Running);

        let mut waiting = rpc.clients.tasks();
        let waiter = tokio::spawn({
            let request = wait(20_000);
            async move { waiting.wait_task(request).await }
        });
        let result = json(value!({"sent": true}));
        let request = pb::CompleteTasksRequest {
            completions: vec![completion(token(&leased), Some(result))],
            ..Default::default()
        };
        rpc.clients.workers().complete_tasks(request).await.unwrap();
        let answer = waiter.await.unwrap().unwrap().into_inner();
        let done = answer.task.unwrap();
        assert!(answer.done);
        assert_eq!(done.state(), State::Succeeded);
        assert_eq!(payload::to_json(done.result.as_ref()).unwrap(), value!({"sent": true}));
        // A final task is answered at once.
        assert!(tasks.wait_task(wait(20_000)).await.unwrap().into_inner().done);
        let missing = pb::WaitTaskRequest { name: MISSING.into(), wait: None };
        refused(tasks.wait_task(missing).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
    })
    .await;
}

#[tokio::test]
async fn tasks_are_cancelled_and_purged_by_filter() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut tasks = rpc.clients.tasks();
        rpc.submit_many(&task("t"), 250).await;
        rpc.submit_many(&task("other"), 5).await;
        let cancel =
            pb::BulkCancelTasksRequest { filter: "type = \"t\"".into(), reason: "clean".into(), ..Default::default() };
        let look = tasks.bulk_cancel_tasks(cancel.clone()).await.unwrap().into_inner();
        assert_eq!((look.bulk_job, look.matched_count, look.sample.len()), (None, 250, 100));
        assert_eq!(rpc.get(&look.sample[0]).await.state(), State::Pending, "a look changes nothing");

        let force = pb::BulkCancelTasksRequest { force: true, ..cancel.clone() };
        let job = tasks.bulk_cancel_tasks(force).await.unwrap().into_inner().bulk_job.unwrap();
        assert_eq!((job.action(), job.matched_count), (pb::bulk_job::Action::Cancel, 250));
        // The watch says where the job stands, and ends with it.
        let request = pb::WatchBulkJobRequest { name: job.name.clone() };
        let mut watch = tasks.watch_bulk_job(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = watch.message().await.unwrap() {
            last = message.bulk_job;
        }
        let last = last.expect("at least one message");
        assert_eq!((last.state(), last.done_count), (pb::bulk_job::State::Succeeded, 250));
        let request = pb::GetBulkJobRequest { name: job.name.clone() };
        assert_eq!(tasks.get_bulk_job(request).await.unwrap().into_inner().bulk_job, Some(last));
        let request = pb::CancelBulkJobRequest { name: job.name.clone() };
        refused(tasks.cancel_bulk_job(request).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        let cancelled = rpc.get(&look.sample[0]).await;
        assert_eq!((cancelled.state(), cancelled.cancel_reason.as_str()), (State::Cancelled, "clean"));

        // Purge takes final tasks only, FAILED ones with their dead letter too.
        let failed = rpc.failed().await;
        let purge = pb::BulkPurgeTasksRequest { filter: "*".into(), ..Default::default() };
        let look = tasks.bulk_purge_tasks(purge.clone()).await.unwrap().into_inner();
        assert_eq!((look.bulk_job, look.matched_count), (None, 251));
        let force = pb::BulkPurgeTasksRequest { force: true, ..purge };
        let second = tasks.bulk_purge_tasks(force).await.unwrap().into_inner().bulk_job.unwrap();
        eventually("only the open tasks are left", SOON, async || {
            let page = tasks.list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
            if page.tasks.len() == 5 { Ok(()) } else { Err(format!("{} tasks", page.tasks.len())) }
        })
        .await;
        let gone = pb::GetTaskRequest { name: failed, ..Default::default() };
        refused(tasks.get_task(gone).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        let page = tasks.list_bulk_jobs(pb::ListBulkJobsRequest { page_size: 1, ..Default::default() }).await.unwrap();
        let page = page.into_inner();
        assert_eq!(page.bulk_jobs[0].name, second.name, "newest first");
        let next = pb::ListBulkJobsRequest { page_token: page.next_page_token, ..Default::default() };
        let rest = tasks.list_bulk_jobs(next).await.unwrap().into_inner();
        assert_eq!(rest.bulk_jobs.iter().map(|job| &job.name).collect::<Vec<_>>(), [&job.name]);
    })
    .await;
}

#[tokio::test]
async fn a_task_is_leased_by_priority_and_only_by_a_worker_of_its_type_and_queue() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let low = rpc.submit(task("t")).await;
        let high = rpc.submit(pb::Task { priority: 7, ..task("t") }).await;
        rpc.submit(pb::Task { queue: "mail".into(), ..task("t") }).await;
        rpc.submit(task("nobody.serves")).await;
        let leased = rpc.lease(10).await;
        let names: Vec<_> = leased.iter().map(|leased| token(leased).task).collect();
        assert_eq!(names, [high, low]);
        let mail = pb::WorkerIdentity { queues: vec!["mail".into()], ..worker("m") };
        assert_eq!(rpc.lease_as(mail, 10).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn equal_submits_at_once_make_one_task() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let submit = async |request: pb::SubmitTaskRequest| rpc.clients.tasks().submit_task(request).await;
        // With the same key of the request: the same answer, or that it is still being made.
        let request = pb::SubmitTaskRequest { task: Some(task("t")), request_id: "once".into(), ..Default::default() };
        let answers = futures_util::future::join_all((0..20).map(|_| submit(request.clone()))).await;
        let mut names = BTreeSet::new();
        for answer in answers {
            match answer {
                Ok(answer) => {
                    names.insert(answer.into_inner().name);
                }
                Err(status) => assert_eq!(super::reason(&status), "IDEMPOTENCY_IN_PROGRESS", "{status:?}"),
            }
        }
        assert_eq!(names.len(), 1);
        // With the same unique key: one is created, all are told its name.
        let unique = pb::Task { unique_key: "k".into(), ..task("t") };
        let request = pb::SubmitTaskRequest { task: Some(unique), ..Default::default() };
        let answers = futures_util::future::join_all((0..20).map(|_| submit(request.clone()))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().into_inner()).collect();
        assert_eq!(answers.iter().filter(|answer| answer.outcome() == Outcome::Created).count(), 1);
        assert!(answers.iter().all(|answer| answer.name == answers[0].name));
        // With the same id: one is created, the others are told that it exists.
        let task_id = uuid::Uuid::now_v7().to_string();
        let request = pb::SubmitTaskRequest { task: Some(task("t")), task_id, ..Default::default() };
        let answers = futures_util::future::join_all((0..20).map(|_| submit(request.clone()))).await;
        let (created, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(created.len(), 1);
        assert!(refused.iter().all(|answer| super::reason(answer.as_ref().unwrap_err()) == "RESOURCE_EXISTS"));
        let list = rpc.clients.tasks().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
        assert_eq!((list.tasks.len(), list.revision), (3, 3));
    })
    .await;
}
