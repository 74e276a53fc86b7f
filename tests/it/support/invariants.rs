//! What must hold in a database whatever was killed around it, and against what clients were told.
//!
//! [`Inspector`] reads a project's rows with a connection of its own, past the product, in one transaction. [`check`]
//! compares them with each other and with a [`Known`] history. Each rule is a promise; a test damages a healthy database
//! once for each rule and expects it to be found (`flows/checker.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    str::FromStr,
};

use serde::{Deserialize, de::DeserializeOwned};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, Row as _, SqliteConnection,
    postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};
use tasktower::domain::audit::check::Bad;

use super::{
    backend::{Backend, Database},
    history::{Completion, Known, REQUEST_LABEL, Seen, Watched},
    seals,
};

/// A promise that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Revisions of a project are 1, 2, 3 … up to its counter.
    DenseRevisions,
    /// A task has one journal row for each version 1, 2, 3 … up to its own.
    OneRowPerVersion,
    /// A task is what its journal says.
    FoldOfJournal,
    /// The attempts of a task have the epochs 1, 2, 3 …, each ended as the journal says.
    DenseEpochs,
    /// An attempt that failed or timed out keeps what was decided about it, and its task went on as decided.
    DecisionsKept,
    /// A task waits, or runs, or is final: exactly one of them.
    OnePlace,
    /// The figures of a queue are what counting gives.
    QueueFigures,
    /// The lists of closed tasks hold those tasks and no others.
    ClosedLists,
    /// Every FAILED task, and no other, has one dead letter; each time one was retried is kept.
    DeadLetters,
    /// A unique key is held by the open task that has it.
    UniqueKeys,
    /// Each tick of a schedule that made a task has one of its own, and each task of a schedule has its tick.
    OneFiring,
    /// Every row of the journal that was sealed is as it was sealed.
    SealsHold,
    /// Nothing ends before its time: no lease, no attempt, no waiting task; and nothing is leased before its time.
    NothingTooSoon,
    /// Every acknowledged submit exists.
    SubmitsKept,
    /// One request made one task.
    OneEffect,
    /// Every acknowledged completion is the stored outcome, at most one for each task.
    CompletionsKept,
    /// Every task in an answer is a version of the journal.
    AnswersKept,
    /// Every watcher saw each row exactly once, in order.
    WatchersSawAll,
    /// Nobody was told what a well server never says.
    NoSurprise,
    /// After quiet, every task is final.
    NothingStuck,
    /// No connection of the product is idle inside a transaction for longer than a second.
    NoIdleTransaction,
}

impl Rule {
    pub const ALL: [Rule; 21] = [
        Rule::DenseRevisions,
        Rule::OneRowPerVersion,
        Rule::FoldOfJournal,
        Rule::DenseEpochs,
        Rule::DecisionsKept,
        Rule::OnePlace,
        Rule::QueueFigures,
        Rule::ClosedLists,
        Rule::DeadLetters,
        Rule::UniqueKeys,
        Rule::OneFiring,
        Rule::SealsHold,
        Rule::NothingTooSoon,
        Rule::SubmitsKept,
        Rule::OneEffect,
        Rule::CompletionsKept,
        Rule::AnswersKept,
        Rule::WatchersSawAll,
        Rule::NoSurprise,
        Rule::NothingStuck,
        Rule::NoIdleTransaction,
    ];
}

/// A promise that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub text: String,
}

/// Most violations printed; one broken rule often shows in every task.
const SHOWN: usize = 20;

/// The numbers of the database, which are those of the wire.
mod number {
    pub const PENDING: i64 = 1;
    pub const RUNNING: i64 = 2;
    pub const RETRYING: i64 = 3;
    pub const SUCCEEDED: i64 = 4;
    pub const FAILED: i64 = 5;
    pub const CANCELLED: i64 = 6;

    pub const SUBMITTED: i64 = 1;
    pub const LEASED: i64 = 2;
    pub const LEASE_EXPIRED: i64 = 7;
    pub const TIMED_OUT: i64 = 8;
    pub const EXPIRED: i64 = 9;
    pub const RETRIED: i64 = 13;
    pub const DELETED: i64 = 15;
    pub const RETENTION_PURGED: i64 = 142;
}
use number::{
    CANCELLED, DELETED, EXPIRED, FAILED, LEASE_EXPIRED, LEASED, PENDING, RETENTION_PURGED, RETRIED, RETRYING, RUNNING,
    SUBMITTED, SUCCEEDED, TIMED_OUT,
};

/// The label of tasks that schedules made.
const SCHEDULE_LABEL: &str = "\"tasktower/schedule\"";

/// The timeout of an attempt unless its task says another, in microseconds.
const DEFAULT_TIMEOUT: i64 = 3_600 * 1_000_000;

/// The outcome of the attempt that a journal row of this kind ends; none if it ends none.
fn outcome_of(kind: i64) -> Option<i64> {
    match kind {
        // COMPLETED, FAILED, RELEASED, LEASE_EXPIRED, TIMED_OUT, CANCELLED.
        4 => Some(2),
        5 => Some(3),
        6 => Some(4),
        7 => Some(5),
        8 => Some(6),
        12 => Some(7),
        _ => None,
    }
}

