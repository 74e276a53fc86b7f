//! Watches in this process, on every kind of database: what a watcher is told, and that a cut never costs or repeats
//! anything. Streams over the wire are in `rpc/`.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use tasktower::{
    app::{
        App,
        task::{NewSubmit, TaskChange},
        watch::{WatchChange, WatchItem, WatchRequest},
    },
    context::Caller,
    domain::{
        authority::Share,
        filter::Filter,
        retry::Retry,
        task::{DEFAULT_TIMEOUT, Spec},
        transition::{EventKind, NewTask},
    },
    error::Error,
    ids::TaskId,
};
use tokio_util::sync::CancellationToken;

use super::{open, project};
use crate::support::backend::for_each_backend;

fn watch(filter: &str) -> WatchRequest {
    WatchRequest {
        filter: Filter::parse(filter).unwrap(),
        share: Share::All,
        task: None,
        resume_token: None,
        initial_state: false,
    }
}

fn caller() -> Caller {
    Caller::system("system:test")
}

async fn submit(app: &App, queue: &str) -> TaskId {
    let spec = Spec {
        task_type: "t".into(),
        queue: queue.into(),
        priority: 0,
        timeout: DEFAULT_TIMEOUT,
        expire_time: None,
        retry: Retry::Unsaid,
        unique_key: None,
        unique_ttl: None,
        labels: BTreeMap::new(),
        owner: "system:test".into(),
        create_time: 0,
        open_time: None,
    };
    let new = NewTask { id: TaskId::generate(), spec, input: None, run_time: None };
    let answer = app.submit(&caller(), &project(), vec![NewSubmit { new, id_given: false }], None).await.unwrap();
    TaskId(answer.value[0].id)
}

async fn cancel(app: &App, id: TaskId) {
    let change = TaskChange::Cancel { reason: String::new() };
    app.change_task(&caller(), &project(), id, &Share::All, change, None).await.unwrap();
}

#[tokio::test]
async fn a_watch_cut_and_resumed_200_times_sees_every_revision_exactly_once() {
    const CUTS: usize = 200;
    const TASKS: i64 = 1_200;
    for_each_backend(async |database| {
        let app = App::new(open(database).await, CancellationToken::new());
        let mut stream = app.watch_tasks(&project(), watch("")).await.unwrap();
        let mut token = stream.next().await.unwrap().unwrap().resume_token;
        let load = {
            let app = app.clone();
            tasktower::shutdown::spawn("load", async move {
                for round in 0..TASKS / 6 {
                    let submits = (0..6).map(|n| submit(&app, if (round + n) % 2 == 0 { "a" } else { "b" }));
                    futures_util::future::join_all(submits).await;
                }
            })
        };
        let mut seen = Vec::new();
        let mut cuts = 0;
        while (seen.len() as i64) < TASKS {
            let batch = tokio::time::timeout(Duration::from_secs(30), stream.next())
                .await
                .expect("the watch goes on")
                .expect("a watch of a project does not end")
                .unwrap();
            token = batch.resume_token;
            for item in batch.items {
                if let WatchItem::Change { event, .. } = item {
                    seen.push(event.revision);
                }
            }
            if cuts < CUTS {
                cuts += 1;
                let request = WatchRequest { resume_token: Some(token.clone()), ..watch("") };
                stream = app.watch_tasks(&project(), request).await.unwrap();
            }
        }
        load.await.unwrap();
        assert_eq!(cuts, CUTS);
        assert_eq!(seen, (1..=TASKS).collect::<Vec<_>>(), "every revision, in order, once");
        drop(token);
    })
    .await;
}

