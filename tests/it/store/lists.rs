//! Lists begin at different tables, depending on what the filter asks for. Wherever they begin, they find the same tasks
//! in the same order.

use std::str::FromStr as _;

use sqlx::{AssertSqlSafe, ConnectOptions as _, postgres::PgConnectOptions, sqlite::SqliteConnectOptions};
use tasktower::{
    app::{task::TaskChange, worker::Report},
    domain::{
        filter::Filter,
        task::{Spec, Task},
        task_list::ListQuery,
        transition::Failure,
    },
    ids::TaskId,
    store::{Store, migrate, tasks},
};

use super::tasks::{World, everything, failure, spec};
use crate::support::backend::{Backend, Database, for_each_backend};

/// Each begins somewhere else, or at several places.
const FILTERS: &[&str] = &[
    "",
    "state = PENDING",
    "state = RETRYING",
    "state = RUNNING",
    "state = SUCCEEDED",
    "state = FAILED",
    "state = CANCELLED",
    "state != SUCCEEDED",
    "state = PENDING OR state = RETRYING",
    "state = RUNNING OR state = FAILED OR state = PENDING",
    "state = CANCELLED OR state = FAILED",
    "state = PENDING AND state = FAILED",
    "queue = limited",
    "queue = limited AND state = PENDING",
    "queue = limited AND state = SUCCEEDED",
    "queue = default AND (state = RETRYING OR state = RUNNING)",
    "queue != limited AND state = FAILED",
    "queue = nobody AND state = PENDING",
    "state = PENDING AND type = t AND priority > 2",
    "state = PENDING AND create_time > 2020-01-01T00:00:00Z AND labels.team = core",
    "state = PENDING AND create_time < 2020-01-01T00:00:00Z",
    "state = RUNNING AND worker = w",
    "NOT state = PENDING AND NOT state = SUCCEEDED",
];

/// Tasks in every state, in two queues, in an order in which the states alternate.
async fn populate(w: &World) {
    for round in 0..4 {
        for (number, queue) in ["default", "limited", "default"].into_iter().enumerate() {
            w.submit(Spec { queue: queue.into(), priority: number as i32, ..spec() }).await;
        }
        // The first of each round is left running, fails for now, fails for good or succeeds; the others wait …
        let leased = w.lease(2).await;
        let fate = |is_final| Report::Fail(Failure { is_final, ..failure("E") });
        for (number, task) in leased.iter().enumerate() {
            let report = match (round + number) % 4 {
                0 => Report::Complete { result: None },
                1 => fate(false),
                2 => fate(true),
                _ => continue,
            };
            w.report(task.id, task.epoch, report).await.unwrap();
        }
        // … but for one that is cancelled.
        let cancelled = w.submit(spec()).await;
        w.change(cancelled, TaskChange::Cancel { reason: String::new() }).await.unwrap();
        w.submit(Spec { queue: "limited".into(), ..spec() }).await;
    }
}

async fn all(w: &World) -> Vec<Task> {
    w.app.list_tasks(&w.project, ListQuery { ascending: true, ..everything() }).await.unwrap().tasks
}

async fn check(w: &World, known: &[Task]) {
    for text in FILTERS {
        let filter = Filter::parse(text).unwrap();
        let mut expected: Vec<TaskId> = known.iter().filter(|task| filter.matches(*task)).map(|task| task.id).collect();
        let counted = tasks::count(w.app.store(), &w.project, &filter).await.unwrap();
        assert_eq!(counted, expected.len() as i64, "{text}");
        for ascending in [true, false] {
            for limit in [1, 3, 100] {
                let mut seen = Vec::new();
                let mut query = ListQuery { filter: filter.clone(), ascending, limit, ..everything() };
                loop {
                    let page = w.app.list_tasks(&w.project, query.clone()).await.unwrap();
                    for task in &page.tasks {
                        assert_eq!(Some(task), known.iter().find(|known| known.id == task.id), "{text}");
                    }
                    seen.extend(page.tasks.iter().map(|task| task.id));
                    assert!(seen.len() <= expected.len(), "{text}: {seen:?}");
                    query.after = page.next;
                    if page.next.is_none() {
                        break;
                    }
                }
                assert_eq!(seen, expected, "{text}, ascending {ascending}, pages of {limit}");
            }
            expected.reverse();
        }
    }
}

#[tokio::test]
async fn lists_find_the_same_wherever_they_begin() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        populate(&w).await;
        let known = all(&w).await;
        assert_eq!(known.len(), 20);
        assert!(known.is_sorted_by_key(|task| (task.spec.create_time, task.id)));
        check(&w, &known).await;
    })
    .await;
}

/// A version that does not know `ready.create_time` may write beside this one, where there may be two.
#[tokio::test]
async fn waiting_tasks_that_an_older_version_wrote_are_listed() {
    for_each_backend(async |database| {
        if database.backend() == Backend::Sqlite {
            return;
        }
        let w = World::on(database).await;
        populate(&w).await;
        let known = all(&w).await;
        execute(database, "UPDATE ready SET create_time = NULL WHERE rank = -1 OR state = 3").await;
        check(&w, &known).await;
    })
    .await;
}

