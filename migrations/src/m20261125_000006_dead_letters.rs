//! Dead letters that are looked at and worked on: what kind of error each is, who put it aside, and how often it was
//! retried; and bulk jobs that retry them at a pace.
//!
//! A row of `dead_letter` is there exactly while its task is FAILED, as before, so that a version that knows nothing of
//! this goes on beside it. What outlives that, the replays of an entry, has a table of its own. Rows that such a version
//! writes have no fingerprint; housekeeping fills it in.

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
            dialect.run(manager, EXPECTED).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        Dialect(manager.get_database_backend()).run(manager, DOWN).await
    }
}

const UP: &[&str] = &[
    "ALTER TABLE dead_letter ADD COLUMN fingerprint text",
    "ALTER TABLE dead_letter ADD COLUMN attempt_count integer",
    "ALTER TABLE dead_letter ADD COLUMN crash_count integer",
    // OPEN without, PROCESSED with it.
    "ALTER TABLE dead_letter ADD COLUMN process_time bigint",
    "ALTER TABLE dead_letter ADD COLUMN processed_by text",
    "ALTER TABLE dead_letter ADD COLUMN process_reason text",
    "CREATE INDEX dead_letter_list ON dead_letter (project, create_time, task_id)",
    "CREATE INDEX dead_letter_kind ON dead_letter (project, fingerprint, create_time, task_id)",
    "CREATE INDEX dead_letter_unmarked ON dead_letter (project, task_id) WHERE fingerprint IS NULL",
    // Each time a dead letter was retried, with what it said before. It goes with its task.
    "CREATE TABLE replay (
        project text NOT NULL,
        task_id {uuid} NOT NULL,
        number integer NOT NULL,
        time bigint NOT NULL,
        owner text NOT NULL,
        bulk_job {uuid},
        epoch bigint NOT NULL,
        input_changed boolean NOT NULL,
        reason smallint NOT NULL,
        error_type text NOT NULL,
        error_message text NOT NULL,
        fail_time bigint NOT NULL,
        PRIMARY KEY (project, task_id, number)
    ) {clustered}",
    "CREATE INDEX replay_of_job ON replay (project, bulk_job, time) WHERE bulk_job IS NOT NULL",
    // Jobs that retry: how fast, when to stop, what came of it, and when the next entry is due.
    "ALTER TABLE bulk_job ADD COLUMN rate integer",
    "ALTER TABLE bulk_job ADD COLUMN max_failure_percent integer",
    "ALTER TABLE bulk_job ADD COLUMN failure_window bigint",
    "ALTER TABLE bulk_job ADD COLUMN task_ids text",
    "ALTER TABLE bulk_job ADD COLUMN ended_count bigint",
    "ALTER TABLE bulk_job ADD COLUMN failed_again_count bigint",
    "ALTER TABLE bulk_job ADD COLUMN next_time bigint",
];

/// What PostgreSQL's planner is to expect before it has looked at any real row: see the migration about estimates.
const EXPECTED: &[&str] = &["DO $$ BEGIN
    ALTER TABLE replay ALTER COLUMN project SET (n_distinct = 2);
    INSERT INTO replay (project, task_id, number, time, owner, epoch, input_changed, reason, error_type, error_message,
        fail_time)
    SELECT n::text, gen_random_uuid(), 1, n, 'o', 1, false, 1, 'e', '', n FROM generate_series(1, 1000) n;
    ANALYZE replay;
    TRUNCATE replay;
    ALTER TABLE replay ALTER COLUMN project RESET (n_distinct);
END $$"];

const DOWN: &[&str] = &[
    "ALTER TABLE bulk_job DROP COLUMN next_time",
    "ALTER TABLE bulk_job DROP COLUMN failed_again_count",
    "ALTER TABLE bulk_job DROP COLUMN ended_count",
    "ALTER TABLE bulk_job DROP COLUMN task_ids",
    "ALTER TABLE bulk_job DROP COLUMN failure_window",
    "ALTER TABLE bulk_job DROP COLUMN max_failure_percent",
    "ALTER TABLE bulk_job DROP COLUMN rate",
    // The version before does not know what such a job does.
    "DELETE FROM bulk_job WHERE action = 3",
    "DROP TABLE replay",
    "DROP INDEX dead_letter_unmarked",
    "DROP INDEX dead_letter_kind",
    "DROP INDEX dead_letter_list",
    "ALTER TABLE dead_letter DROP COLUMN process_reason",
    "ALTER TABLE dead_letter DROP COLUMN processed_by",
    "ALTER TABLE dead_letter DROP COLUMN process_time",
    "ALTER TABLE dead_letter DROP COLUMN crash_count",
    "ALTER TABLE dead_letter DROP COLUMN attempt_count",
    "ALTER TABLE dead_letter DROP COLUMN fingerprint",
];
