//! The life of tasks through the write path, on every kind of database: what is decided, what is written, and that the
//! journal tells the same story.

use std::{collections::BTreeMap, time::Duration};

use tasktower::{
    app::{
        App,
        task::{IdempotencyKey, NewSubmit, TaskChange},
        worker::{LeaseRequest, Report},
    },
    context::Caller,
    domain::{
        authority::Share,
        event::Subject,
        filter::Filter,
        retry::{Action, Cause, Decision, Retry, RetrySettings, Rule},
        task::{Attempt, AttemptOutcome, DEFAULT_TIMEOUT, Payload, Progress, Spec, Task, TaskError},
        task_list::ListQuery,
        task_state::TaskState,
        transition::{Failure, NewTask, Patch},
        worker::Identity,
    },
    error::Error,
    ids::{ProjectId, TaskId},
    store::journal,
};
use tokio_util::sync::CancellationToken;

use super::{open, project};
use crate::support::{
    backend::{Database, for_each_backend},
    history::Known,
    invariants::{Inspector, When, assert_holds},
};

const LEASE: Duration = Duration::from_secs(60);

/// A service in this process, and a caller.
pub(super) struct World {
    pub(super) app: App,
    pub(super) caller: Caller,
    pub(super) project: ProjectId,
}

impl World {
    pub(super) async fn on(database: &Database) -> Self {
        let app = App::new(open(database).await, CancellationToken::new());
        Self { app, caller: Caller::system("system:test"), project: project() }
    }

    pub(super) async fn submit(&self, spec: Spec) -> TaskId {
        TaskId(self.try_submit(vec![new_task(spec)], None).await.expect("a good submit").remove(0).id)
    }

    pub(super) async fn submit_many(&self, tasks: usize) {
        self.try_submit((0..tasks).map(|_| new_task(spec())).collect(), None).await.expect("a good submit");
    }

    pub(super) async fn complete(&self, leased: &[std::sync::Arc<Task>]) {
        let reports = leased.iter().map(|task| (task.id, task.epoch, Report::Complete { result: None })).collect();
        for outcome in self.app.report(&self.caller, &self.project, reports).await.expect("a report") {
            outcome.expect("the lease is held");
        }
    }

