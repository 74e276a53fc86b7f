//! Projects in the database: a `project` row, and a `counter` row for its journal.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::StoreResult,
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        project::{Deletion, Project, ProjectQuery, ProjectTasks},
        task::Micros,
    },
    ids::ProjectId,
};

/// Of `project p JOIN counter c`.
macro_rules! project_columns {
    () => {
        "p.id, p.display_name, p.description, p.create_time, p.update_time, c.revision, p.delete_time, p.purge_time"
    };
}

/// Makes a project with an empty journal.
pub async fn create(tx: &mut Tx, project: &Project) -> StoreResult<()> {
    let row = Sql::new(
        "-- projects::create
         INSERT INTO project (id, display_name, description, create_time, update_time) VALUES ($1, $2, $3, $4, $5)",
    )
    .text(project.id.as_str())
    .text(&project.display_name)
    .text(&project.description)
    .int(project.create_time)
    .int(project.update_time);
    tx.execute(row).await?;
    let counter = Sql::new("-- projects::create_counter\nINSERT INTO counter (project, revision) VALUES ($1, $2)");
    tx.execute(counter.text(project.id.as_str()).int(project.revision)).await
}

/// One project.
pub async fn get(store: &Store, project: &ProjectId) -> StoreResult<Option<Project>> {
    let statement = Sql::new(concat!(
        "-- projects::get\nSELECT ",
        project_columns!(),
        " FROM project p JOIN counter c ON c.project = p.id WHERE p.id = $1"
    ));
    store.fetch(statement.text(project.as_str())).await?.first().map(decode).transpose()
}

/// One project, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, project: &ProjectId) -> StoreResult<Option<Project>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- projects::lock\nSELECT ",
                project_columns!(),
                " FROM project p JOIN counter c ON c.project = p.id WHERE p.id = $1",
                $lock
            )
        };
    }
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE OF p") } else { select!("") });
    tx.fetch(statement.text(project.as_str())).await?.first().map(decode).transpose()
}

/// Writes what may change of a project. `cancel_time` is when its tasks are to be cancelled.
pub async fn write(tx: &mut Tx, project: &Project, cancel_time: Option<Micros>) -> StoreResult<()> {
    let statement = Sql::new(
        "-- projects::write
         UPDATE project SET display_name = $2, description = $3, update_time = $4, delete_time = $5, purge_time = $6,
            cancel_time = $7 WHERE id = $1",
    )
    .text(project.id.as_str())
    .text(&project.display_name)
    .text(&project.description)
    .int(project.update_time)
    .opt_int(project.deletion.map(|deletion| deletion.time))
    .opt_int(project.deletion.map(|deletion| deletion.purge_time))
    .opt_int(cancel_time);
    tx.execute(statement).await
}