#[tokio::test]
async fn the_migration_takes_waiting_tasks_with_it_and_back() {
    for_each_backend(async |database| {
        let url = database.url().parse().unwrap();
        migrate::up(&url).await.unwrap();
        let id = "0190a6c0-0000-7000-8000-000000000001";
        let literal = match database.backend() {
            Backend::Sqlite => format!("x'{}'", id.replace('-', "")),
            Backend::Postgres => format!("'{id}'"),
        };
        execute(
            database,
            &format!(
                "INSERT INTO task (project, id, type, queue, priority, run_time, timeout, max_attempts, \
                 initial_backoff, max_backoff, owner, create_time, state, version, epoch, attempt_count, crash_count, \
                 update_time) VALUES ('default', {literal}, 't', 'default', 0, 7, 1, 1, 1, 1, 'o', 7, 1, 1, 0, 0, 0, 7); \
                 INSERT INTO ready (project, id, queue, type, rank, run_time, due, state, version, epoch, attempt_count, \
                 crash_count, update_time) VALUES ('default', {literal}, 'default', 't', 0, 7, true, 1, 1, 0, 0, 0, 7)"
            ),
        )
        .await;
        let all = migrate::status(&url).await.unwrap().len();
        let all_but_the_first = u32::try_from(all - 1).unwrap();
        migrate::down(&url, all_but_the_first).await.unwrap();
        migrate::up(&url).await.unwrap();
        execute(database, "UPDATE ready SET version = version WHERE create_time = 7").await;
        let store = Store::open(&url).await.unwrap();
        let filter = Filter::parse("state = PENDING").unwrap();
        let query = ListQuery { filter, ..everything() };
        let (found, _) = tasks::list(&store, &super::project(), &query).await.unwrap();
        assert_eq!(found.iter().map(|task| task.id.to_string()).collect::<Vec<_>>(), [id]);
        assert_eq!(found[0].spec.create_time, 7);
    })
    .await;
}

/// A fresh database has no statistics of its own for its first minute. Statements about tasks by their keys must not
/// read the project's whole table meanwhile.
#[tokio::test]
async fn tasks_are_reached_by_their_keys_before_the_first_statistics() {
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let url = database.url().parse().unwrap();
    migrate::up(&url).await.unwrap();
    let mut connection = connect_postgres(&database).await;
    // What autovacuum does to empty tables.
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await.unwrap();
    for table in ["task", "ready", "lease", "attempt", "unique_key"] {
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, 0, "{table}");
    }
    sqlx::raw_sql(
        "SET random_page_cost = 1.1; \
         INSERT INTO task (project, id, type, queue, priority, run_time, timeout, max_attempts, initial_backoff, \
            max_backoff, owner, create_time, state, version, epoch, attempt_count, crash_count, update_time) \
         SELECT 'default', gen_random_uuid(), 't', 'q', 0, n, 1, 1, 1, 1, 'o', n, 1, 1, 0, 0, 0, n \
         FROM generate_series(1, 20000) n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    for statement in [
        "SELECT t.state FROM unnest($1::uuid[]) x(id) JOIN task t ON t.project = 'default' AND t.id = x.id",
        "UPDATE task SET version = 2 FROM unnest($1::uuid[]) x(id) WHERE task.project = 'default' AND task.id = x.id",
    ] {
        let ids: Vec<uuid::Uuid> = (0..500).map(|_| uuid::Uuid::now_v7()).collect();
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {statement}")))
            .bind(ids)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("task_pkey") && plan.contains("id = x.id)"), "{plan}");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Hash"), "{plan}");
    }
}

async fn connect_postgres(database: &Database) -> sqlx::PgConnection {
    let options = PgConnectOptions::from_str(database.url()).unwrap().options([("search_path", "tasktower")]);
    options.connect().await.unwrap()
}

/// Runs statements past the store.
/// The texts that a statement of one column answers.
pub(super) async fn texts(database: &Database, select: &str) -> Vec<String> {
    let select = AssertSqlSafe(select.to_owned());
    match database.backend() {
        Backend::Sqlite => {
            let mut connection = SqliteConnectOptions::from_str(database.url()).unwrap().connect().await.unwrap();
            sqlx::query_scalar(select).fetch_all(&mut connection).await.unwrap()
        }
        Backend::Postgres => {
            let mut connection = connect_postgres(database).await;
            sqlx::query_scalar(select).fetch_all(&mut connection).await.unwrap()
        }
    }
}

pub(super) async fn execute(database: &Database, statements: &str) {
    let statements = AssertSqlSafe(statements.to_owned());
    match database.backend() {
        Backend::Sqlite => {
            let mut connection = SqliteConnectOptions::from_str(database.url()).unwrap().connect().await.unwrap();
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
        }
        Backend::Postgres => {
            let mut connection = connect_postgres(database).await;
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
        }
    }
}
