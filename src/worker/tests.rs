//! The engine against a server that each test plays by hand.
#![allow(clippy::disallowed_methods, reason = "tests start the worker beside them and keep what it says")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use prost::Message as _;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    Failure, Job, Output, StopReason, Tally, WorkerBuilder,
    builder::Worker,
    engine::Engine,
    link::{Link, Opener},
};
use crate::{
    client::{Client, Error},
    pb::{
        CancelledLease, HeartbeatResponse, LeaseHeartbeatResult, LeaseToken, LeasedTask, ReportResult, SessionCancel,
        SessionDrain, SessionGrants, SessionReport, SessionReportResult, SessionRequest, SessionResponse,
        SessionWelcome, Task, session_request::Message as Said, session_response::Message as Heard,
    },
};

/// Longer than anything in these tests should take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One session as the server sees it.
struct Session {
    said: mpsc::Receiver<SessionRequest>,
    say: mpsc::Sender<Result<SessionResponse, Status>>,
}

/// Hands out the sessions a worker opens.
struct Server(mpsc::UnboundedReceiver<Session>);

impl Server {
    async fn session(&mut self) -> Session {
        timeout(PATIENCE, self.0.recv()).await.expect("a session in time").expect("the worker lives")
    }

    /// A session with its hello and welcome behind it.
    async fn welcomed(&mut self, heartbeat_interval: Duration) -> Session {
        let mut session = self.session().await;
        assert!(matches!(session.next().await, Said::Hello(_)));
        let heartbeat_interval = heartbeat_interval.try_into().ok();
        session.say(Heard::Welcome(SessionWelcome { heartbeat_interval })).await;
        session
    }
}

impl Session {
    async fn next(&mut self) -> Said {
        let said = timeout(PATIENCE, self.said.recv()).await.expect("a message in time");
        said.expect("the session is open").message.expect("a message")
    }

    async fn say(&self, message: Heard) {
        self.say.send(Ok(message.into())).await.expect("the worker listens");
    }

    async fn fail(self, status: Status) {
        self.say.send(Err(status)).await.expect("the worker listens");
    }

    /// The next report; heartbeats before it are answered OK.
    async fn report(&mut self) -> SessionReport {
        loop {
            match self.next().await {
                Said::Report(report) => return report,
                Said::Heartbeat(beat) => {
                    let results = beat.leases.into_iter().map(|lease| held(lease.token)).collect();
                    self.say(Heard::Heartbeat(HeartbeatResponse { results, drain: false })).await;
                }
                _ => {}
            }
        }
    }

    async fn acknowledge(&self, report: &SessionReport) {
        let count = report.completions.len() + report.failures.len() + report.releases.len();
        let ok = ReportResult { status: Some(tonic_types::Status::default()), ..ReportResult::default() };
        let answer = SessionReportResult { sequence: report.sequence, results: vec![ok; count] };
        self.say(Heard::Report(answer)).await;
    }

    async fn grant(&self, task_type: &str, ids: impl IntoIterator<Item = i64>, lease: Duration) {
        let tasks = ids.into_iter().map(|id| leased(task_type, id, lease)).collect();
        self.say(Heard::Grants(SessionGrants { tasks })).await;
    }

    /// The next message of the kind that `pick` takes; others are passed over.
    async fn expect<T>(&mut self, mut pick: impl FnMut(Said) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }
}

fn token(id: i64) -> LeaseToken {
    LeaseToken { task: format!("projects/default/tasks/{id}"), epoch: 1 }
}

