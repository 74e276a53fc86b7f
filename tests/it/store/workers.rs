use std::time::Duration;

use tasktower::{
    domain::worker::{Identity, Worker, WorkerState},
    store::{Store, workers},
};

use super::{open, project};
use crate::support::backend::for_each_backend;

fn identity(worker: &str, incarnation: &str) -> Identity {
    Identity {
        worker: worker.to_owned(),
        incarnation: incarnation.to_owned(),
        types: vec!["t".to_owned()],
        queues: vec!["q".to_owned(), "r".to_owned()],
        slots: 4,
        labels: [("version".to_owned(), "1".to_owned())].into(),
    }
}

async fn say(store: &Store, identities: &[Identity]) {
    let mut tx = store.begin().await.unwrap();
    workers::seen(&mut tx, &project(), identities).await.unwrap();
    tx.commit().await.unwrap();
}

async fn drain(store: &Store, worker: &str) -> bool {
    let mut tx = store.begin().await.unwrap();
    let drained = workers::drain(&mut tx, &project(), worker).await.unwrap();
    tx.commit().await.unwrap();
    drained
}

async fn is_draining(store: &Store, incarnation: &str) -> bool {
    let mut tx = store.begin().await.unwrap();
    let draining = workers::is_draining(&mut tx, &project(), "w", incarnation).await.unwrap();
    tx.rollback().await;
    draining
}

async fn get(store: &Store, worker: &str) -> Worker {
    workers::get(store, &project(), worker).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_worker_is_known_by_name_and_alive_by_its_incarnations() {
    for_each_backend(async |database| {
        let store = open(database).await;
        assert!(workers::get(&store, &project(), "w").await.unwrap().is_none());
        say(&store, &[identity("w", "1"), identity("v", "1"), identity("w", "1")]).await;
        store.shift_clock(Duration::from_secs(50));
        say(&store, &[identity("w", "2"), Identity { slots: 9, ..identity("w", "1") }]).await;
        store.shift_clock(Duration::from_secs(20));

        let worker = get(&store, "w").await;
        assert_eq!((worker.state, worker.incarnations.len()), (WorkerState::Online, 2));
        let first = worker.incarnations.iter().find(|i| i.incarnation == "1").unwrap();
        assert_eq!((first.slots, first.start_time), (9, worker.create_time));
        assert_eq!(first.queues, ["q", "r"]);
        assert_eq!(first.labels["version"], "1");
        assert_eq!(get(&store, "v").await.state, WorkerState::Offline);

        let names = |page: Vec<Worker>| page.into_iter().map(|w| w.name).collect::<Vec<_>>();
        assert_eq!(names(workers::list(&store, &project(), None, 1).await.unwrap()), ["v"]);
        assert_eq!(names(workers::list(&store, &project(), Some("v"), 9).await.unwrap()), ["w"]);
    })
    .await;
}

#[tokio::test]
async fn a_heartbeat_keeps_a_worker_online() {
    for_each_backend(async |database| {
        let store = open(database).await;
        say(&store, &[identity("w", "1")]).await;
        for _ in 0..3 {
            store.shift_clock(Duration::from_secs(40));
            let mut tx = store.begin().await.unwrap();
            let alive = [("w".to_owned(), "1".to_owned()), ("unknown".to_owned(), "1".to_owned())];
            workers::touch(&mut tx, &project(), &alive).await.unwrap();
            tx.commit().await.unwrap();
        }
        let worker = get(&store, "w").await;
        assert_eq!(worker.state, WorkerState::Online);
        assert!(worker.last_seen_time - worker.create_time >= 120_000_000);
        assert!(workers::get(&store, &project(), "unknown").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_drain_stays_until_the_worker_starts_afresh() {
    for_each_backend(async |database| {
        let store = open(database).await;
        say(&store, &[identity("w", "1")]).await;
        assert!(drain(&store, "w").await);
        assert!(!drain(&store, "unknown").await);
        say(&store, &[Identity { slots: 9, ..identity("w", "1") }]).await;
        assert_eq!(get(&store, "w").await.state, WorkerState::Draining);
        assert!(is_draining(&store, "1").await);

        // Another process is not meant.
        say(&store, &[identity("w", "2")]).await;
        assert_eq!(get(&store, "w").await.state, WorkerState::Online);
        assert!(!is_draining(&store, "2").await);

        // The same name after a long silence is a new start.
        store.shift_clock(Duration::from_secs(61));
        say(&store, &[identity("w", "1")]).await;
        assert!(!is_draining(&store, "1").await);
        let worker = get(&store, "w").await;
        let first = worker.incarnations.iter().find(|i| i.incarnation == "1").unwrap();
        assert!(first.start_time > worker.create_time);
    })
    .await;
}

#[tokio::test]
async fn incarnations_are_kept_for_an_hour() {
    for_each_backend(async |database| {
        let store = open(database).await;
        say(&store, &[identity("w", "1"), identity("w", "2"), identity("w", "3")]).await;
        store.shift_clock(Duration::from_secs(3500));
        say(&store, &[identity("w", "3")]).await;
        store.shift_clock(Duration::from_secs(101));
        assert_eq!(get(&store, "w").await.incarnations.len(), 1);
        let mut tx = store.begin().await.unwrap();
        let purged = [workers::purge(&mut tx, 1).await.unwrap(), workers::purge(&mut tx, 5).await.unwrap()];
        assert_eq!(purged, [1, 1]);
        tx.commit().await.unwrap();
        assert_eq!(get(&store, "w").await.incarnations.len(), 1);
    })
    .await;
}
