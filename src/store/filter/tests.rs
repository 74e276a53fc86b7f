//! The SQL of a filter against its evaluation in memory: random tasks, random filters, the same answer. On SQLite
//! always; on PostgreSQL when `TASKTOWER_TEST_DATABASE_URL` names one (only temporary tables are made there).

use std::collections::BTreeSet;

use proptest::option::of as maybe;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sea_orm::sea_query::{JoinType, Query};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement, Value};
use uuid::Uuid;

use super::*;
use crate::domain::filter::Fields;
use crate::domain::task_state::TaskState;
use crate::domain::transition::DeadLetterReason;

/// How many rounds of tasks and filters each database gets.
const ROUNDS: u32 = 150;

// ---- The tables, as far as filters look at them -------------------------------------------------------------------

#[derive(Debug, Clone)]
struct Task {
    id: Uuid,
    kind: String,
    queue: String,
    priority: i32,
    run_time: i64,
    expire_time: Option<i64>,
    unique_key: Option<String>,
    labels: Option<Vec<(String, String)>>,
    owner: String,
    create_time: i64,
    state: TaskState,
    changes: Changes,
    finish_time: Option<i64>,
    error: Option<(String, Option<String>)>,
    ready: Option<Ready>,
    lease: Option<Lease>,
}

/// What all three tables hold and the narrowest one answers.
#[derive(Debug, Clone, Copy)]
struct Changes {
    attempt_count: i32,
    crash_count: i32,
    update_time: i64,
}

#[derive(Debug, Clone)]
struct Ready {
    run_time: i64,
    retrying: bool,
    changes: Changes,
}

#[derive(Debug, Clone)]
struct Lease {
    worker: String,
    cancel_time: Option<i64>,
    changes: Changes,
}

const PROJECT: &str = "shop";

impl Task {
    fn changes(&self) -> Changes {
        let lease = self.lease.as_ref().map(|lease| lease.changes);
        let ready = self.ready.as_ref().map(|ready| ready.changes);
        lease.or(ready).unwrap_or(self.changes)
    }
}

