//! Projects in the database: a `project` row, and a `counter` row for its journal.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::StoreResult,
    sql::{Reader, Sql},
};
use crate::{domain::project::Project, ids::ProjectId};

/// Of `project p JOIN counter c`.
macro_rules! project_columns {
    () => {
        "p.id, p.display_name, p.description, p.create_time, p.update_time, c.revision"
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

/// Projects after an id, by id.
pub async fn list(store: &Store, after: Option<&str>, limit: i64) -> StoreResult<Vec<Project>> {
    let statement = Sql::new(concat!(
        "-- projects::list\nSELECT ",
        project_columns!(),
        " FROM project p JOIN counter c ON c.project = p.id WHERE p.id > $1 ORDER BY p.id LIMIT $2"
    ));
    store.fetch(statement.text(after.unwrap_or_default()).int(limit)).await?.iter().map(decode).collect()
}

/// Whether a project exists.
pub async fn exists(store: &Store, project: &ProjectId) -> StoreResult<bool> {
    let statement = Sql::new("-- projects::exists\nSELECT 1 FROM project WHERE id = $1");
    Ok(!store.fetch(statement.text(project.as_str())).await?.is_empty())
}

/// Whether a project exists, asked inside a transaction.
pub async fn exists_in(tx: &mut Tx, project: &ProjectId) -> StoreResult<bool> {
    let statement = Sql::new("-- projects::exists_in\nSELECT 1 FROM project WHERE id = $1");
    Ok(!tx.fetch(statement.text(project.as_str())).await?.is_empty())
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
    })
}
