//! The failures of the past: one by one, and counted. Only the latest of a window are looked at, so that no report costs
//! more than a bounded walk over an index.

use super::{
    Store,
    error::StoreResult,
    sql::{Reader, Sql},
    tasks::decode::{decision, decision_columns},
};
use crate::{
    domain::{
        retry_policy::PolicyVersion,
        retry_report::{Failure, RetryCounts, RetryStatistics, Window},
        task::{Micros, TaskError},
        task_state::TaskState,
    },
    ids::{ProjectId, TaskId},
};

/// Most failures of a window that are counted or looked at: the latest.
pub const MAX_FAILURES: i64 = 50_000;
/// Most rules and most error types that statistics tell apart.
const MAX_GROUPS: i64 = 100;

/// The latest failures of a window, before the rest of a query looks at them: `a`, and their tasks `t`. A task that was
/// opened again after an attempt was as old as its submit made it then.
macro_rules! failures {
    ($select:literal) => {
        concat!(
            $select,
            " FROM (
                SELECT * FROM attempt WHERE project = $1 AND outcome IN (3, 6) AND end_time >= $2 AND end_time < $3
                ORDER BY end_time DESC LIMIT $4
             ) a JOIN task t ON t.project = a.project AND t.id = a.task_id
             WHERE ($5 = '' OR t.queue = $5) AND ($6 = '' OR t.type = $6)"
        )
    };
}

fn of_window(statement: Sql, project: &ProjectId, window: &Window) -> Sql {
    statement
        .text(project.as_str())
        .int(window.start)
        .int(window.end)
        .int(MAX_FAILURES)
        .text(&window.queue)
        .text(&window.task_type)
}

/// Whether a window has more failures than are looked at.
pub async fn is_more_than_counted(store: &Store, project: &ProjectId, window: &Window) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- retry_reports::is_more
         SELECT count(*) FROM (
            SELECT 1 FROM attempt WHERE project = $1 AND outcome IN (3, 6) AND end_time >= $2 AND end_time < $3
            ORDER BY end_time DESC LIMIT $4
         ) a",
    );
    let statement =
        statement.text(project.as_str()).int(window.start).int(window.end).int(MAX_FAILURES.saturating_add(1));
    let rows = store.fetch(statement).await?;
    let count: i64 = rows.first().map_or(Ok(0), |row| Reader::new(row).get())?;
    Ok(count > MAX_FAILURES)
}

/// Failures of a window, the latest first.
pub async fn failures(store: &Store, project: &ProjectId, window: &Window, limit: i64) -> StoreResult<Vec<Failure>> {
    let statement = Sql::new(concat!(
        "-- retry_reports::failures\nSELECT a.task_id, a.epoch, a.error_type, a.error_message, a.end_time - CASE WHEN
            t.open_time <= a.start_time THEN t.open_time ELSE t.create_time END, a.number, a.end_time, a.retry_time, ",
        decision_columns!(),
        failures!(""),
        " ORDER BY a.end_time DESC, a.task_id LIMIT $7"
    ));
    let rows = store.fetch(of_window(statement, project, window).int(limit)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let (task, epoch) = (TaskId(r.get()?), r.get()?);
            let (error_type, message): (Option<String>, Option<String>) = (r.get()?, r.get()?);
            let error = TaskError::own(&error_type.unwrap_or_default(), message.unwrap_or_default());
            let age: Micros = r.get()?;
            let number: Option<i32> = r.get()?;
            let (end_time, retry_time): (Option<i64>, Option<i64>) = (r.get()?, r.get()?);
            let wait = retry_time.zip(end_time).map_or(0, |(retry, end)| retry - end);
            let decided = decision(&mut r, wait)?;
            Ok(Failure { task, epoch, error, age, number: number.unwrap_or(0), decided })
        })
        .collect()
}

macro_rules! counts {
    () => {
        "count(*), count(CASE WHEN a.verdict = 1 OR a.verdict IS NULL AND a.retry_time IS NOT NULL THEN 1 END), \
         count(CASE WHEN a.verdict = 2 THEN 1 END), \
         count(CASE WHEN a.verdict = 3 OR a.verdict IS NULL AND a.retry_time IS NULL THEN 1 END), \
         count(DISTINCT a.task_id), count(DISTINCT CASE WHEN t.state = $7 THEN a.task_id END)"
    };
}

/// Counts the failures of a window: all, by rule, and by error type.
pub async fn statistics(store: &Store, project: &ProjectId, window: &Window) -> StoreResult<RetryStatistics> {
    let succeeded = TaskState::Succeeded as i64;
    let fetch = async |statement: Sql| store.fetch(of_window(statement, project, window).int(succeeded)).await;
    let total = Sql::new(concat!("-- retry_reports::total\nSELECT ", counts!(), failures!("")));
    let by_rule = Sql::new(concat!(
        "-- retry_reports::by_rule\nSELECT ",
        counts!(),
        ", a.policy, a.policy_version, a.rule",
        failures!(""),
        " GROUP BY a.policy, a.policy_version, a.rule ORDER BY count(*) DESC, a.policy, a.policy_version, a.rule LIMIT $8"
    ));
    let by_error_type = Sql::new(concat!(
        "-- retry_reports::by_error_type\nSELECT ",
        counts!(),
        ", a.error_type",
        failures!(""),
        " GROUP BY a.error_type ORDER BY count(*) DESC, a.error_type LIMIT $8"
    ));
    let total =
        fetch(total).await?.first().map_or(Ok(RetryCounts::default()), |row| read_counts(&mut Reader::new(row)))?;
    let grouped =
        async |statement: Sql| store.fetch(of_window(statement, project, window).int(succeeded).int(MAX_GROUPS)).await;
    let mut rules = Vec::new();
    for row in &grouped(by_rule).await? {
        let mut r = Reader::new(row);
        let counts = read_counts(&mut r)?;
        let (policy, version): (Option<String>, Option<i64>) = (r.get()?, r.get()?);
        let rule: Option<i32> = r.get()?;
        let policy = policy.zip(version).map(|(id, version)| PolicyVersion { id: id.into(), version });
        rules.push((policy, rule.unwrap_or(0), counts));
    }
    let mut error_types = Vec::new();
    for row in &grouped(by_error_type).await? {
        let mut r = Reader::new(row);
        let counts = read_counts(&mut r)?;
        error_types.push((r.get::<Option<String>>()?.unwrap_or_default(), counts));
    }
    let truncated = is_more_than_counted(store, project, window).await?;
    Ok(RetryStatistics { total, rules, error_types, truncated })
}

fn read_counts(r: &mut Reader<'_>) -> StoreResult<RetryCounts> {
    Ok(RetryCounts {
        failed: r.get()?,
        retried: r.get()?,
        snoozed: r.get()?,
        dead_lettered: r.get()?,
        tasks: r.get()?,
        recovered_tasks: r.get()?,
    })
}
