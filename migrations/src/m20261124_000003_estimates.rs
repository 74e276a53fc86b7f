//! What PostgreSQL's planner is to expect of the tables before it has looked at any real row.
//!
//! Knowing nothing, it takes one task in 200 for one of the project at hand. In truth it is nearly every one, so a
//! statement about a thousand tasks by their keys would read the whole table, and go on doing so until statistics are
//! taken, a minute later on a busy database. So the tables are shown rows of many projects, statistics are taken with
//! the hint that a project owns half of them, and the rows are removed again. The statistics stay until there are real
//! rows to take them from.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::Dialect;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Nobody sees the rows.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Postgres {
            return Ok(());
        }
        let dialect = Dialect(DbBackend::Postgres);
        for (table, columns, values) in EXAMPLES {
            // Real rows, if there are any, are the better example. Nobody writes some between the look and TRUNCATE, which,
            // unlike DELETE, leaves no empty pages: to the planner they would mean a table without rows, however it grows.
            let show = format!(
                "DO $$ BEGIN
                    LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE;
                    IF EXISTS (SELECT 1 FROM {table}) THEN
                        ANALYZE {table};
                    ELSE
                        ALTER TABLE {table} ALTER COLUMN project SET (n_distinct = 2);
                        INSERT INTO {table} (project, {columns}) SELECT n::text, {values} FROM generate_series(1, 1000) n;
                        ANALYZE {table};
                        TRUNCATE {table};
                        ALTER TABLE {table} ALTER COLUMN project RESET (n_distinct);
                    END IF;
                END $$"
            );
            dialect.run(manager, &[&show]).await?;
        }
        Ok(())
    }

    /// Statistics are nobody's data.
    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}

/// Tables that are joined by key, with the columns of an example and their values.
const EXAMPLES: &[(&str, &str, &str)] = &[
    (
        "task",
        "id, type, queue, priority, run_time, timeout, max_attempts, initial_backoff, max_backoff, owner, input, \
         create_time, state, version, epoch, attempt_count, crash_count, update_time",
        "gen_random_uuid(), 't', 'q', 0, n, 1, 1, 1, 1, 'o', 'x', n, 1, 1, 0, 0, 0, n",
    ),
    (
        "ready",
        "id, queue, type, rank, run_time, due, state, version, epoch, attempt_count, crash_count, update_time, \
         create_time",
        "gen_random_uuid(), 'q', 't', 0, n, true, 1, 1, 0, 0, 0, n, n",
    ),
    (
        "lease",
        "id, queue, worker, incarnation, epoch, version, attempt_count, crash_count, waiting_state, run_time, \
         start_time, expire_time, deadline_time, lease_duration, progress_pending, update_time",
        "gen_random_uuid(), 'q', 'w', 'i', 1, 1, 1, 0, 1, n, n, n, n, 1, false, n",
    ),
    ("attempt", "task_id, epoch, worker, outcome, start_time, end_time", "gen_random_uuid(), 1, 'w', 2, n, n"),
    ("closed", "state, create_time, id", "5, n, gen_random_uuid()"),
    (
        "dead_letter",
        "task_id, queue, type, reason, error_type, error_message, create_time",
        "gen_random_uuid(), 'q', 't', 1, 'e', '', n",
    ),
    ("unique_key", "type, key, task_id", "'t', n::text, gen_random_uuid()"),
    ("journal", "revision, time, kind, task_id, version, actor", "n, n, 1, gen_random_uuid(), 1, 'a'"),
    ("idempotency", "principal, method, key, fingerprint, response, create_time", "'p', 'm', n::text, '', '', n"),
];