impl Fields for Task {
    fn project(&self) -> &str {
        PROJECT
    }
    fn id(&self) -> Uuid {
        self.id
    }
    fn state(&self) -> TaskState {
        match (&self.lease, &self.ready) {
            (Some(_), _) => TaskState::Running,
            (None, Some(Ready { retrying: true, .. })) => TaskState::Retrying,
            (None, Some(_)) => TaskState::Pending,
            (None, None) => self.state,
        }
    }
    fn cancel_requested(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.cancel_time.is_some())
    }
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Type => Some(&self.kind),
            TextField::Queue => Some(&self.queue),
            TextField::Owner => Some(&self.owner),
            TextField::UniqueKey => self.unique_key.as_deref(),
            TextField::Worker => self.lease.as_ref().map(|lease| lease.worker.as_str()),
            TextField::ErrorType => self.error.as_ref().map(|(kind, _)| kind.as_str()),
            TextField::ErrorMessage => self.error.as_ref().and_then(|(_, message)| message.as_deref()),
            TextField::Fingerprint | TextField::Audit(_) => None,
        }
    }
    fn int(&self, field: IntField) -> i64 {
        i64::from(match field {
            IntField::Priority => self.priority,
            IntField::AttemptCount => self.changes().attempt_count,
            IntField::CrashCount => self.changes().crash_count,
        })
    }
    fn time(&self, field: TimeField) -> Option<i64> {
        match field {
            TimeField::Create => Some(self.create_time),
            TimeField::Update => Some(self.changes().update_time),
            TimeField::Run => Some(self.ready.as_ref().map_or(self.run_time, |ready| ready.run_time)),
            TimeField::Finish => self.finish_time,
            TimeField::Expire => self.expire_time,
        }
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

struct Bench {
    db: DatabaseConnection,
}

impl Bench {
    async fn open(url: &str) -> Self {
        let mut options = ConnectOptions::new(url);
        // Temporary tables, and SQLite in memory, belong to one connection.
        options.max_connections(1).sqlx_logging(false);
        let db = Database::connect(options).await.expect("connect");
        let id = if db.get_database_backend() == DatabaseBackend::Sqlite { "blob" } else { "uuid" };
        for table in [
            "task (project text, id ID, type text, queue text, priority int, run_time bigint, expire_time bigint, \
             unique_key text, labels text, owner text, create_time bigint, state smallint, attempt_count int, \
             crash_count int, update_time bigint, finish_time bigint, error_type text, error_message text)",
            "ready (project text, id ID, run_time bigint, state smallint, attempt_count int, crash_count int, \
             update_time bigint)",
            "lease (project text, id ID, worker text, cancel_time bigint, attempt_count int, crash_count int, \
             update_time bigint)",
            "dead_letter (project text, task_id ID, queue text, type text, reason smallint, error_type text, \
             error_message text, fingerprint text, create_time bigint, process_time bigint)",
        ] {
            db.execute_unprepared(&format!("CREATE TEMPORARY TABLE {}", table.replace("ID", id)))
                .await
                .expect("create table");
        }
        Self { db }
    }

    async fn insert(&self, table: &'static str, columns: Vec<(&'static str, Value)>) {
        let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let insert =
            Query::insert().into_table(table).columns(names).values_panic(values.into_iter().map(Expr::val)).to_owned();
        self.db.execute(&insert).await.expect("insert");
    }

    async fn fill(&self, tasks: &[Task]) {
        for table in ["task", "ready", "lease"] {
            self.db.execute_unprepared(&format!("DELETE FROM {table}")).await.expect("delete");
        }
        for task in tasks {
            let key = || [("project", Value::from(PROJECT)), ("id", Value::from(task.id))];
            let changed = |changes: Changes| {
                [
                    ("attempt_count", Value::from(changes.attempt_count)),
                    ("crash_count", Value::from(changes.crash_count)),
                    ("update_time", Value::from(changes.update_time)),
                ]
            };
            let labels = task.labels.as_ref().map(|labels| {
                let object: serde_json::Map<_, _> =
                    labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
                serde_json::Value::Object(object).to_string()
            });
            let row = [
                ("type", Value::from(task.kind.as_str())),
                ("queue", task.queue.as_str().into()),
                ("priority", task.priority.into()),
                ("run_time", task.run_time.into()),
                ("expire_time", task.expire_time.into()),
                ("unique_key", task.unique_key.clone().into()),
                ("labels", labels.into()),
                ("owner", task.owner.as_str().into()),
                ("create_time", task.create_time.into()),
                ("state", task.state.number().into()),
                ("finish_time", task.finish_time.into()),
                ("error_type", task.error.as_ref().map(|(kind, _)| kind.clone()).into()),
                ("error_message", task.error.as_ref().and_then(|(_, message)| message.clone()).into()),
            ];
            self.insert("task", key().into_iter().chain(changed(task.changes)).chain(row).collect()).await;
            if let Some(ready) = &task.ready {
                let state = if ready.retrying { TaskState::Retrying } else { TaskState::Pending };
                let row = [("run_time", Value::from(ready.run_time)), ("state", state.number().into())];
                self.insert("ready", key().into_iter().chain(changed(ready.changes)).chain(row).collect()).await;
            }
            if let Some(lease) = &task.lease {
                let row = [("worker", Value::from(lease.worker.as_str())), ("cancel_time", lease.cancel_time.into())];
                self.insert("lease", key().into_iter().chain(changed(lease.changes)).chain(row).collect()).await;
            }
        }
    }

    async fn select(&self, filter: &Filter) -> BTreeSet<Uuid> {
        let backend = self.db.get_database_backend();
        let joined = |alias: &'static str| {
            Condition::all()
                .add(Expr::col((alias, "project")).equals((TASK, "project")))
                .add(Expr::col((alias, "id")).equals((TASK, "id")))
        };
        let select = Query::select()
            .column((TASK, "id"))
            .from_as("task", TASK)
            .join_as(JoinType::LeftJoin, "ready", READY, joined(READY))
            .join_as(JoinType::LeftJoin, "lease", LEASE, joined(LEASE))
            .and_where(Expr::col((TASK, "project")).eq(PROJECT))
            .cond_where(condition(filter, &Start::TASK, backend))
            .to_owned();
        let rows = self.db.query_all(&select).await.unwrap_or_else(|error| panic!("{}: {error}", sql(filter, backend)));
        rows.iter().map(|row| row.try_get("", "id").expect("id")).collect()
    }

    /// Asks the database and the evaluator the same.
    async fn check(&self, tasks: &[Task], filters: &[String]) -> Result<(), TestCaseError> {
        self.fill(tasks).await;
        for text in filters {
            let filter = parse(text);
            let expected: BTreeSet<Uuid> =
                tasks.iter().filter(|task| filter.matches(*task)).map(|task| task.id).collect();
            let found = self.select(&filter).await;
            prop_assert_eq!(found, expected, "{} as {}", text, sql(&filter, self.db.get_database_backend()));
        }
        Ok(())
    }
}