    pub(super) async fn try_submit(
        &self,
        tasks: Vec<NewSubmit>,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<tasktower::app::task::Submitted>, Error> {
        self.app.submit(&self.caller, &self.project, tasks, key).await.map(|answer| answer.value)
    }

    pub(super) async fn lease(&self, limit: usize) -> Vec<std::sync::Arc<Task>> {
        self.lease_within(limit, Duration::ZERO).await
    }

    pub(super) async fn lease_within(&self, limit: usize, wait: Duration) -> Vec<std::sync::Arc<Task>> {
        let request = LeaseRequest {
            identity: Identity {
                worker: "w".into(),
                incarnation: "i".into(),
                types: vec!["t".into()],
                queues: vec!["default".into(), "limited".into()],
                slots: 10,
                labels: BTreeMap::new(),
            },
            max_tasks: limit,
            wait,
            key: None,
        };
        self.app.lease_tasks(&self.caller, &self.project, request).await.expect("a lease").tasks
    }

    async fn lease_one(&self) -> std::sync::Arc<Task> {
        self.lease(1).await.pop().expect("a task is due")
    }

    pub(super) async fn report(&self, id: TaskId, epoch: i64, report: Report) -> Result<TaskState, Error> {
        self.app.report(&self.caller, &self.project, vec![(id, epoch, report)]).await.expect("a report").remove(0)
    }

    pub(super) async fn change(&self, id: TaskId, change: TaskChange) -> Result<Option<Task>, Error> {
        self.app.change_task(&self.caller, &self.project, id, &Share::All, change, None).await
    }

    pub(super) async fn get(&self, id: TaskId) -> Task {
        self.app.get_task(&self.project, id, &Share::All, true).await.expect("the task exists")
    }

    async fn attempts(&self, id: TaskId) -> Vec<Attempt> {
        self.app.list_attempts(&self.project, id, &Share::All, 0, 100).await.expect("attempts").attempts
    }

    async fn sweep(&self) {
        self.app.sweep().await.expect("a sweep");
    }

    async fn pass(&self, time: Duration) {
        self.app.store().shift_clock(time);
    }

    /// Revisions are dense, versions of each task are dense, and each task is the fold of its journal.
    pub(super) async fn check_journal(&self) {
        let position = journal::position(self.app.store(), &self.project).await.unwrap().unwrap();
        let events = journal::read(self.app.store(), &self.project, 0, 100_000).await.unwrap();
        let revisions: Vec<i64> = events.iter().map(|e| e.revision).collect();
        assert_eq!(revisions, (1..=position.last).collect::<Vec<_>>());
        let mut last: BTreeMap<TaskId, Task> = BTreeMap::new();
        for event in events {
            let Subject::Task { before, after, .. } = event.subject else { continue };
            let previous = last.insert(after.id, (*after).clone());
            assert_eq!(previous.as_ref().map_or(0, |t| t.version) + 1, after.version, "versions of a task are dense");
            assert_eq!(previous.map(|t| t.state), before.map(|t| t.state), "each row follows on the one before");
        }
        for (id, folded) in last {
            let Ok(task) = self.app.get_task(&self.project, id, &Share::All, false).await else { continue };
            assert_eq!((task.state, task.version, task.epoch), (folded.state, folded.version, folded.epoch));
            assert_eq!(task.spec, folded.spec);
            assert_eq!(task.run_time, folded.run_time);
        }
    }
}

pub(super) fn spec() -> Spec {
    Spec {
        task_type: "t".into(),
        queue: "default".into(),
        priority: 0,
        timeout: DEFAULT_TIMEOUT,
        expire_time: None,
        retry: Retry::Unsaid,
        unique_key: None,
        unique_ttl: None,
        labels: BTreeMap::from([("team".to_owned(), "core".to_owned())]),
        owner: "system:test".into(),
        create_time: 0,
        open_time: None,
    }
}

pub(super) fn new_task(spec: Spec) -> NewSubmit {
    let input = Some(json("{\"n\":1}"));
    NewSubmit { new: NewTask { id: TaskId::generate(), spec, input, run_time: None }, id_given: false }
}

fn json(text: &'static str) -> Payload {
    Payload { media_type: None, data: text.into() }
}

pub(super) fn failure(error_type: &str) -> Failure {
    Failure { error: TaskError::own(error_type, "boom"), is_final: false, retry_after: None }
}

#[tokio::test]
async fn a_task_lives_from_submit_to_success() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let id = w.submit(spec()).await;
        let waiting = w.get(id).await;
        assert_eq!((waiting.state, waiting.version, waiting.epoch), (TaskState::Pending, 1, 0));
        assert_eq!(waiting.input, Some(json("{\"n\":1}")));

        let leased = w.lease_one().await;
        assert_eq!((leased.id, leased.epoch, leased.attempt_count), (id, 1, 1));
        assert_eq!(leased.input, Some(json("{\"n\":1}")));
        assert!(w.lease(10).await.is_empty(), "a leased task is not leased again");

        let progress = Progress { percent: 50.0, message: "half".into() };
        let beats = vec![(id, 1, Some(progress.clone()))];
        let beat = w.app.heartbeat(&w.caller, &w.project, None, beats).await.unwrap();
        assert_eq!(beat.results[0].as_ref().unwrap().duration, LEASE.as_micros() as i64);
        assert_eq!(w.get(id).await.lease.unwrap().progress, Some(progress));

