//! `WatchTasks` over the wire: what a stream begins with, what it says, how it ends and how it goes on.

use std::time::Duration;

use pb::task_event::{Kind, Type};
use sqlx::{ConnectOptions as _, Connection as _};
use tasktower::pb::{self, task::State};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{Rpc, refused, task, token};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    credentials::PRINCIPAL,
    wait::SOON,
};

/// An open watch and the last token it gave.
struct Watch {
    stream: Streaming<pb::WatchTasksResponse>,
    events: std::collections::VecDeque<pb::TaskEvent>,
    resume_token: String,
}

impl Watch {
    async fn open(rpc: &Rpc, request: pb::WatchTasksRequest) -> Watch {
        let stream = rpc.clients.tasks().watch_tasks(request).await.expect("opened").into_inner();
        Watch { stream, events: [].into(), resume_token: String::new() }
    }

    async fn next(&mut self) -> Result<Option<pb::TaskEvent>, Status> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let next = timeout(SOON, self.stream.message()).await.expect("the watch says something soon");
            let Some(message) = next? else { return Ok(None) };
            assert!(!message.events.is_empty() && !message.resume_token.is_empty());
            self.resume_token = message.resume_token;
            self.events.extend(message.events);
        }
    }

    /// The next event that is no bookmark.
    async fn event(&mut self) -> pb::TaskEvent {
        loop {
            let event = self.next().await.expect("no error").expect("not the end");
            if event.r#type() != Type::Bookmark {
                return event;
            }
        }
    }

    /// The next change must be this one.
    #[track_caller]
    fn expect(&mut self, r#type: Type, kind: Kind, revision: i64) -> impl Future<Output = pb::Task> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let event = self.event().await;
            assert_eq!((event.r#type(), event.kind(), event.revision), (r#type, kind, revision), "at {caller}");
            event.task.expect("a change has a task")
        }
    }

    /// A watch from now on is open once it gave its first token.
    async fn begun(mut self) -> Watch {
        let first = self.next().await.expect("no error").expect("not the end");
        assert_eq!(first.r#type(), Type::Bookmark);
        self
    }
}

fn from_now() -> pb::WatchTasksRequest {
    pb::WatchTasksRequest::default()
}

fn after(resume_token: &str) -> pb::WatchTasksRequest {
    pb::WatchTasksRequest { resume_token: resume_token.into(), ..Default::default() }
}

/// Runs SQL on the database of a server, beside it.
async fn execute(database: &Database, statements: &[&'static str]) {
    match database.backend() {
        Backend::Sqlite => {
            let options: sqlx::sqlite::SqliteConnectOptions = database.url().parse().expect("a URL");
            let mut connection = options.busy_timeout(SOON).connect().await.expect("connected");
            for statement in statements {
                sqlx::raw_sql(*statement).execute(&mut connection).await.expect("executed");
            }
            connection.close().await.expect("closed");
        }
        Backend::Postgres => {
            let options: sqlx::postgres::PgConnectOptions = database.url().parse().expect("a URL");
            let mut connection = options.options([("search_path", "tasktower")]).connect().await.expect("connected");
            for statement in statements {
                sqlx::raw_sql(*statement).execute(&mut connection).await.expect("executed");
            }
            connection.close().await.expect("closed");
        }
    }
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_every_change() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let old: Vec<_> = rpc.submit_many(&task("t"), 3).await;
        let request = pb::WatchTasksRequest { initial_state: true, ..Default::default() };
        let mut watch = Watch::open(&rpc, request).await;
        for name in &old {
            let event = watch.event().await;
            assert_eq!((event.r#type(), event.revision), (Type::Initial, 0));
            assert_eq!(&event.task.unwrap().name, name);
        }
        assert_eq!(watch.event().await.r#type(), Type::Synced);

        let leased = rpc.lease(1).await.remove(0);
        let changed = watch.expect(Type::Modified, Kind::Leased, 4).await;
        assert_eq!((changed.name, changed.state), (old[0].clone(), State::Running as i32));
        rpc.complete([token(&leased)]).await;
        let event = watch.event().await;
        assert_eq!((event.kind(), event.revision, event.previous_state()), (Kind::Completed, 5, State::Running));
        assert_eq!((event.actor.as_str(), event.event_time.is_some()), (PRINCIPAL, true));
        let request = pb::DeleteTaskRequest { name: old[0].clone(), ..Default::default() };
        rpc.clients.tasks().delete_task(request).await.unwrap();
        watch.expect(Type::Deleted, Kind::Deleted, 6).await;
        rpc.submit(pb::Task { input: Some(super::json(serde_json::json!({"secret": 1}))), ..task("t") }).await;
        let added = watch.expect(Type::Added, Kind::Submitted, 7).await;
        assert_eq!(added.input, None, "events are BASIC");
    })
    .await;
}

#[tokio::test]
async fn a_filtered_watch_adds_and_deletes_as_tasks_begin_and_cease_to_match() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let request = pb::WatchTasksRequest { filter: "state = RUNNING AND type = \"t\"".into(), ..from_now() };
        let mut watch = Watch::open(&rpc, request).await.begun().await;
        rpc.submit_many(&task("t"), 2).await;
        rpc.submit(task("other")).await;
        let leased = rpc.lease(1).await.remove(0);
        let added = watch.expect(Type::Added, Kind::Leased, 4).await;
        assert_eq!(added.name, token(&leased).task);
        let request = pb::CancelTaskRequest { name: added.name.clone(), ..Default::default() };
        rpc.clients.tasks().cancel_task(request).await.unwrap();
        let modified = watch.expect(Type::Modified, Kind::CancelRequested, 5).await;
        assert!(modified.cancel_requested);
        rpc.complete([token(&leased)]).await;
        let deleted = watch.expect(Type::Deleted, Kind::Completed, 6).await;
        assert_eq!(deleted.state(), State::Succeeded);
    })
    .await;
}