fn parse(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The condition with its parameters in place, to read.
fn sql(filter: &Filter, backend: DatabaseBackend) -> String {
    let select = Query::select().expr(Expr::cust("*")).cond_where(condition(filter, &Start::TASK, backend)).to_owned();
    let sql = Statement::to_string(&backend.build(&select));
    sql.split_once(" WHERE ").map_or("", |(_, condition)| condition).to_owned()
}

// ---- Random tasks and filters -------------------------------------------------------------------------------------

/// Texts that meet each other often, with everything that is special to LIKE, GLOB, JSON or a collation.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[abAB%_]{0,4}",
        2 => prop::sample::select(vec!["a", "ab", "a.b", "B", "é", "É", "a-b", "[a]", "a\\b", "a*b", "a?b", "\"", "'"])
            .prop_map(str::to_owned),
        2 => "[ab*?\\[\\]^\\\\%_'\"$@:éß\u{1F600}\u{FFFD}\n\u{1}-]{0,5}",
        1 => "[^\0]{0,6}",
    ]
}

const KEYS: [&str; 4] = ["team", "a.b/c-d", "0", "none"];
const TIMES: [(i64, &str); 5] = [
    (-1, "1969-12-31T23:59:59.999999Z"),
    (0, "1970-01-01T00:00:00Z"),
    (1_767_323_045_000_000, "2026-01-02T03:04:05Z"),
    (1_767_323_045_000_001, "2026-01-02T05:04:05.000001+02:00"),
    (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
];
const IDS: [&str; 5] = [
    "0199a3c4-5678-7abc-8def-0123456789ab",
    "0199a3c4-5678-7abc-8def-0123456789ac",
    "0199a3c5-0000-7000-8000-000000000000",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];

fn micros() -> impl Strategy<Value = i64> {
    prop::sample::select(TIMES.map(|(micros, _)| micros).to_vec())
}

fn changes() -> impl Strategy<Value = Changes> {
    (0..4, 0..3, micros()).prop_map(|(attempt_count, crash_count, update_time)| Changes {
        attempt_count,
        crash_count,
        update_time,
    })
}

fn task() -> impl Strategy<Value = Task> {
    let texts = (text(), text(), maybe(text()), text(), maybe((text(), maybe(text()))));
    let times = (micros(), maybe(micros()), micros(), maybe(micros()));
    let labels = maybe(prop::collection::btree_map(prop::sample::select(KEYS[..3].to_vec()), text(), 0..3));
    let ready = maybe((micros(), any::<bool>(), changes()));
    let lease = maybe((text(), maybe(micros()), changes()));
    let rest = (-2..3i32, prop::sample::select(TaskState::ALL.to_vec()), changes());
    (texts, times, labels, ready, lease, rest).prop_map(|(texts, times, labels, ready, lease, rest)| Task {
        id: Uuid::nil(),
        kind: texts.0,
        queue: texts.1,
        unique_key: texts.2,
        owner: texts.3,
        error: texts.4,
        run_time: times.0,
        expire_time: times.1,
        create_time: times.2,
        finish_time: times.3,
        labels: labels.map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ready: ready.map(|(run_time, retrying, changes)| Ready { run_time, retrying, changes }),
        lease: lease.map(|(worker, cancel_time, changes)| Lease { worker, cancel_time, changes }),
        priority: rest.0,
        state: rest.1,
        changes: rest.2,
    })
}

/// Up to one task for each id.
fn tasks() -> impl Strategy<Value = Vec<Task>> {
    prop::collection::vec(task(), 1..=IDS.len()).prop_map(|mut tasks| {
        for (task, id) in tasks.iter_mut().zip(IDS) {
            task.id = Uuid::try_parse(id).expect("valid");
        }
        tasks
    })
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('*', r"\*")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Texts with wildcards between them, without the three characters that patterns refuse.
fn pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(text(), 1..4).prop_map(|parts| {
        let parts = parts.iter().map(|part| escaped(&part.replace(['\u{FFFD}', '\u{FFFE}', '\u{FFFF}'], "")));
        format!("\"{}\"", parts.collect::<Vec<_>>().join("*"))
    })
}

fn term() -> impl Strategy<Value = String> {
    let order = || prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let equality = || prop::sample::select(vec!["=", "!="]);
    let text_field = || {
        let fields = ["type", "queue", "owner", "unique_key", "worker", "error.type", "error.message"];
        let labels = KEYS.map(|key| format!("labels.\"{key}\""));
        prop::sample::select(fields.map(str::to_owned).into_iter().chain(labels).collect::<Vec<_>>())
    };
    let project = || prop::sample::select(vec!["", "projects/shop/COLLECTION/", "projects/other/COLLECTION/"]);
    prop_oneof![
        3 => (equality(), prop::sample::select(TaskState::ALL.to_vec()))
            .prop_map(|(op, state)| format!("state {op} {state}")),
        1 => (equality(), any::<bool>()).prop_map(|(op, value)| format!("cancel_requested {op} {value}")),
        3 => (prop::sample::select(vec!["priority", "attempt_count", "crash_count"]), order(), -2..4)
            .prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        4 => (
            prop::sample::select(vec!["create_time", "update_time", "run_time", "finish_time", "expire_time"]),
            maybe(order()),
            prop::sample::select(TIMES.to_vec()),
        )
            .prop_map(|(field, op, (_, time))| match op {
                Some(op) => format!("{field} {op} {time}"),
                None => format!("{field}:*"),
            }),
        4 => (text_field(), order(), text()).prop_map(|(field, op, value)| format!("{field} {op} {}", quoted(&value))),
        5 => (text_field(), prop::sample::select(vec!["=", "!=", ":"]), pattern())
            .prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        1 => text_field().prop_map(|field| format!("{field}:*")),
        1 => prop::sample::select(KEYS.to_vec()).prop_map(|key| format!("labels:\"{key}\"")),
        2 => (equality(), project(), prop::sample::select(IDS.to_vec()), 0..=36usize)
            .prop_map(|(op, project, id, length)| {
                let star = if length < 36 { "*" } else { "" };
                format!("name {op} {}{}{star}", project.replace("COLLECTION", "tasks"), &id[..length])
            }),
        1 => (equality(), project(), "[ab*]{1,2}")
            .prop_map(|(op, project, id)| format!("worker {op} {}{id}", project.replace("COLLECTION", "workers"))),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    term().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|filter| format!("NOT ({filter})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) OR ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) AND ({right})")),
            (inner.clone(), inner).prop_map(|(left, right)| format!("({left} {right})")),
        ]
    })
}