        let done = Report::Complete { result: Some(json("\"ok\"")) };
        assert_eq!(w.report(id, 1, done.clone()).await.unwrap(), TaskState::Succeeded);
        let task = w.get(id).await;
        assert_eq!((task.state, task.version), (TaskState::Succeeded, 4));
        assert_eq!(task.result, Some(json("\"ok\"")));
        let attempts = w.attempts(id).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].outcome, AttemptOutcome::Succeeded);

        assert_eq!(w.report(id, 1, done).await.unwrap(), TaskState::Succeeded, "the same report again is OK");
        let other = Report::Complete { result: None };
        assert!(matches!(w.report(id, 1, other).await, Err(Error::LeaseLost { .. })));
        assert_eq!(w.get(id).await.version, 4, "repeats change nothing");
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_failing_task_is_retried_and_then_dead() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let retry = Retry::Settings(RetrySettings::plain(2, 1_000_000, 2_000_000).into());
        let id = w.submit(Spec { retry, ..spec() }).await;
        w.lease_one().await;
        let fail = Report::Fail(failure("Smtp"));
        assert_eq!(w.report(id, 1, fail.clone()).await.unwrap(), TaskState::Retrying);
        assert_eq!(w.report(id, 1, fail.clone()).await.unwrap(), TaskState::Retrying, "the same report again is OK");
        let task = w.get(id).await;
        assert_eq!(task.error.as_ref().unwrap().error_type, "Smtp");
        assert!(task.run_time <= task.update_time + 1_000_000, "full jitter stays below the first bound");

        w.pass(Duration::from_secs(3)).await;
        assert_eq!(w.lease_one().await.epoch, 2);
        assert_eq!(w.report(id, 2, fail).await.unwrap(), TaskState::Failed);
        assert_eq!(w.attempts(id).await.len(), 2);
        assert!(matches!(
            w.change(id, TaskChange::Delete { allow_missing: false }).await,
            Err(Error::StateConflict { .. })
        ));

        let reopened = w.change(id, TaskChange::Retry).await.unwrap().unwrap();
        assert_eq!((reopened.state, reopened.epoch, reopened.attempt_count), (TaskState::Pending, 2, 0));
        w.check_journal().await;
        assert_eq!(w.lease_one().await.epoch, 3, "the epoch never resets");
        assert_eq!(w.report(id, 3, Report::Complete { result: None }).await.unwrap(), TaskState::Succeeded);
        assert!(w.change(id, TaskChange::Delete { allow_missing: false }).await.unwrap().is_none());
        assert!(matches!(w.app.get_task(&w.project, id, &Share::All, false).await, Err(Error::NotFound { .. })));
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn an_expired_lease_passes_on_and_three_are_poison() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let id = w.submit(spec()).await;
        for epoch in 1..=3 {
            assert_eq!(w.lease_one().await.epoch, epoch);
            w.pass(LEASE - Duration::from_secs(5)).await;
            w.sweep().await;
            assert_eq!(w.get(id).await.state, TaskState::Running, "not before its time");
            w.pass(Duration::from_secs(6)).await;
            w.sweep().await;
            let old = Report::Complete { result: None };
            assert!(matches!(w.report(id, epoch, old).await, Err(Error::LeaseLost { .. })));
        }
        let task = w.get(id).await;
        assert_eq!((task.state, task.crash_count, task.attempt_count), (TaskState::Failed, 3, 1));
        assert_eq!(task.error.unwrap().error_type, "POISON");
        assert!(w.attempts(id).await.iter().all(|a| a.outcome == AttemptOutcome::LeaseExpired));
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_task_says_how_often_its_workers_may_die_and_its_time_outs_go_by_its_rules() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let rule = Rule { error_type: "TIMEOUT".into(), action: Action::DeadLetter, ..Rule::default() };
        let settings = RetrySettings { max_crashes: 1, rules: vec![rule], ..RetrySettings::default() };
        let retry = Retry::Settings(settings.into());
        let id = w.submit(Spec { retry: retry.clone(), ..spec() }).await;
        w.lease_one().await;
        w.pass(LEASE + Duration::from_secs(1)).await;
        w.sweep().await;
        let task = w.get(id).await;
        assert_eq!((task.state, task.crash_count), (TaskState::Failed, 1));
        assert_eq!(task.error.unwrap().error_type, "POISON");
        let decided = async |id| w.attempts(id).await.pop().and_then(|attempt| attempt.decision).unwrap().decision;
        assert_eq!(decided(id).await, Decision::end(Cause::MaxCrashes));

        let slow = w.submit(Spec { timeout: 10_000_000, retry, ..spec() }).await;
        w.lease_one().await;
        w.pass(Duration::from_secs(11)).await;
        w.sweep().await;
        assert_eq!(w.get(slow).await.state, TaskState::Failed);
        assert_eq!(decided(slow).await, Decision { rule: 1, ..Decision::end(Cause::Rule) });
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn an_attempt_ends_at_its_timeout_and_a_waiting_task_at_its_expire_time() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let slow = w.submit(Spec { timeout: 10_000_000, ..spec() }).await;
        w.lease_one().await;
        w.pass(Duration::from_secs(11)).await;
        w.sweep().await;
        let task = w.get(slow).await;
        assert_eq!((task.state, task.error.unwrap().error_type.as_str()), (TaskState::Retrying, "TIMEOUT"));

        let now = w.app.store().now().await.unwrap();
        let late = w.submit(Spec { expire_time: Some(now + 5_000_000), task_type: "other".into(), ..spec() }).await;
        w.pass(Duration::from_secs(6)).await;
        w.sweep().await;
        let task = w.get(late).await;
        assert_eq!((task.state, task.error.unwrap().error_type.as_str()), (TaskState::Failed, "EXPIRED"));
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn cancellation_waits_for_a_running_task_and_success_wins() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let waiting = w.submit(spec()).await;
        let cancel = TaskChange::Cancel { reason: "wrong".into() };
        assert_eq!(w.change(waiting, cancel.clone()).await.unwrap().unwrap().state, TaskState::Cancelled);
        assert!(w.lease(10).await.is_empty());

        let (first, second) = (w.submit(spec()).await, w.submit(spec()).await);
        assert_eq!(w.lease(10).await.len(), 2);
        for id in [first, second] {
            let task = w.change(id, cancel.clone()).await.unwrap().unwrap();
            assert!(task.state == TaskState::Running && task.cancel_requested());
        }
        let beat = w.app.heartbeat(&w.caller, &w.project, None, vec![(first, 1, None)]).await.unwrap();
        assert_eq!(beat.results[0].as_ref().unwrap().cancel.as_deref(), Some("wrong"));
        assert_eq!(w.report(first, 1, Report::Complete { result: None }).await.unwrap(), TaskState::Succeeded);
        assert_eq!(w.report(second, 1, Report::Release { delay: None }).await.unwrap(), TaskState::Cancelled);
        assert_eq!(w.get(second).await.cancel_reason.as_deref(), Some("wrong"));
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_task_changed_and_leased_in_one_batch_comes_with_its_input() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        assert!(w.lease(1).await.is_empty(), "makes the worker known");
        let id = w.submit(Spec { priority: 1, ..spec() }).await;
        let patch = Patch { labels: Some(BTreeMap::new()), ..Patch::default() };
        // While the submits are written the other two gather, and go together where there is one lane.
        let (_, changed, leased) = tokio::join!(
            Box::pin(w.submit_many(500)),
            Box::pin(w.change(id, TaskChange::Update(patch))),
            Box::pin(w.lease(1)),
        );
        changed.expect("a good change");
        // Where there are several lanes the lease may have passed over the row while the change held it.
        let leased = match leased.into_iter().find(|task| task.id == id) {
            Some(task) => task,
            None => w.lease_one().await,
        };
        assert_eq!(leased.id, id);
        assert_eq!(leased.input, Some(json("{\"n\":1}")));
    })
    .await;
}

