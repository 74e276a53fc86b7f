use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tasktower::{
    app::{
        App,
        watch::{WatchItem, WatchRequest},
    },
    domain::{
        authority::Share,
        event::ResourceKind,
        filter::Filter,
        retention::{DailyTime, RetentionRule, RetentionRun, RetentionSettings, RunState, Trigger},
        retry::Retry,
        task::{Attempt, AttemptOutcome, DAY, Micros, Payload, SECOND, Spec, Task, TaskError},
        task_list::ListQuery,
        task_state::TaskState,
        transition::{self, DeadLetterReason, Holder, NewTask},
    },
    error::Error,
    ids::{ProjectId, TaskId},
    store::{DatabaseUrl, Store, history, journal, migrate, retention_runs, tasks, tasks::Net},
};
use tokio_util::sync::CancellationToken;

use super::{caller, journal_of, project, start};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    sql::Beside,
};

/// A task that is brought into a state without living through it.
#[derive(Clone)]
struct Made {
    state: TaskState,
    task_type: &'static str,
    queue: &'static str,
    create_time: Micros,
    finish_time: Micros,
    /// With a dead letter that nobody has dealt with.
    has_letter: bool,
    payload: usize,
}

impl Made {
    fn of(state: TaskState, finish_time: Micros) -> Made {
        let create_time = finish_time - 60 * SECOND;
        Made { state, task_type: "t", queue: "q", create_time, finish_time, has_letter: false, payload: 0 }
    }

    fn net(&self) -> Net {
        let spec = Spec {
            task_type: self.task_type.to_owned(),
            queue: self.queue.to_owned(),
            priority: 0,
            timeout: 3_600 * SECOND,
            expire_time: None,
            retry: Retry::Unsaid,
            unique_key: None,
            unique_ttl: None,
            labels: BTreeMap::new(),
            owner: "o".to_owned(),
            create_time: 0,
            open_time: None,
        };
        let payload = || (self.payload > 0).then(|| Bytes::from(vec![b'1'; self.payload]));
        let payload = || payload().map(|data| Payload { media_type: None, data });
        let new = NewTask { id: TaskId::generate(), spec, input: payload(), run_time: None };
        let waiting = transition::submit(&project(), new, self.create_time).after;
        if self.state == TaskState::Pending {
            return Net { after: Some(waiting), ..Net::default() };
        }
        let holder = Holder { worker: "w".to_owned(), incarnation: "1".to_owned() };
        let lease = |task| transition::lease(task, &holder, 60 * SECOND, self.create_time).expect("it waits").after;
        let running = lease(&waiting);
        if self.state == TaskState::Running {
            return Net { after: Some(running), ..Net::default() };
        }
        let attempt = Attempt {
            epoch: 1,
            worker: "w".to_owned(),
            outcome: AttemptOutcome::Failed,
            start_time: self.create_time,
            end_time: Some(self.finish_time),
            error: Some(TaskError::own("Broken", "it broke")),
            progress: None,
            retry_time: None,
            number: 1,
            decision: None,
        };
        let mut task = Task { lease: None, state: self.state, ..(*running).clone() };
        if self.state.is_final() {
            task.finish_time = Some(self.finish_time);
            task.result = payload();
        }
        Net {
            after: Some(Arc::new(task)),
            attempts: vec![attempt],
            dead_letter: self.has_letter.then_some(DeadLetterReason::Final),
            ..Net::default()
        }
    }
}

/// Stores them and answers their ids.
async fn make(app: &App, made: &[Made]) -> Vec<TaskId> {
    let mut ids = Vec::new();
    for part in made.chunks(500) {
        let nets: Vec<_> = part.iter().map(Made::net).collect();
        let mut tx = app.store().begin().await.unwrap();
        tasks::write(&mut tx, &project(), &nets).await.unwrap();
        tx.commit().await.unwrap();
        ids.extend(nets.iter().filter_map(|net| net.after.as_ref().map(|task| task.id)));
    }
    ids
}