/// The states a journal row of this kind leads from and to; no state before a submit.
fn allows(kind: i64, from: Option<i64>, to: i64) -> bool {
    const WAITING: [i64; 2] = [PENDING, RETRYING];
    let Some(from) = from else { return kind == SUBMITTED && to == PENDING };
    let same = from == to;
    match kind {
        LEASED => WAITING.contains(&from) && to == RUNNING,
        // PROGRESSED, CANCEL_REQUESTED.
        3 | 11 => from == RUNNING && same,
        // COMPLETED.
        4 => from == RUNNING && to == SUCCEEDED,
        // FAILED, TIMED_OUT.
        5 | 8 => from == RUNNING && [RETRYING, FAILED].contains(&to),
        // RELEASED.
        6 => from == RUNNING && WAITING.contains(&to),
        // LEASE_EXPIRED.
        7 => from == RUNNING && (WAITING.contains(&to) || to == FAILED),
        // EXPIRED.
        9 => WAITING.contains(&from) && to == FAILED,
        // UPDATED: labels may change in every state.
        10 => same,
        // RUN_NOW.
        14 => WAITING.contains(&from) && same,
        // CANCELLED.
        12 => (WAITING.contains(&from) || from == RUNNING) && to == CANCELLED,
        // RETRIED.
        13 => [FAILED, CANCELLED].contains(&from) && to == PENDING,
        DELETED => same && from > RETRYING,
        _ => false,
    }
}

/// The rows of one project, as they were at one moment.
#[derive(Debug)]
pub struct Facts {
    counter: i64,
    tasks: BTreeMap<String, TaskRow>,
    ready: BTreeMap<String, ReadyRow>,
    leases: BTreeMap<String, LeaseRow>,
    attempts: BTreeMap<String, Vec<AttemptRow>>,
    /// In revision order.
    journal: Vec<JournalRow>,
    figures: BTreeMap<String, Figures>,
    closed: BTreeSet<(String, i64)>,
    dead_letters: BTreeSet<String>,
    /// Numbers of the replays of each dead letter, in order.
    replays: BTreeMap<String, Vec<i64>>,
    unique_keys: Vec<UniqueKeyRow>,
    /// The tasks that ticks of schedules made.
    fired: Vec<String>,
    /// The first row that is not as it was sealed.
    tampered: Option<Bad>,
    /// Tasks that retention deleted: it says how many, not which. They are final in the journal, and gone.
    purged: BTreeSet<String>,
    /// How many its journal rows say.
    purged_count: i64,
    /// Connections that are idle inside a transaction, by their last statement.
    pub idle_in_transaction: Vec<String>,
}

// Each struct is read from a JSON array, so its fields are in the order of the columns.