#[tokio::test]
async fn a_slow_watcher_is_refilled_and_misses_nothing() {
    const TASKS: i64 = 3_000;
    for_each_backend(async |database| {
        let app = App::new(open(database).await, CancellationToken::new());
        let mut stream = app.watch_tasks(&project(), watch("")).await.unwrap();
        for _ in 0..TASKS / 100 {
            futures_util::future::join_all((0..100).map(|_| submit(&app, "default"))).await;
        }
        let mut seen = Vec::new();
        while (seen.len() as i64) < TASKS {
            for item in stream.next().await.unwrap().unwrap().items {
                if let WatchItem::Change { event, .. } = item {
                    seen.push(event.revision);
                }
            }
        }
        assert_eq!(seen, (1..=TASKS).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn the_snapshot_comes_first_and_a_task_that_stops_matching_is_deleted() {
    for_each_backend(async |database| {
        let app = App::new(open(database).await, CancellationToken::new());
        let (first, other) = (submit(&app, "a").await, submit(&app, "b").await);
        let request = WatchRequest { initial_state: true, ..watch("queue = a AND state = PENDING") };
        let mut stream = app.watch_tasks(&project(), request).await.unwrap();
        let second = submit(&app, "a").await;
        let mut told = Vec::new();
        let tell = |told: &mut Vec<String>, item: WatchItem| {
            told.push(match item {
                WatchItem::Initial(task) => format!("initial {}", task.id),
                WatchItem::Synced => "synced".to_owned(),
                WatchItem::Bookmark => return,
                WatchItem::Change { change, event } => match &event.subject {
                    tasktower::domain::event::Subject::Task { after, kind, .. } => {
                        assert!(*kind == EventKind::Submitted || change == WatchChange::Deleted);
                        format!("{change:?} {}", after.id)
                    }
                    other => format!("{other:?}"),
                },
            });
        };
        // What is cancelled before the snapshot is read is not in it.
        while !told.iter().any(|t| t == "synced") {
            stream.next().await.unwrap().unwrap().items.into_iter().for_each(|item| tell(&mut told, item));
        }
        cancel(&app, other).await;
        cancel(&app, first).await;
        while told.len() < 4 {
            stream.next().await.unwrap().unwrap().items.into_iter().for_each(|item| tell(&mut told, item));
        }
        // The second submit may fall into the snapshot or behind it, never into both.
        let late = [format!("Added {second}"), format!("initial {second}")];
        assert_eq!(told.iter().filter(|t| late.contains(t)).count(), 1, "{told:?}");
        assert_eq!(told[0], format!("initial {first}"));
        assert_eq!(told.iter().filter(|t| *t == "synced").count(), 1);
        assert_eq!(told.last().unwrap(), &format!("Deleted {first}"));
    })
    .await;
}

#[tokio::test]
async fn a_watch_of_one_task_ends_well_when_the_task_does() {
    for_each_backend(async |database| {
        let app = App::new(open(database).await, CancellationToken::new());
        let id = submit(&app, "a").await;
        let request = || WatchRequest { task: Some(id), initial_state: true, ..watch("") };
        let mut stream = app.watch_tasks(&project(), request()).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert!(matches!(first.items[..], [WatchItem::Initial(_), WatchItem::Synced]));
        submit(&app, "a").await;
        cancel(&app, id).await;
        let last = stream.next().await.unwrap().unwrap();
        assert!(matches!(last.items[..], [WatchItem::Change { change: WatchChange::Modified, .. }]));
        assert!(stream.next().await.is_none(), "the task is final");

        let mut late = app.watch_tasks(&project(), request()).await.unwrap();
        assert!(late.next().await.unwrap().is_ok());
        assert!(late.next().await.is_none(), "a final task is shown and that is all");
        let resumed = WatchRequest { resume_token: Some(first.resume_token), initial_state: false, ..request() };
        let mut resumed = app.watch_tasks(&project(), resumed).await.unwrap();
        let mut kinds = Vec::new();
        while let Some(batch) = resumed.next().await {
            for item in batch.unwrap().items {
                if let WatchItem::Change { event, .. } = item {
                    kinds.push(event.revision);
                }
            }
        }
        assert_eq!(kinds, [3], "the end of the task is told to who was away");
    })
    .await;
}

#[tokio::test]
async fn a_token_from_elsewhere_or_ahead_is_told_so() {
    for_each_backend(async |database| {
        let app = App::new(open(database).await, CancellationToken::new());
        submit(&app, "a").await;
        let mut stream = app.watch_tasks(&project(), watch("")).await.unwrap();
        let token = stream.next().await.unwrap().unwrap().resume_token;
        for damaged in ["", "nonsense", &token[1..]] {
            let request = WatchRequest { resume_token: Some(damaged.to_owned()), ..watch("") };
            let refused = app.watch_tasks(&project(), request).await.map(|_| ());
            assert!(matches!(refused, Err(Error::ResumeInvalid { .. })), "{damaged:?}");
        }
    })
    .await;
}
