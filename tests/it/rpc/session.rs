//! `WorkerService.Session` over the wire.
//!
//! A `Session` is one open stream: `say` sends, `hear` waits for what comes next.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use pb::{session_request::Message as Say, session_response::Message as Heard};
use tasktower::pb::{self, task::State};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Rpc, code, completion, refused, task, token, worker};
use crate::support::{
    backend::for_each_backend,
    client::Clients,
    wait::{SOON, eventually},
};

/// A session that hears nothing for so long looks whether the others have done the rest.
const IDLE: Duration = Duration::from_millis(100);

/// More messages than any test leaves unsent.
const SAID_LIMIT: usize = 64;

struct Session {
    said: mpsc::Sender<pb::SessionRequest>,
    heard: Streaming<pb::SessionResponse>,
}

impl Session {
    /// Opens a stream and says hello; answers what the server makes of it.
    async fn open(clients: &Clients, identity: pb::WorkerIdentity) -> Session {
        let hello = pb::SessionHello { parent: String::new(), identity: Some(identity) };
        let mut session = Session::begin(clients, Say::Hello(hello)).await;
        let Heard::Welcome(welcome) = session.hear().await else { panic!("a welcome comes first") };
        assert!(welcome.heartbeat_interval.is_some_and(|interval| interval.seconds > 0));
        session
    }

    async fn begin(clients: &Clients, first: Say) -> Session {
        let (said, messages) = mpsc::channel(SAID_LIMIT);
        said.try_send(pb::SessionRequest { message: Some(first) }).expect("room");
        let heard = clients.workers().session(ReceiverStream::new(messages)).await.expect("opened").into_inner();
        Session { said, heard }
    }

    async fn say(&self, message: Say) {
        self.said.send(pb::SessionRequest { message: Some(message) }).await.expect("the stream is open");
    }

    async fn credits(&self, count: i32) {
        self.say(Say::Credits(pb::SessionCredits { count })).await;
    }

    async fn accept(&self, leased: &[pb::LeasedTask]) {
        self.say(Say::Accepted(pb::SessionAccepted { tokens: leased.iter().map(token).collect() })).await;
    }

    async fn hear(&mut self) -> Heard {
        self.next().await.expect("no error").expect("not the end").message.expect("a known message")
    }

    /// Grants until there are so many tasks.
    async fn granted(&mut self, count: usize) -> Vec<pb::LeasedTask> {
        let mut tasks = Vec::new();
        while tasks.len() < count {
            match self.hear().await {
                Heard::Grants(grants) => tasks.extend(grants.tasks),
                other => panic!("grants, not {other:?}"),
            }
        }
        tasks
    }

    async fn next(&mut self) -> Result<Option<pb::SessionResponse>, Status> {
        timeout(SOON, self.heard.message()).await.expect("the server says something soon")
    }
}

#[tokio::test]
async fn a_session_is_granted_as_its_credits_allow_and_answers_reports() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut session = Session::open(&rpc.clients, worker("w")).await;
        rpc.submit_many(&task("t"), 5).await;
        session.credits(3).await;
        let mut tasks = session.granted(3).await;
        assert_eq!(tasks.len(), 3);
        session.accept(&tasks).await;

        // A heartbeat is answered, and in between nothing more was granted.
        let leases =
            tasks.iter().map(|task| pb::LeaseHeartbeat { token: task.token.clone(), progress: None }).collect();
        session.say(Say::Heartbeat(pb::SessionHeartbeat { leases })).await;
        let Heard::Heartbeat(answer) = session.hear().await else { panic!("an answer to the heartbeat") };
        assert_eq!(answer.results.len(), 3);
        assert!(answer.results.iter().all(|result| result.status.as_ref().unwrap().code == 0));

        // Completions, failures and releases are answered in that order, with the sequence of the report.
        let [a, b, c] = [0, 1, 2].map(|n| token(&tasks[n]));
        let error = Some(pb::TaskError { r#type: "E".into(), ..Default::default() });
        let report = pb::SessionReport {
            sequence: 7,
            completions: vec![completion(a.clone(), None)],
            failures: vec![pb::TaskFailure { token: Some(b), error, r#final: true, retry_after: None }],
            releases: vec![
                pb::TaskRelease { token: Some(c), delay: Some(super::seconds(3_600)) },
                pb::TaskRelease { token: Some(pb::LeaseToken { epoch: 9, ..a }), delay: None },
            ],
        };
        session.say(Say::Report(report)).await;
        let Heard::Report(answer) = session.hear().await else { panic!("an answer to the report") };
        assert_eq!(answer.sequence, 7);
        let states: Vec<_> = answer.results.iter().map(|result| (code(result), result.state())).collect();
        assert_eq!(
            states,
            [
                (Code::Ok, State::Succeeded),
                (Code::Ok, State::Failed),
                (Code::Ok, State::Pending),
                (Code::Aborted, State::Unspecified)
            ]
        );

        // More credits, more tasks; a task that comes later is granted at once.
        session.credits(3).await;
        tasks = session.granted(2).await;
        session.accept(&tasks).await;
        let late = rpc.submit(task("t")).await;
        let granted = session.granted(1).await;
        assert_eq!(token(&granted[0]).task, late);
    })
    .await;
}

#[tokio::test]
async fn a_cut_stream_gives_back_what_was_not_accepted_and_ends_no_lease() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let cut = Clients::connect(&rpc.server).await;
        let mut session = Session::open(&cut, worker("w")).await;
        rpc.submit_many(&task("t"), 4).await;
        session.credits(4).await;
        let tasks = session.granted(4).await;
        session.accept(&tasks[..1]).await;
        // An answer: the server has read what was said before.
        session.say(Say::Heartbeat(pb::SessionHeartbeat::default())).await;
        let Heard::Heartbeat(_) = session.hear().await else { panic!("an answer to the heartbeat") };
        drop(session);
        drop(cut);

        for released in &tasks[1..] {
            let name = token(released).task;
            eventually("it waits again, uncounted", SOON, async || {
                let task = rpc.get(&name).await;
                if task.state() == State::Pending { Ok(()) } else { Err(format!("{:?}", task.state())) }
            })
            .await;
            assert_eq!(rpc.get(&name).await.attempt_count, 0);
        }
        let kept = token(&tasks[0]);
        assert_eq!(rpc.get(&kept.task).await.state(), State::Running);
        // The lease goes on in another session.
        let mut session = Session::open(&rpc.clients, worker("w")).await;
        let report = pb::SessionReport { sequence: 1, completions: vec![completion(kept, None)], ..Default::default() };
        session.say(Say::Report(report)).await;
        let Heard::Report(answer) = session.hear().await else { panic!("an answer to the report") };
        assert_eq!(answer.results[0].state(), State::Succeeded);
    })
    .await;
}