// ---- The tests ----------------------------------------------------------------------------------------------------

/// Everything that is special to LIKE, GLOB, JSON or escapes, beside what it could be taken for.
fn special_texts() -> Vec<&'static str> {
    vec![
        "",
        "a",
        "b",
        "A",
        "ab",
        "aab",
        "abab",
        "aBa",
        "%",
        "a%b",
        "_",
        "a_b",
        "axb",
        "*",
        "a*b",
        "?",
        "a?b",
        "[",
        "]",
        "[a]",
        "a[b",
        "[[]",
        "[^a]",
        "^",
        "\\",
        "\\\\",
        "a\\b",
        "\\%",
        "\\*",
        "\"",
        "'",
        "\n",
        "é",
        "É",
        "e\u{301}",
        "ß",
        "ss",
        "\u{1F600}",
        "\u{FFFD}",
        "\u{FFFE}",
        "\u{7F}",
        "\u{80}",
        "$.a",
        "null",
    ]
}

fn special_tasks() -> Vec<Task> {
    let changes = Changes { attempt_count: 0, crash_count: 0, update_time: 0 };
    let task = |(number, text): (usize, &str)| Task {
        id: Uuid::from_u128(number as u128),
        kind: "t".to_owned(),
        queue: text.to_owned(),
        priority: 0,
        run_time: 0,
        expire_time: None,
        unique_key: None,
        labels: Some(vec![("team".to_owned(), text.to_owned())]),
        owner: "o".to_owned(),
        create_time: 0,
        state: TaskState::Succeeded,
        changes,
        finish_time: Some(0),
        error: None,
        ready: None,
        lease: None,
    };
    special_texts().into_iter().enumerate().map(task).collect()
}

fn special_filters() -> Vec<String> {
    let mut filters = Vec::new();
    for field in ["queue", "labels.team"] {
        for text in special_texts() {
            let exact = escaped(text);
            filters.extend(["=", "!=", "<", "<=", ">", ">="].map(|op| format!("{field} {op} \"{exact}\"")));
            if !text.contains(['\u{FFFD}', '\u{FFFE}']) {
                let forms =
                    [format!("{exact}*"), format!("*{exact}"), format!("a*{exact}*b"), format!("*{exact}*{exact}")];
                filters.extend(forms.map(|form| format!("{field} = \"{form}\"")));
                filters.push(format!("{field}:\"{exact}\""));
            }
        }
    }
    filters
}

