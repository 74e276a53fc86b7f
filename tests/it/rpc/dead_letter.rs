//! `DeadLetterService`: the life of an entry, from the failure that writes it to its end.

use std::collections::BTreeSet;

use serde_json::json as value;
use tasktower::pb::{
    self,
    bulk_job::State as JobState,
    dead_letter::{Reason, State},
    task::State as TaskState,
};
use tonic::{Code, Response, Status};

use super::{Rpc, code, json, refused, seconds, task, token, worker};
use crate::support::{
    backend::{Database, for_each_backend},
    credentials::PRINCIPAL,
    history::Known,
    invariants::{Inspector, When, assert_holds},
    wait::{SOON, eventually},
};

const PROJECT: &str = "projects/default";
const LIMIT: i32 = 10;

fn entry_of(task: &str) -> String {
    task.replace("/tasks/", "/deadLetters/")
}

impl Rpc {
    async fn entry(&self, task: &str) -> pb::DeadLetter {
        self.try_entry(task).await.expect("an entry").into_inner().dead_letter.expect("an answer holds it")
    }

    async fn try_entry(&self, task: &str) -> Result<Response<pb::GetDeadLetterResponse>, Status> {
        self.clients.dead_letters().get_dead_letter(pb::GetDeadLetterRequest { name: entry_of(task) }).await
    }

    async fn entries(&self, filter: &str) -> Vec<pb::DeadLetter> {
        let request = pb::ListDeadLettersRequest { filter: filter.into(), ..Default::default() };
        self.clients.dead_letters().list_dead_letters(request).await.expect("a list").into_inner().dead_letters
    }

    async fn retry_entry(&self, task: &str) -> Result<Response<pb::RetryDeadLetterResponse>, Status> {
        let request = pb::RetryDeadLetterRequest { name: entry_of(task), ..Default::default() };
        self.clients.dead_letters().retry_dead_letter(request).await
    }

    async fn mark(&self, task: &str, reason: &str) -> Result<pb::DeadLetter, Status> {
        let request =
            pb::MarkDeadLetterProcessedRequest { name: entry_of(task), reason: reason.into(), ..Default::default() };
        let answer = self.clients.dead_letters().mark_dead_letter_processed(request).await?;
        Ok(answer.into_inner().dead_letter.expect("an answer holds it"))
    }

    /// Leases everything and fails it for good, with an error of this type and message.
    async fn fail_all(&self, error_type: &str, message: &str) -> usize {
        let mut count = 0;
        loop {
            let leased = self.lease_as(pb::WorkerIdentity { slots: 1_000, ..worker("w") }, 1_000).await;
            if leased.is_empty() {
                return count;
            }
            count += leased.len();
            let failure = |leased: &pb::LeasedTask| pb::TaskFailure {
                token: leased.token.clone(),
                error: Some(pb::TaskError {
                    r#type: error_type.into(),
                    message: message.replace("{}", &count.to_string()),
                    ..Default::default()
                }),
                r#final: true,
                retry_after: None,
            };
            let request = pb::FailTasksRequest { failures: leased.iter().map(failure).collect(), ..Default::default() };
            let answer = self.clients.workers().fail_tasks(request).await.expect("reported").into_inner();
            assert!(answer.results.iter().all(|result| code(result) == Code::Ok));
        }
    }

    async fn job(&self, name: &str) -> pb::BulkJob {
        let request = pb::GetBulkJobRequest { name: name.into() };
        self.clients.tasks().get_bulk_job(request).await.expect("a job").into_inner().bulk_job.expect("it")
    }

    async fn bulk_retry(&self, request: pb::BulkRetryDeadLettersRequest) -> pb::BulkRetryDeadLettersResponse {
        self.clients.dead_letters().bulk_retry_dead_letters(request).await.expect("an answer").into_inner()
    }
}