#[tokio::test]
async fn cancellation_arrives_on_the_stream() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut session = Session::open(&rpc.clients, worker("w")).await;
        rpc.submit(task("t")).await;
        session.credits(1).await;
        let tasks = session.granted(1).await;
        session.accept(&tasks).await;
        let name = token(&tasks[0]).task;
        let request = pb::CancelTaskRequest { name: name.clone(), reason: "spam".into(), etag: String::new() };
        rpc.clients.tasks().cancel_task(request).await.unwrap();
        let Heard::Cancel(cancel) = session.hear().await else { panic!("the cancellation") };
        let expected = pb::CancelledLease { token: tasks[0].token.clone(), reason: "spam".into() };
        assert_eq!(cancel.leases, [expected]);
        let release = pb::TaskRelease { token: tasks[0].token.clone(), delay: None };
        let report = pb::SessionReport { sequence: 1, releases: vec![release], ..Default::default() };
        session.say(Say::Report(report)).await;
        let Heard::Report(answer) = session.hear().await else { panic!("an answer to the report") };
        assert_eq!(answer.results[0].state(), State::Cancelled);
        assert_eq!(rpc.get(&name).await.cancel_reason, "spam");
    })
    .await;
}

#[tokio::test]
async fn drain_stops_grants_whoever_says_it() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.submit(task("t")).await;

        // The operator: the session is told, what runs can be finished.
        let mut session = Session::open(&rpc.clients, worker("w")).await;
        session.credits(5).await;
        let tasks = session.granted(1).await;
        session.accept(&tasks).await;
        let request = pb::DrainWorkerRequest { name: "projects/default/workers/w".into() };
        let worker_ = rpc.clients.workers().drain_worker(request).await.unwrap().into_inner().worker.unwrap();
        assert_eq!(worker_.state(), pb::worker::State::Draining);
        assert!(matches!(session.hear().await, Heard::Drain(_)));
        let waiting = rpc.submit(task("t")).await;
        let report = pb::SessionReport {
            sequence: 1,
            completions: vec![completion(token(&tasks[0]), None)],
            ..Default::default()
        };
        session.say(Say::Report(report)).await;
        assert!(matches!(session.hear().await, Heard::Report(_)), "no grant, only the answer");
        // The worker says its last, and the stream ends well.
        let Session { said, mut heard } = session;
        drop(said);
        assert!(heard.message().await.unwrap().is_none());
        assert_eq!(rpc.get(&waiting).await.state(), State::Pending);

        // The worker itself, before it takes anything.
        let mut session = Session::open(&rpc.clients, worker("self")).await;
        session.say(Say::Drain(pb::SessionDrain {})).await;
        session.credits(5).await;
        session.say(Say::Heartbeat(pb::SessionHeartbeat::default())).await;
        assert!(matches!(session.hear().await, Heard::Heartbeat(_)), "no grant, only the answer");
        assert_eq!(rpc.get(&waiting).await.state(), State::Pending);
    })
    .await;
}

