//! SQL on the database of a test, beside the product: to look at what is stored, and to put faults in its way.

use std::str::FromStr as _;

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, PgConnection, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};

use super::{
    backend::{Backend, Database},
    wait::SOON,
};

/// A connection of the test's own. Statements are the test's own text.
pub enum Beside {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Beside {
    pub async fn open(database: &Database) -> Beside {
        match database.backend() {
            Backend::Sqlite => {
                let options = SqliteConnectOptions::from_str(database.url()).expect("a SQLite URL").busy_timeout(SOON);
                Beside::Sqlite(options.connect().await.expect("the database file opens"))
            }
            Backend::Postgres => {
                let options = PgConnectOptions::from_str(database.url()).expect("a PostgreSQL URL");
                let options = options.options([("search_path", "tasktower")]);
                Beside::Postgres(options.connect().await.expect("PostgreSQL accepts a connection"))
            }
        }
    }

    pub async fn run(&mut self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        match self {
            Beside::Sqlite(connection) => sqlx::raw_sql(statement).execute(connection).await.map(drop),
            Beside::Postgres(connection) => sqlx::raw_sql(statement).execute(connection).await.map(drop),
        }
        .expect("executed");
    }

    /// The one whole number that a query answers.
    pub async fn number(&mut self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        match self {
            Beside::Sqlite(connection) => sqlx::query_scalar(query).fetch_one(connection).await,
            Beside::Postgres(connection) => sqlx::query_scalar(query).fetch_one(connection).await,
        }
        .expect("a number")
    }

    /// The texts that a query answers.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        let query = AssertSqlSafe(query.to_owned());
        match self {
            Beside::Sqlite(connection) => sqlx::query_scalar(query).fetch_all(connection).await,
            Beside::Postgres(connection) => sqlx::query_scalar(query).fetch_all(connection).await,
        }
        .expect("texts")
    }

    /// Lets space that is free be used again and answers the bytes the database takes. Under PostgreSQL the journal does
    /// not count: it keeps what was done, and a slow machine deletes in small batches, each of which is a row of it.
    pub async fn size(&mut self) -> i64 {
        match self {
            Beside::Sqlite(_) => {
                self.number("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()").await
            }
            Beside::Postgres(_) => {
                // What autovacuum does a little later.
                self.run("VACUUM").await;
                self.number(
                    "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'tasktower' AND c.relkind = 'r' AND c.relname <> 'journal'",
                )
                .await
            }
        }
    }
}
