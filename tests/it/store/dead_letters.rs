//! Dead letters beside a version that knows nothing of what is new about them; and the journal of a changed input.

use std::time::Duration;

use tasktower::{
    app::{
        dead_letter::Which,
        task::{ReplayWish, TaskChange},
        worker::Report,
    },
    domain::{
        bulk_job::{BulkRetry, BulkState},
        dead_letter::{DeadLetterState, StopRule},
        filter::Filter,
        task::{Payload, TaskError},
        transition::Failure,
    },
    error::Error,
    ids::TaskId,
    store::bulk_jobs::{self, Kind},
};

use super::{
    lists::{execute, texts},
    tasks::{World, spec},
};
use crate::support::backend::for_each_backend;

impl World {
    /// Brings a task to FAILED.
    async fn failed(&self, message: &str) -> TaskId {
        let id = self.submit(spec()).await;
        self.fail_next(message).await;
        id
    }

    async fn fail_next(&self, message: &str) {
        let task = self.lease(1).await.pop().expect("a task is due");
        let failure = Failure { error: TaskError::own("Broken", message), is_final: true, retry_after: None };
        self.report(task.id, task.epoch, Report::Fail(failure)).await.expect("the lease is held");
    }

    async fn entries(&self, filter: &str) -> usize {
        let filter = Filter::parse_dead_letters(filter).expect("a filter");
        self.app.list_dead_letters(&self.project, &filter, None, 100).await.expect("a list").0.len()
    }
}

#[tokio::test]
async fn an_older_version_writes_beside_this_one() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let id = w.failed("row 1 is bad").await;
        let other = w.failed("row 2 is bad").await;
        let (entry, _) = w.app.get_dead_letter(&w.project, id).await.unwrap();
        let kind = format!("fingerprint = {}", entry.fingerprint);
        assert_eq!(w.entries(&kind).await, 2);

        // Rows as it writes them. By name they are complete but for the counts; filters find them after housekeeping.
        execute(database, "UPDATE dead_letter SET fingerprint = NULL, attempt_count = NULL, crash_count = NULL").await;
        let (old, _) = w.app.get_dead_letter(&w.project, id).await.unwrap();
        assert_eq!((&old.fingerprint, old.attempt_count, old.crash_count), (&entry.fingerprint, None, None));
        assert_eq!(w.entries(&kind).await, 0);
        w.app.keep_house().await.unwrap();
        assert_eq!(w.entries(&kind).await, 2);

        // Retried here, failed there: the row it inserts meets nothing, and the replay is still counted.
        w.change(id, TaskChange::Retry).await.unwrap();
        w.fail_next("still bad").await;
        execute(database, "UPDATE dead_letter SET fingerprint = NULL WHERE error_message = 'still bad'").await;
        let (again, replays) = w.app.get_dead_letter(&w.project, id).await.unwrap();
        assert_eq!((again.state, again.replay_count, replays.len()), (DeadLetterState::Open, 1, 1));

        // Retried there, which it does by deleting the row: not counted, and nothing is left of it here.
        execute(database, "DELETE FROM dead_letter WHERE error_message = 'row 2 is bad'").await;
        let gone = w.app.get_dead_letter(&w.project, other).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    })
    .await;
}

#[tokio::test]
async fn a_job_whose_replica_died_is_taken_up_once_and_to_its_end() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        for _ in 0..20 {
            w.failed("it broke").await;
        }
        let stop = StopRule { max_failure_percent: 0, window: 60_000_000 };
        let retry = BulkRetry { rate: 1_000, stop, named: None, ended_count: 0, failed_again_count: 0 };
        let which = Which::Matching("*".to_owned(), Filter::everything());
        let started = w.app.bulk_retry_dead_letters(&w.caller, &w.project, which, String::new(), retry, true).await;
        let job = started.unwrap().job.unwrap();

        // A replica takes the job and dies. Those that take jobs without a pace leave it alone.
        let mut tx = w.app.store().begin().await.unwrap();
        assert!(bulk_jobs::claim_next(&mut tx, Kind::Swift).await.unwrap().is_none());
        assert_eq!(bulk_jobs::claim_next(&mut tx, Kind::Paced).await.unwrap().unwrap().job.id, job.id);
        tx.commit().await.unwrap();
        assert!(!w.app.work_on_bulk_retries().await.unwrap(), "another replica works on it");
        // Fails after the job began, so it is none of its business.
        let later = w.failed("later").await;

        w.app.store().shift_clock(Duration::from_secs(31));
        while w.app.work_on_bulk_retries().await.unwrap() {}
        let job = w.app.get_bulk_job(&w.project, job.id).await.unwrap();
        assert_eq!((job.state, job.matched_count, job.done_count), (BulkState::Succeeded, 20, 20));
        assert_eq!(w.entries("*").await, 1);
        assert_eq!(w.app.get_dead_letter(&w.project, later).await.unwrap().0.state, DeadLetterState::Open);
    })
    .await;
}

#[tokio::test]
async fn the_journal_tells_of_a_changed_input_and_keeps_it_out() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let id = w.failed("bad input").await;
        let input = Payload { media_type: None, data: "\"a secret\"".into() };
        let wish = ReplayWish { input: Some(input.clone()), ..ReplayWish::default() };
        w.change(id, TaskChange::Replay(wish)).await.unwrap();
        assert_eq!(w.get(id).await.input, Some(input));
        let rows = texts(database, "SELECT diff FROM journal WHERE kind = 13").await;
        assert_eq!(rows.len(), 1);
        assert!(rows[0].contains("\"input\":[") && rows[0].contains("\"sha256\""), "{}", rows[0]);
        assert!(!rows[0].contains("secret"), "{}", rows[0]);
    })
    .await;
}