/// The database is what it should be, and nothing that was done is lost.
async fn assert_healthy(database: &Database) {
    let mut inspector = Inspector::open(database).await;
    assert_holds(&inspector.facts("default").await, &Known::default(), When::Busy);
    inspector.close().await;
}

#[tokio::test]
async fn an_entry_lives_from_failure_to_failure_and_keeps_its_replays() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let name = rpc.submit(pb::Task { queue: "default".into(), ..task("t") }).await;
        refused(rpc.try_entry(&name).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        refused(rpc.retry_entry(&name).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        assert_eq!(rpc.fail_all("Broken", "row 17 of \"a\" broke").await, 1);

        let open = rpc.entry(&name).await;
        assert_eq!(
            (open.state(), open.reason(), open.replay_count, open.replay_limit),
            (State::Open, Reason::Final, 0, LIMIT)
        );
        assert_eq!((open.task.as_str(), open.name.as_str()), (name.as_str(), entry_of(&name).as_str()));
        assert_eq!((open.queue.as_str(), open.r#type.as_str()), ("default", "t"));
        assert_eq!((open.attempt_count, open.crash_count), (Some(1), Some(0)));
        let error = open.error.clone().unwrap();
        assert_eq!((error.r#type.as_str(), error.message.as_str()), ("Broken", "row 17 of \"a\" broke"));
        assert_eq!(open.fingerprint.len(), 16);
        assert_eq!(open.create_time, rpc.get(&name).await.finish_time, "written with the failure");
        assert_eq!(rpc.entries("").await, std::slice::from_ref(&open));

        // A retry opens the task, and the entry says so.
        let stale = pb::RetryDeadLetterRequest { name: entry_of(&name), etag: "\"x\"".into(), ..Default::default() };
        let mut letters = rpc.clients.dead_letters();
        refused(letters.retry_dead_letter(stale.clone()).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let input = json(value!({"mended": true}));
        let request = pb::RetryDeadLetterRequest { etag: open.etag.clone(), input: Some(input.clone()), ..stale };
        let answer = letters.retry_dead_letter(request).await.unwrap().into_inner();
        assert_eq!(answer.task.unwrap().state(), TaskState::Pending);
        let replayed = answer.dead_letter.unwrap();
        assert_eq!((replayed.state(), replayed.replay_count), (State::Replayed, 1));
        assert_ne!(replayed.etag, open.etag);
        let replay = &replayed.replays[0];
        assert_eq!((replay.number, replay.owner.as_str(), replay.epoch, replay.input_changed), (1, PRINCIPAL, 1, true));
        assert_eq!((&replay.error, replay.fail_time, replay.bulk_job.as_str()), (&open.error, open.create_time, ""));
        assert!(rpc.entries("").await.is_empty(), "it is on its way");
        refused(rpc.retry_entry(&name).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        refused(rpc.mark(&name, "no").await.map(Response::new), Code::FailedPrecondition, "STATE_CONFLICT", &[]);

        // The worker gets the new input, and the new attempt links to the entry.
        assert_eq!(rpc.get(&name).await.input, Some(input.clone()));
        let leased = rpc.lease(1).await.remove(0);
        assert_eq!(leased.task.as_ref().unwrap().input, Some(input));
        let request = pb::ListAttemptsRequest { parent: name.clone(), ..Default::default() };
        let attempts = rpc.clients.tasks().list_attempts(request).await.unwrap().into_inner().attempts;
        let links: Vec<_> = attempts.iter().map(|attempt| (attempt.epoch, attempt.dead_letter.clone())).collect();
        assert_eq!(links, [(1, String::new()), (2, entry_of(&name))]);

        // It fails again: the same entry, OPEN again.
        rpc.fail(token(&leased)).await;
        let again = rpc.entry(&name).await;
        assert_eq!((again.state(), again.replay_count, again.replays.len()), (State::Open, 1, 1));
        assert_eq!(again.first_create_time, open.create_time);
        assert_ne!(again.create_time, open.create_time);
        assert_eq!(again.error.unwrap().message, "it broke");

        // A retry of the task counts too, and goes on to the end.
        let retry = pb::RetryTaskRequest { name: name.clone(), ..Default::default() };
        rpc.clients.tasks().retry_task(retry).await.unwrap();
        assert_eq!(rpc.complete([token(&rpc.lease(1).await[0])]).await, [Code::Ok]);
        let done = rpc.entry(&name).await;
        assert_eq!((done.state(), done.replay_count, done.replays[1].epoch), (State::Replayed, 2, 2));
        assert!(!done.replays[1].input_changed);
        assert_healthy(database).await;

        // The entry goes with its task.
        let delete = pb::DeleteTaskRequest { name: name.clone(), ..Default::default() };
        rpc.clients.tasks().delete_task(delete).await.unwrap();
        refused(rpc.try_entry(&name).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        assert_healthy(database).await;
    })
    .await;
}

#[tokio::test]
async fn an_entry_is_retried_ten_times_and_no_more() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let name = rpc.failed().await;
        for count in 1..=LIMIT {
            if count % 2 == 0 {
                rpc.retry_entry(&name).await.unwrap();
            } else {
                let retry = pb::RetryTaskRequest { name: name.clone(), ..Default::default() };
                rpc.clients.tasks().retry_task(retry).await.unwrap();
            }
            rpc.fail(token(&rpc.lease(1).await[0])).await;
            assert_eq!(rpc.entry(&name).await.replay_count, count);
        }
        let status = refused(rpc.retry_entry(&name).await, Code::FailedPrecondition, "REPLAY_LIMIT_REACHED", &[]);
        assert!(status.message().contains("10 times, the limit is 10"), "{status:?}");
        let retry = pb::RetryTaskRequest { name: name.clone(), ..Default::default() };
        let refusal = rpc.clients.tasks().retry_task(retry).await;
        refused(refusal, Code::FailedPrecondition, "REPLAY_LIMIT_REACHED", &[]);

        // A job passes over it and says so.
        let other = rpc.failed().await;
        let request = pb::BulkRetryDeadLettersRequest { filter: "*".into(), force: true, ..Default::default() };
        let job = rpc.bulk_retry(request).await.bulk_job.unwrap().name;
        let job = eventually("the job ends", SOON, async || {
            Some(rpc.job(&job).await).filter(|job| job.state() != JobState::Running).ok_or("not yet")
        })
        .await;
        assert_eq!((job.state(), job.matched_count, job.done_count, job.skipped_count), (JobState::Succeeded, 2, 1, 1));
        assert_eq!(rpc.entry(&other).await.state(), State::Replayed);
        assert_eq!(rpc.entry(&name).await.state(), State::Open);
        assert_healthy(database).await;
    })
    .await;
}

#[tokio::test]
async fn an_entry_is_put_aside_and_taken_back_and_only_then_its_task_goes() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let name = rpc.failed().await;
        let delete = pb::DeleteTaskRequest { name: name.clone(), ..Default::default() };
        let open = rpc.entry(&name).await;
        let refusal = rpc.clients.tasks().delete_task(delete.clone()).await;
        refused(refusal, Code::FailedPrecondition, "STATE_CONFLICT", &[]);

        let mut letters = rpc.clients.dead_letters();
        let stale =
            pb::MarkDeadLetterProcessedRequest { name: entry_of(&name), reason: "x".into(), etag: "\"x\"".into() };
        refused(letters.mark_dead_letter_processed(stale).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        refused(rpc.mark(&name, " ").await.map(Response::new), Code::InvalidArgument, "FIELD_INVALID", &["reason"]);
        let processed = rpc.mark(&name, "paid by hand").await.unwrap();
        assert_eq!((processed.state(), processed.processed_by.as_str()), (State::Processed, PRINCIPAL));
        assert_eq!(processed.process_reason, "paid by hand");
        assert!(processed.process_time.is_some() && processed.etag != open.etag);
        // Again changes nothing.
        assert_eq!(rpc.mark(&name, "another reason").await.unwrap(), processed);
        assert_eq!(rpc.entries("state = PROCESSED").await.len(), 1, "it stays, and is found");
        assert!(rpc.entries("state = OPEN").await.is_empty());

        // Bulk retries pass over it.
        let all = pb::BulkRetryDeadLettersRequest { filter: "*".into(), ..Default::default() };
        assert_eq!(rpc.bulk_retry(all.clone()).await.matched_count, 0);
        let reopen = pb::ReopenDeadLetterRequest { name: entry_of(&name), ..Default::default() };
        let reopened = letters.reopen_dead_letter(reopen.clone()).await.unwrap().into_inner().dead_letter.unwrap();
        assert_eq!((reopened.state(), &reopened.etag), (State::Open, &open.etag));
        assert_eq!(letters.reopen_dead_letter(reopen.clone()).await.unwrap().into_inner().dead_letter, Some(reopened));
        assert_eq!(rpc.bulk_retry(all).await.matched_count, 1);

        // By hand a processed one is retried like an open one; failing again makes it OPEN.
        rpc.mark(&name, "again").await.unwrap();
        rpc.retry_entry(&name).await.unwrap();
        refused(letters.reopen_dead_letter(reopen).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        rpc.fail(token(&rpc.lease(1).await[0])).await;
        assert_eq!(rpc.entry(&name).await.state(), State::Open);
        rpc.mark(&name, "enough").await.unwrap();
        assert_healthy(database).await;
        rpc.clients.tasks().delete_task(delete).await.unwrap();
        refused(rpc.mark(&name, "gone").await.map(Response::new), Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        assert_healthy(database).await;
    })
    .await;
}

#[tokio::test]
async fn entries_are_listed_in_pages_filtered_and_counted_by_kind() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        for (queue, count, error_type, message) in [
            ("default", 5, "Timeout", "took {} s, gave up on \"{}\""),
            ("default", 3, "Timeout", "no route to 10.0.0.{}"),
            ("default", 2, "Parse", "no route to 10.0.0.{}"),
        ] {
            rpc.submit_many(&pb::Task { queue: queue.into(), ..task("t") }, count).await;
            assert_eq!(rpc.fail_all(error_type, message).await, count);
        }
        let mut letters = rpc.clients.dead_letters();
        let (mut pages, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListDeadLettersRequest { page_size: 4, page_token, ..Default::default() };
            let page = letters.list_dead_letters(request).await.unwrap().into_inner();
            pages.push(page.dead_letters);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let all: Vec<_> = pages.concat();
        let times: Vec<_> = all.iter().map(|one| one.create_time.map(|time| (time.seconds, time.nanos))).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "those that failed last first");
        assert_eq!(all.iter().map(|one| &one.name).collect::<BTreeSet<_>>().len(), 10);

        let count = async |filter: &str| rpc.entries(filter).await.len();
        assert_eq!(count("error.type = Timeout").await, 8);
        assert_eq!(count("error.message:route AND reason = FINAL").await, 5);
        assert_eq!(count("queue = default type = t state = OPEN").await, 10);
        assert_eq!(count(&format!("name = \"{}\"", all[0].name)).await, 1);
        assert_eq!(count(&format!("fingerprint = {}", all[9].fingerprint)).await, 5);
        let bad = pb::ListDeadLettersRequest { filter: "labels.a = b".into(), ..Default::default() };
        refused(letters.list_dead_letters(bad).await, Code::InvalidArgument, "FILTER_INVALID", &["filter"]);
        let foreign = pb::ListDeadLettersRequest { page_token: "bm90IGEgdG9rZW4".into(), ..Default::default() };
        refused(letters.list_dead_letters(foreign).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"]);

        let analyze = async |filter: &str, max_groups| {
            let request = pb::AnalyzeDeadLettersRequest { filter: filter.into(), max_groups, ..Default::default() };
            rpc.clients.dead_letters().analyze_dead_letters(request).await.unwrap().into_inner()
        };
        let analysis = analyze("", 0).await;
        assert_eq!((analysis.scanned_count, analysis.other_count, analysis.truncated), (10, 0, false));
        assert_eq!(analysis.groups.iter().map(|group| group.count).collect::<Vec<_>>(), [5, 3, 2]);
        let first = &analysis.groups[0];
        assert_eq!(first.fingerprint, all[9].fingerprint);
        let of_group: Vec<_> = all.iter().filter(|one| one.fingerprint == first.fingerprint).collect();
        assert_eq!(
            (first.last_create_time, first.first_create_time),
            (of_group[0].create_time, of_group[4].create_time)
        );
        assert_eq!(first.sample.as_ref(), Some(of_group[0]));
        let analysis = analyze("error.message:route", 1).await;
        assert_eq!((analysis.groups.len(), analysis.scanned_count, analysis.other_count), (1, 5, 2));
        let none = analyze("queue = none", 0).await;
        assert_eq!((none.groups.len(), none.scanned_count), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_bulk_retry_counts_first_then_keeps_its_pace() {
    const ENTRIES: usize = 120;
    const RATE: i32 = 40;
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let names = rpc.submit_many(&task("t"), ENTRIES).await;
        rpc.fail_all("Broken", "it broke").await;
        rpc.mark(&names[0], "not this one").await.unwrap();
        let dry = pb::BulkRetryDeadLettersRequest {
            filter: "error.type = Broken".into(),
            reason: "the mail server is back".into(),
            rate: RATE,
            ..Default::default()
        };
        let preview = rpc.bulk_retry(dry.clone()).await;
        assert_eq!((preview.bulk_job, preview.matched_count, preview.sample.len()), (None, ENTRIES as i64 - 1, 100));
        assert!(preview.sample.iter().all(|name| name.contains("/deadLetters/")));
        assert_eq!(rpc.entries("state = OPEN").await.len(), 50, "nothing happened");

        let job = rpc.bulk_retry(pb::BulkRetryDeadLettersRequest { force: true, ..dry }).await.bulk_job.unwrap();
        assert_eq!((job.action(), job.filter.as_str()), (pb::bulk_job::Action::Retry, "error.type = Broken"));
        // Its progress can be followed to the end.
        let request = pb::WatchBulkJobRequest { name: job.name.clone() };
        let mut stream = rpc.clients.tasks().watch_bulk_job(request).await.unwrap().into_inner();
        let (mut last, mut steps) = (job, 0);
        while let Some(message) = stream.message().await.unwrap() {
            last = message.bulk_job.unwrap();
            steps += 1;
        }
        assert!(steps > 3, "{steps} steps");
        assert_eq!((last.state(), last.done_count, last.skipped_count), (JobState::Succeeded, ENTRIES as i64 - 1, 0));

        // Over the job the rate was kept: by the times of the replays, from the first to the last.
        let mut times = Vec::new();
        for name in &names[1..] {
            let entry = rpc.entry(name).await;
            assert_eq!((entry.state(), entry.replays.len()), (State::Replayed, 1));
            assert_eq!(entry.replays[0].bulk_job, last.name);
            let time = entry.replays[0].create_time.unwrap();
            times.push(time.seconds as f64 + f64::from(time.nanos) / 1e9);
        }
        times.sort_by(f64::total_cmp);
        let took = times.last().unwrap() - times[0];
        let rate = (times.len() - 1) as f64 / took;
        assert!((f64::from(RATE) * 0.9..=f64::from(RATE) * 1.1).contains(&rate), "{rate} a second");
        let in_a_second = |start: f64| times.iter().filter(|time| (start..start + 1.0).contains(*time)).count();
        let most = times.iter().map(|time| in_a_second(*time)).max().unwrap();
        assert!(most <= 2 * RATE as usize, "{most} in one second");
        assert_eq!(rpc.entry(&names[0]).await.state(), State::Processed);
        assert_healthy(database).await;
    })
    .await;
}

#[tokio::test]
async fn a_bulk_retry_stops_by_itself_when_too_many_fail_again() {
    const ENTRIES: usize = 300;
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.submit_many(&task("t"), ENTRIES).await;
        rpc.fail_all("Broken", "it broke").await;
        let request = pb::BulkRetryDeadLettersRequest {
            filter: "*".into(),
            force: true,
            rate: 20,
            max_failure_percent: 50,
            failure_window: Some(seconds(60)),
            ..Default::default()
        };
        let job = rpc.bulk_retry(request).await.bulk_job.unwrap().name;
        // Whatever comes fails again.
        let job = eventually("the job ends", SOON, async || {
            rpc.fail_all("Broken", "still").await;
            Some(rpc.job(&job).await).filter(|job| job.state() != JobState::Running).ok_or("not yet")
        })
        .await;
        assert_eq!(job.state(), JobState::Failed, "{job:?}");
        assert!(job.error_message.contains("failed again, which is more than 50 %"), "{job:?}");
        let retry = job.retry.unwrap();
        assert!(retry.ended_count >= 10 && retry.failed_again_count == retry.ended_count, "{retry:?}");
        assert!(job.done_count < 150, "{} of {ENTRIES} were retried before it stopped", job.done_count);
        rpc.fail_all("Broken", "still").await;
        // None was retried twice by it.
        let replayed = rpc.entries("error.message = still").await;
        assert_eq!(replayed.len() as i64, job.done_count.min(50));
        assert!(replayed.iter().all(|entry| entry.replay_count == 1));
        assert_healthy(database).await;
    })
    .await;
}

#[tokio::test]
async fn named_entries_are_retried_and_a_job_can_be_cancelled() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let names = rpc.submit_many(&task("t"), 30).await;
        rpc.fail_all("Broken", "it broke").await;
        let named = |range: std::ops::Range<usize>, rate| pb::BulkRetryDeadLettersRequest {
            parent: PROJECT.into(),
            names: names[range].iter().map(|name| entry_of(name)).collect(),
            force: true,
            rate,
            ..Default::default()
        };
        let answer = rpc.bulk_retry(named(0..5, 1_000)).await;
        assert_eq!((answer.matched_count, answer.sample.len()), (5, 5));
        let job = answer.bulk_job.unwrap().name;
        eventually("the job ends", SOON, async || {
            Some(rpc.job(&job).await).filter(|job| job.state() == JobState::Succeeded).ok_or("not yet")
        })
        .await;
        assert_eq!(rpc.entries("").await.len(), 25);

        let slow = rpc.bulk_retry(named(5..30, 1)).await.bulk_job.unwrap().name;
        eventually("the job begins", SOON, async || {
            Some(rpc.job(&slow).await).filter(|job| job.done_count > 0).ok_or("not yet")
        })
        .await;
        let cancel = pb::CancelBulkJobRequest { name: slow.clone() };
        let cancelled = rpc.clients.tasks().cancel_bulk_job(cancel).await.unwrap().into_inner().bulk_job.unwrap();
        assert_eq!(cancelled.state(), JobState::Cancelled);
        // What it had begun when it was cancelled ends; then nothing more is retried.
        eventually("it stands still", SOON, async || {
            let before = rpc.entries("").await.len();
            crate::support::wait::pause("a job that is still alive retries one a second", seconds_of(1.5)).await;
            (rpc.entries("").await.len() == before).then_some(()).ok_or("it goes on")
        })
        .await;
        assert!(rpc.entries("").await.len() > 15);
        let bad = pb::BulkRetryDeadLettersRequest { filter: "*".into(), ..named(0..1, 0) };
        let refusal = rpc.clients.dead_letters().bulk_retry_dead_letters(bad).await;
        refused(refusal, Code::InvalidArgument, "FIELD_INVALID", &["filter"]);
    })
    .await;
}

fn seconds_of(seconds: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(seconds)
}
