//! What became of the ticks of schedules. One row a tick, so that a tick cannot be decided twice.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        schedule::{Occurrence, OccurrenceState},
        task::Micros,
    },
    ids::TaskId,
};

/// Keeps what became of ticks; each with the uid of its schedule. Fails as a whole if one of them was decided before.
pub async fn insert(tx: &mut Tx, occurrences: &[(Uuid, Occurrence)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- occurrences::insert
         WITH {x} INSERT INTO occurrence (schedule_uid, planned_time, state, reason, task_id, decide_time)
         SELECT x.schedule_uid, x.planned_time, x.state, x.reason, x.task_id, x.decide_time FROM x",
    );
    tx.execute(statement.rows(rows_of(occurrences))).await
}

/// The same for ticks that may have been decided before, in another way.
pub async fn replace(tx: &mut Tx, occurrences: &[(Uuid, Occurrence)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- occurrences::replace
         WITH {x} INSERT INTO occurrence (schedule_uid, planned_time, state, reason, task_id, decide_time)
         SELECT x.schedule_uid, x.planned_time, x.state, x.reason, x.task_id, x.decide_time FROM x WHERE true
         ON CONFLICT (schedule_uid, planned_time) DO UPDATE SET state = excluded.state, reason = excluded.reason,
            task_id = excluded.task_id, decide_time = excluded.decide_time",
    );
    tx.execute(statement.rows(rows_of(occurrences))).await
}

fn rows_of(occurrences: &[(Uuid, Occurrence)]) -> Rows {
    let all = || occurrences.iter().map(|(_, occurrence)| occurrence);
    Rows::new(occurrences.len())
        .id("schedule_uid", occurrences.iter().map(|(uid, _)| *uid))
        .int("planned_time", all().map(|o| o.planned_time))
        .int("state", all().map(|o| o.state as i64))
        .text("reason", all().map(|o| o.reason.as_str()))
        .opt_id("task_id", all().map(|o| o.task.map(|task| task.0)))
        .int("decide_time", all().map(|o| o.decide_time))
}

/// What became of these ticks of a schedule, as far as it was decided.
pub async fn of_ticks(tx: &mut Tx, schedule: Uuid, ticks: &[Micros]) -> StoreResult<HashMap<Micros, OccurrenceState>> {
    let statement = Sql::new(
        "-- occurrences::of_ticks
         WITH {x} SELECT o.planned_time, o.state
         FROM x JOIN occurrence o ON o.schedule_uid = $1 AND o.planned_time = x.planned_time",
    );
    let rows = Rows::new(ticks.len()).int("planned_time", ticks.iter().copied());
    let found = tx.fetch(statement.id(schedule).rows(rows)).await?;
    found
        .iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, state(r.get()?)?))
        })
        .collect()
}

/// Those of a schedule before a tick, latest first.
pub async fn list(store: &Store, schedule: Uuid, before: Option<Micros>, limit: i64) -> StoreResult<Vec<Occurrence>> {
    let statement = Sql::new(
        "-- occurrences::list
         SELECT planned_time, state, reason, task_id, decide_time FROM occurrence
         WHERE schedule_uid = $1 AND planned_time < $2 ORDER BY planned_time DESC LIMIT $3",
    );
    let rows = store.fetch(statement.id(schedule).int(before.unwrap_or(i64::MAX)).int(limit)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok(Occurrence {
                planned_time: r.get()?,
                state: state(r.get()?)?,
                reason: r.get()?,
                task: r.get::<Option<Uuid>>()?.map(TaskId),
                decide_time: r.get()?,
            })
        })
        .collect()
}

/// Takes away what was decided before a time, oldest first. Answers how many.
pub async fn purge(tx: &mut Tx, older_than: Micros, limit: i64) -> StoreResult<usize> {
    let statement = Sql::new(if tx.is_postgres() {
        "-- occurrences::purge
         DELETE FROM occurrence WHERE (schedule_uid, planned_time) IN (
            SELECT schedule_uid, planned_time FROM occurrence WHERE decide_time < $1
            ORDER BY decide_time LIMIT $2 FOR UPDATE SKIP LOCKED
         ) RETURNING 1"
    } else {
        "-- occurrences::purge
         DELETE FROM occurrence WHERE (schedule_uid, planned_time) IN (
            SELECT schedule_uid, planned_time FROM occurrence WHERE decide_time < $1 ORDER BY decide_time LIMIT $2
         ) RETURNING 1"
    });
    Ok(tx.fetch(statement.int(older_than).int(limit)).await?.len())
}

fn state(number: i16) -> StoreResult<OccurrenceState> {
    OccurrenceState::try_from(number)
        .map_err(|number| StoreError::Bug(anyhow::anyhow!("unknown state {number} of an occurrence")))
}