async fn left(app: &App) -> Vec<TaskId> {
    let query = ListQuery { ascending: true, ..ListQuery::newest(Filter::everything(), 10_000) };
    let mut ids: Vec<_> =
        tasks::list(app.store(), &project(), &query).await.unwrap().0.iter().map(|task| task.id).collect();
    ids.sort();
    ids
}

/// Begins a run now.
async fn begin(app: &App) -> RetentionRun {
    app.run_retention(&caller(), &project(), None).await.unwrap()
}

/// Works on a run until it is over.
async fn finish(app: &App, run: &RetentionRun) -> RetentionRun {
    while app.work_on_retention().await.unwrap() {}
    let run = app.get_retention_run(&run.project, run.id).await.unwrap();
    assert_ne!(run.state, RunState::Running);
    run
}

fn rule(states: &[TaskState], task_type: &str, queue: &str, age: Micros) -> RetentionRule {
    RetentionRule { states: states.to_vec(), task_type: task_type.to_owned(), queue: queue.to_owned(), age }
}

async fn set(app: &App, rules: Vec<RetentionRule>) {
    app.update_retention(&caller(), &project(), Some(rules), None).await.unwrap();
}

/// Rows that belong to no task.
async fn orphans(database: &Database) -> i64 {
    let mut beside = Beside::open(database).await;
    let mut orphans = 0;
    for (table, id) in [
        ("attempt", "task_id"),
        ("closed", "id"),
        ("dead_letter", "task_id"),
        ("replay", "task_id"),
        ("ready", "id"),
        ("lease", "id"),
    ] {
        orphans +=
            beside.number(&format!("SELECT count(*) FROM {table} WHERE {id} NOT IN (SELECT id FROM task)")).await;
    }
    orphans
}

/// The journal rows of a kind say how many rows they are about.
async fn journalled(database: &Database, kind: ResourceKind) -> Vec<i64> {
    let query =
        format!("SELECT diff FROM journal WHERE project = 'default' AND kind = {} ORDER BY revision", kind as i16);
    let diffs = Beside::open(database).await.texts(&query).await;
    let count = |diff: &String| {
        let diff: serde_json::Value = serde_json::from_str(diff).unwrap();
        diff["deleted_count"][1].as_i64().unwrap()
    };
    diffs.iter().map(count).collect()
}

