//! Three servers on one PostgreSQL fire schedules while one after the other is killed. Afterwards every tick was decided
//! exactly once, and every task belongs to one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr as _,
    time::Duration,
};

use rand::RngExt as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tasktower::pb;

use super::plan;
use crate::support::{
    backend::{Backend, Database},
    client::Clients,
    history::Known,
    invariants::{Inspector, When, assert_holds},
    server::Server,
    wait::{SOON, pause},
};

const SERVERS: usize = 3;
const SECOND: i64 = 1_000_000;
const FIRED: i16 = 1;
const MISSED: i16 = 3;
const CAUGHT_UP: i16 = 4;
/// A tick that finds all three servers alive or one of them dead is this late at most, 99 of 100 times.
const LATENESS: i64 = 2 * SECOND;

/// How much of it.
struct Scale {
    schedules: usize,
    cron: &'static str,
    /// Seconds between two ticks.
    step: i64,
    kill_every: Duration,
    kills: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tick_is_fired_once_whichever_server_is_killed() {
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let scale = plan::many(
        Scale { schedules: 20, cron: "* * * * * *", step: 1, kill_every: Duration::from_secs(2), kills: 6 },
        Scale { schedules: 50, cron: "*/10 * * * * *", step: 10, kill_every: Duration::from_secs(10), kills: 30 },
    );
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Server::start(&database).await);
    }
    for number in 0..scale.schedules {
        let clients = Clients::connect(&servers[number % SERVERS]).await;
        let task = pb::Task { r#type: "t".into(), ..Default::default() };
        let schedule = pb::Schedule { cron: scale.cron.into(), task: Some(task), ..Default::default() };
        let request = pb::CreateScheduleRequest {
            schedule_id: format!("s{number}"),
            schedule: Some(schedule),
            ..Default::default()
        };
        clients.schedules().create_schedule(request).await.expect("created");
    }

    let mut random = plan::random(70);
    for kill in 0..scale.kills {
        let spread = random.random_range(0.5..1.5);
        pause("the schedules fire", scale.kill_every.mul_f64(spread)).await;
        let server = &mut servers[(kill + random.random_range(1..SERVERS)) % SERVERS];
        server.kill();
        server.process().exited(SOON).await;
        // Two are left for a while.
        pause("one is dead", scale.kill_every.mul_f64(0.3)).await;
        server.restart().await;
    }

    let mut clients = Vec::new();
    for server in &servers {
        clients.push(Clients::connect(server).await);
    }
    for number in 0..scale.schedules {
        let name = format!("projects/default/schedules/s{number}");
        let request = pb::PauseScheduleRequest { name, note: String::new() };
        clients[number % SERVERS].schedules().pause_schedule(request).await.expect("paused");
    }
    let summary = check(&database, &scale).await;
    let mut inspector = Inspector::open(&database).await;
    assert_holds(&inspector.facts("default").await, &Known::default(), When::Busy);
    inspector.close().await;
    plan::report(&format!(
        "PostgreSQL: schedules: {} kill -9 of {SERVERS} servers, {summary}; 0 violations",
        scale.kills
    ));
}

/// Compares ticks, occurrences and tasks.
async fn check(database: &Database, scale: &Scale) -> String {
    let options = PgConnectOptions::from_str(database.url()).expect("a URL");
    let mut connection = options.connect().await.expect("connected");
    let mut lateness = Vec::new();
    let mut counts: BTreeMap<i16, usize> = BTreeMap::new();
    let mut tasks = BTreeSet::new();
    let schedules = rows(&mut connection, "SELECT id, uid, create_time, decided FROM tasktower.schedule").await;
    assert_eq!(schedules.len(), scale.schedules);
    for schedule in schedules {
        let id: String = schedule.get(0);
        let (uid, create_time, decided): (uuid::Uuid, i64, i64) = (schedule.get(1), schedule.get(2), schedule.get(3));
        let occurrences = sqlx::query(
            "SELECT planned_time, state, reason, task_id, decide_time FROM tasktower.occurrence
             WHERE schedule_uid = $1 ORDER BY planned_time",
        );
        let occurrences = occurrences.bind(uid).fetch_all(&mut connection).await.expect("occurrences");
        let step = scale.step * SECOND;
        let planned: Vec<i64> = occurrences.iter().map(|row| row.get(0)).collect();
        let expected: Vec<i64> = (create_time / step + 1..=decided / step).map(|tick| tick * step).collect();
        assert_eq!(planned, expected, "{id}: each tick once");
        for row in &occurrences {
            let (tick, state, reason): (i64, i16, String) = (row.get(0), row.get(1), row.get(2));
            let (task, decide_time): (Option<uuid::Uuid>, i64) = (row.get(3), row.get(4));
            *counts.entry(state).or_default() += 1;
            // A tick that came with the pause was skipped by it.
            let is_told = state == FIRED || !reason.is_empty();
            assert!(is_told, "{id} at {tick}: state {state} without a reason");
            assert_eq!(task.is_some(), [FIRED, CAUGHT_UP].contains(&state), "{id} at {tick}: state {state}");
            if let Some(task) = task {
                assert!(tasks.insert(task), "{id} at {tick}: a task of two ticks");
                lateness.push(decide_time - tick);
            }
        }
    }
    let there = rows(&mut connection, "SELECT id FROM tasktower.task").await;
    let there: BTreeSet<uuid::Uuid> = there.iter().map(|row| row.get(0)).collect();
    assert_eq!(there, tasks, "the tasks are those of the ticks");
    connection.close().await.expect("closed");
    lateness.sort_unstable();
    let percentile = |percent: usize| lateness[(lateness.len() - 1) * percent / 100];
    assert!(percentile(99) <= LATENESS, "{} µs late", percentile(99));
    format!(
        "{} ticks FIRED, {} CAUGHT_UP, {} MISSED, lateness p50 {} ms, p99 {} ms",
        counts.get(&FIRED).unwrap_or(&0),
        counts.get(&CAUGHT_UP).unwrap_or(&0),
        counts.get(&MISSED).unwrap_or(&0),
        percentile(50) / 1_000,
        percentile(99) / 1_000
    )
}

async fn rows(connection: &mut PgConnection, statement: &'static str) -> Vec<sqlx::postgres::PgRow> {
    sqlx::query(statement).fetch_all(connection).await.expect("rows")
}
