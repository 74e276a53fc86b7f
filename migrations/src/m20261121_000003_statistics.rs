//! Statistics of the hot tables from the first row on, on PostgreSQL.
//!
//! Until a table is analysed, PostgreSQL takes `project = 'default'` for half a percent of it, and reads the whole project
//! rather than a few hundred tasks by their ids; under load that is the first minute of every new database. So each
//! table that is still empty is given a few rows, analysed, and emptied again: statistics outlive the rows, and an
//! analysis of an empty table leaves them alone. A table that has rows is only analysed.
//!
//! SQLite keeps no statistics here; its planner is held to the indexes when a connection is opened.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// Enough that PostgreSQL sees which columns repeat themselves and which do not.
const ROWS: u32 = 1_000;

/// A table, and values for its columns that have no default, of row `n`.
const SAMPLES: &[(&str, &str, &str)] = &[
    (
        "task",
        "id, type, queue, priority, run_time, timeout, max_attempts, initial_backoff, max_backoff, owner, create_time,
            state, version, epoch, attempt_count, crash_count, update_time",
        "gen_random_uuid(), n % 8, n % 8, n % 3, n, 0, 1, 0, 0, '', n, 1 + n % 6, n % 4, n % 3, 0, 0, n",
    ),
    (
        "ready",
        "id, queue, type, rank, run_time, due, state, version, epoch, attempt_count, crash_count, update_time,
            create_time",
        "gen_random_uuid(), n % 8, n % 8, n % 3, n, n % 8 > 0, 1, n % 4, n % 3, 0, 0, n, n",
    ),
    (
        "lease",
        "id, queue, worker, incarnation, epoch, version, attempt_count, crash_count, waiting_state, run_time, start_time,
            expire_time, deadline_time, lease_duration, progress_pending, update_time",
        "gen_random_uuid(), n % 8, n % 8, n % 8, n % 3, n % 4, 0, 0, 1, n, n, n, n, 0, false, n",
    ),
    ("attempt", "task_id, epoch, worker, outcome, start_time, end_time", "gen_random_uuid(), n % 3, n % 8, 2, n, n"),
    ("closed", "state, create_time, id", "5 + n % 2, n, gen_random_uuid()"),
    (
        "dead_letter",
        "task_id, queue, type, reason, error_type, error_message, create_time",
        "gen_random_uuid(), n % 8, n % 8, 1, n % 8, '', n",
    ),
    ("unique_key", "type, key, task_id", "n % 8, n, gen_random_uuid()"),
    ("journal", "revision, time, kind, task_id, version, actor", "n, n, n % 8, gen_random_uuid(), n % 4, n % 8"),
    (
        "idempotency",
        "principal, method, key, fingerprint, response, create_time",
        "n % 8, n % 8, n, '', '', n",
    ),
];

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Postgres {
            return Ok(());
        }
        for (table, columns, values) in SAMPLES {
            let connection = manager.get_connection();
            let sample = format!(
                "INSERT INTO {table} (project, {columns}) SELECT 'default', {values} FROM generate_series(1, {ROWS}) AS n
                 WHERE NOT EXISTS (SELECT 1 FROM {table})"
            );
            let was_empty = connection.execute_unprepared(&sample).await?.rows_affected() > 0;
            connection.execute_unprepared(&format!("ANALYZE {table}")).await?;
            if was_empty {
                connection.execute_unprepared(&format!("TRUNCATE {table}")).await?;
            }
        }
        Ok(())
    }

    /// Statistics do no harm to the schema before.
    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
