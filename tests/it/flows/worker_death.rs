//! Workers that die or stall: the task is run by another one, and whatever the first one says afterwards counts for
//! nothing.

use std::{
    fs, future,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use tasktower::{
    client::{Refusal, payload},
    pb::{
        ErrorReason, LeaseHeartbeat, LeaseToken, ReportResult, SessionHeartbeat, SessionHello, SessionReport,
        SessionRequest, Task, TaskCompletion, TaskError, TaskFailure, TaskRelease, WorkerIdentity, attempt,
        session_request, session_response, task,
    },
};
use tempfile::TempDir;

use crate::support::{
    backend::for_each_backend,
    calls::{attempts, complete, fail, get, heartbeat, lease, release, submit, task, text, token},
    client::Clients,
    history::Known,
    invariants::{Inspector, When, assert_holds},
    load::{PROJECT, revision, set_lease},
    process::{Process, tasktower},
    server::Server,
    wait::{SOON, eventually},
};

const TYPE: &str = "script";
const QUEUE: &str = "scripts";
/// The lease of 5 s and 5 s to notice that it is over.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// Says that it began, holds on in the first attempt for as long as it is told to, and answers with its epoch.
const SCRIPT: &str = r#"
touch "$TEST_FOLDER/began-$TASKTOWER_EPOCH"
while [ "$TASKTOWER_EPOCH" = 1 ] && [ -e "$TEST_FOLDER/hold" ]; do sleep 0.1; done
echo "\"epoch $TASKTOWER_EPOCH\""
"#;

/// A folder that scripts look into; `hold` holds the first attempt. When it is gone, so is every script.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("tasktower-scripts-").expect("a temporary folder");
    fs::write(folder.path().join("hold"), "").expect("a file in it");
    folder
}

fn exec_worker(server: &Server, name: &str, folder: &Path) -> Process {
    let mut command = tasktower();
    command
        .args(["worker", "--exec", SCRIPT, "--type", TYPE, "--queue", QUEUE, "--name", name])
        .args(["--endpoint", &server.endpoint()])
        .env("TEST_FOLDER", folder);
    Process::spawn(name, &mut command)
}

async fn began(folder: &Path, epoch: i64) {
    let file = folder.join(format!("began-{epoch}"));
    eventually("the script runs", SOON, async || if file.exists() { Ok(()) } else { Err("it does not") }).await;
}

/// Waits until the second attempt has begun, and says how long that took.
async fn taken_over(clients: &Clients, name: &str) -> Duration {
    let started = Instant::now();
    eventually("another worker has the task", TAKEN_OVER, async || match attempts(clients, name).await.len() {
        2 => Ok(()),
        count => Err(format!("{count} attempts")),
    })
    .await;
    started.elapsed()
}

async fn succeeded(clients: &Clients, name: &str) -> Task {
    eventually("the task succeeds", SOON, async || {
        let task = get(clients, name).await;
        if task.state() == task::State::Succeeded { Ok(task) } else { Err(format!("{task:?}")) }
    })
    .await
}

fn worker_name(worker: &str) -> String {
    format!("{PROJECT}/workers/{worker}")
}

/// The task ended in its second attempt, by this worker, after the first lost its lease.
async fn assert_second_attempt_won(clients: &Clients, name: &str, workers: [&str; 2]) {
    let attempts = attempts(clients, name).await;
    let told: Vec<_> = attempts.iter().map(|a| (a.epoch, a.outcome(), a.worker.clone())).collect();
    let expected = [
        (1, attempt::Outcome::LeaseExpired, worker_name(workers[0])),
        (2, attempt::Outcome::Succeeded, worker_name(workers[1])),
    ];
    assert_eq!(told, expected);
    let task = get(clients, name).await;
    assert_eq!((task.attempt_count, task.crash_count), (1, 1), "the lost attempt is a crash and does not count");
}