#[tokio::test]
async fn an_empty_project_has_an_empty_run() {
    for_each_backend(async |database| {
        let app = start(database).await;
        assert!(!app.work_on_retention().await.unwrap());
        let preview = app.preview_retention(&project(), None).await.unwrap();
        assert_eq!((preview.counts.deleted(), preview.counts.kept(), preview.is_partial), (0, 0, false));
        let run = finish(&app, &begin(&app).await).await;
        assert_eq!((run.state, run.trigger, run.owner.as_str()), (RunState::Succeeded, Trigger::Call, "user:ada"));
        assert_eq!((run.counts.deleted(), run.counts.kept(), run.counts.journal_deleted), (0, 0, 0));
        let kinds: Vec<_> = journal_of(&app, "default").await.into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [ResourceKind::RetentionRunStarted, ResourceKind::RetentionRunEnded]);
        let nowhere = ProjectId::new("nowhere");
        let refused = app.run_retention(&caller(), &nowhere, None).await;
        assert!(matches!(refused, Err(Error::NotFound { kind: "project", .. })), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_task_goes_one_microsecond_past_its_age_and_not_before() {
    for_each_backend(async |database| {
        let app = start(database).await;
        set(&app, vec![rule(&[TaskState::Cancelled], "", "", 3_600 * SECOND)]).await;
        // What counts is when the run began.
        let run = begin(&app).await;
        let mut made = Vec::new();
        for (state, age) in [(TaskState::Succeeded, 30 * DAY), (TaskState::Cancelled, 3_600 * SECOND)] {
            let cut_off = run.create_time - age;
            made.extend([cut_off - 1, cut_off, cut_off + 1].map(|finish_time| Made::of(state, finish_time)));
        }
        let ids = make(&app, &made).await;
        let ended = finish(&app, &run).await;
        let mut kept = vec![ids[1], ids[2], ids[4], ids[5]];
        kept.sort();
        assert_eq!(left(&app).await, kept);
        let tallies: Vec<_> = ended.counts.tallies.iter().map(|tally| (tally.deleted, tally.kept)).collect();
        assert_eq!(tallies, [(1, 2), (1, 2)]);
    })
    .await;
}

/// Whether a name is like a pattern, the slow way.
fn is_like(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => is_like(&pattern[1..], text) || (!text.is_empty() && is_like(pattern, &text[1..])),
        (Some('?'), Some(_)) => is_like(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) if p == t => is_like(&pattern[1..], &text[1..]),
        _ => false,
    }
}

#[tokio::test]
async fn only_what_the_rules_say_goes_whatever_there_is() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let seed = rand::random();
        eprintln!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let patterns = ["", "*", "mail.*", "*.send", "report", "?*"];
        let ages = [0, 3_600 * SECOND, DAY, 10 * DAY, 40 * DAY];
        let mut rules = Vec::new();
        for _ in 0..random.random_range(0..6) {
            let mut states = vec![TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled];
            states.retain(|_| random.random_bool(0.6));
            let one = |random: &mut StdRng| *patterns.choose(random).unwrap();
            let (task_type, queue) = (one(&mut random), one(&mut random));
            rules.push(rule(&states, task_type, queue, *ages.choose(&mut random).unwrap()));
        }
        set(&app, rules.clone()).await;
        let run = begin(&app).await;
        let mut made = Vec::new();
        for _ in 0..1_500 {
            let state = *TaskState::ALL.choose(&mut random).unwrap();
            let finish_time = run.create_time - random.random_range(1..50 * DAY);
            made.push(Made {
                task_type: ["mail.send", "mail.check", "report"].choose(&mut random).unwrap(),
                queue: ["default", "mail.bulk", "report"].choose(&mut random).unwrap(),
                create_time: finish_time - random.random_range(0..DAY),
                has_letter: state == TaskState::Failed && random.random_bool(0.5),
                ..Made::of(state, finish_time)
            });
        }
        let ids = make(&app, &made).await;
        let goes = |made: &&Made| {
            let rule = rules.iter().find(|rule| {
                (rule.states.is_empty() || rule.states.contains(&made.state))
                    && (rule.task_type.is_empty() || is_like(&rule.task_type, made.task_type))
                    && (rule.queue.is_empty() || is_like(&rule.queue, made.queue))
            });
            let age = rule.map_or(30 * DAY, |rule| rule.age);
            made.state.is_final() && !made.has_letter && run.create_time - made.finish_time > age
        };
        let mut expected: Vec<_> = ids.iter().zip(&made).filter(|(_, made)| !goes(made)).map(|(id, _)| *id).collect();
        expected.sort();
        let gone = i64::try_from(ids.len() - expected.len()).unwrap();

        let preview = app.preview_retention(&project(), None).await.unwrap();
        assert_eq!(preview.counts.deleted(), gone);
        let ended = finish(&app, &run).await;
        assert_eq!(left(&app).await, expected);
        assert_eq!((ended.state, ended.counts.deleted(), ended.counts.busy), (RunState::Succeeded, gone, 0));
        assert_eq!(ended.counts.tallies, preview.counts.tallies);
        assert_eq!(ended.counts.open_dead_letters, preview.counts.open_dead_letters);
        assert_eq!(journalled(database, ResourceKind::RetentionPurged).await.iter().sum::<i64>(), gone);
        assert_eq!(orphans(database).await, 0);
        // There is nothing more to do.
        let again = finish(&app, &begin(&app).await).await;
        assert_eq!(left(&app).await.len(), expected.len() - usize::try_from(again.counts.deleted()).unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_run_that_was_left_alone_goes_on_from_its_cursor() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let run = begin(&app).await;
        make(&app, &vec![Made::of(TaskState::Succeeded, run.create_time - 31 * DAY); 50]).await;
        // Somebody takes it and is never heard of again.
        let mut tx = app.store().begin().await.unwrap();
        let mut lost = retention_runs::claim_next(&mut tx).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        assert!(!app.work_on_retention().await.unwrap());
        let second = app.run_retention(&caller(), &project(), None).await;
        assert!(matches!(second, Err(Error::StateConflict { state: "RUNNING", .. })), "{second:?}");

        app.store().shift_clock(Duration::from_secs(31));
        let ended = finish(&app, &run).await;
        assert_eq!((ended.state, ended.counts.deleted()), (RunState::Succeeded, 50));
        // It comes back, and finds that the run is no longer its own.
        let mut tx = app.store().begin().await.unwrap();
        assert!(!retention_runs::save(&mut tx, &mut lost).await.unwrap());
        tx.rollback().await;
        assert_eq!(left(&app).await, []);
    })
    .await;
}