#[tokio::test]
async fn higher_priority_and_longer_waiting_tasks_come_first_and_delayed_ones_wait() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let low = w.submit(Spec { priority: -5, ..spec() }).await;
        let first = w.submit(spec()).await;
        let second = w.submit(spec()).await;
        let high = w.submit(Spec { priority: i32::MAX, ..spec() }).await;
        let now = w.app.store().now().await.unwrap();
        let mut delayed = new_task(Spec { priority: i32::MAX, ..spec() });
        delayed.new.run_time = Some(now + 30_000_000);
        let delayed = TaskId(w.try_submit(vec![delayed], None).await.unwrap()[0].id);

        let order: Vec<TaskId> = w.lease(10).await.iter().map(|t| t.id).collect();
        assert_eq!(order, [high, first, second, low]);
        w.change(delayed, TaskChange::RunNow).await.unwrap();
        assert_eq!(w.lease_one().await.id, delayed);

        let mut later = new_task(spec());
        later.new.run_time = Some(now + 3_600_000_000);
        let later = TaskId(w.try_submit(vec![later], None).await.unwrap()[0].id);
        let patch = Patch { run_time: Some(now + 60_000_000), ..Patch::default() };
        w.change(later, TaskChange::Update(patch)).await.unwrap();
        assert!(w.lease(10).await.is_empty());
        w.pass(Duration::from_secs(61)).await;
        tokio::time::timeout(Duration::from_secs(5), async {
            while w.lease(10).await.iter().all(|t| t.id != later) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("its time has come");
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn a_unique_key_has_one_open_task_also_within_a_batch() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let keyed = || new_task(Spec { unique_key: Some("k".into()), ..spec() });
        let answers = w.try_submit(vec![keyed(), keyed()], None).await.unwrap();
        assert_eq!(answers.iter().map(|a| a.existing).collect::<Vec<_>>(), [false, true]);
        assert_eq!(answers[0].id, answers[1].id);
        let id = TaskId(answers[0].id);
        assert!(w.try_submit(vec![keyed()], None).await.unwrap()[0].existing);

        w.lease_one().await;
        w.report(id, 1, Report::Complete { result: None }).await.unwrap();
        let next = w.try_submit(vec![keyed()], None).await.unwrap().remove(0);
        assert!(!next.existing, "a final task lets go of its key");
        w.change(TaskId(next.id), TaskChange::Cancel { reason: String::new() }).await.unwrap();

        let short = Spec { unique_key: Some("k".into()), unique_ttl: Some(1_000_000), ..spec() };
        let held = w.try_submit(vec![new_task(short.clone())], None).await.unwrap().remove(0);
        w.pass(Duration::from_secs(2)).await;
        let taken = w.try_submit(vec![new_task(short)], None).await.unwrap().remove(0);
        assert!(!taken.existing && taken.id != held.id, "the time of the key is over");
        assert!(matches!(w.change(TaskId(next.id), TaskChange::Retry).await, Err(Error::StateConflict { .. })));
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn the_same_key_answers_the_same_and_another_request_is_refused() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let key = |fingerprint| Some(IdempotencyKey { key: "r1".into(), method: "SubmitTask", fingerprint });
        let first = w.app.submit(&w.caller, &w.project, vec![new_task(spec())], key([1; 32])).await.unwrap();
        let again = w.app.submit(&w.caller, &w.project, vec![new_task(spec())], key([1; 32])).await.unwrap();
        assert!(again.replayed && !first.replayed);
        assert_eq!(again.value, first.value);
        let other = w.app.submit(&w.caller, &w.project, vec![new_task(spec())], key([2; 32])).await;
        assert!(matches!(other, Err(Error::IdempotencyKeyReused { .. })));

        let mut given = new_task(spec());
        given.id_given = true;
        w.try_submit(vec![given.clone()], None).await.unwrap();
        let refused = w.try_submit(vec![new_task(spec()), given], None).await;
        assert!(matches!(refused, Err(Error::Exists { .. })), "all or none");
        let page = w.app.list_tasks(&w.project, everything()).await.unwrap();
        assert_eq!(page.tasks.len(), 2);
        w.check_journal().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_leases_of_the_same_tasks_never_part_them() {
    const TASKS: usize = 60;
    const ROUNDS: i32 = 12;
    for_each_backend(async |database| {
        let w = std::sync::Arc::new(World::on(database).await);
        let mut ids = Vec::new();
        for _ in 0..TASKS {
            ids.push(w.submit(spec()).await);
        }
        // Operators change labels and priorities while workers lease, give back and at last complete.
        let updates = {
            let (w, ids) = (w.clone(), ids.clone());
            tasktower::shutdown::spawn("updates", async move {
                for round in 0..ROUNDS {
                    let change = |id: &TaskId| {
                        let labels = Some(BTreeMap::from([("round".to_owned(), round.to_string())]));
                        w.change(*id, TaskChange::Update(Patch { labels, ..Patch::default() }))
                    };
                    for outcome in futures_util::future::join_all(ids.iter().map(change)).await {
                        assert!(!matches!(outcome, Err(Error::Internal(_))), "{outcome:?}");
                    }
                }
            })
        };
        let mut open = TASKS;
        while open > 0 {
            let last = updates.is_finished();
            let leased = w.lease(TASKS).await;
            let report = |task: &std::sync::Arc<Task>| {
                let (id, epoch) = (task.id, task.epoch);
                let report = if last { Report::Complete { result: None } } else { Report::Release { delay: None } };
                let w = w.clone();
                async move { w.report(id, epoch, report).await }
            };
            for outcome in futures_util::future::join_all(leased.iter().map(report)).await {
                open -= usize::from(outcome.expect("the lease is held") == TaskState::Succeeded);
            }
        }
        updates.await.unwrap();
        w.check_journal().await;
        let mut inspector = Inspector::open(database).await;
        let facts = inspector.facts("default").await;
        inspector.close().await;
        assert_holds(&facts, &Known::default(), When::Quiet);
    })
    .await;
}

#[tokio::test]
async fn a_unique_key_whose_time_is_over_is_not_taken_back_by_going_on() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let keyed = || Spec { unique_key: Some("k".into()), unique_ttl: Some(1_000_000), ..spec() };
        let first = w.submit(keyed()).await;
        w.lease_one().await;
        w.pass(Duration::from_secs(2)).await;
        let progress = Some(Progress { percent: 1.0, message: String::new() });
        w.app.heartbeat(&w.caller, &w.project, None, vec![(first, 1, progress)]).await.unwrap();
        assert_ne!(w.submit(keyed()).await, first);
    })
    .await;
}