#[tokio::test]
async fn a_watch_on_one_task_ends_with_it() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let name = rpc.submit(task("t")).await;
        rpc.submit(task("t")).await;
        let request = pb::WatchTasksRequest { task: name.clone(), initial_state: true, ..Default::default() };
        let mut watch = Watch::open(&rpc, request.clone()).await;
        assert_eq!(watch.event().await.r#type(), Type::Initial);
        assert_eq!(watch.event().await.r#type(), Type::Synced);
        let leased = rpc.lease(2).await;
        watch.expect(Type::Modified, Kind::Leased, 3).await;
        rpc.complete(leased.iter().map(token)).await;
        let done = watch.event().await;
        assert_eq!((done.kind(), done.task.unwrap().name), (Kind::Completed, name));
        assert!(watch.next().await.unwrap().is_none(), "the stream ends well");
        // So does one on a task that is over.
        let mut watch = Watch::open(&rpc, request).await;
        assert_eq!(watch.event().await.r#type(), Type::Initial);
        assert_eq!(watch.event().await.r#type(), Type::Synced);
        assert!(watch.next().await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_resumed_watch_tells_every_change_once() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let watch = Watch::open(&rpc, from_now()).await.begun().await;
        let beginning = watch.resume_token.clone();
        drop(watch);
        let mut expected = 0;
        let mut resume_token = beginning.clone();
        // Cut after each message; batches and single changes.
        for count in [1, 7, 1, 250, 3] {
            rpc.submit_many(&task("t"), count).await;
            let until = expected + i64::try_from(count).unwrap();
            let mut watch = Watch::open(&rpc, after(&resume_token)).await;
            while expected < until || !watch.events.is_empty() {
                expected += 1;
                watch.expect(Type::Added, Kind::Submitted, expected).await;
            }
            resume_token = watch.resume_token;
        }
        // From the past: the whole story again.
        let mut watch = Watch::open(&rpc, after(&beginning)).await;
        for revision in 1..=262 {
            watch.expect(Type::Added, Kind::Submitted, revision).await;
        }
        // A stream that is up to date, and a client that says nothing for a while, miss nothing either.
        rpc.submit(task("t")).await;
        watch.expect(Type::Added, Kind::Submitted, 263).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_damaged_or_foreign_is_invalid_and_an_old_one_expired() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let watch = Watch::open(&rpc, from_now()).await.begun().await;
        let first = watch.resume_token;
        rpc.submit_many(&task("t"), 10).await;
        let request = pb::WatchTasksRequest { initial_state: true, ..Default::default() };
        let mut watch = Watch::open(&rpc, request).await;
        while watch.event().await.r#type() != Type::Synced {}
        let last = watch.resume_token;

        let mut tasks = rpc.clients.tasks();
        let create = pb::CreateProjectRequest { project_id: "other".into(), project: None };
        rpc.clients.projects().create_project(create).await.unwrap();
        let cut = &last[..last.len() - 1];
        for damaged in ["x", "!!!", cut, &format!("{last}AAAA"), &"A".repeat(5_000)] {
            let answer = tasks.watch_tasks(after(damaged)).await;
            refused(answer, Code::InvalidArgument, "RESUME_INVALID", &["resume_token"]);
        }
        let foreign = pb::WatchTasksRequest { parent: "projects/other".into(), ..after(&last) };
        refused(tasks.watch_tasks(foreign).await, Code::InvalidArgument, "RESUME_INVALID", &["resume_token"]);

        // Another database, with as many changes.
        let elsewhere_database = Database::fresh(database.backend()).await.expect("there was one a moment ago");
        let elsewhere = Rpc::start(&elsewhere_database).await;
        elsewhere.submit_many(&task("t"), 10).await;
        let answer = elsewhere.clients.tasks().watch_tasks(after(&last)).await;
        refused(answer, Code::InvalidArgument, "RESUME_INVALID", &["resume_token"]);

        // The first change after it is more than seven days old, though its row is still there.
        execute(
            database,
            &["UPDATE journal SET time = time - 604800000000 WHERE project = 'default' AND revision < 4"],
        )
        .await;
        let status = refused(tasks.watch_tasks(after(&first)).await, Code::OutOfRange, "RESUME_TOKEN_EXPIRED", &[]);
        assert!(status.message().contains("begins at 4"), "{}", status.message());

        // The history before revision 6 is cleaned up.
        execute(
            database,
            &[
                "UPDATE counter SET oldest = 6 WHERE project = 'default'",
                "DELETE FROM journal WHERE project = 'default' AND revision < 6",
            ],
        )
        .await;
        let status = refused(tasks.watch_tasks(after(&first)).await, Code::OutOfRange, "RESUME_TOKEN_EXPIRED", &[]);
        assert!(status.message().contains('6'), "it says what is left: {status:?}");
        // What is not too old still works.
        let mut watch = Watch::open(&rpc, after(&last)).await;
        rpc.submit(task("t")).await;
        watch.expect(Type::Added, Kind::Submitted, 11).await;
    })
    .await;
}

#[tokio::test]
async fn a_deadline_of_the_client_ends_a_watch_with_its_reason() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let mut request = tonic::Request::new(from_now());
    // This client's own timer watches only until the stream is open.
    request.set_timeout(Duration::from_secs(1));
    let mut stream = rpc.clients.tasks().watch_tasks(request).await.unwrap().into_inner();
    let ended = timeout(Duration::from_secs(10), async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    });
    let answer = ended.await.expect("the deadline ends it").map(tonic::Response::new);
    refused(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[]);
}