fn leased(task_type: &str, id: i64, lease: Duration) -> LeasedTask {
    let task = Task { name: token(id).task, r#type: task_type.to_owned(), ..Task::default() };
    LeasedTask {
        task: Some(task),
        token: Some(token(id)),
        lease_duration: lease.try_into().ok(),
        attempt_timeout: Duration::from_secs(3600).try_into().ok(),
    }
}

fn held(token: Option<LeaseToken>) -> LeaseHeartbeatResult {
    LeaseHeartbeatResult { token, status: Some(tonic_types::Status::default()), ..LeaseHeartbeatResult::default() }
}

fn lease_lost() -> tonic_types::Status {
    let details = ErrorDetails::with_error_info("LEASE_LOST", "tasktower", []);
    tonic_types::Status::decode(Status::with_error_details(Code::Aborted, "lost", details).details()).unwrap()
}

type Running = JoinHandle<Result<Tally, Error>>;

fn start(set_up: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> (Server, Running, CancellationToken) {
    let drain = CancellationToken::new();
    let client = Client::builder().endpoint("127.0.0.1:1").connect_lazy().unwrap();
    let builder = Worker::builder(client).name("w").slots(4).stop_grace(Duration::from_millis(50));
    let worker = set_up(builder.drain_on(drain.clone())).build().unwrap();
    let (opened, sessions) = mpsc::unbounded_channel();
    let open: Opener = Box::new(move |said| {
        let (say, heard) = mpsc::channel(64);
        let _ = opened.send(Session { said, say });
        Box::pin(async move { Ok(ReceiverStream::new(heard).boxed()) })
    });
    let engine = Engine::new(worker.config, Link::with_opener(open, worker.hello));
    (Server(sessions), tokio::spawn(engine.run()), drain)
}

/// Closes the server's half once the worker closed its own, and waits for the worker to end.
async fn closed(mut session: Session, running: Running) -> Tally {
    while session.said.recv().await.is_some() {}
    drop(session);
    ended(running).await.unwrap()
}

async fn ended(running: Running) -> Result<Tally, Error> {
    timeout(PATIENCE, running).await.expect("the worker ends in time").expect("the worker does not panic")
}

/// A handler that never ends by itself.
async fn hang(_: Job) -> Result<(), Failure> {
    std::future::pending().await
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn granted_tasks_are_confirmed_run_and_reported() {
    let (mut server, running, drain) =
        start(|builder| builder.register("echo", async |job: Job| Ok(json!({ "task": job.name() }))));
    let mut session = server.welcomed(LONG).await;
    let credits =
        session.expect(|said| if let Said::Credits(credits) = said { Some(credits.count) } else { None }).await;
    assert_eq!(credits, 4);
    session.grant("echo", 0..4, LONG).await;
    let accepted = session.expect(|said| if let Said::Accepted(accepted) = said { Some(accepted) } else { None }).await;
    assert_eq!(accepted.tokens, (0..4).map(token).collect::<Vec<_>>());

    let (mut completed, mut credits) = (0, 0);
    while completed < 4 || credits < 4 {
        match session.next().await {
            Said::Report(report) => {
                completed += report.completions.len();
                session.acknowledge(&report).await;
            }
            Said::Credits(more) => credits += more.count,
            _ => {}
        }
    }
    drain.cancel();
    assert_eq!(closed(session, running).await, Tally { succeeded: 4, ..Tally::default() });
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_worker_goes_on() {
    let (mut server, running, drain) = start(|builder| {
        builder
            .register("panic", |_| async { if true { panic!("out of paper") } else { Ok(()) } })
            .register("sync.panic", |job: Job| {
                assert!(job.name().is_empty(), "before the first await");
                async { Ok(()) }
            })
            .register("fine", |_| async { Ok(Output::json("done")?) })
    });
    let mut session = server.welcomed(LONG).await;
    for (id, task_type, text) in [(1, "panic", "out of paper"), (2, "sync.panic", "before the first await")] {
        session.grant(task_type, [id], LONG).await;
        let report = session.report().await;
        let error = report.failures[0].error.clone().unwrap();
        assert_eq!((error.r#type.as_str(), error.message.as_str()), ("PANIC", text));
        session.acknowledge(&report).await;
    }
    session.grant("fine", [3], LONG).await;
    let report = session.report().await;
    assert_eq!(report.completions.len(), 1);
    session.acknowledge(&report).await;
    drain.cancel();
    assert_eq!(closed(session, running).await, Tally { succeeded: 1, failed: 2, ..Tally::default() });
}

#[tokio::test]
async fn results_and_leases_survive_a_lost_session() {
    let finish = Arc::new(tokio::sync::Notify::new());
    let wait = finish.clone();
    let (mut server, running, drain) = start(|builder| {
        builder.register("quick", |_| async { Ok(()) }).register("slow", move |job: Job| {
            let wait = wait.clone();
            async move {
                job.progress(50.0, "half");
                wait.notified().await;
                Ok(())
            }
        })
    });
    let mut session = server.welcomed(LONG).await;
    session.grant("slow", [1], LONG).await;
    session.grant("quick", [2], LONG).await;
    let report = session.report().await;
    assert_eq!(report.completions[0].token, Some(token(2)));
    // The answer never comes.
    session.fail(Status::unavailable("replica is gone")).await;

    let mut session = server.welcomed(LONG).await;
    let (mut beats, mut again) = (None, None);
    while beats.is_none() || again.is_none() {
        match session.next().await {
            Said::Heartbeat(beat) => beats = Some(beat.leases),
            Said::Report(report) => again = Some(report),
            _ => {}
        }
    }
    let (beats, again) = (beats.unwrap(), again.unwrap());
    assert_eq!(beats[0].token, Some(token(1)));
    assert_eq!(beats[0].progress.as_ref().unwrap().message, "half");
    assert_eq!(again.completions, report.completions);
    session.acknowledge(&again).await;
    finish.notify_one();
    let last = session.report().await;
    assert_eq!(last.completions[0].token, Some(token(1)));
    session.acknowledge(&last).await;
    drain.cancel();
    assert_eq!(closed(session, running).await, Tally { succeeded: 2, ..Tally::default() });
}

#[tokio::test]
async fn a_handler_is_stopped_before_its_lease_ends() {
    let reason = Arc::new(std::sync::Mutex::new(None));
    let seen = reason.clone();
    let (mut server, _running, _drain) = start(|builder| {
        builder.register("hang", move |job: Job| {
            let seen = seen.clone();
            async move {
                job.cancelled().await;
                *seen.lock().unwrap() = job.stop_reason().cloned().map(|reason| (reason, Instant::now()));
                std::future::pending::<Result<(), Failure>>().await
            }
        })
    });
    let lease = Duration::from_secs(2);
    let mut session = server.welcomed(LONG).await;
    let granted = Instant::now();
    session.grant("hang", [1], lease).await;
    // Heartbeats come, but are never answered for this lease.
    let report = loop {
        match session.next().await {
            Said::Heartbeat(_) => session.say(Heard::Heartbeat(HeartbeatResponse::default())).await,
            Said::Report(report) => break report,
            _ => {}
        }
    };
    let (reason, stopped) = reason.lock().unwrap().clone().expect("the handler was asked to stop");
    assert_eq!(reason, StopReason::LeaseRunsOut);
    assert!(stopped - granted < lease);
    assert_eq!(report.releases[0].token, Some(token(1)));
}

#[tokio::test]
async fn a_lost_lease_stops_the_handler_and_nothing_is_reported() {
    let stopped = Arc::new(AtomicUsize::new(0));
    let count = stopped.clone();
    let (mut server, running, drain) = start(|builder| {
        builder.register("polite", move |job: Job| {
            let count = count.clone();
            async move {
                job.cancelled().await;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
    });
    let mut session = server.welcomed(Duration::from_millis(50)).await;
    session.grant("polite", [1], LONG).await;
    let beat = session.expect(|said| match said {
        Said::Heartbeat(beat) => Some(beat),
        _ => None,
    });
    let mut leases = beat.await.leases;
    while leases.is_empty() {
        session.say(Heard::Heartbeat(HeartbeatResponse::default())).await;
        let Said::Heartbeat(beat) = session.next().await else { continue };
        leases = beat.leases;
    }
    let lost = LeaseHeartbeatResult { status: Some(lease_lost()), ..held(leases[0].token.clone()) };
    session.say(Heard::Heartbeat(HeartbeatResponse { results: vec![lost], drain: false })).await;
    drain.cancel();
    while let Some(said) = session.said.recv().await {
        assert!(!matches!(said.message, Some(Said::Report(_))));
    }
    assert_eq!(closed(session, running).await, Tally { lost: 1, ..Tally::default() });
    assert_eq!(stopped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancelled_task_is_dropped_and_reported() {
    let (mut server, running, drain) = start(|builder| builder.register("hang", hang));
    let mut session = server.welcomed(LONG).await;
    session.grant("hang", [1], LONG).await;
    let lease = CancelledLease { token: Some(token(1)), reason: "no longer needed".to_owned() };
    session.say(Heard::Cancel(SessionCancel { leases: vec![lease] })).await;
    let report = session.report().await;
    assert_eq!(report.failures[0].error.as_ref().unwrap().r#type, "CANCELLED");
    session.acknowledge(&report).await;
    drain.cancel();
    assert_eq!(closed(session, running).await, Tally { failed: 1, ..Tally::default() });
}

#[tokio::test]
async fn an_attempt_ends_at_its_timeout() {
    let (mut server, _running, _drain) = start(|builder| builder.register("hang", hang));
    let mut session = server.welcomed(LONG).await;
    let attempt_timeout = Duration::from_millis(100).try_into().ok();
    let tasks = vec![LeasedTask { attempt_timeout, ..leased("hang", 1, LONG) }];
    session.say(Heard::Grants(SessionGrants { tasks })).await;
    let report = session.report().await;
    assert_eq!(report.failures[0].error.as_ref().unwrap().r#type, "TIMEOUT");
}

#[tokio::test]
async fn a_drained_worker_finishes_releases_and_ends() {
    let finish = Arc::new(tokio::sync::Notify::new());
    let wait = finish.clone();
    let (mut server, running, _drain) = start(|builder| {
        builder.register("hang", hang).drain_grace(Duration::from_millis(300)).register("slow", move |_| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Ok(())
            }
        })
    });
    let mut session = server.welcomed(LONG).await;
    session.grant("slow", [1], LONG).await;
    session.grant("hang", [2], LONG).await;
    session.say(Heard::Drain(SessionDrain {})).await;
    // This one was on its way when the drain began.
    session.grant("hang", [3], LONG).await;
    let report = session.report().await;
    assert_eq!(report.releases[0].token, Some(token(3)));
    session.acknowledge(&report).await;
    finish.notify_one();
    let report = session.report().await;
    assert_eq!(report.completions[0].token, Some(token(1)));
    session.acknowledge(&report).await;
    let report = session.report().await;
    assert_eq!(report.releases[0].token, Some(token(2)));
    session.acknowledge(&report).await;
    assert_eq!(closed(session, running).await, Tally { succeeded: 1, released: 2, ..Tally::default() });
}

#[tokio::test]
async fn a_drain_of_our_own_is_told_and_takes_no_more_tasks() {
    let (mut server, running, drain) = start(|builder| builder.register("hang", hang).drain_grace(Duration::ZERO));
    let mut session = server.welcomed(LONG).await;
    session.grant("hang", [1], LONG).await;
    session.expect(|said| matches!(said, Said::Accepted(_)).then_some(())).await;
    drain.cancel();
    session.expect(|said| matches!(said, Said::Drain(_)).then_some(())).await;
    let report = session.report().await;
    assert_eq!(report.releases[0].token, Some(token(1)));
    session.acknowledge(&report).await;
    while let Some(said) = session.said.recv().await {
        assert!(!matches!(said.message, Some(Said::Credits(_))));
    }
    drop(session);
    assert_eq!(ended(running).await.unwrap().released, 1);
}

#[tokio::test]
async fn a_worker_nobody_wants_is_told_why() {
    let (mut server, running, _drain) = start(|builder| builder.register("hang", hang));
    server.session().await.fail(Status::permission_denied("no")).await;
    assert_eq!(ended(running).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let (mut server, running, drain) = start(|builder| builder.register("hang", hang));
    for _ in 0..2 {
        server.session().await.fail(Status::unavailable("not yet")).await;
    }
    let session = server.welcomed(LONG).await;
    drain.cancel();
    assert_eq!(closed(session, running).await, Tally::default());
}

#[tokio::test]
async fn a_session_that_answers_no_heartbeat_is_replaced() {
    let (mut server, _running, _drain) = start(|builder| builder.register("hang", hang));
    let mut session = server.welcomed(Duration::from_millis(50)).await;
    session.expect(|said| matches!(said, Said::Heartbeat(_)).then_some(())).await;
    server.session().await;
}

#[tokio::test]
async fn a_busy_worker_says_much_in_few_messages() {
    const TASKS: i64 = 20_000;
    let (mut server, running, drain) = start(|builder| builder.slots(1_000).register("empty", |_| async { Ok(()) }));
    let mut session = server.welcomed(LONG).await;
    let (mut granted, mut completed, mut messages) = (0, 0, 0);
    while completed < TASKS as usize {
        let said = session.next().await;
        messages += 1;
        match said {
            Said::Credits(credits) => {
                let more = i64::from(credits.count).min(TASKS - granted);
                for first in (0..more).step_by(500) {
                    let ids = granted + first..granted + (first + 500).min(more);
                    session.grant("empty", ids, LONG).await;
                }
                granted += more;
            }
            Said::Report(report) => {
                completed += report.completions.len();
                session.acknowledge(&report).await;
            }
            _ => {}
        }
    }
    assert!(messages < TASKS / 10, "{messages} messages for {TASKS} tasks");
    drain.cancel();
    assert_eq!(closed(session, running).await.succeeded, TASKS as u64);
}