#[tokio::test]
async fn a_task_given_back_with_a_delay_keeps_its_run_time_through_the_next_lease() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let id = w.submit(spec()).await;
        w.lease_one().await;
        w.report(id, 1, Report::Release { delay: Some(1_000_000) }).await.unwrap();
        let waiting = w.get(id).await.run_time;
        w.pass(Duration::from_secs(2)).await;
        assert_eq!(w.lease_one().await.run_time, waiting);
        assert_eq!(w.get(id).await.run_time, waiting);
        w.report(id, 2, Report::Complete { result: None }).await.unwrap();
        w.check_journal().await;
    })
    .await;
}

#[tokio::test]
async fn leases_nobody_heard_of_are_given_back_uncounted() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let ids = [w.submit(spec()).await, w.submit(spec()).await];
        for _ in 0..20 {
            // Begun, and dropped before the answer.
            let mut lease = Box::pin(w.lease(10));
            let waker = std::task::Waker::noop();
            let _ = lease.as_mut().poll(&mut std::task::Context::from_waker(waker));
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let mut waiting = 0;
                for id in ids {
                    let task = w.get(id).await;
                    waiting += i32::from(task.state == TaskState::Pending && task.attempt_count == 0);
                }
                if waiting == 2 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("both wait again");
        w.check_journal().await;
    })
    .await;
}

