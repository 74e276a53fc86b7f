//! Answers that are kept before their revision is known: a batch of submits is one statement, and its revision is taken in
//! it. So an answer counts from a base, which that statement fills in. Those kept so far count from 0.

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

const UP: &[&str] = &["ALTER TABLE idempotency ADD COLUMN base_revision bigint NOT NULL DEFAULT 0"];
const DOWN: &[&str] = &["ALTER TABLE idempotency DROP COLUMN base_revision"];