#[tokio::test]
async fn a_task_that_cannot_be_deleted_does_not_keep_the_others() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let run = begin(&app).await;
        let old = Made::of(TaskState::Succeeded, run.create_time - 31 * DAY);
        let ids = make(&app, &vec![old; 40]).await;
        let mut beside = Beside::open(database).await;
        match database.backend() {
            Backend::Sqlite => {
                let stuck = ids[7].0.simple();
                beside
                    .run(&format!(
                        "CREATE TRIGGER stuck BEFORE DELETE ON task WHEN hex(OLD.id) = upper('{stuck}')
                         BEGIN SELECT RAISE(ABORT, 'stuck'); END"
                    ))
                    .await;
            }
            Backend::Postgres => {
                beside
                    .run(&format!(
                        "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS
                            $$ BEGIN RAISE EXCEPTION 'stuck'; END $$;
                         CREATE TRIGGER stuck BEFORE DELETE ON task FOR EACH ROW WHEN (OLD.id = '{}')
                            EXECUTE FUNCTION stuck()",
                        ids[7]
                    ))
                    .await;
            }
        }
        let ended = finish(&app, &run).await;
        assert_eq!((ended.state, ended.counts.deleted(), ended.counts.errors), (RunState::Failed, 39, 1));
        assert!(ended.error_message.contains(&ids[7].to_string()), "{}", ended.error_message);
        assert_eq!(left(&app).await, [ids[7]]);
        beside
            .run(if database.backend() == Backend::Sqlite {
                "DROP TRIGGER stuck"
            } else {
                "DROP TRIGGER stuck ON task"
            })
            .await;
        assert_eq!(finish(&app, &begin(&app).await).await.counts.deleted(), 1);
    })
    .await;
}

/// Where rows are locked one by one.
#[tokio::test]
async fn a_task_that_somebody_changes_is_left_for_the_next_run() {
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let app = start(&database).await;
    let run = begin(&app).await;
    let ids = make(&app, &vec![Made::of(TaskState::Succeeded, run.create_time - 31 * DAY); 3]).await;
    let mut beside = Beside::open(&database).await;
    beside.run(&format!("BEGIN; SELECT 1 FROM task WHERE id = '{}' FOR UPDATE", ids[1])).await;
    let ended = finish(&app, &run).await;
    assert_eq!((ended.state, ended.counts.deleted(), ended.counts.busy), (RunState::Succeeded, 2, 1));
    // It is opened again, as by a retry.
    beside.run(&format!("UPDATE task SET state = 1, finish_time = NULL WHERE id = '{}'; COMMIT", ids[1])).await;
    let ended = finish(&app, &begin(&app).await).await;
    assert_eq!((ended.counts.deleted(), ended.counts.kept()), (0, 0));
}