pub(super) fn everything() -> ListQuery {
    ListQuery::newest(Filter::everything(), 100)
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let mut ids = Vec::new();
        for priority in 0..7 {
            ids.push(w.submit(Spec { priority, ..spec() }).await);
        }
        let running = w.lease_one().await.id;
        w.change(ids[0], TaskChange::Cancel { reason: String::new() }).await.unwrap();
        let mut seen = Vec::new();
        let mut query = ListQuery { limit: 3, ..everything() };
        loop {
            let page = w.app.list_tasks(&w.project, query.clone()).await.unwrap();
            seen.extend(page.tasks.iter().map(|t| t.id));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        seen.reverse();
        assert_eq!(seen, ids);
        for (text, expected) in [
            ("state = RUNNING", vec![running]),
            ("state = CANCELLED", vec![ids[0]]),
            ("state = PENDING AND priority >= 5", vec![ids[5]]),
            ("labels.team = \"core\" AND priority = 3", vec![ids[3]]),
            ("worker = w", vec![running]),
            ("labels.team = nobody", vec![]),
        ] {
            let filter = Filter::parse(text).unwrap();
            let page = w.app.list_tasks(&w.project, ListQuery { filter, ..everything() }).await.unwrap();
            assert_eq!(page.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), expected, "{text}");
        }
    })
    .await;
}