fn check_database(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let bench = runtime.block_on(Bench::open(url));
    runtime.block_on(bench.check(&special_tasks(), &special_filters())).unwrap_or_else(|error| panic!("{error}"));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(ROUNDS) });
    let input = (tasks(), prop::collection::vec(filter(), 1..12));
    runner
        .run(&input, |(tasks, filters)| runtime.block_on(bench.check(&tasks, &filters)))
        .unwrap_or_else(|error| panic!("{error}"));
}

// ---- Dead letters -------------------------------------------------------------------------------------------------

#[derive(Debug, Clone)]
struct Letter {
    id: Uuid,
    /// queue, type, error type, error message.
    texts: [String; 4],
    fingerprint: Option<String>,
    reason: DeadLetterReason,
    create_time: i64,
    process_time: Option<i64>,
}

impl Fields for Letter {
    fn project(&self) -> &str {
        PROJECT
    }
    fn id(&self) -> Uuid {
        self.id
    }
    fn state(&self) -> TaskState {
        TaskState::Failed
    }
    fn cancel_requested(&self) -> bool {
        false
    }
    fn text(&self, field: TextField) -> Option<&str> {
        let place = match field {
            TextField::Queue => 0,
            TextField::Type => 1,
            TextField::ErrorType => 2,
            TextField::ErrorMessage => 3,
            TextField::Fingerprint => return self.fingerprint.as_deref(),
            _ => return None,
        };
        Some(&self.texts[place])
    }
    fn int(&self, _field: IntField) -> i64 {
        0
    }
    fn time(&self, field: TimeField) -> Option<i64> {
        (field == TimeField::Create).then_some(self.create_time)
    }
    fn label(&self, _key: &str) -> Option<&str> {
        None
    }
    fn choice(&self, field: ChoiceField) -> Option<i16> {
        Some(match field {
            ChoiceField::DeadLetterReason => self.reason as i16,
            ChoiceField::DeadLetterState if self.process_time.is_some() => DeadLetterState::Processed as i16,
            ChoiceField::DeadLetterState => DeadLetterState::Open as i16,
        })
    }
}

fn letter() -> impl Strategy<Value = Letter> {
    let texts = [text().boxed(), text().boxed(), text().boxed(), text().boxed()];
    let reason = prop::sample::select(DeadLetterReason::ALL.to_vec());
    (texts, maybe("[ab]{0,2}"), reason, micros(), maybe(micros())).prop_map(
        |(texts, fingerprint, reason, create_time, process_time)| Letter {
            id: Uuid::nil(),
            texts,
            fingerprint,
            reason,
            create_time,
            process_time,
        },
    )
}

fn letter_term() -> impl Strategy<Value = String> {
    let order = || prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let equality = || prop::sample::select(vec!["=", "!="]);
    let field = || prop::sample::select(vec!["queue", "type", "error.type", "error.message", "fingerprint"]);
    let project = || prop::sample::select(vec!["", "projects/shop/deadLetters/", "projects/other/deadLetters/"]);
    prop_oneof![
        2 => (equality(), prop::sample::select(vec!["OPEN", "PROCESSED"])).prop_map(|(op, v)| format!("state {op} {v}")),
        2 => (equality(), prop::sample::select(DeadLetterReason::ALL.to_vec()))
            .prop_map(|(op, reason)| format!("reason {op} {}", reason.name())),
        2 => (order(), prop::sample::select(TIMES.to_vec())).prop_map(|(op, (_, time))| format!("create_time {op} {time}")),
        1 => Just("create_time:*".to_owned()),
        3 => (field(), order(), text()).prop_map(|(field, op, value)| format!("{field} {op} {}", quoted(&value))),
        3 => (field(), prop::sample::select(vec!["=", "!=", ":"]), pattern())
            .prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        1 => field().prop_map(|field| format!("{field}:*")),
        2 => (equality(), project(), prop::sample::select(IDS.to_vec()), 0..=36usize).prop_map(|(op, project, id, length)| {
            let star = if length < 36 { "*" } else { "" };
            format!("name {op} {project}{}{star}", &id[..length])
        }),
    ]
}

