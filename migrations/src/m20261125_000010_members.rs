//! Who may do what in which project; projects that were deleted; the tasks of one owner.
//!
//! A member of `*` is a member of every project. The rows of deleted projects stay: only their state says that they are.

use sea_orm_migration::prelude::*;

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
        Dialect(manager.get_database_backend()).run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        Dialect(manager.get_database_backend()).run(manager, DOWN).await
    }
}

const UP: &[&str] = &[
    "CREATE TABLE member (
        project text NOT NULL,
        principal text NOT NULL,
        role smallint NOT NULL CHECK (role BETWEEN 1 AND 5),
        create_time bigint NOT NULL,
        PRIMARY KEY (project, principal)
    ) {clustered}",
    // What a principal may do is read by its name.
    "CREATE INDEX member_principal ON member (principal)",
];

const DOWN: &[&str] = &["DROP TABLE member"];