#[tokio::test]
async fn what_a_session_may_not_say_ends_it_with_the_field() {
    let database = crate::support::backend::Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let bad_token = pb::LeaseToken { task: "x".into(), epoch: 1 };
    let beats = |count| pb::SessionHeartbeat { leases: vec![pb::LeaseHeartbeat::default(); count] };
    let report = pb::SessionReport::default;
    for (message, field) in [
        (Say::Hello(pb::SessionHello::default()), "hello"),
        (Say::Credits(pb::SessionCredits { count: 0 }), "credits.count"),
        (Say::Credits(pb::SessionCredits { count: -1 }), "credits.count"),
        (Say::Credits(pb::SessionCredits { count: 10_001 }), "credits.count"),
        (Say::Accepted(pb::SessionAccepted { tokens: vec![bad_token] }), "accepted.tokens[0].task"),
        (Say::Heartbeat(beats(1_001)), "heartbeat.leases"),
        (Say::Report(pb::SessionReport { releases: vec![pb::TaskRelease::default(); 1_001], ..report() }), "report"),
    ] {
        let mut session = Session::open(&rpc.clients, worker("w")).await;
        session.say(message).await;
        let answer = session.next().await.map(tonic::Response::new);
        refused(answer, Code::InvalidArgument, "FIELD_INVALID", &[field]);
    }
    // Credits that add up to too many.
    let mut session = Session::open(&rpc.clients, worker("w")).await;
    session.credits(10_000).await;
    session.credits(1).await;
    let answer = session.next().await.map(tonic::Response::new);
    refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["credits.count"]);
    // An item that is wrong in itself ends nothing.
    let mut session = Session::open(&rpc.clients, worker("w")).await;
    session
        .say(Say::Report(pb::SessionReport { sequence: 3, failures: vec![pb::TaskFailure::default()], ..report() }))
        .await;
    let Heard::Report(answer) = session.hear().await else { panic!("an answer to the report") };
    assert_eq!((answer.sequence, code(&answer.results[0])), (3, Code::InvalidArgument));

    let first = Say::Credits(pb::SessionCredits { count: 1 });
    let mut session = Session::begin(&rpc.clients, first).await;
    refused(session.next().await.map(tonic::Response::new), Code::InvalidArgument, "FIELD_INVALID", &["hello"]);
    let hello = pb::SessionHello { parent: "projects/none".into(), identity: Some(worker("w")) };
    let mut session = Session::begin(&rpc.clients, Say::Hello(hello)).await;
    refused(session.next().await.map(tonic::Response::new), Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
}

/// Tasks that go through sessions at once.
const LOAD: usize = 600;

#[tokio::test]
async fn sessions_share_the_work_and_every_task_is_done_once() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.submit_many(&task("t"), LOAD).await;
        let all_done = AtomicUsize::new(0);
        let working = (0..4).map(|n| {
            let (clients, all_done) = (&rpc.clients, &all_done);
            async move {
                let mut session = Session::open(clients, worker(&format!("w{n}"))).await;
                session.credits(40).await;
                let (mut done, mut sequence, mut waiting) = (Vec::new(), 0, 0);
                while all_done.load(Ordering::Relaxed) < LOAD {
                    let Ok(next) = timeout(IDLE, session.heard.message()).await else { continue };
                    match next.unwrap().expect("not the end").message.expect("a known message") {
                        Heard::Grants(grants) => {
                            sequence += 1;
                            waiting += 1;
                            session.accept(&grants.tasks).await;
                            let tokens: Vec<_> = grants.tasks.iter().map(token).collect();
                            let completions = tokens.iter().map(|token| completion(token.clone(), None)).collect();
                            session
                                .say(Say::Report(pb::SessionReport { sequence, completions, ..Default::default() }))
                                .await;
                            session.credits(i32::try_from(tokens.len()).unwrap()).await;
                        }
                        Heard::Report(report) => {
                            waiting -= 1;
                            all_done.fetch_add(report.results.len(), Ordering::Relaxed);
                            assert!(report.results.iter().all(|result| code(result) == Code::Ok), "{report:?}");
                            done.extend(report.results.into_iter().map(|result| result.token.unwrap().task));
                        }
                        other => panic!("not expected: {other:?}"),
                    }
                }
                assert_eq!(waiting, 0, "every report is answered");
                done
            }
        });
        let working = futures_util::future::join_all(working);
        let done = timeout(SOON, working).await.unwrap_or_else(|_| panic!("{all_done:?} of {LOAD} are done"));
        let done: Vec<_> = done.into_iter().flatten().collect();
        let distinct: std::collections::BTreeSet<_> = done.iter().collect();
        assert_eq!((done.len(), distinct.len()), (LOAD, LOAD));
        let queue = pb::GetQueueRequest { name: "projects/default/queues/default".into() };
        let queue = rpc.clients.queues().get_queue(queue).await.unwrap().into_inner().queue.unwrap();
        assert_eq!((queue.ready_count, queue.running_count), (0, 0));
    })
    .await;
}
