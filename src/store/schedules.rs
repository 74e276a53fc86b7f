//! Schedules in the database. Whoever fires one or changes it locks its row; on PostgreSQL several replicas that look for
//! what is due pass over each other's rows, so each takes others.

use bytes::Bytes;
use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        schedule::{CatchUp, CatchUpPolicy, Overlap, Progress, Schedule, Settings, Template, Timing},
        task::{Micros, Payload},
    },
    ids::{ProjectId, TaskId},
};

macro_rules! columns {
    () => {
        "project, id, uid, owner, display_name, description, cron, time_zone, start_time, end_time, jitter, template, \
         input, input_type, overlap, catch_up, catch_up_count, catch_up_window, paused, pause_note, decided, next_tick, \
         wake_time, queued_tick, last_tick, last_task, zone_version, create_time, update_time"
    };
}

/// One schedule.
pub async fn get(store: &Store, project: &ProjectId, id: &str) -> StoreResult<Option<Schedule>> {
    let statement =
        Sql::new(concat!("-- schedules::get\nSELECT ", columns!(), " FROM schedule WHERE project = $1 AND id = $2"));
    first(&store.fetch(statement.text(project.as_str()).text(id)).await?)
}

/// Schedules after an id, by id.
pub async fn list(store: &Store, project: &ProjectId, after: Option<&str>, limit: i64) -> StoreResult<Vec<Schedule>> {
    let statement = Sql::new(concat!(
        "-- schedules::list\nSELECT ",
        columns!(),
        " FROM schedule WHERE project = $1 AND id > $2 ORDER BY id LIMIT $3"
    ));
    let statement = statement.text(project.as_str()).text(after.unwrap_or_default()).int(limit);
    store.fetch(statement).await?.iter().map(decode).collect()
}

/// One schedule, locked until the transaction ends. Waits for whoever fires it.
pub async fn lock(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<Option<Schedule>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!("-- schedules::lock\nSELECT ", columns!(), " FROM schedule WHERE project = $1 AND id = $2", $lock)
        };
    }
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE") } else { select!("") });
    first(&tx.fetch(statement.text(project.as_str()).text(id)).await?)
}

/// Schedules of a project that have something to do, the longest waiting first, locked until the transaction ends. Those
/// that another replica holds are left out. With `only` none but that one.
pub async fn lock_due(tx: &mut Tx, project: &ProjectId, only: Option<&str>, limit: i64) -> StoreResult<Vec<Schedule>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- schedules::lock_due\nSELECT ",
                columns!(),
                " FROM schedule WHERE project = $1 AND wake_time <= $2 AND ($3 = '' OR id = $3)
                 ORDER BY wake_time LIMIT $4",
                $lock
            )
        };
    }
    let now = tx.now();
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE SKIP LOCKED") } else { select!("") });
    let statement = statement.text(project.as_str()).int(now).text(only.unwrap_or_default()).int(limit);
    tx.fetch(statement).await?.iter().map(decode).collect()
}

/// Schedules of a project whose next tick was computed with older time zone data, locked. Those that another replica holds
/// are left out.
pub async fn lock_outdated(
    tx: &mut Tx,
    project: &ProjectId,
    zone_version: &str,
    limit: i64,
) -> StoreResult<Vec<Schedule>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- schedules::lock_outdated\nSELECT ",
                columns!(),
                " FROM schedule WHERE project = $1 AND zone_version < $2 ORDER BY id LIMIT $3",
                $lock
            )
        };
    }
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE SKIP LOCKED") } else { select!("") });
    let statement = statement.text(project.as_str()).text(zone_version).int(limit);
    tx.fetch(statement).await?.iter().map(decode).collect()
}

/// Pauses the schedules of a project that are not paused, because it is deleted. Answers how many there were.
pub async fn pause_with_project(tx: &mut Tx, project: &ProjectId, note: &str) -> StoreResult<usize> {
    let statement = Sql::new(
        "-- schedules::pause_with_project
         UPDATE schedule SET project_paused = true, paused = true, pause_note = $2, next_tick = NULL, wake_time = NULL,
            queued_tick = NULL, update_time = $3 WHERE project = $1 AND NOT paused RETURNING id",
    );
    let now = tx.now();
    Ok(tx.fetch(statement.text(project.as_str()).text(note).int(now)).await?.len())
}

/// Schedules that were paused because their project was deleted, locked.
pub async fn lock_paused_with_project(tx: &mut Tx, project: &ProjectId, limit: i64) -> StoreResult<Vec<Schedule>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- schedules::lock_paused_with_project\nSELECT ",
                columns!(),
                " FROM schedule WHERE project = $1 AND project_paused ORDER BY id LIMIT $2",
                $lock
            )
        };
    }
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE") } else { select!("") });
    tx.fetch(statement.text(project.as_str()).int(limit)).await?.iter().map(decode).collect()
}