#[tokio::test]
async fn a_killed_workers_task_is_run_by_another_one() {
    for_each_backend(async |database| {
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        set_lease(&clients, QUEUE).await;
        let folder = folder();
        let mut first = exec_worker(&server, "first", folder.path());
        let name = submit(&clients, task(TYPE, QUEUE)).await;
        began(folder.path(), 1).await;
        let _second = exec_worker(&server, "second", folder.path());
        first.kill();
        let took = taken_over(&clients, &name).await;
        println!("{}: leased again {took:?} after the worker was killed", database.backend());
        let task = succeeded(&clients, &name).await;
        assert_eq!(payload::decode::<String>(task.result.as_ref()).expect("a text"), "epoch 2");
        assert_second_attempt_won(&clients, &name, ["first", "second"]).await;
        let mut inspector = Inspector::open(database).await;
        assert_holds(&inspector.facts("default").await, &Known::default(), When::Quiet);
        inspector.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_frozen_worker_that_wakes_up_changes_nothing_and_works_on() {
    for_each_backend(async |database| {
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        set_lease(&clients, QUEUE).await;
        let folder = folder();
        let first = exec_worker(&server, "first", folder.path());
        let name = submit(&clients, task(TYPE, QUEUE)).await;
        began(folder.path(), 1).await;
        first.freeze();
        let mut second = exec_worker(&server, "second", folder.path());
        taken_over(&clients, &name).await;
        let before = succeeded(&clients, &name).await;
        let revision_before = revision(&clients).await;
        // The script of the frozen worker ends well; only then does the worker wake up.
        fs::remove_file(folder.path().join("hold")).expect("the script was told to hold");
        first.thaw();
        eventually("the worker knows that the lease is lost", SOON, async || {
            let log = first.log();
            if log.contains("lease lost") || log.contains("refused the report") { Ok(()) } else { Err(log) }
        })
        .await;
        assert_eq!(get(&clients, &name).await, before);
        assert_eq!(revision(&clients).await, revision_before);
        assert_second_attempt_won(&clients, &name, ["first", "second"]).await;

        second.kill();
        let next = submit(&clients, task(TYPE, QUEUE)).await;
        succeeded(&clients, &next).await;
        assert_eq!(attempts(&clients, &next).await[0].worker, worker_name("first"), "it is as good as new");
    })
    .await;
}

/// Replayed completions, and how many of them are under way at a time.
const REPLAYS: usize = 1_000;
const AT_A_TIME: usize = 16;

#[tokio::test]
async fn an_old_token_is_refused_in_every_way_and_replays_change_nothing() {
    for_each_backend(async |database| {
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        set_lease(&clients, QUEUE).await;
        let name = submit(&clients, task(TYPE, QUEUE)).await;
        let old = token(&lease(&clients, "stalled", TYPE, QUEUE, 1, SOON).await[0]);
        // The first one says nothing for longer than its lease; the second one waits for it.
        let new = token(&lease(&clients, "second", TYPE, QUEUE, 1, TAKEN_OVER).await[0]);
        assert_eq!((&old.task, old.epoch, new.epoch), (&new.task, 1, 2));

        assert_everything_is_lost(&clients, &old, "while the second one runs").await;
        assert!(complete(&clients, &new, "done").await.is_none());
        assert_second_attempt_won(&clients, &name, ["stalled", "second"]).await;
        assert_everything_is_lost(&clients, &old, "after the second one is done").await;

        let task = get(&clients, &name).await;
        let revision_before = revision(&clients).await;
        let mut inspector = Inspector::open(database).await;
        let rows = inspector.facts("default").await.last_revision();
        let replays = stream::iter(0..REPLAYS).map(|number| {
            let (clients, old, new) = (&clients, &old, &new);
            async move {
                let (token, result, is_repeat) = match number % 4 {
                    0 => (new, "done", true),
                    1 => (new, "something else", false),
                    2 => (old, "done", false),
                    _ => (old, "something else", false),
                };
                let refusal = complete(clients, token, result).await;
                let expected = (!is_repeat).then_some(ErrorReason::LeaseLost);
                assert_eq!(refusal.map(|r| r.reason), expected, "epoch {} with {result:?}", token.epoch);
            }
        });
        let answered = replays.buffer_unordered(AT_A_TIME).count().await;
        assert_eq!(answered, REPLAYS);
        assert_eq!(get(&clients, &name).await, task, "not a field changed");
        assert_eq!(revision(&clients).await, revision_before);
        let facts = inspector.facts("default").await;
        assert_eq!(facts.last_revision(), rows);
        assert_holds(&facts, &Known::default(), When::Quiet);
        inspector.close().await;
    })
    .await;
}

/// Reports, heartbeats and releases, by single calls and in a session.
async fn assert_everything_is_lost(clients: &Clients, old: &LeaseToken, when: &str) {
    let refusals = [
        heartbeat(clients, old).await,
        complete(clients, old, "done").await,
        fail(clients, old, false).await,
        fail(clients, old, true).await,
        release(clients, old).await,
    ];
    for (refusal, what) in refusals.into_iter().zip(["heartbeat", "complete", "fail", "fail for good", "release"]) {
        assert_lost(refusal, &format!("{what} {when}"));
    }
    let (heartbeat, reports) = in_session(clients, old).await;
    assert_lost(heartbeat, &format!("session heartbeat {when}"));
    assert_eq!(reports.len(), 3);
    for report in reports {
        assert_lost(report.status.as_ref().and_then(Refusal::of_item), &format!("session report {when}"));
    }
}

fn assert_lost(refusal: Option<Refusal>, what: &str) {
    let refusal = refusal.unwrap_or_else(|| panic!("{what} was accepted"));
    assert_eq!((refusal.code, refusal.reason), (tonic::Code::Aborted, ErrorReason::LeaseLost), "{what}");
}

/// What a session answers to a heartbeat and to reports of each kind with this token.
async fn in_session(clients: &Clients, old: &LeaseToken) -> (Option<Refusal>, Vec<ReportResult>) {
    let token = || Some(old.clone());
    let identity = WorkerIdentity {
        worker: "stalled".to_owned(),
        types: vec![TYPE.to_owned()],
        queues: vec![QUEUE.to_owned()],
        ..WorkerIdentity::default()
    };
    let error = Some(TaskError { r#type: "Late".to_owned(), ..TaskError::default() });
    let requests = [
        session_request::Message::Hello(SessionHello { parent: PROJECT.to_owned(), identity: Some(identity) }),
        session_request::Message::Heartbeat(SessionHeartbeat {
            leases: vec![LeaseHeartbeat { token: token(), progress: None }],
        }),
        session_request::Message::Report(SessionReport {
            sequence: 1,
            completions: vec![TaskCompletion { token: token(), result: Some(text("done")) }],
            failures: vec![TaskFailure { token: token(), error, r#final: true, retry_after: None }],
            releases: vec![TaskRelease { token: token(), delay: None }],
        }),
    ];
    let requests = stream::iter(requests.map(|message| SessionRequest { message: Some(message) }));
    // The stream stays open until both answers came.
    let requests = requests.chain(stream::once(future::pending()));
    let mut answers = clients.workers().session(requests).await.expect("a session").into_inner();
    let (mut heartbeat, mut reports) = (None, None);
    while heartbeat.is_none() || reports.is_none() {
        match answers.message().await.expect("the session goes on").expect("it does not end").message {
            Some(session_response::Message::Heartbeat(answer)) => {
                heartbeat = Some(answer.results[0].status.as_ref().and_then(Refusal::of_item));
            }
            Some(session_response::Message::Report(answer)) => reports = Some(answer.results),
            _ => {}
        }
    }
    (heartbeat.flatten(), reports.unwrap_or_default())
}