#[derive(Debug, Deserialize)]
struct TaskRow {
    id: String,
    queue: String,
    task_type: String,
    state: i64,
    version: i64,
    epoch: i64,
    attempt_count: i64,
    crash_count: i64,
    labels: Option<String>,
    unique_key: Option<String>,
    unique_ttl: Option<i64>,
    result: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ReadyRow {
    id: String,
    queue: String,
    due: i64,
    state: i64,
    version: i64,
    epoch: i64,
    attempt_count: i64,
    crash_count: i64,
}

#[derive(Debug, Deserialize)]
struct LeaseRow {
    id: String,
    queue: String,
    version: i64,
    epoch: i64,
    attempt_count: i64,
    crash_count: i64,
}

#[derive(Debug, Deserialize)]
struct AttemptRow {
    id: String,
    epoch: i64,
    outcome: i64,
    verdict: Option<i64>,
    retry_time: Option<i64>,
    number: Option<i64>,
}

impl AttemptRow {
    /// Whether what is kept of the decision leads to this state: nothing where nothing is to be decided.
    fn is_decided_as(&self, to: i64) -> bool {
        const FAILED_OR_TIMED_OUT: [i64; 2] = [3, 6];
        const RETRY_OR_SNOOZE: [Option<i64>; 2] = [Some(1), Some(2)];
        const DEAD_LETTER: Option<i64> = Some(3);
        if !FAILED_OR_TIMED_OUT.contains(&self.outcome) {
            return self.retry_time.is_none();
        }
        let is_counted = self.number.is_some_and(|number| number > 0);
        let goes_on = RETRY_OR_SNOOZE.contains(&self.verdict) && self.retry_time.is_some() && to == RETRYING;
        let ends = self.verdict == DEAD_LETTER && self.retry_time.is_none() && to == FAILED;
        is_counted && (goes_on || ends)
    }
}

#[derive(Debug, Deserialize)]
struct JournalRow {
    revision: i64,
    time: i64,
    kind: i64,
    task: Option<String>,
    version: i64,
    from_state: Option<i64>,
    to_state: Option<i64>,
    snapshot: Option<String>,
    diff: Option<String>,
}

/// What the journal keeps of a task.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Snapshot {
    queue: String,
    state: i64,
    epoch: i64,
    attempt_count: i64,
    crash_count: i64,
    run_time: i64,
    expire_time: Option<i64>,
    timeout: Option<i64>,
    lease: Option<LeaseSnapshot>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct LeaseSnapshot {
    start_time: i64,
    expire_time: i64,
}

#[derive(Debug, Deserialize)]
struct FiguresRow {
    name: String,
    figures: [i64; 7],
}

/// ready, delayed, running; submitted, leased, succeeded, failed.
type Figures = [i64; 7];

#[derive(Debug, Deserialize)]
struct UniqueKeyRow {
    task_type: String,
    key: String,
    task: String,
}

/// Where a task is, read from whichever row says it.
#[derive(Debug, PartialEq)]
struct Now {
    state: i64,
    version: i64,
    epoch: i64,
    attempt_count: i64,
    crash_count: i64,
}

/// A connection past the product.
pub struct Inspector {
    connection: Connection,
}

enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Inspector {
    pub async fn open(database: &Database) -> Inspector {
        let connection = match database.backend() {
            Backend::Sqlite => {
                let options = SqliteConnectOptions::from_str(database.url()).expect("a SQLite URL");
                Connection::Sqlite(options.connect().await.expect("the database file opens"))
            }
            Backend::Postgres => {
                let options = PgConnectOptions::from_str(database.url()).expect("a PostgreSQL URL");
                let options = options.options([("search_path", "tasktower")]);
                Connection::Postgres(options.connect().await.expect("PostgreSQL accepts a connection"))
            }
        };
        Inspector { connection }
    }

    /// Reads everything of a project, as it is at one moment.
    pub async fn facts(&mut self, project: &str) -> Facts {
        self.facts_after(project, &[]).await
    }

    /// The same after doing some damage, which is undone again.
    pub async fn facts_after(&mut self, project: &str, damage: &[String]) -> Facts {
        self.run(match self.connection {
            Connection::Sqlite(_) => "BEGIN",
            Connection::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        })
        .await;
        for statement in damage {
            assert!(self.run(statement).await > 0, "no row was damaged by {statement}");
        }
        let facts = self.read(project).await;
        self.run("ROLLBACK").await;
        facts
    }

    /// How many tasks wait or run.
    pub async fn open_tasks(&mut self, project: &str) -> i64 {
        let select = "SELECT {array}((SELECT count(*) FROM ready WHERE project = $1), \
                      (SELECT count(*) FROM lease WHERE project = $1))";
        let counts: Vec<(i64, i64)> = self.rows(project, select).await;
        counts.first().map_or(0, |(ready, leased)| ready + leased)
    }

    /// The revision of the last journal row about a task; 0 if there is none.
    pub async fn last_task_revision(&mut self, project: &str) -> i64 {
        let select =
            "SELECT {array}(COALESCE(max(revision), 0)) FROM journal WHERE project = $1 AND task_id IS NOT NULL";
        let revisions: Vec<(i64,)> = self.rows(project, select).await;
        revisions.first().map_or(0, |(revision,)| *revision)
    }

    /// Connections of the product that have been idle inside a transaction for longer than a second. SQLite has none.
    pub async fn idle_in_transaction(&mut self) -> Vec<String> {
        let Connection::Postgres(connection) = &mut self.connection else { return Vec::new() };
        let select = "SELECT query FROM pg_stat_activity WHERE datname = current_database() \
                      AND application_name = 'tasktower' AND state LIKE 'idle in transaction%' \
                      AND state_change < clock_timestamp() - interval '1 s'";
        sqlx::query_scalar(select).fetch_all(connection).await.expect("pg_stat_activity reads")
    }

    async fn read(&mut self, project: &str) -> Facts {
        let counter = "SELECT {array}(revision, oldest) FROM counter WHERE project = $1";
        let counter: Vec<(i64, i64)> = self.rows(project, counter).await;
        let counter = counter.first().copied().unwrap_or((0, 1));
        let (whole, sealed) = (self.rows(project, seals::ROWS).await, self.rows(project, seals::SEALS).await);
        let tasks = "SELECT {array}({hex:id}, queue, type, state, version, epoch, attempt_count, crash_count, labels, \
                     unique_key, unique_ttl, {hex:result}) FROM task WHERE project = $1";
        let ready = "SELECT {array}({hex:id}, queue, CASE WHEN due THEN 1 ELSE 0 END, state, version, epoch, \
                     attempt_count, crash_count) FROM ready WHERE project = $1";
        let leases = "SELECT {array}({hex:id}, queue, version, epoch, attempt_count, crash_count) FROM lease \
                      WHERE project = $1";
        // The attempt that succeeded is kept with its task.
        let attempts = "SELECT {array}({hex:task_id}, epoch, outcome, verdict, retry_time, number) FROM (\
                        SELECT project, task_id, epoch, outcome, verdict, retry_time, number FROM attempt \
                        UNION ALL SELECT project, id, epoch, 2, NULL, NULL, NULL FROM task \
                        WHERE success_worker IS NOT NULL) AS ended WHERE project = $1 ORDER BY epoch";
        let journal = "SELECT {array}(revision, time, kind, {hex:task_id}, version, from_state, to_state, snapshot, \
                       CASE WHEN kind = 142 THEN diff END) FROM journal WHERE project = $1 ORDER BY revision";
        let figures = "SELECT {array}(name, {array}(ready, delayed, running, submitted, leased, succeeded, failed)) \
                       FROM queue_stat WHERE project = $1";
        let unique_keys = "SELECT {array}(type, key, {hex:task_id}) FROM unique_key WHERE project = $1";
        // All states but SKIPPED and MISSED. Occurrences know their project by their schedule, which may be deleted.
        let fired = "SELECT {array}({hex:task_id}) FROM occurrence \
                     WHERE state NOT IN (2, 3) AND task_id IS NOT NULL AND $1 <> ''";
        let mut by_task: BTreeMap<String, Vec<AttemptRow>> = BTreeMap::new();
        for row in self.rows::<AttemptRow>(project, attempts).await {
            by_task.entry(row.id.clone()).or_default().push(row);
        }
        let mut facts = Facts {
            counter: counter.0,
            tasks: self.rows(project, tasks).await.into_iter().map(|row: TaskRow| (row.id.clone(), row)).collect(),
            ready: self.rows(project, ready).await.into_iter().map(|row: ReadyRow| (row.id.clone(), row)).collect(),
            leases: self.rows(project, leases).await.into_iter().map(|row: LeaseRow| (row.id.clone(), row)).collect(),
            attempts: by_task,
            journal: self.rows(project, journal).await,
            figures: self
                .rows(project, figures)
                .await
                .into_iter()
                .map(|row: FiguresRow| (row.name, row.figures))
                .collect(),
            closed: self
                .rows(project, "SELECT {array}({hex:id}, state) FROM closed WHERE project = $1")
                .await
                .into_iter()
                .collect(),
            dead_letters: self
                .rows(project, "SELECT {array}({hex:task_id}) FROM dead_letter WHERE project = $1")
                .await
                .into_iter()
                .map(|(task,): (String,)| task)
                .collect(),
            replays: {
                let replays = "SELECT {array}({hex:task_id}, number) FROM replay WHERE project = $1 ORDER BY number";
                let mut by_task: BTreeMap<String, Vec<i64>> = BTreeMap::new();
                for (task, number) in self.rows::<(String, i64)>(project, replays).await {
                    by_task.entry(task).or_default().push(number);
                }
                by_task
            },
            unique_keys: self.rows(project, unique_keys).await,
            fired: self.rows(project, fired).await.into_iter().map(|(task,): (String,)| task).collect(),
            tampered: seals::first_bad(project, counter, whole, sealed),
            purged: BTreeSet::new(),
            purged_count: 0,
            idle_in_transaction: self.idle_in_transaction().await,
        };
        facts.find_purged();
        facts
    }

    /// Runs a query whose rows are one JSON array each, which both databases can make.
    async fn rows<T: DeserializeOwned>(&mut self, project: &str, select: &str) -> Vec<T> {
        let texts: Vec<String> = match &mut self.connection {
            Connection::Sqlite(connection) => {
                // hex(NULL) is '' on SQLite.
                let hex = |column: &str| format!("CASE WHEN {column} IS NOT NULL THEN lower(hex({column})) END");
                let select = fill(select, "json_array", hex);
                let rows = sqlx::query(AssertSqlSafe(select)).bind(project).fetch_all(connection).await;
                rows.expect("SQLite reads").iter().map(|row| row.get(0)).collect()
            }
            Connection::Postgres(connection) => {
                let select = fill(select, "json_build_array", |column| {
                    let bytes = if column.ends_with("id") { format!("uuid_send({column})") } else { column.to_owned() };
                    format!("encode({bytes}, 'hex')")
                });
                // A JSON column as text, so that one decoder reads both.
                let select = format!("SELECT x::text FROM ({}) AS x(x)", select);
                let rows = sqlx::query(AssertSqlSafe(select)).bind(project).fetch_all(connection).await;
                rows.expect("PostgreSQL reads").iter().map(|row| row.get(0)).collect()
            }
        };
        let decode = |text: &String| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        texts.iter().map(decode).collect()
    }

    async fn run(&mut self, statement: &str) -> u64 {
        let statement = AssertSqlSafe(statement.to_owned());
        let rows = match &mut self.connection {
            Connection::Sqlite(c) => sqlx::raw_sql(statement).execute(c).await.map(|done| done.rows_affected()),
            Connection::Postgres(c) => sqlx::raw_sql(statement).execute(c).await.map(|done| done.rows_affected()),
        };
        rows.expect("the statement runs")
    }

    pub async fn close(self) {
        // It is gone either way.
        let _ = match self.connection {
            Connection::Sqlite(connection) => connection.close().await,
            Connection::Postgres(connection) => connection.close().await,
        };
    }
}

/// Fills in what the databases call differently: `{array}`, `{hex:COLUMN}`.
fn fill(select: &str, array: &str, hex: impl Fn(&str) -> String) -> String {
    let mut filled = select.replace("{array}", array);
    while let Some(start) = filled.find("{hex:") {
        let Some(length) = filled[start..].find('}') else { break };
        let column = hex(&filled[start + "{hex:".len()..start + length]);
        filled.replace_range(start..=start + length, &column);
    }
    filled
}

/// When the rows are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Work goes on.
    Busy,
    /// Nobody submits any more, and workers had the time to finish everything.
    Quiet,
}