#[tokio::test]
async fn each_project_is_served_once_a_day_by_one_replica() {
    for_each_backend(async |database| {
        let app = start(database).await;
        // PostgreSQL has another replica; SQLite has one process.
        let url: DatabaseUrl = database.url().parse().unwrap();
        let mut apps = vec![app.clone()];
        if database.backend() == Backend::Postgres {
            for _ in 0..2 {
                apps.push(App::new(Store::open(&url).await.unwrap(), CancellationToken::new()));
            }
        }
        let tick = async || {
            futures_util::future::try_join_all(apps.iter().map(App::begin_daily_retention)).await.unwrap();
            futures_util::future::try_join_all(apps.iter().map(App::work_on_retention)).await.unwrap();
        };
        let shift =
            |hours: u64| apps.iter().for_each(|app| app.store().shift_clock(Duration::from_secs(hours * 3_600)));
        let runs = async || app.list_retention_runs(&project(), None, 100).await.unwrap().0;
        tick().await;
        assert_eq!(runs().await.len(), 0, "a project that is new waits for its first turn");
        let next = app.get_retention(&project()).await.unwrap().next_run_time;
        let now = app.store().now().await.unwrap();
        assert!(next > now && next <= now + DAY + 1_800 * SECOND);
        for day in 1..=3 {
            shift(24);
            for _ in 0..3 {
                tick().await;
            }
            assert_eq!(runs().await.len(), day);
        }
        // Days without a server are made up for once.
        shift(24 * 5);
        tick().await;
        let runs = runs().await;
        assert_eq!(runs.len(), 4);
        assert!(runs.iter().all(|run| run.state == RunState::Succeeded && run.trigger == Trigger::Daily));
        assert!(runs.iter().all(|run| run.owner == "system:retention"));
        // There is a bound on how many are kept, however young they are.
        let mut tx = app.store().begin().await.unwrap();
        retention_runs::forget(&mut tx, &project(), 0, 2, 10).await.unwrap();
        tx.commit().await.unwrap();
        let (kept, _) = app.list_retention_runs(&project(), None, 100).await.unwrap();
        assert_eq!(kept, runs[..2]);
    })
    .await;
}

/// A token to resume from, taken now.
async fn token(app: &App) -> String {
    let request = WatchRequest {
        filter: Filter::everything(),
        share: Share::All,
        task: None,
        resume_token: None,
        initial_state: false,
    };
    let mut watch = app.watch_tasks(&project(), request).await.unwrap();
    watch.next().await.unwrap().unwrap().resume_token
}

async fn resume(app: &App, token: &str) -> Result<i64, Error> {
    let request = WatchRequest {
        filter: Filter::everything(),
        share: Share::All,
        task: None,
        resume_token: Some(token.to_owned()),
        initial_state: false,
    };
    let mut watch = app.watch_tasks(&project(), request).await?;
    let first = watch.next().await.unwrap()?;
    assert!(first.items.iter().all(|item| matches!(item, WatchItem::Bookmark)));
    Ok(first.items.len() as i64)
}

