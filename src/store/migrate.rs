//! Brings the schema of a database up to date, and refuses one this binary does not know.

use anyhow::{Context as _, bail};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, SqlErr};
use tasktower_migrations::{Migrator, MigratorTrait};
use uuid::Uuid;

use super::{
    connect::{self, DatabaseUrl, Purpose},
    installation,
};

/// Serialises migrations of several replicas on PostgreSQL: "tasktowr" as a number.
const ADVISORY_LOCK: i64 = 0x7461_736b_746f_7772;

/// One migration and whether it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// Applies what is missing and returns the names. Several processes may call it at once.
pub async fn up(url: &DatabaseUrl) -> anyhow::Result<Vec<String>> {
    let opened = connect::open(url, Purpose::Migrate).await?;
    let database = &opened.writer;
    let locked = lock(database).await?;
    let missing: Vec<String> = status_of(database).await?.into_iter().filter(|m| !m.applied).map(|m| m.name).collect();
    let outcome = Migrator::up(database, None).await.context("apply migrations");
    locked.release().await?;
    outcome?;
    installation::load(database).await?;
    Ok(missing)
}

/// Takes back the newest `steps` migrations, with the data they hold.
pub async fn down(url: &DatabaseUrl, steps: u32) -> anyhow::Result<()> {
    let opened = connect::open(url, Purpose::Migrate).await?;
    let locked = lock(&opened.writer).await?;
    let outcome = Migrator::down(&opened.writer, Some(steps)).await.context("take back migrations");
    locked.release().await?;
    outcome
}

/// All migrations this binary knows, oldest first.
pub async fn status(url: &DatabaseUrl) -> anyhow::Result<Vec<Migration>> {
    let opened = connect::open(url, Purpose::Migrate).await?;
    status_of(&opened.writer).await
}

/// Gives the database a new incarnation; see `installation`.
pub async fn new_incarnation(url: &DatabaseUrl) -> anyhow::Result<Uuid> {
    let opened = connect::open(url, Purpose::Migrate).await?;
    require_current(&opened.writer).await?;
    installation::renew(&opened.writer).await
}

/// Refuses a database that is behind this binary, or ahead of it.
pub(super) async fn require_current(database: &DatabaseConnection) -> anyhow::Result<()> {
    let behind = status_of(database).await?.iter().filter(|m| !m.applied).count();
    if behind > 0 {
        bail!("the database lacks {behind} migration(s); run `tasktower migrate up` first");
    }
    Ok(())
}

async fn status_of(database: &DatabaseConnection) -> anyhow::Result<Vec<Migration>> {
    let known: Vec<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    let applied = applied(database).await?;
    if let Some(unknown) = applied.iter().find(|name| !known.contains(name)) {
        bail!("the database has the migration {unknown}, which this binary does not know; use a newer binary");
    }
    Ok(known.into_iter().map(|name| Migration { applied: applied.contains(&name), name }).collect())
}

/// Reads without DDL rights; a database that was never migrated has no table to read.
async fn applied(database: &DatabaseConnection) -> anyhow::Result<Vec<String>> {
    let statement = sea_orm::Statement::from_string(
        database.get_database_backend(),
        "SELECT version FROM seaql_migrations ORDER BY version",
    );
    match database.query_all_raw(statement).await {
        Ok(rows) => rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect(),
        Err(cause) if is_missing_table(&cause) => Ok(Vec::new()),
        Err(cause) => Err(cause).context("read the applied migrations"),
    }
}

fn is_missing_table(cause: &sea_orm::DbErr) -> bool {
    // sea-orm has no typed error for it: SQLSTATE 42P01 on PostgreSQL, a plain message on SQLite.
    debug_assert!(!matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))));
    let text = cause.to_string();
    text.contains("does not exist") || text.contains("no such table")
}

/// Held while migrations run. On SQLite the lock file of the database does it.
enum Locked {
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
    Sqlite,
}

async fn lock(database: &DatabaseConnection) -> anyhow::Result<Locked> {
    if database.get_database_backend() == DatabaseBackend::Sqlite {
        return Ok(Locked::Sqlite);
    }
    let mut connection = database.get_postgres_connection_pool().acquire().await?;
    // The lock belongs to the session; it is waited for as long as another replica migrates.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(ADVISORY_LOCK).execute(&mut *connection).await?;
    sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS tasktower").execute(&mut *connection).await?;
    Ok(Locked::Postgres(connection))
}

impl Locked {
    async fn release(self) -> anyhow::Result<()> {
        if let Self::Postgres(connection) = self {
            // Ending the session gives the lock and the session's settings back, whatever happened.
            sqlx::Connection::close(connection.detach()).await?;
        }
        Ok(())
    }
}
