//! A database of its own for each test, on each kind of database.
//!
//! SQLite: a file in a temporary folder. PostgreSQL: a new database on the server named by
//! `TASKTOWER_TEST_DATABASE_URL`. The `Database` owns it and removes it when dropped; if that fails (the server went
//! away) it says so and no more, because a throwaway server takes its databases with it.
//! Neither has a schema yet: `Server::start` migrates, a store test does it itself.

use std::{fmt, path::Path, str::FromStr};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::missing;

/// A server on which the tests may create and drop databases.
const DATABASE_URL: &str = "TASKTOWER_TEST_DATABASE_URL";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    const ALL: [Backend; 2] = [Backend::Sqlite, Backend::Postgres];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Sqlite => "SQLite",
            Backend::Postgres => "PostgreSQL",
        })
    }
}

/// Runs `body` with a fresh database of each kind, SQLite first. PostgreSQL is left out when there is none.
pub async fn for_each_backend(body: impl AsyncFn(&Database)) {
    for backend in Backend::ALL {
        let Some(database) = Database::fresh(backend).await else { continue };
        let _name = NameOnPanic(backend);
        body(&database).await;
    }
}

/// Says in the output of a failed test which half failed.
struct NameOnPanic(Backend);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- this happened on {} ---", self.0);
        }
    }
}

pub struct Database {
    backend: Backend,
    url: String,
    place: Place,
}

/// Where the database lives, and so how it is removed.
enum Place {
    Folder { _removed_on_drop: TempDir },
    Server { admin_url: String, name: String },
}

impl Database {
    /// None, after saying so, when there is no PostgreSQL to make it on.
    pub async fn fresh(backend: Backend) -> Option<Database> {
        match backend {
            Backend::Sqlite => Some(Database::sqlite()),
            Backend::Postgres => match std::env::var(DATABASE_URL) {
                Ok(admin_url) => Some(Database::postgres(admin_url).await),
                Err(_) => {
                    missing::report("PostgreSQL", "Set TASKTOWER_TEST_DATABASE_URL");
                    None
                }
            },
        }
    }

    pub fn sqlite() -> Database {
        Database::sqlite_in(&std::env::temp_dir())
    }

    /// A file in a folder of its own below this one.
    pub fn sqlite_in(place: &Path) -> Database {
        let folder = TempDir::with_prefix_in("tasktower-it-", place).expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("it.db").display());
        Database { backend: Backend::Sqlite, url, place: Place::Folder { _removed_on_drop: folder } }
    }

    /// A new database on this PostgreSQL server.
    pub async fn postgres(admin_url: String) -> Database {
        let name = format!("it_{}", uuid::Uuid::now_v7().simple());
        // template0: nobody is ever connected to it, so creating from it never has to wait.
        run_on_server(&admin_url, format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap_or_else(|error| panic!("cannot create a database on {DATABASE_URL}: {error}"));
        let url = with_database(&admin_url, &name);
        Database { backend: Backend::Postgres, url, place: Place::Server { admin_url, name } }
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// For `--database-url`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Place::Server { admin_url, name } = &self.place else { return };
        // FORCE: a killed server's connections may live on for a moment.
        let statement = format!("DROP DATABASE {name} WITH (FORCE)");
        let admin_url = admin_url.clone();
        // A thread of its own, because a runtime cannot be entered from within another one.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_on_server(&admin_url, statement))
        });
        match dropped.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("{name} is left behind: {error}"),
            Err(_) => eprintln!("{name} is left behind"),
        }
    }
}

async fn run_on_server(admin_url: &str, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnectOptions::from_str(admin_url)?.connect().await?;
    // Safe: the statement holds nothing but our own generated name.
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await
}

/// The same server and parameters, another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = url.split_once('?').map_or((url, None), |(base, rest)| (base, Some(rest)));
    let authority_at = base.find("://").map_or(0, |at| at + "://".len());
    let base = match base[authority_at..].find('/') {
        Some(slash) => &base[..authority_at + slash],
        None => base,
    };
    match parameters {
        Some(parameters) => format!("{base}/{name}?{parameters}"),
        None => format!("{base}/{name}"),
    }
}

#[test]
fn the_database_of_a_url_is_replaced() {
    for (url, expected) in [
        ("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/x"),
        ("postgres://h", "postgres://h/x"),
        ("postgres://h/?sslmode=disable", "postgres://h/x?sslmode=disable"),
    ] {
        assert_eq!(with_database(url, "x"), expected);
    }
}

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    for_each_backend(async |first| {
        let second = Database::fresh(first.backend()).await.expect("there was one a moment ago");
        assert_ne!(first.url(), second.url());
    })
    .await;
}
