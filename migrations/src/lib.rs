//! The schema of tasktower, one module a migration.
//!
//! A published migration is never edited. Expand first, contract in a later release: version N and N−1 run side by side
//! on the newer schema. Statements are written once for both databases; the few type names that differ are filled in by
//! [`Dialect`].

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

pub use sea_orm_migration::MigratorTrait;

/// The migration of a module that is two lists of statements: those that bring it, and those that take it back.
macro_rules! statements {
    ($up:ident, $down:ident) => {
        use sea_orm_migration::prelude::*;

        #[derive(DeriveMigrationName)]
        pub struct Migration;

        #[async_trait::async_trait]
        impl MigrationTrait for Migration {
            /// All or nothing on SQLite too; PostgreSQL does so by itself.
            fn use_transaction(&self) -> Option<bool> {
                Some(true)
            }

            async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
                $crate::Dialect(manager.get_database_backend()).run(manager, $up).await
            }

            async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
                $crate::Dialect(manager.get_database_backend()).run(manager, $down).await
            }
        }
    };
}
use statements;

mod m20261124_000001_core;
mod m20261124_000002_lists;
mod m20261124_000003_estimates;
mod m20261124_000004_answers;
mod m20261125_000005_retry_policies;
mod m20261125_000006_dead_letters;
mod m20261125_000007_schedules;
mod m20261125_000008_retention;
mod m20261125_000009_api_keys;
mod m20261125_000010_members;
mod m20261125_000013_audit;

/// All migrations, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000001_core::Migration),
            Box::new(m20261124_000002_lists::Migration),
            Box::new(m20261124_000003_estimates::Migration),
            Box::new(m20261124_000004_answers::Migration),
            Box::new(m20261125_000005_retry_policies::Migration),
            Box::new(m20261125_000006_dead_letters::Migration),
            Box::new(m20261125_000007_schedules::Migration),
            Box::new(m20261125_000008_retention::Migration),
            Box::new(m20261125_000009_api_keys::Migration),
            Box::new(m20261125_000010_members::Migration),
            Box::new(m20261125_000013_audit::Migration),
        ]
    }
}

/// Fills the names that differ between PostgreSQL and SQLite into a statement.
struct Dialect(DbBackend);

impl Dialect {
    fn fill(&self, statement: &str) -> String {
        let (uuid, bytes, clustered, hot, twice, of_lists) = match self.0 {
            DbBackend::Postgres => (
                "uuid",
                "bytea",
                "",
                // Rows that change or go often: room for HOT updates on the page, and vacuum before bloat is felt.
                "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, \
                 autovacuum_vacuum_cost_delay = 0)",
                // Written once, rewritten once: the second version finds room on the page of the first.
                "WITH (fillfactor = 50)",
                // Always true, and said by lists only: to a reader by key the index is no choice. A plan made while the
                // tables are empty might else walk it instead of the primary key, and would be kept.
                "WHERE create_time IS NOT NULL",
            ),
            // A table that is always reached by its primary key needs no second tree.
            _ => ("blob", "blob", "WITHOUT ROWID", "WITHOUT ROWID", "", ""),
        };
        statement
            .replace("{uuid}", uuid)
            .replace("{bytes}", bytes)
            .replace("{clustered}", clustered)
            .replace("{hot}", hot)
            .replace("{twice}", twice)
            .replace("{of_lists}", of_lists)
    }

    async fn run(&self, manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
        for statement in statements {
            manager.get_connection().execute_unprepared(&self.fill(statement)).await?;
        }
        Ok(())
    }
}
