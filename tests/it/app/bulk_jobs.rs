use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use tasktower::{
    app::{App, bulk_job::BulkPreview},
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkState},
        event::ResourceKind,
        filter::Filter,
        retry::Retry,
        task::{Spec, Task},
        task_list::ListQuery,
        task_state::TaskState,
        transition::{self, Holder, NewTask},
    },
    error::Error,
    ids::{BulkJobId, TaskId},
    store::tasks::{self, Net},
};

use super::{caller, journal_of, project, start};
use crate::support::backend::for_each_backend;

async fn submit(app: &App, queue: &str, count: usize) -> Vec<TaskId> {
    let mut tx = app.store().begin().await.unwrap();
    let now = tx.now();
    let spec = Spec {
        task_type: "t".to_owned(),
        queue: queue.to_owned(),
        priority: 0,
        timeout: 3_600_000_000,
        expire_time: None,
        retry: Retry::Unsaid,
        unique_key: None,
        unique_ttl: None,
        labels: BTreeMap::new(),
        owner: "o".to_owned(),
        create_time: 0,
        open_time: None,
    };
    let new = || NewTask { id: TaskId::generate(), spec: spec.clone(), input: None, run_time: None };
    let nets: Vec<Net> = (0..count)
        .map(|_| Net { after: Some(transition::submit(&project(), new(), now).after), ..Net::default() })
        .collect();
    tasks::write(&mut tx, &project(), &nets).await.unwrap();
    tx.commit().await.unwrap();
    nets.iter().filter_map(|net| net.after.as_ref().map(|task| task.id)).collect()
}

async fn lease(app: &App, id: TaskId) {
    let mut tx = app.store().begin().await.unwrap();
    let task = tasks::peek(&mut tx, &project(), [id].into_iter()).await.unwrap().pop().unwrap().task;
    let holder = Holder { worker: "w".to_owned(), incarnation: "1".to_owned() };
    let change = transition::lease(&task.into(), &holder, 60_000_000, tx.now()).unwrap();
    let net = Net { before: change.before.clone(), after: Some(change.after.clone()), ..Net::default() };
    tasks::write(&mut tx, &project(), &[net]).await.unwrap();
    tx.commit().await.unwrap();
}

async fn bulk(app: &App, action: BulkAction, filter: &str, force: bool) -> BulkPreview {
    let parsed = Filter::parse(filter).unwrap();
    let reason = "spring cleaning".to_owned();
    app.start_bulk(&caller(), &project(), action, filter.to_owned(), parsed, reason, force).await.unwrap()
}

async fn states(app: &App) -> BTreeMap<TaskState, usize> {
    let query = ListQuery { ascending: true, ..ListQuery::newest(Filter::everything(), 10_000) };
    let mut counts = BTreeMap::new();
    for Task { state, .. } in tasks::list(app.store(), &project(), &query).await.unwrap().0 {
        *counts.entry(state).or_default() += 1;
    }
    counts
}

async fn finish(app: &App, job: &BulkJob) -> BulkJob {
    while app.work_on_bulk_job().await.unwrap() {}
    app.get_bulk_job(&project(), job.id).await.unwrap()
}

#[tokio::test]
async fn without_force_only_the_count_and_a_sample_are_answered() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let ids = submit(&app, "mail", 3).await;
        submit(&app, "other", 2).await;
        lease(&app, ids[0]).await;
        let preview = bulk(&app, BulkAction::Cancel, "queue = mail", false).await;
        assert!(preview.job.is_none());
        assert_eq!((preview.matched_count, preview.sample.len()), (3, 3));
        assert!(preview.sample.iter().all(|id| ids.contains(id)));
        assert_eq!(bulk(&app, BulkAction::Purge, "*", false).await.matched_count, 0);
        assert!(!app.work_on_bulk_job().await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_job_cancels_what_matches_and_a_second_one_purges_it() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let ids = submit(&app, "mail", 450).await;
        submit(&app, "other", 7).await;
        lease(&app, ids[3]).await;
        let job = bulk(&app, BulkAction::Cancel, "queue = mail", true).await.job.unwrap();
        // Submitted after the job began.
        submit(&app, "mail", 2).await;
        let ended = finish(&app, &job).await;
        assert_eq!((ended.state, ended.matched_count), (BulkState::Succeeded, 450));
        assert_eq!((ended.done_count, ended.skipped_count), (450, 0));
        assert!(ended.finish_time.is_some());
        let expected = [(TaskState::Pending, 9), (TaskState::Running, 1), (TaskState::Cancelled, 449)];
        assert_eq!(states(&app).await, expected.into());

        let job = bulk(&app, BulkAction::Purge, "", true).await.job.unwrap();
        assert_eq!(finish(&app, &job).await.done_count, 449);
        assert_eq!(states(&app).await, expected[..2].iter().copied().collect());

        let rows = journal_of(&app, "default").await;
        let kinds: Vec<_> = rows.iter().map(|(kind, ..)| *kind).collect();
        use ResourceKind::{BulkJobEnded, BulkJobStarted};
        assert_eq!(kinds, [BulkJobStarted, BulkJobEnded, BulkJobStarted, BulkJobEnded]);
        assert!(rows.iter().all(|(.., actor)| actor == "user:ada"));
    })
    .await;
}

#[tokio::test]
async fn few_matches_among_many_tasks_are_found() {
    for_each_backend(async |database| {
        let app = start(database).await;
        submit(&app, "mail", 1).await;
        // More than a job looks at in one statement.
        for _ in 0..3 {
            submit(&app, "other", 2_000).await;
        }
        submit(&app, "mail", 2).await;
        let job = bulk(&app, BulkAction::Cancel, "queue = mail", true).await.job.unwrap();
        assert_eq!(finish(&app, &job).await.done_count, 3);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_job_does_nothing_more() {
    for_each_backend(async |database| {
        let app = start(database).await;
        submit(&app, "mail", 3).await;
        let job = bulk(&app, BulkAction::Cancel, "*", true).await.job.unwrap();
        let cancelled = app.cancel_bulk_job(&caller(), &project(), job.id).await.unwrap();
        assert_eq!(cancelled.state, BulkState::Cancelled);
        assert!(!app.work_on_bulk_job().await.unwrap());
        assert_eq!(states(&app).await, [(TaskState::Pending, 3)].into());
        let again = app.cancel_bulk_job(&caller(), &project(), job.id).await;
        assert!(matches!(again, Err(Error::StateConflict { state: "CANCELLED", .. })), "{again:?}");
        let unknown = app.cancel_bulk_job(&caller(), &project(), BulkJobId(uuid::Uuid::nil())).await;
        assert!(matches!(unknown, Err(Error::NotFound { kind: "bulk job", .. })), "{unknown:?}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_of_a_job_ends_when_it_is_final() {
    for_each_backend(async |database| {
        let app = start(database).await;
        submit(&app, "mail", 3).await;
        let job = bulk(&app, BulkAction::Cancel, "*", true).await.job.unwrap();
        let mut watch = app.watch_bulk_job(&project(), job.id).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), job);
        finish(&app, &job).await;
        let rest: Vec<BulkJob> = watch.map(|job| job.unwrap()).collect().await;
        assert_eq!(rest.last().map(|job| (job.state, job.done_count)), Some((BulkState::Succeeded, 3)));
        let (listed, next) = app.list_bulk_jobs(&project(), None, 1).await.unwrap();
        assert_eq!((listed.len(), next), (1, None));
    })
    .await;
}
