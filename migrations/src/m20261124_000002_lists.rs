//! Lists of waiting tasks, and of one queue, that do not look at anything else.
//!
//! `ready` learns when its task was created. A version that does not know the column leaves it empty while it still runs
//! beside this one; lists take such rows into account.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::Dialect;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// All or nothing on SQLite too; PostgreSQL does so by itself.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect(manager.get_database_backend());
        dialect.run(manager, UP).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            dialect.run(manager, BESIDE_OLDER).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        Dialect(manager.get_database_backend()).run(manager, DOWN).await
    }
}

const UP: &[&str] = &[
    "ALTER TABLE ready ADD COLUMN create_time bigint",
    "UPDATE ready SET create_time =
        (SELECT t.create_time FROM task t WHERE t.project = ready.project AND t.id = ready.id)",
    "CREATE INDEX ready_list ON ready (project, state, create_time, id) WHERE create_time IS NOT NULL",
    // The queue of a task never changes, so updates of the task stay HOT.
    "CREATE INDEX task_queue ON task (project, queue, create_time, id) {of_lists}",
    "DROP INDEX task_list",
    "CREATE INDEX task_list ON task (project, create_time, id) {of_lists}",
];

/// On PostgreSQL an older version may run beside this one.
const BESIDE_OLDER: &[&str] = &[
    "CREATE INDEX ready_unlisted ON ready (project) WHERE create_time IS NULL",
    // Until it knows the new column, the planner expects rows without it and reads the whole table for them.
    "ANALYZE ready",
];

const DOWN: &[&str] = &[
    "DROP INDEX task_list",
    "CREATE INDEX task_list ON task (project, create_time, id)",
    "DROP INDEX task_queue",
    "DROP INDEX IF EXISTS ready_unlisted",
    "DROP INDEX ready_list",
    "ALTER TABLE ready DROP COLUMN create_time",
];