/// On SQLite one batch may hold a lease, which marks tasks whose time has come, and a change of such a task.
#[tokio::test]
async fn a_task_that_becomes_due_in_the_batch_that_changes_it_is_counted_once() {
    /// Whether the calls meet in one batch is up to the scheduler; in some round they do.
    const ROUNDS: usize = 20;
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let delay = Duration::from_secs(1);
        for _ in 0..ROUNDS {
            let mut task = new_task(spec());
            let id = task.new.id;
            task.new.run_time = Some(w.app.store().now().await.expect("a time") + delay.as_micros() as i64);
            w.try_submit(vec![task], None).await.expect("a good submit");
            w.pass(delay * 2).await;
            let update = || w.change(id, TaskChange::Update(Patch { priority: Some(-1), ..Patch::default() }));
            // The first keeps the writer busy while the others gather.
            let other = w.submit(Spec { task_type: "unserved".into(), queue: "other".into(), ..spec() });
            let (_, updated, leased) = tokio::join!(other, update(), w.lease(1));
            // The lease may come first.
            assert!(matches!(updated, Ok(_) | Err(Error::StateConflict { .. })), "{updated:?}");
            for task in leased {
                w.report(task.id, 1, Report::Release { delay: None }).await.expect("the lease is ours");
            }
            w.change(id, TaskChange::Cancel { reason: String::new() }).await.expect("it waits");
        }
        let queue = w.app.get_queue(&w.project, "default").await.expect("the queue is there");
        assert_eq!((queue.ready, queue.delayed, queue.running), (0, 0, 0));
    })
    .await;
}

/// A claim locks less of a task than an update does; neither may take the task from the other.
#[tokio::test]
async fn an_update_and_a_lease_at_the_same_time_leave_the_task_in_one_place() {
    const ROUNDS: usize = 60;
    for_each_backend(async |database| {
        let w = World::on(database).await;
        for round in 0..ROUNDS {
            let id = w.submit(spec()).await;
            let priority = i32::try_from(round).ok();
            let update = w.change(id, TaskChange::Update(Patch { priority, ..Patch::default() }));
            let (updated, leased) = tokio::join!(update, w.lease(1));
            assert!(matches!(updated, Ok(_) | Err(Error::StateConflict { .. })), "{updated:?}");
            let leased = if leased.is_empty() { w.lease(1).await } else { leased };
            let done = Report::Complete { result: None };
            assert_eq!(w.report(id, leased[0].epoch, done).await.expect("the lease is ours"), TaskState::Succeeded);
        }
        w.check_journal().await;
        let mut inspector = Inspector::open(database).await;
        assert_holds(&inspector.facts("default").await, &Known::default(), When::Quiet);
        inspector.close().await;
    })
    .await;
}
