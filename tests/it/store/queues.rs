use tasktower::{
    domain::{
        queue::{QueueActivity, QueueSettings, Rate},
        retry::Retry,
        task::Spec,
        transition::{self, NewTask},
    },
    ids::TaskId,
    store::{
        Store,
        queues::{self, Limits, StatDelta},
        tasks::{self, Net},
    },
};

use super::{open, project};
use crate::support::backend::for_each_backend;

fn bounded() -> QueueSettings {
    QueueSettings {
        max_running: 3,
        rate: Some(Rate { count: 10, interval: 1_000_000, burst: 5 }),
        lease_duration: Some(30_000_000),
        ..QueueSettings::default()
    }
}

#[tokio::test]
async fn settings_are_read_as_they_were_written() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        let fresh = queues::lock_settings(&mut tx, &project(), "mail").await.unwrap();
        assert!(fresh.is_new && fresh.settings == QueueSettings::default());
        let now = tx.now();
        queues::write_settings(&mut tx, &project(), "mail", &bounded(), now).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = store.begin().await.unwrap();
        let again = queues::lock_settings(&mut tx, &project(), "mail").await.unwrap();
        assert!(!again.is_new && again.settings == bounded());
        let names = ["mail".to_owned(), "other".to_owned()];
        let settings = queues::settings_for(&mut tx, &project(), &names).await.unwrap();
        assert_eq!(settings.len(), 1);
        assert_eq!(settings["mail"], bounded());
        tx.rollback().await;

        let found = queues::get(&store, &project(), "mail").await.unwrap().unwrap();
        assert_eq!((found.queue.settings, found.queue.create_time), (bounded(), now));
        assert!(queues::get(&store, &project(), "other").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn queues_are_listed_by_name_with_or_without_settings() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        let now = tx.now();
        let names: Vec<String> = ["d", "b", "a"].map(str::to_owned).to_vec();
        let mut new = queues::ensure(&mut tx, &project(), &names, now).await.unwrap();
        new.sort();
        assert_eq!(new, ["a", "b", "d"]);
        assert!(queues::ensure(&mut tx, &project(), &names, now).await.unwrap().is_empty());
        let delta = |name: &str| StatDelta { name: name.to_owned(), ready: 1, submitted: 2, ..StatDelta::default() };
        queues::add_stats(&mut tx, &project(), &[delta("c"), delta("a"), delta("c")]).await.unwrap();
        tx.commit().await.unwrap();

        let page = |found: Vec<queues::Found>| found.into_iter().map(|f| f.queue.name).collect::<Vec<_>>();
        assert_eq!(page(queues::list(&store, &project(), None, 3).await.unwrap()), ["a", "b", "c"]);
        assert_eq!(page(queues::list(&store, &project(), Some("c"), 3).await.unwrap()), ["d"]);
        let c = queues::get(&store, &project(), "c").await.unwrap().unwrap();
        assert_eq!(c.queue.ready, 2);
        assert_eq!(c.totals, QueueActivity { submitted: 4, ..QueueActivity::default() });
        let totals = queues::totals(&store).await.unwrap();
        assert_eq!(totals.iter().map(|t| t.totals.submitted).sum::<i64>(), 6);
    })
    .await;
}

#[tokio::test]
async fn limits_are_the_figures_and_the_arrival_time() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        queues::write_settings(&mut tx, &project(), "mail", &bounded(), 1).await.unwrap();
        let delta = StatDelta { name: "mail".to_owned(), running: 2, ..StatDelta::default() };
        queues::add_stats(&mut tx, &project(), &[delta]).await.unwrap();
        tx.commit().await.unwrap();

        let names = ["mail".to_owned()];
        let mut tx = store.begin().await.unwrap();
        let limits = queues::lock_limits(&mut tx, &project(), &names).await.unwrap();
        assert_eq!(limits["mail"], Limits { running: 2, arrival: 0 });
        queues::set_arrivals(&mut tx, &project(), &[("mail".to_owned(), 77)]).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = store.begin().await.unwrap();
        // Writing settings again leaves the rate's clock alone.
        queues::write_settings(&mut tx, &project(), "mail", &bounded(), 2).await.unwrap();
        assert_eq!(queues::lock_limits(&mut tx, &project(), &names).await.unwrap()["mail"].arrival, 77);
        tx.rollback().await;
    })
    .await;
}

#[tokio::test]
async fn the_oldest_due_task_is_found_among_all_types_and_priorities() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let start = store.now().await.unwrap();
        // Submitted later means due later; the oldest is in the middle of the lanes.
        let oldest = submit(&store, "t2", 5, 1).await;
        assert!(oldest >= start);
        for (task_type, priority) in [("t1", 0), ("t2", 9), ("t2", 5), ("t3", -7), ("t1", 3)] {
            submit(&store, task_type, priority, 3).await;
        }
        let found = queues::get(&store, &project(), "q").await.unwrap().unwrap();
        assert_eq!(found.queue.oldest_ready_time, Some(oldest));
        let listed = queues::list(&store, &project(), None, 10).await.unwrap();
        assert_eq!(listed[0].queue.oldest_ready_time, Some(oldest));
    })
    .await;
}

async fn submit(store: &Store, task_type: &str, priority: i32, count: i64) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let now = tx.now();
    let spec = Spec {
        task_type: task_type.to_owned(),
        queue: "q".to_owned(),
        priority,
        timeout: 1,
        expire_time: None,
        retry: Retry::Unsaid,
        unique_key: None,
        unique_ttl: None,
        labels: std::collections::BTreeMap::new(),
        owner: "o".to_owned(),
        create_time: 0,
        open_time: None,
    };
    let nets: Vec<Net> = (0..count)
        .map(|_| {
            let new = NewTask { id: TaskId::generate(), spec: spec.clone(), input: None, run_time: None };
            Net { after: Some(transition::submit(&project(), new, now).after), ..Net::default() }
        })
        .collect();
    tasks::write(&mut tx, &project(), &nets).await.unwrap();
    let delta = StatDelta { name: "q".to_owned(), ready: count, ..StatDelta::default() };
    queues::add_stats(&mut tx, &project(), &[delta]).await.unwrap();
    tx.commit().await.unwrap();
    now
}