/// Everything that is wrong.
pub fn check(facts: &Facts, known: &Known, when: When) -> Vec<Violation> {
    let mut found = Found::default();
    let by_task = facts.journal_by_task();
    facts.check_revisions(&mut found);
    facts.check_tasks(&by_task, &mut found);
    facts.check_places(&mut found);
    facts.check_figures(&mut found);
    facts.check_lists(&mut found);
    facts.check_dead_letters(&mut found);
    facts.check_unique_keys(&mut found);
    facts.check_firings(&mut found);
    if let Some(bad) = &facts.tampered {
        found.add(Rule::SealsHold, &bad.description);
    }
    facts.check_times(&by_task, &mut found);
    facts.check_submits(known, &by_task, &mut found);
    facts.check_completions(known, &mut found);
    for (task, version, state) in &known.answers {
        let row = by_task.get(task.as_str()).and_then(|rows| rows.iter().find(|row| row.version == *version));
        found.unless(row.is_some_and(|row| row.to_state == Some(*state)), Rule::AnswersKept, || {
            format!("task {task} was answered in version {version}, state {state}; the journal has {row:?}")
        });
    }
    for (name, watched) in &known.watches {
        facts.check_watch(name, watched, when, &mut found);
    }
    for surprise in &known.surprises {
        found.add(Rule::NoSurprise, surprise);
    }
    for statement in &facts.idle_in_transaction {
        found.add(Rule::NoIdleTransaction, format!("a connection is idle in a transaction after: {statement}"));
    }
    if when == When::Quiet {
        for id in facts.ready.keys().chain(facts.leases.keys()) {
            found.add(Rule::NothingStuck, format!("task {id} is not final: {:?}", facts.now(id)));
        }
    }
    found.violations
}