async fn check_letters(bench: &Bench, letters: &[Letter], filters: &[String]) -> Result<(), TestCaseError> {
    bench.db.execute_unprepared("DELETE FROM dead_letter").await.expect("delete");
    for letter in letters {
        let [queue, kind, error_type, message] = letter.texts.clone();
        let row = vec![
            ("project", Value::from(PROJECT)),
            ("task_id", letter.id.into()),
            ("queue", queue.into()),
            ("type", kind.into()),
            ("error_type", error_type.into()),
            ("error_message", message.into()),
            ("fingerprint", letter.fingerprint.clone().into()),
            ("reason", (letter.reason as i16).into()),
            ("create_time", letter.create_time.into()),
            ("process_time", letter.process_time.into()),
        ];
        bench.insert("dead_letter", row).await;
    }
    let backend = bench.db.get_database_backend();
    for text in filters {
        let filter = Filter::parse_dead_letters(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let expected: BTreeSet<Uuid> =
            letters.iter().filter(|letter| filter.matches(*letter)).map(|letter| letter.id).collect();
        let select = Query::select()
            .column((DEAD_LETTER, "task_id"))
            .from_as("dead_letter", DEAD_LETTER)
            .cond_where(dead_letter_condition(&filter, backend))
            .to_owned();
        let rows = bench.db.query_all(&select).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        let found: BTreeSet<Uuid> = rows.iter().map(|row| row.try_get("", "task_id").expect("id")).collect();
        prop_assert_eq!(found, expected, "{}", text);
    }
    Ok(())
}

fn check_letters_on(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let bench = runtime.block_on(Bench::open(url));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(ROUNDS) });
    let filter = letter_term().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|filter| format!("NOT ({filter})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) OR ({right})")),
            (inner.clone(), inner).prop_map(|(left, right)| format!("({left} {right})")),
        ]
    });
    let input = (prop::collection::vec(letter(), 1..=IDS.len()), prop::collection::vec(filter, 1..12));
    runner
        .run(&input, |(mut letters, filters)| {
            for (letter, id) in letters.iter_mut().zip(IDS) {
                letter.id = Uuid::try_parse(id).expect("valid");
            }
            runtime.block_on(check_letters(&bench, &letters, &filters))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn sqlite_answers_like_the_evaluator() {
    check_database("sqlite::memory:");
    check_letters_on("sqlite::memory:");
}

#[test]
fn postgres_answers_like_the_evaluator() {
    match std::env::var("TASKTOWER_TEST_DATABASE_URL") {
        Ok(url) => {
            check_database(&url);
            check_letters_on(&url);
        }
        Err(_) => eprintln!("SKIPPED: TASKTOWER_TEST_DATABASE_URL is not set, PostgreSQL was not checked"),
    }
}

#[test]
fn what_the_caller_wrote_is_never_part_of_the_statement() {
    let text = "type = 'zzz' queue != 'zzz*' owner:zzz labels.zzz > 'zzz' labels:zzz worker = projects/zzz/workers/zzz \
                priority = 7777 create_time > 7777-07-07T07:07:07Z name = 7777* \
                name = 77777777-7777-7777-7777-777777777777";
    for backend in [DatabaseBackend::Sqlite, DatabaseBackend::Postgres] {
        let select =
            Query::select().expr(Expr::cust("*")).cond_where(condition(&parse(text), &Start::TASK, backend)).to_owned();
        let statement = backend.build(&select);
        assert!(!statement.sql.contains("zzz") && !statement.sql.contains("777"), "{}", statement.sql);
        // Two values each come from a compared label (its key), a full name (its project) and a range of names.
        assert_eq!(statement.values.map(|values| values.0.len()), Some(13), "{}", statement.sql);
    }
}

#[test]
fn tests_on_columns_stay_plain_so_that_indexes_can_serve_them() {
    let sql = |text: &str| sql(&parse(text), DatabaseBackend::Postgres);
    assert_eq!(sql(""), "TRUE");
    assert_eq!(sql("queue = a"), r#""t"."queue" = 'a'"#);
    assert_eq!(sql("queue != a"), r#"("t"."queue" = 'a') IS NOT TRUE"#);
    assert_eq!(sql(&format!("name = {}", IDS[0])), format!(r#""t"."id" = '{}'"#, IDS[0]));
    assert_eq!(
        sql("NOT (queue = a worker:*)"),
        r#"("t"."queue" = 'a') IS NOT TRUE OR ("l"."worker" IS NOT NULL) IS NOT TRUE"#
    );
}
