use tasktower::{
    domain::{
        etag,
        event::ResourceKind,
        queue::{QueueActivity, QueuePatch},
    },
    error::Error,
    ids::ProjectId,
    store::queues::{self, StatDelta},
};

use super::{caller, journal_of, project, start};
use crate::support::backend::for_each_backend;

fn at_most(max_running: i32) -> QueuePatch {
    QueuePatch { max_running: Some(max_running), ..QueuePatch::default() }
}

#[tokio::test]
async fn a_change_is_journaled_and_what_changes_nothing_is_not() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let (who, p) = (caller(), project());
        assert!(matches!(app.get_queue(&p, "q").await, Err(Error::NotFound { kind: "queue", .. })));
        assert!(matches!(app.resume_queue(&who, &p, "q").await, Err(Error::NotFound { .. })));

        let fresh = app.update_queue(&who, &p, "q", QueuePatch::default(), None).await.unwrap();
        assert!(journal_of(&app, "default").await.is_empty());
        let bounded = app.update_queue(&who, &p, "q", at_most(5), None).await.unwrap();
        assert_eq!((bounded.settings.max_running, bounded.create_time), (5, fresh.create_time));
        app.update_queue(&who, &p, "q", at_most(5), None).await.unwrap();
        let paused = app.pause_queue(&who, &p, "q", "a reason".to_owned()).await.unwrap();
        assert!(paused.settings.paused && paused.settings.pause_note == "a reason");
        app.pause_queue(&who, &p, "q", "a reason".to_owned()).await.unwrap();
        app.pause_queue(&who, &p, "q", "another".to_owned()).await.unwrap();
        let resumed = app.resume_queue(&who, &p, "q").await.unwrap();
        assert_eq!(resumed.settings, bounded.settings);
        app.resume_queue(&who, &p, "q").await.unwrap();

        let kinds: Vec<_> = journal_of(&app, "default").await.into_iter().map(|(kind, ..)| kind).collect();
        use ResourceKind::{QueuePaused, QueueResumed, QueueUpdated};
        assert_eq!(kinds, [QueueUpdated, QueuePaused, QueuePaused, QueueResumed]);
    })
    .await;
}

#[tokio::test]
async fn a_change_with_an_old_etag_is_refused() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let (who, p) = (caller(), project());
        let first = app.update_queue(&who, &p, "q", at_most(1), None).await.unwrap();
        let old = etag::queue_etag(&first);
        let second = app.update_queue(&who, &p, "q", at_most(2), Some(old.clone())).await.unwrap();
        let refused = app.update_queue(&who, &p, "q", at_most(3), Some(old)).await;
        let Err(Error::EtagMismatch { name, current }) = refused else { panic!("{refused:?}") };
        assert_eq!((name.as_str(), current), ("projects/default/queues/q", etag::queue_etag(&second)));
    })
    .await;
}

#[tokio::test]
async fn changes_of_different_settings_at_once_are_all_kept() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let (who, p) = (caller(), project());
        let lease = QueuePatch { lease_duration: Some(Some(30_000_000)), ..QueuePatch::default() };
        // The queue does not exist, so there is no row yet that one could wait for.
        let outcomes = tokio::join!(
            app.update_queue(&who, &p, "q", at_most(7), None),
            app.update_queue(&who, &p, "q", lease, None),
            Box::pin(app.pause_queue(&who, &p, "q", "now".to_owned())),
        );
        assert!(outcomes.0.is_ok() && outcomes.1.is_ok() && outcomes.2.is_ok(), "{outcomes:?}");
        let settings = app.get_queue(&p, "q").await.unwrap().settings;
        assert_eq!((settings.max_running, settings.lease_duration, settings.paused), (7, Some(30_000_000), true));
    })
    .await;
}

#[tokio::test]
async fn a_project_that_does_not_exist_has_no_queues() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let nowhere = ProjectId::new("nowhere");
        let is_missing = |error: Error| matches!(error, Error::NotFound { kind: "project", .. });
        assert!(is_missing(app.update_queue(&caller(), &nowhere, "q", at_most(1), None).await.unwrap_err()));
        assert!(is_missing(app.list_queues(&nowhere, None, 10).await.unwrap_err()));
        assert!(queues::get(app.store(), &nowhere, "q").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn activity_is_what_came_since_the_first_sample() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let add = async |submitted| {
            let mut tx = app.store().begin().await.unwrap();
            let delta = StatDelta { name: "q".to_owned(), submitted, ..StatDelta::default() };
            queues::add_stats(&mut tx, &project(), &[delta]).await.unwrap();
            tx.commit().await.unwrap();
        };
        add(5).await;
        app.sample_queues().await.unwrap();
        add(3).await;
        app.sample_queues().await.unwrap();
        add(1).await;
        let (listed, next) = app.list_queues(&project(), None, 10).await.unwrap();
        assert_eq!(listed[0].activity, QueueActivity { submitted: 4, ..QueueActivity::default() });
        assert_eq!(next, None);
    })
    .await;
}