/// Panics with what is wrong, if anything is.
pub fn assert_holds(facts: &Facts, known: &Known, when: When) {
    let violations = check(facts, known, when);
    let shown: Vec<String> =
        violations.iter().take(SHOWN).map(|violation| format!("{:?}: {}", violation.rule, violation.text)).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), shown.join("\n"));
}

#[derive(Default)]
struct Found {
    violations: Vec<Violation>,
}

impl Found {
    fn add(&mut self, rule: Rule, text: impl Display) {
        self.violations.push(Violation { rule, text: text.to_string() });
    }

    fn unless(&mut self, holds: bool, rule: Rule, text: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, text());
        }
    }
}

type ByTask<'a> = BTreeMap<&'a str, Vec<&'a JournalRow>>;

impl Facts {
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    pub fn last_revision(&self) -> i64 {
        self.counter
    }

    /// How many tasks are final, by state number.
    pub fn count_in_state(&self, state: i64) -> usize {
        self.tasks.keys().filter(|id| self.now(id).is_some_and(|now| now.state == state)).count()
    }

    /// The most tasks of a queue that ran at a time, by the journal.
    pub fn most_running(&self, queue: &str) -> i64 {
        let (mut running, mut most) = (0_i64, 0);
        for row in self.journal_of(queue) {
            running += i64::from(row.to_state == Some(RUNNING)) - i64::from(row.from_state == Some(RUNNING));
            most = most.max(running);
        }
        most
    }

    /// When tasks of a queue were leased, in microseconds, in order.
    pub fn lease_times(&self, queue: &str) -> Vec<i64> {
        self.journal_of(queue).filter(|row| row.kind == LEASED).map(|row| row.time).collect()
    }

    fn journal_of(&self, queue: &str) -> impl Iterator<Item = &JournalRow> {
        self.journal.iter().filter(move |row| {
            let snapshot = row.snapshot.as_deref().and_then(|text| serde_json::from_str::<Snapshot>(text).ok());
            snapshot.is_some_and(|snapshot| snapshot.queue == queue)
        })
    }

