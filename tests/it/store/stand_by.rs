//! A task for which a worker stands by is leased in the transaction that submits it, and only where an ordinary lease
//! would have been granted too.

use std::{sync::Arc, time::Duration};

use tasktower::domain::{
    event::Subject,
    queue::QueuePatch,
    task::{Spec, Task},
    task_state::TaskState,
    transition::EventKind,
};
use tokio::task::JoinHandle;

use super::tasks::{World, new_task, spec};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    wait::{SOON, eventually},
};

/// Longer than the test takes, so that only a task or a bell ends the wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A world in which the queue is known, because something was leased from it.
async fn begin(database: &Database) -> Arc<World> {
    let w = Arc::new(World::on(database).await);
    w.submit(spec()).await;
    w.complete(&w.lease(1).await).await;
    w
}

/// A worker that has looked, found nothing, and stands by.
async fn stand_by(w: &Arc<World>, limit: usize, wait: Duration) -> JoinHandle<Vec<Arc<Task>>> {
    let worker = tokio::spawn({
        let w = w.clone();
        async move { w.lease_within(limit, wait).await }
    });
    eventually("the worker stands by", SOON, async || match w.app.wakeups().standing(&w.project) {
        1 => Ok(()),
        other => Err(format!("{other} stand by")),
    })
    .await;
    worker
}

#[tokio::test]
async fn a_task_somebody_stands_by_for_is_leased_as_it_is_submitted() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        w.app.update_queue(&w.caller, &w.project, "default", lease_of(7), None).await.unwrap();
        w.submit(spec()).await;
        w.complete(&w.lease(1).await).await;
        let worker = stand_by(&w, 1, PATIENCE).await;
        let before = w.app.store().statements();
        let id = w.submit(spec()).await;
        let took = w.app.store().statements() - before;
        if database.backend() == Backend::Postgres {
            assert_eq!(took, 1, "one round trip for the submit and the lease");
        }
        let leased = worker.await.unwrap();
        assert_eq!(leased.len(), 1);
        let task = &leased[0];
        assert_eq!((task.id, task.state, task.version, task.epoch), (id, TaskState::Running, 2, 1));
        assert!(task.input.is_some(), "it comes with its input");
        assert_eq!(task.lease.as_ref().unwrap().duration, 7_000_000, "the queue says how long");
        let revisions: Vec<i64> = events_of(&w, id).await.into_iter().map(|(revision, _)| revision).collect();
        assert_eq!(revisions[1], revisions[0] + 1, "nothing comes between");
        assert!(w.lease(1).await.is_empty(), "it is leased once");
        w.complete(&leased).await;
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn as_many_are_leased_as_there_is_room_for_the_most_urgent_first() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        let worker = stand_by(&w, 2, PATIENCE).await;
        let tasks = [0, 5, 1, 3].map(|priority| new_task(Spec { priority, ..spec() })).into_iter();
        w.try_submit(tasks.collect(), None).await.unwrap();
        let priorities = |leased: &[Arc<Task>]| leased.iter().map(|task| task.spec.priority).collect::<Vec<_>>();
        let leased = worker.await.unwrap();
        assert_eq!(priorities(&leased), [5, 3]);
        let rest = w.lease(10).await;
        assert_eq!(priorities(&rest), [1, 0]);
        w.complete(&leased).await;
        w.complete(&rest).await;
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_paused_queue_stays_paused_for_those_who_stand_by() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        let worker = stand_by(&w, 1, PATIENCE).await;
        w.app.pause_queue(&w.caller, &w.project, "default", "a reason".into()).await.unwrap();
        let id = w.submit(spec()).await;
        assert_eq!(w.get(id).await.state, TaskState::Pending);
        w.app.resume_queue(&w.caller, &w.project, "default").await.unwrap();
        w.app.wake_leasers().await.unwrap();
        assert_eq!(worker.await.unwrap()[0].id, id);
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_limit_holds_for_those_who_stand_by() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        let worker = stand_by(&w, 10, PATIENCE).await;
        let limit = QueuePatch { max_running: Some(1), ..QueuePatch::default() };
        w.app.update_queue(&w.caller, &w.project, "default", limit, None).await.unwrap();
        w.submit_many(3).await;
        assert_eq!(worker.await.unwrap().len(), 1);
        assert!(w.lease(10).await.is_empty());
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn what_nobody_takes_any_more_is_not_leased() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        let worker = stand_by(&w, 1, PATIENCE).await;
        worker.abort();
        assert!(worker.await.is_err());
        let id = w.submit(spec()).await;
        let task = w.get(id).await;
        assert_eq!((task.state, task.version), (TaskState::Pending, 1));
        assert_eq!(w.lease(1).await[0].id, id);
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_task_for_later_is_left_for_later() {
    for_each_backend(async |database| {
        let w = begin(database).await;
        let worker = stand_by(&w, 1, PATIENCE).await;
        let mut later = new_task(spec());
        let now = w.app.store().now().await.unwrap();
        later.new.run_time = Some(now + 3_600_000_000);
        let mut tasks = vec![later, new_task(spec())];
        tasks.swap(0, 1);
        let due = tasks[0].new.id;
        w.try_submit(tasks, None).await.unwrap();
        let leased = worker.await.unwrap();
        assert_eq!(leased.iter().map(|task| task.id).collect::<Vec<_>>(), [due]);
        w.check_journal().await;
    })
    .await;
}

fn lease_of(seconds: i64) -> QueuePatch {
    QueuePatch { lease_duration: Some(Some(seconds * 1_000_000)), ..QueuePatch::default() }
}

async fn events_of(w: &World, id: tasktower::ids::TaskId) -> Vec<(i64, EventKind)> {
    let events = tasktower::store::journal::read(w.app.store(), &w.project, 0, 100_000).await.unwrap();
    events
        .into_iter()
        .filter_map(|event| match event.subject {
            Subject::Task { kind, after, .. } if after.id == id => Some((event.revision, kind)),
            _ => None,
        })
        .collect()
}