#[tokio::test]
async fn a_watch_can_be_resumed_for_seven_days_and_the_journal_is_kept_for_ninety() {
    for_each_backend(async |database| {
        let app = start(database).await;
        // Each change of the rules is a row of the journal.
        let change = async |age: Micros| set(&app, vec![rule(&[], "", "", age)]).await;
        let days = |days: u64| app.store().shift_clock(Duration::from_secs(days * 86_400));
        change(DAY).await;
        let quiet = token(&app).await;
        days(20);
        assert!(resume(&app, &quiet).await.is_ok(), "nothing happened since, so nothing is missing");
        for age in 2..600 {
            change(age * SECOND).await;
        }
        let late = token(&app).await;
        days(6);
        assert!(resume(&app, &quiet).await.is_ok());
        days(2);
        assert!(resume(&app, &late).await.is_ok());
        let expired = resume(&app, &quiet).await;
        let last = journal::position(app.store(), &project()).await.unwrap().unwrap().last;
        let Err(Error::ResumeExpired { revision: 1, oldest }) = expired else { panic!("{expired:?}") };
        assert_eq!(oldest, last + 1, "nothing is young enough");
        change(DAY).await;
        let expired = resume(&app, &quiet).await;
        assert!(matches!(expired, Err(Error::ResumeExpired { oldest, .. }) if oldest == last + 1), "{expired:?}");

        // The rows themselves are kept for the audit.
        let run = finish(&app, &begin(&app).await).await;
        assert_eq!(run.counts.journal_deleted, 0);
        // 1 + 598 rows of the first 20 days become 90 days old, one by one piece.
        days(83);
        let (now, oldest) = (app.store().now().await.unwrap(), journal::position(app.store(), &project()).await);
        assert_eq!(oldest.unwrap().unwrap().oldest, 1);
        let preview = app.preview_retention(&project(), None).await.unwrap();
        assert_eq!(preview.counts.journal_deleted, 599);
        let run = finish(&app, &begin(&app).await).await;
        assert_eq!(run.counts.journal_deleted, 599);
        assert_eq!(journalled(database, ResourceKind::RetentionTrimmed).await, [500, 99]);
        let position = journal::position(app.store(), &project()).await.unwrap().unwrap();
        assert_eq!(position.oldest, 600);
        assert_eq!(history::first_since(app.store(), &project(), now - 90 * DAY).await.unwrap(), 600);
        let kept = journal::read(app.store(), &project(), 0, 10_000).await.unwrap();
        let revisions: Vec<_> = kept.iter().map(|event| event.revision).collect();
        assert_eq!(revisions, (600..=position.last).collect::<Vec<_>>());
        assert!(matches!(resume(&app, &late).await, Err(Error::ResumeExpired { .. })));
        // A run of the first day is forgotten with the journal.
        days(91);
        finish(&app, &begin(&app).await).await;
        assert_eq!(app.list_retention_runs(&project(), None, 10).await.unwrap().0.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn windows_and_the_daily_time_are_those_of_the_server() {
    let database = Database::sqlite();
    let url: DatabaseUrl = database.url().parse().unwrap();
    migrate::up(&url).await.unwrap();
    let daily = DailyTime::new("04:30", "Asia/Kathmandu").unwrap();
    let settings = RetentionSettings { history: 2 * DAY, feed: DAY, audit: 3 * DAY, daily };
    let app = App::with_retention(Store::open(&url).await.unwrap(), CancellationToken::new(), settings);
    let run = begin(&app).await;
    let age = |days: Micros| Made::of(TaskState::Succeeded, run.create_time - days * DAY);
    let ids = make(&app, &[age(3), age(1)]).await;
    finish(&app, &run).await;
    assert_eq!(left(&app).await, ids[1..]);
    let token = token(&app).await;
    set(&app, vec![rule(&[], "", "", 5)]).await;
    app.store().shift_clock(Duration::from_secs(86_400 + 60));
    assert!(matches!(resume(&app, &token).await, Err(Error::ResumeExpired { .. })));
}

#[tokio::test]
async fn the_database_stays_as_large_as_it_is() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let mut sizes = Vec::new();
        for _ in 0..6 {
            let run = begin(&app).await;
            let old = |state| Made { payload: 2_000, ..Made::of(state, run.create_time - 31 * DAY) };
            make(&app, &vec![old(TaskState::Succeeded); 1_500]).await;
            make(&app, &vec![old(TaskState::Cancelled); 500]).await;
            assert_eq!(finish(&app, &run).await.counts.deleted(), 2_000);
            sizes.push(Beside::open(database).await.size().await);
        }
        eprintln!("{}: bytes after each cycle {sizes:?}", database.backend());
        // The first cycles leave the free space that the others use.
        let (first, rest) = sizes.split_at(3);
        assert!(rest.iter().max() <= first.iter().map(|size| size * 110 / 100).max().as_ref(), "{sizes:?}");
    })
    .await;
}