    fn journal_by_task(&self) -> ByTask<'_> {
        let mut by_task = ByTask::new();
        for row in &self.journal {
            if let Some(task) = &row.task {
                by_task.entry(task).or_default().push(row);
            }
        }
        by_task
    }

    fn now(&self, id: &str) -> Option<Now> {
        if let Some(l) = self.leases.get(id) {
            let (attempt_count, crash_count) = (l.attempt_count, l.crash_count);
            return Some(Now { state: RUNNING, version: l.version, epoch: l.epoch, attempt_count, crash_count });
        }
        if let Some(r) = self.ready.get(id) {
            let (attempt_count, crash_count) = (r.attempt_count, r.crash_count);
            return Some(Now { state: r.state, version: r.version, epoch: r.epoch, attempt_count, crash_count });
        }
        self.tasks.get(id).map(|t| Now {
            state: t.state,
            version: t.version,
            epoch: t.epoch,
            attempt_count: t.attempt_count,
            crash_count: t.crash_count,
        })
    }

    fn find_purged(&mut self) {
        let diffs =
            self.journal.iter().filter(|row| row.kind == RETENTION_PURGED).filter_map(|row| row.diff.as_deref());
        let counts = diffs.map(|diff| {
            let diff: serde_json::Value = serde_json::from_str(diff).expect("JSON");
            diff["deleted_count"][1].as_i64().expect("a number")
        });
        self.purged_count = counts.sum();
        if self.purged_count == 0 {
            return;
        }
        let by_task = self.journal_by_task();
        let is_final = |row: &&&JournalRow| row.kind != DELETED && row.to_state.is_some_and(|state| state > RETRYING);
        let ended = by_task.iter().filter(|(_, rows)| rows.last().filter(is_final).is_some());
        self.purged = ended.filter(|(id, _)| !self.tasks.contains_key(**id)).map(|(id, _)| (*id).to_owned()).collect();
    }

    /// How many tasks retention deleted.
    pub fn purged_count(&self) -> i64 {
        self.purged_count
    }

    fn check_revisions(&self, found: &mut Found) {
        for (row, expected) in self.journal.iter().zip(1..) {
            if row.revision != expected {
                found.add(Rule::DenseRevisions, format!("revision {expected} is missing before {}", row.revision));
                break;
            }
        }
        let rows = self.journal.len() as i64;
        found.unless(rows == self.counter, Rule::DenseRevisions, || {
            format!("{rows} rows, but the counter says {}", self.counter)
        });
    }

    fn check_tasks(&self, by_task: &ByTask<'_>, found: &mut Found) {
        found.unless(self.purged.len() as i64 == self.purged_count, Rule::FoldOfJournal, || {
            format!("{} final tasks are gone, of retention the journal says {}", self.purged.len(), self.purged_count)
        });
        for id in self.tasks.keys().filter(|id| !by_task.contains_key(id.as_str())) {
            found.add(Rule::OneRowPerVersion, format!("task {id} has no journal row"));
        }
        for (&id, rows) in by_task {
            let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
            found.unless(versions == (1..=versions.len() as i64).collect::<Vec<_>>(), Rule::OneRowPerVersion, || {
                format!("task {id} has the versions {versions:?}")
            });
            self.check_story(id, rows, found);
        }
    }

    /// Follows a task through its journal.
    fn check_story(&self, id: &str, rows: &[&JournalRow], found: &mut Found) {
        let mut state = None;
        let mut epoch = 0;
        let mut ended: Vec<(i64, i64)> = Vec::new();
        let mut went_on: Vec<i64> = Vec::new();
        let mut last = Snapshot::default();
        for row in rows {
            let to = row.to_state.unwrap_or_default();
            let text = row.snapshot.as_deref().unwrap_or("{}");
            match serde_json::from_str::<Snapshot>(text) {
                Ok(snapshot) => last = snapshot,
                Err(error) => found.add(Rule::FoldOfJournal, format!("task {id} v{}: {error}", row.version)),
            }
            epoch += i64::from(row.kind == LEASED);
            let follows = row.from_state == state && allows(row.kind, row.from_state, to);
            found.unless(follows && last.state == to && last.epoch == epoch, Rule::FoldOfJournal, || {
                format!("task {id} v{} does not follow on state {state:?}, epoch {epoch}: {row:?}", row.version)
            });
            if row.from_state == Some(RUNNING)
                && let Some(outcome) = outcome_of(row.kind)
            {
                ended.push((epoch, outcome));
                went_on.push(to);
            }
            state = Some(to);
        }
        let deleted = rows.last().is_some_and(|row| row.kind == DELETED) || self.purged.contains(id);
        let version = rows.last().map_or(0, |row| row.version);
        let Snapshot { state, epoch: _, attempt_count, crash_count, .. } = last;
        let folded = (!deleted).then_some(Now { state, version, epoch, attempt_count, crash_count });
        let now = self.now(id);
        found.unless(now == folded, Rule::FoldOfJournal, || {
            format!("task {id} is {now:?}, its journal says {folded:?}")
        });
        let attempts = self.attempts.get(id).map(Vec::as_slice).unwrap_or_default();
        for (attempt, to) in attempts.iter().zip(&went_on) {
            found.unless(attempt.is_decided_as(*to), Rule::DecisionsKept, || {
                format!("task {id} went on to state {to} after {attempt:?}")
            });
        }
        let attempts: Vec<(i64, i64)> = attempts.iter().map(|a| (a.epoch, a.outcome)).collect();
        found.unless(deleted || attempts == ended, Rule::DenseEpochs, || {
            format!("task {id} has the attempts {attempts:?}, its journal says {ended:?}")
        });
        let open = i64::from(self.leases.contains_key(id));
        let expected: Vec<i64> = (1..=epoch - open).collect();
        found.unless(deleted || attempts.iter().map(|a| a.0).eq(expected), Rule::DenseEpochs, || {
            format!("task {id} at epoch {epoch} has the attempts {attempts:?}")
        });
    }

    fn check_places(&self, found: &mut Found) {
        for (id, task) in &self.tasks {
            let is_final = [SUCCEEDED, FAILED, CANCELLED].contains(&task.state);
            let places = [is_final, self.ready.contains_key(id), self.leases.contains_key(id)];
            found.unless(places.iter().filter(|there| **there).count() == 1, Rule::OnePlace, || {
                format!("task {id}: final, ready, leased = {places:?}")
            });
        }
        for id in self.ready.keys().chain(self.leases.keys()).chain(self.attempts.keys()) {
            found.unless(self.tasks.contains_key(id), Rule::OnePlace, || format!("no task {id}, but a part of one"));
        }
    }

    fn check_figures(&self, found: &mut Found) {
        let mut counted: BTreeMap<&str, Figures> = BTreeMap::new();
        for row in self.ready.values() {
            counted.entry(&row.queue).or_default()[if row.due == 1 { 0 } else { 1 }] += 1;
        }
        for row in self.leases.values() {
            counted.entry(&row.queue).or_default()[2] += 1;
        }
        let queues: Vec<Snapshot> = self
            .journal
            .iter()
            .map(|row| serde_json::from_str(row.snapshot.as_deref().unwrap_or("{}")).unwrap_or_default())
            .collect();
        for (row, snapshot) in self.journal.iter().zip(&queues) {
            // SUBMITTED, LEASED, COMPLETED; FAILED, LEASE_EXPIRED and TIMED_OUT.
            let place = match row.kind {
                SUBMITTED => 3,
                LEASED => 4,
                4 => 5,
                5 | 7 | 8 => 6,
                _ => continue,
            };
            counted.entry(&snapshot.queue).or_default()[place] += 1;
        }
        let names: BTreeSet<&str> = counted.keys().copied().chain(self.figures.keys().map(String::as_str)).collect();
        for name in names {
            let counted = counted.get(name).copied().unwrap_or_default();
            let stored = self.figures.get(name).copied().unwrap_or_default();
            found.unless(counted == stored, Rule::QueueFigures, || {
                format!(
                    "queue {name} (ready, delayed, running; submitted, leased, succeeded, failed): stored {stored:?}, \
                     counted {counted:?}"
                )
            });
        }
    }

    fn check_lists(&self, found: &mut Found) {
        let in_state = |state: i64| {
            let is_there = move |task: &&TaskRow| task.state == state;
            self.tasks.values().filter(is_there).map(move |task| (task.id.clone(), state))
        };
        let closed: BTreeSet<_> = in_state(FAILED).chain(in_state(CANCELLED)).collect();
        for (id, state) in closed.symmetric_difference(&self.closed) {
            found.add(Rule::ClosedLists, format!("task {id} in state {state} is listed in one place only"));
        }
    }

    /// An entry is OPEN or PROCESSED exactly while its task is FAILED, and was retried as often as the journal says.
    fn check_dead_letters(&self, found: &mut Found) {
        let failed: BTreeSet<String> =
            self.tasks.values().filter(|task| task.state == FAILED).map(|task| task.id.clone()).collect();
        for id in failed.symmetric_difference(&self.dead_letters) {
            found.add(Rule::DeadLetters, format!("task {id} is FAILED or a dead letter, not both"));
        }
        let mut retried: BTreeMap<&str, i64> = BTreeMap::new();
        for row in self.journal.iter().filter(|row| row.kind == RETRIED && row.from_state == Some(FAILED)) {
            let Some(id) = &row.task else { continue };
            // A replay goes with its task.
            if self.tasks.contains_key(id) {
                *retried.entry(id).or_default() += 1;
            }
        }
        let ids: BTreeSet<&str> = retried.keys().copied().chain(self.replays.keys().map(String::as_str)).collect();
        for id in ids {
            let expected: Vec<i64> = (1..=retried.get(id).copied().unwrap_or(0)).collect();
            let kept = self.replays.get(id).cloned().unwrap_or_default();
            found.unless(kept == expected, Rule::DeadLetters, || {
                format!("the dead letter of task {id} was retried {expected:?}, and {kept:?} are kept")
            });
        }
    }

    fn check_firings(&self, found: &mut Found) {
        let mut fired: BTreeSet<&str> = BTreeSet::new();
        for task in &self.fired {
            found.unless(fired.insert(task), Rule::OneFiring, || format!("task {task} is of two ticks"));
        }
        let is_of_schedule = |task: &&TaskRow| task.labels.as_ref().is_some_and(|l| l.contains(SCHEDULE_LABEL));
        for task in self.tasks.values().filter(is_of_schedule) {
            let id = &task.id;
            found.unless(fired.contains(id.as_str()), Rule::OneFiring, || format!("task {id} is of no tick"));
        }
    }

    fn check_unique_keys(&self, found: &mut Found) {
        let mut held = BTreeMap::new();
        for row in &self.unique_keys {
            held.insert((row.task_type.as_str(), row.key.as_str()), row.task.as_str());
            let holder = self.tasks.get(&row.task);
            let fits = holder.is_some_and(|t| t.task_type == row.task_type && t.unique_key.as_ref() == Some(&row.key));
            let open = self.now(&row.task).is_some_and(|now| now.state <= RETRYING);
            found.unless(fits && open, Rule::UniqueKeys, || {
                format!("{} holds {} of {} and should not", row.task, row.key, row.task_type)
            });
        }
        // A task whose key has a life of its own may have lost it.
        for task in self.tasks.values().filter(|task| task.unique_ttl.is_none()) {
            let Some(key) = &task.unique_key else { continue };
            let open = self.now(&task.id).is_some_and(|now| now.state <= RETRYING);
            let holder = held.get(&(task.task_type.as_str(), key.as_str())).copied();
            found.unless(!open || holder == Some(task.id.as_str()), Rule::UniqueKeys, || {
                format!("task {} is open, but {holder:?} holds its key {key}", task.id)
            });
        }
    }

    /// What ended by itself did so at its time, and what was leased was due. A heartbeat moves the end of a lease and
    /// leaves no row, so the journal knows the soonest.
    fn check_times(&self, by_task: &ByTask<'_>, found: &mut Found) {
        let snapshot = |row: &JournalRow| {
            let text = row.snapshot.as_deref().unwrap_or("{}");
            serde_json::from_str::<Snapshot>(text).unwrap_or_default()
        };
        for (id, rows) in by_task {
            for pair in rows.windows(2) {
                let (before, row) = (snapshot(pair[0]), pair[1]);
                let lease = before.lease.unwrap_or_default();
                let not_before = match row.kind {
                    LEASED => before.run_time,
                    LEASE_EXPIRED => lease.expire_time,
                    TIMED_OUT => {
                        let deadline = lease.start_time + before.timeout.unwrap_or(DEFAULT_TIMEOUT);
                        before.expire_time.map_or(deadline, |time| time.min(deadline))
                    }
                    EXPIRED => before.expire_time.unwrap_or(i64::MAX),
                    _ => continue,
                };
                found.unless(row.time >= not_before, Rule::NothingTooSoon, || {
                    format!("task {id} v{}: not before {not_before}, but {row:?}", row.version)
                });
            }
        }
    }

    fn check_submits(&self, known: &Known, by_task: &ByTask<'_>, found: &mut Found) {
        for (request, task) in &known.submits {
            let deleted = by_task.get(task.as_str()).and_then(|rows| rows.last()).is_some_and(|r| r.kind == DELETED);
            let deleted = deleted || self.purged.contains(task);
            found.unless(deleted || self.tasks.contains_key(task), Rule::SubmitsKept, || {
                format!("request {request} was acknowledged as {task}, which does not exist")
            });
        }
        let mut made: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for task in self.tasks.values() {
            let labels: BTreeMap<String, String> =
                task.labels.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            if let Some(request) = labels.get(REQUEST_LABEL) {
                made.entry(request.clone()).or_default().push(&task.id);
            }
        }
        for (request, tasks) in made {
            found.unless(tasks.len() == 1, Rule::OneEffect, || format!("request {request} made {tasks:?}"));
        }
    }

    fn check_completions(&self, known: &Known, found: &mut Found) {
        for (task, completions) in known.completions.iter().filter(|(task, _)| !self.purged.contains(*task)) {
            // The same completion may be acknowledged again; another one may not.
            let first = &completions[0];
            found.unless(completions.iter().all(|c| c == first), Rule::CompletionsKept, || {
                format!("task {task} was acknowledged with different outcomes: {completions:?}")
            });
            let stored = self.tasks.get(task).map(|t| (t.state, t.epoch, t.result.clone().unwrap_or_default()));
            let expected = (SUCCEEDED, first.epoch, hex(&first.result));
            found.unless(stored.as_ref() == Some(&expected), Rule::CompletionsKept, || {
                let Completion { epoch, .. } = first;
                format!("task {task} was acknowledged as completed at epoch {epoch}, stored is {stored:?}")
            });
        }
        for (task, attempts) in &self.attempts {
            const ATTEMPT_SUCCEEDED: i64 = 2;
            let count = attempts.iter().filter(|a| a.outcome == ATTEMPT_SUCCEEDED).count();
            found.unless(count <= 1, Rule::CompletionsKept, || format!("task {task} was completed {count} times"));
        }
    }

    fn check_watch(&self, name: &str, watched: &Watched, when: When, found: &mut Found) {
        let rows = self.journal.iter().filter(|row| row.revision > watched.start);
        let mut rows: Vec<Seen> = rows
            .filter_map(|row| {
                let task = row.task.clone()?;
                // The kinds of tasks are small numbers.
                Some(Seen { revision: row.revision, task, kind: row.kind as i32, version: row.version })
            })
            .collect();
        if when == When::Busy {
            rows.truncate(watched.seen.len());
        }
        if watched.seen == rows {
            return;
        }
        let at = watched.seen.iter().zip(&rows).take_while(|(seen, row)| seen == row).count();
        found.add(
            Rule::WatchersSawAll,
            format!(
                "watcher {name} saw {} events of {}; the first that differs is number {at}: saw {:?}, journal {:?}",
                watched.seen.len(),
                rows.len(),
                watched.seen.get(at),
                rows.get(at)
            ),
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
