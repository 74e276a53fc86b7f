use std::time::Duration;

use tasktower::{
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkState},
        task_list::Position,
    },
    ids::{BulkJobId, TaskId},
    store::{Store, bulk_jobs},
};
use uuid::Uuid;

use super::{open, project};
use crate::support::backend::for_each_backend;

async fn create(store: &Store) -> BulkJob {
    let mut tx = store.begin().await.unwrap();
    let now = tx.now();
    let job = BulkJob {
        project: project(),
        id: BulkJobId(Uuid::now_v7()),
        action: BulkAction::Purge,
        filter: "state = FAILED".to_owned(),
        reason: String::new(),
        state: BulkState::Running,
        matched_count: 7,
        done_count: 0,
        skipped_count: 0,
        error_message: String::new(),
        owner: "me".to_owned(),
        create_time: now,
        update_time: now,
        finish_time: None,
        retry: None,
    };
    bulk_jobs::create(&mut tx, &job).await.unwrap();
    tx.commit().await.unwrap();
    job
}

async fn claim(store: &Store) -> Option<bulk_jobs::Claimed> {
    let mut tx = store.begin().await.unwrap();
    let claimed = bulk_jobs::claim_next(&mut tx, bulk_jobs::Kind::Swift).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn save(store: &Store, claimed: &mut bulk_jobs::Claimed) -> Option<BulkState> {
    let mut tx = store.begin().await.unwrap();
    let state = bulk_jobs::save(&mut tx, claimed).await.unwrap();
    tx.commit().await.unwrap();
    state
}

#[tokio::test]
async fn jobs_are_listed_newest_first() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let jobs = [create(&store).await, create(&store).await, create(&store).await];
        assert_eq!(bulk_jobs::get(&store, &project(), jobs[0].id).await.unwrap().as_ref(), Some(&jobs[0]));
        let page = bulk_jobs::list(&store, &project(), None, 2).await.unwrap();
        assert_eq!(page, [jobs[2].clone(), jobs[1].clone()]);
        let after = Some((page[1].create_time, page[1].id));
        assert_eq!(bulk_jobs::list(&store, &project(), after, 2).await.unwrap(), jobs[..1]);
    })
    .await;
}

#[tokio::test]
async fn a_job_whose_worker_died_goes_on_from_its_cursor_elsewhere() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let job = create(&store).await;
        let mut first = claim(&store).await.unwrap();
        assert_eq!((first.job.id, first.cursor), (job.id, None));
        assert!(claim(&store).await.is_none());
        let place = Position { create_time: 3, id: TaskId::generate() };
        first.cursor = Some(place);
        first.job.done_count = 2;
        assert_eq!(save(&store, &mut first).await, Some(BulkState::Running));

        store.shift_clock(Duration::from_secs(31));
        let second = claim(&store).await.unwrap();
        assert_eq!((second.cursor, second.job.done_count), (Some(place), 2));
        // The first one was only slow: what it does now counts no more.
        first.job.done_count = 9;
        assert_eq!(save(&store, &mut first).await, None);
        let mut tx = store.begin().await.unwrap();
        assert!(bulk_jobs::finish(&mut tx, &first, BulkState::Succeeded, "").await.unwrap().is_none());
        let ended = bulk_jobs::finish(&mut tx, &second, BulkState::Failed, "why").await.unwrap().unwrap();
        tx.commit().await.unwrap();
        assert_eq!((ended.state, ended.done_count, &*ended.error_message), (BulkState::Failed, 2, "why"));
        assert!(ended.finish_time.is_some() && claim(&store).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn jobs_that_are_let_go_of_take_turns() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let ids = [create(&store).await.id, create(&store).await.id];
        let mut turns = Vec::new();
        for _ in 0..4 {
            let mut claimed = claim(&store).await.unwrap();
            let mut tx = store.begin().await.unwrap();
            bulk_jobs::release(&mut tx, &mut claimed).await.unwrap();
            tx.commit().await.unwrap();
            turns.push(claimed.job.id);
        }
        assert_eq!(turns, [ids[0], ids[1], ids[0], ids[1]]);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_job_keeps_what_its_last_batch_did() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let job = create(&store).await;
        let mut claimed = claim(&store).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let cancelled = bulk_jobs::cancel(&mut tx, &project(), job.id).await.unwrap().unwrap();
        assert_eq!(cancelled.state, BulkState::Cancelled);
        assert!(bulk_jobs::cancel(&mut tx, &project(), job.id).await.unwrap().is_none());
        tx.commit().await.unwrap();
        claimed.job.done_count = 5;
        assert_eq!(save(&store, &mut claimed).await, Some(BulkState::Cancelled));
        let now = bulk_jobs::get(&store, &project(), job.id).await.unwrap().unwrap();
        assert_eq!((now.state, now.done_count), (BulkState::Cancelled, 5));
    })
    .await;
}