/// Notes that a schedule goes on with its project.
pub async fn resumed_with_project(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<()> {
    let statement = Sql::new(
        "-- schedules::resumed_with_project
         UPDATE schedule SET project_paused = false WHERE project = $1 AND id = $2",
    );
    tx.execute(statement.text(project.as_str()).text(id)).await
}

/// Projects with schedules that have something to do at a moment, the longest waiting first.
pub async fn due_projects(store: &Store, now: Micros, limit: i64) -> StoreResult<Vec<ProjectId>> {
    let statement = Sql::new(
        "-- schedules::due_projects
         SELECT project FROM schedule WHERE wake_time <= $1 GROUP BY project ORDER BY min(wake_time) LIMIT $2",
    );
    projects(&store.fetch(statement.int(now).int(limit)).await?)
}

/// Projects with schedules whose next tick was computed with older time zone data.
pub async fn outdated_projects(store: &Store, zone_version: &str, limit: i64) -> StoreResult<Vec<ProjectId>> {
    let statement = Sql::new(
        "-- schedules::outdated_projects
         SELECT DISTINCT project FROM schedule WHERE zone_version < $1 LIMIT $2",
    );
    projects(&store.fetch(statement.text(zone_version).int(limit)).await?)
}

fn projects(rows: &[QueryResult]) -> StoreResult<Vec<ProjectId>> {
    rows.iter().map(|row| Ok(ProjectId::new(&Reader::new(row).get::<String>()?))).collect()
}

/// The ids of schedules of a project that have something to do.
pub async fn due_ids(store: &Store, project: &ProjectId, now: Micros, limit: i64) -> StoreResult<Vec<String>> {
    let statement = Sql::new(
        "-- schedules::due_ids
         SELECT id FROM schedule WHERE project = $1 AND wake_time <= $2 ORDER BY wake_time LIMIT $3",
    );
    let rows = store.fetch(statement.text(project.as_str()).int(now).int(limit)).await?;
    rows.iter().map(|row| Reader::new(row).get()).collect()
}

/// When the first schedule of all projects has something to do; none when none ever has.
pub async fn next_wake(store: &Store) -> StoreResult<Option<Micros>> {
    let statement = Sql::new(
        "-- schedules::next_wake
         SELECT wake_time FROM schedule WHERE wake_time IS NOT NULL ORDER BY wake_time LIMIT 1",
    );
    store.fetch(statement).await?.first().map(|row| Reader::new(row).get()).transpose()
}

/// Puts off what a schedule has to do, without a look at the rest of it.
pub async fn put_off(tx: &mut Tx, project: &ProjectId, id: &str, until: Micros) -> StoreResult<()> {
    let statement = Sql::new(
        "-- schedules::put_off
         UPDATE schedule SET wake_time = $3 WHERE project = $1 AND id = $2 AND wake_time < $3",
    );
    tx.execute(statement.text(project.as_str()).text(id).int(until)).await
}

/// Writes a schedule, new or not.
pub async fn write(tx: &mut Tx, schedule: &Schedule) -> StoreResult<()> {
    let statement = Sql::new(concat!(
        "-- schedules::write
         WITH {x} INSERT INTO schedule (",
        columns!(),
        ") SELECT ",
        columns!(),
        " FROM x WHERE true
         ON CONFLICT (project, id) DO UPDATE SET uid = excluded.uid, owner = excluded.owner,
            display_name = excluded.display_name, description = excluded.description, cron = excluded.cron,
            time_zone = excluded.time_zone, start_time = excluded.start_time, end_time = excluded.end_time,
            jitter = excluded.jitter, template = excluded.template, input = excluded.input,
            input_type = excluded.input_type, overlap = excluded.overlap, catch_up = excluded.catch_up,
            catch_up_count = excluded.catch_up_count, catch_up_window = excluded.catch_up_window,
            paused = excluded.paused, pause_note = excluded.pause_note, decided = excluded.decided,
            next_tick = excluded.next_tick, wake_time = excluded.wake_time, queued_tick = excluded.queued_tick,
            last_tick = excluded.last_tick, last_task = excluded.last_task, zone_version = excluded.zone_version,
            create_time = excluded.create_time, update_time = excluded.update_time"
    ));
    tx.execute(statement.rows(row_of(schedule))).await
}

/// A row with a value for each of the [`columns`]. In rows, because only they carry bytes.
fn row_of(schedule: &Schedule) -> Rows {
    use std::iter::once;
    let Schedule { project, id, uid, owner, settings, progress, create_time, update_time } = schedule;
    let Settings { display_name, description, timing, template, overlap, catch_up, paused, pause_note } = settings;
    let Timing { cron, time_zone, start_time, end_time, jitter } = timing;
    let Progress { decided, next_tick, wake_time, queued, last_tick, last_task, zone_version } = progress;
    let input = template.input.as_ref();
    let text = template.encode();
    Rows::new(1)
        .text("project", once(project.as_str()))
        .text("id", once(id.as_str()))
        .id("uid", once(*uid))
        .text("owner", once(owner.as_str()))
        .text("display_name", once(display_name.as_str()))
        .text("description", once(description.as_str()))
        .text("cron", once(cron.as_str()))
        .text("time_zone", once(time_zone.as_str()))
        .opt_int("start_time", once(*start_time))
        .opt_int("end_time", once(*end_time))
        .int("jitter", once(*jitter))
        .text("template", once(text.as_str()))
        .blob("input", once(input.map(|input| input.data.clone())))
        .opt_text("input_type", once(input.and_then(|input| input.media_type.as_deref())))
        .int("overlap", once(*overlap as i64))
        .int("catch_up", once(catch_up.policy as i64))
        .int("catch_up_count", once(catch_up.max_count.into()))
        .int("catch_up_window", once(catch_up.window))
        .flag("paused", once(*paused))
        .text("pause_note", once(pause_note.as_str()))
        .int("decided", once(*decided))
        .opt_int("next_tick", once(*next_tick))
        .opt_int("wake_time", once(*wake_time))
        .opt_int("queued_tick", once(*queued))
        .opt_int("last_tick", once(*last_tick))
        .opt_id("last_task", once(last_task.map(|task| task.0)))
        .text("zone_version", once(zone_version.as_str()))
        .int("create_time", once(*create_time))
        .int("update_time", once(*update_time))
}

/// Writes where schedules of a project stand. Their rows are locked by [`lock_due`] or [`lock_outdated`].
pub async fn write_progress(tx: &mut Tx, project: &ProjectId, moved: &[(String, Progress)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- schedules::write_progress
         WITH {x} UPDATE schedule SET decided = x.decided, next_tick = x.next_tick, wake_time = x.wake_time,
            queued_tick = x.queued_tick, last_tick = x.last_tick, last_task = x.last_task,
            zone_version = x.zone_version {at schedule by id}",
    );
    let progress = || moved.iter().map(|(_, progress)| progress);
    let rows = Rows::new(moved.len())
        .text("id", moved.iter().map(|(id, _)| id.as_str()))
        .int("decided", progress().map(|p| p.decided))
        .opt_int("next_tick", progress().map(|p| p.next_tick))
        .opt_int("wake_time", progress().map(|p| p.wake_time))
        .opt_int("queued_tick", progress().map(|p| p.queued))
        .opt_int("last_tick", progress().map(|p| p.last_tick))
        .opt_id("last_task", progress().map(|p| p.last_task.map(|task| task.0)))
        .text("zone_version", progress().map(|p| p.zone_version.as_str()));
    tx.execute(statement.text(project.as_str()).rows(rows)).await
}

/// Takes a schedule away. Its occurrences go when they are old.
pub async fn delete(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<()> {
    let statement = Sql::new("-- schedules::delete\nDELETE FROM schedule WHERE project = $1 AND id = $2");
    tx.execute(statement.text(project.as_str()).text(id)).await
}

fn first(rows: &[QueryResult]) -> StoreResult<Option<Schedule>> {
    rows.first().map(decode).transpose()
}

/// Reads the [`columns`].
fn decode(row: &QueryResult) -> StoreResult<Schedule> {
    let mut r = Reader::new(row);
    let project: String = r.get()?;
    let (id, uid, owner) = (r.get()?, r.get()?, r.get()?);
    let (display_name, description) = (r.get()?, r.get()?);
    let timing =
        Timing { cron: r.get()?, time_zone: r.get()?, start_time: r.get()?, end_time: r.get()?, jitter: r.get()? };
    let template: String = r.get()?;
    let (data, media_type): (Option<Vec<u8>>, Option<String>) = (r.get()?, r.get()?);
    let input = data.map(|data| Payload { media_type, data: Bytes::from(data) });
    let overlap: i16 = r.get()?;
    let policy: i16 = r.get()?;
    let settings = Settings {
        display_name,
        description,
        timing,
        template: Template::decode(&template, input).map_err(|cause| StoreError::Bug(cause.into()))?,
        overlap: Overlap::try_from(overlap).map_err(|number| unknown("overlap policy", number))?,
        catch_up: CatchUp {
            policy: CatchUpPolicy::try_from(policy).map_err(|number| unknown("catch-up policy", number))?,
            max_count: r.get()?,
            window: r.get()?,
        },
        paused: r.get()?,
        pause_note: r.get()?,
    };
    let progress = Progress {
        decided: r.get()?,
        next_tick: r.get()?,
        wake_time: r.get()?,
        queued: r.get()?,
        last_tick: r.get()?,
        last_task: r.get::<Option<uuid::Uuid>>()?.map(TaskId),
        zone_version: r.get()?,
    };
    let project = ProjectId::new(&project);
    Ok(Schedule { project, id, uid, owner, settings, progress, create_time: r.get()?, update_time: r.get()? })
}

fn unknown(what: &str, number: i16) -> StoreError {
    StoreError::Bug(anyhow::anyhow!("unknown {what} {number}"))
}