/// A page of projects. `$7` names those the caller may see, as an array of JSON, unless it may see all of them.
macro_rules! list {
    ($place:literal, $order:literal, $fold:literal, $find:literal, $ids:literal) => {
        concat!(
            "-- projects::list\nSELECT ",
            project_columns!(),
            " FROM project p JOIN counter c ON c.project = p.id
             WHERE ($1 = 1 OR p.id IN (SELECT ",
            $ids,
            ")) AND ($2 = 1 OR p.delete_time IS NULL)
             AND ($3 = '' OR ",
            $find,
            "(lower(p.id || ' ' || p.display_name || ' ' || p.description",
            $fold,
            "), $3) > 0) AND ",
            $place,
            " ORDER BY ",
            $order,
            " LIMIT $6"
        )
    };
}

/// The same text in all orders: what is new of a page is past the place in one direction or the other.
macro_rules! ordered {
    ($query:ident, $fold:literal, $find:literal, $ids:literal) => {
        match ($query.by_time, $query.descending) {
            (false, false) => list!("p.id > $5 AND $4 = $4", "p.id", $fold, $find, $ids),
            (false, true) => list!("p.id < $5 AND $4 = $4", "p.id DESC", $fold, $find, $ids),
            (true, false) => list!("(p.create_time, p.id) > ($4, $5)", "p.create_time, p.id", $fold, $find, $ids),
            (true, true) => {
                list!("(p.create_time, p.id) < ($4, $5)", "p.create_time DESC, p.id DESC", $fold, $find, $ids)
            }
        }
    };
}

/// A page of projects.
pub async fn list(store: &Store, query: &ProjectQuery) -> StoreResult<Vec<Project>> {
    let text = if store.has_row_locks() {
        ordered!(query, " COLLATE \"C\"", "strpos", "jsonb_array_elements_text($7::jsonb)")
    } else {
        ordered!(query, "", "instr", "value FROM json_each($7)")
    };
    // Past every id there is.
    let last = (i64::MAX, "~".to_owned());
    let first = (i64::MIN, String::new());
    let (time, id) = query.after.clone().unwrap_or(if query.descending { last } else { first });
    let visible = query.visible.as_deref().unwrap_or_default();
    // One value and not rows: rows are sent in pieces to SQLite, and each piece would be a page of its own.
    let ids = serde_json::Value::from_iter(visible.iter().map(ProjectId::as_str));
    let statement = Sql::new(text)
        .int(query.visible.is_none().into())
        .int(query.show_deleted.into())
        .text(&query.text)
        .int(time)
        .text(&id)
        .int(query.limit)
        .text(&ids.to_string());
    store.fetch(statement).await?.iter().map(decode).collect()
}

/// Whether a project is there, as calls are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It never was.
    Missing,
    /// It is.
    Live,
    /// It was deleted, and can be brought back.
    Deleted,
}

/// Whether a project is there.
pub async fn presence(store: &Store, project: &ProjectId) -> StoreResult<Presence> {
    let statement = Sql::new("-- projects::presence\nSELECT delete_time FROM project WHERE id = $1");
    present(&store.fetch(statement.text(project.as_str())).await?)
}

/// Whether a project is there, asked inside a transaction.
pub async fn presence_in(tx: &mut Tx, project: &ProjectId) -> StoreResult<Presence> {
    let statement = Sql::new("-- projects::presence_in\nSELECT delete_time FROM project WHERE id = $1");
    present(&tx.fetch(statement.text(project.as_str())).await?)
}

fn present(rows: &[QueryResult]) -> StoreResult<Presence> {
    let Some(row) = rows.first() else { return Ok(Presence::Missing) };
    let deleted: Option<Micros> = Reader::new(row).get()?;
    Ok(if deleted.is_some() { Presence::Deleted } else { Presence::Live })
}

/// A deleted project whose tasks are to be cancelled now, locked; none if there is none, or another replica is at it.
pub async fn lock_to_cancel(tx: &mut Tx) -> StoreResult<Option<Project>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- projects::lock_to_cancel\nSELECT ",
                project_columns!(),
                " FROM project p JOIN counter c ON c.project = p.id WHERE p.cancel_time <= $1
                 ORDER BY p.cancel_time LIMIT 1",
                $lock
            )
        };
    }
    let now = tx.now();
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR UPDATE OF p SKIP LOCKED") } else { select!("") });
    tx.fetch(statement.int(now)).await?.first().map(decode).transpose()
}

/// Whether there is a deleted project whose tasks are to be cancelled at a moment.
pub async fn is_to_cancel(store: &Store, now: Micros) -> StoreResult<bool> {
    let statement = Sql::new("-- projects::is_to_cancel\nSELECT 1 FROM project WHERE cancel_time <= $1 LIMIT 1");
    Ok(!store.fetch(statement.int(now)).await?.is_empty())
}

/// Counts of waiting and of closed tasks stop here: nobody decides differently on twenty thousand than on ten.
pub const COUNT_LIMIT: i64 = 10_000;

/// How many tasks of each state a project has, in one statement that looks at a bounded number of rows and figures.
pub async fn count_tasks(store: &Store, project: &ProjectId) -> StoreResult<ProjectTasks> {
    macro_rules! counted {
        ($table:literal, $state:literal) => {
            concat!(
                "(SELECT count(*) FROM (SELECT 1 FROM ",
                $table,
                " WHERE project = $1 AND state = ",
                $state,
                " AND create_time IS NOT NULL LIMIT $2) found)"
            )
        };
    }
    let statement = Sql::new(concat!(
        "-- projects::count_tasks\nSELECT ",
        counted!("ready", "1"),
        ", ",
        counted!("ready", "3"),
        ", (SELECT CAST(COALESCE(SUM(running), 0) AS bigint) FROM queue_stat WHERE project = $1), ",
        counted!("closed", "5"),
        ", ",
        counted!("closed", "6"),
        ", (SELECT CAST(COALESCE(SUM(succeeded), 0) AS bigint) FROM queue_stat WHERE project = $1)"
    ));
    let rows = store.fetch(statement.text(project.as_str()).int(COUNT_LIMIT)).await?;
    let Some(row) = rows.first() else { return Ok(ProjectTasks::default()) };
    let mut r = Reader::new(row);
    Ok(ProjectTasks {
        pending: r.get()?,
        retrying: r.get()?,
        running: r.get()?,
        failed: r.get()?,
        cancelled: r.get()?,
        succeeded: r.get()?,
        latest: Vec::new(),
    })
}

fn decode(row: &QueryResult) -> StoreResult<Project> {
    let mut r = Reader::new(row);
    let id: String = r.get()?;
    Ok(Project {
        id: ProjectId::new(&id),
        display_name: r.get()?,
        description: r.get()?,
        create_time: r.get()?,
        update_time: r.get()?,
        revision: r.get()?,
        deletion: match (r.get()?, r.get()?) {
            (Some(time), Some(purge_time)) => Some(Deletion { time, purge_time }),
            _ => None,
        },
    })
}
