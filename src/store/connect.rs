//! Opens the database: pools, session settings, the lock file of SQLite.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

use crate::{domain::task::Micros, faults::Mutant};

/// Connections for writes on PostgreSQL: one for each committer lane and a few for named writes.
const POSTGRES_WRITERS: u32 = 10;
/// Connections for reads on PostgreSQL. Apart from the writers, so that slow lists never hold up a commit.
const POSTGRES_READERS: u32 = 10;
/// Connections for reads by key on PostgreSQL: what gathers single reads has few statements under way at a time.
const POSTGRES_KEY_READERS: u32 = 4;
/// Connections for reads on SQLite; each is a thread. Two of them stay with what gathers single reads while it is busy.
const SQLITE_READERS: u32 = 6;
/// How long a call waits for a free connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// A connection idle for longer is tried before use; a fresher one is taken as it is, without the round trip.
const PING_AFTER_IDLE: Duration = Duration::from_secs(30);
/// How long SQLite waits for another connection's lock.
const SQLITE_BUSY_LIMIT: Duration = Duration::from_secs(3);
/// Prepared statements kept per connection. On SQLite each statement has a text for every chunk size.
const STATEMENT_CACHE: usize = 512;
/// SQLite's page cache per connection in KiB (negative means KiB to SQLite).
const SQLITE_CACHE: &str = "-16000";
/// Pages in the write-ahead log before it is copied back, 16 MB: fewer, larger copies than the default of a quarter.
const SQLITE_CHECKPOINT: &str = "4000";
/// Rows the driver's thread may be ahead of us: a batch of tasks comes over without a thread switch for every few rows.
const SQLITE_ROW_BUFFER: usize = 2_048;
/// Older releases have a race that can corrupt the write-ahead log.
const SQLITE_FLOOR: (u32, u32, u32) = (3, 51, 3);

/// Settings of PostgreSQL's planner.
type Plans = &'static [(&'static str, &'static str)];
/// Plans of writes are made once, whatever they carry: planning for a thousand ids would look at each of them. One that is
/// made while a table is small must not read all of it later, so they go by an index, and by one that names the rows.
const WRITER_PLANS: Plans = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_memoize", "off"),
];

/// Where the database is: `postgres://…`, `sqlite://FILE` or `sqlite:FILE`.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A PostgreSQL server.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

impl FromStr for DatabaseUrl {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match path {
            Some("" | ":memory:") => bail!("a SQLite database needs a file: an in-memory one would lose every task"),
            Some(path) => Ok(Self::Sqlite(PathBuf::from(path.split('?').next().unwrap_or(path)))),
            None => bail!("the database URL must begin with postgres:// or sqlite://"),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => {
                let rest = url.split_once("://").map_or("", |(_, rest)| rest);
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "postgres://{}", place.split('?').next().unwrap_or(place))
            }
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An open database.
pub(super) struct Opened {
    pub(super) reader: DatabaseConnection,
    /// For reads of a few rows by their whole key. On SQLite it is `reader`.
    pub(super) key_reader: DatabaseConnection,
    pub(super) writer: DatabaseConnection,
    pub(super) lock: Option<LockFile>,
}

/// Keeps other processes off a SQLite database: it has one committer, and that is in this process.
#[derive(Debug)]
pub(super) struct LockFile {
    /// The lock goes with the descriptor, also when the process is killed.
    _file: File,
}

/// What a database is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Many short statements; none may take long.
    Serve,
    /// A few statements that may rewrite tables.
    Migrate,
}

pub(super) async fn open(url: &DatabaseUrl, purpose: Purpose) -> anyhow::Result<Opened> {
    match url {
        DatabaseUrl::Postgres(address) => {
            let writer = connect_postgres(address, POSTGRES_WRITERS, purpose, WRITER_PLANS).await?;
            let (reader, key_reader) = match purpose {
                Purpose::Serve => (
                    connect_postgres(address, POSTGRES_READERS, purpose, PLANNED_EACH_TIME).await?,
                    connect_postgres(address, POSTGRES_KEY_READERS, purpose, PLANNED_ONCE).await?,
                ),
                Purpose::Migrate => (writer.clone(), writer.clone()),
            };
            Ok(Opened { reader, key_reader, writer, lock: None })
        }
        DatabaseUrl::Sqlite(path) => {
            let lock = lock_file(path)?;
            let writer = connect_sqlite(path, 1).await?;
            check_sqlite_version(&writer).await?;
            let reader = connect_sqlite(path, SQLITE_READERS).await?;
            Ok(Opened { key_reader: reader.clone(), reader, writer, lock: Some(lock) })
        }
    }
}

/// Lists are planned for their values: a rare state wants another plan than a common one.
const PLANNED_EACH_TIME: &[(&str, &str)] = &[("plan_cache_mode", "force_custom_plan")];

/// Reads by key have one good plan, and finding it costs as much as running it. Their statements leave no other, because
/// a plan made while the tables were empty stays until their statistics are renewed.
const PLANNED_ONCE: &[(&str, &str)] = &[("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

async fn connect_postgres(
    address: &str,
    connections: u32,
    purpose: Purpose,
    plans: Plans,
) -> anyhow::Result<DatabaseConnection> {
    let limit = move |time| if purpose == Purpose::Serve { time } else { "0" };
    let mut options = common(address, connections);
    options.map_sqlx_postgres_opts(move |options| {
        options
            .application_name("tasktower")
            .statement_cache_capacity(STATEMENT_CACHE)
            .options([
                // All our objects live in one schema.
                ("search_path", "tasktower"),
                // A replica that is paused inside a transaction must not stop its project for long.
                ("idle_in_transaction_session_timeout", limit("2s")),
                ("lock_timeout", limit("2s")),
                ("statement_timeout", limit("4s")),
                // An acknowledged commit survives a crash, whatever the server's default is.
                ("synchronous_commit", if Mutant::AsynchronousCommit.is_on() { "off" } else { "on" }),
                // Short statements with a few rows: compiling them costs more than it saves.
                ("jit", "off"),
                // What is asked for by key is mostly in memory, or on a disk that does not seek.
                ("random_page_cost", "1.1"),
            ])
            .options(plans.iter().copied())
    });
    match Database::connect(options).await {
        Ok(pool) => Ok(pool),
        // A pool whose server cannot be reached only says that its time was up; a single connection says why.
        Err(pool) => {
            Err(why_unreachable(address).await.unwrap_or_else(|| pool.into())).context("connect to PostgreSQL")
        }
    }
}

/// What goes wrong when one connects without a pool; none when nothing does.
async fn why_unreachable(address: &str) -> Option<anyhow::Error> {
    let connecting = async { sqlx::postgres::PgConnection::connect(address).await?.close().await };
    match tokio::time::timeout(ACQUIRE_LIMIT, connecting).await {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(cause.into()),
        Err(_) => Some(anyhow::anyhow!("no answer within {} s", ACQUIRE_LIMIT.as_secs())),
    }
}

async fn connect_sqlite(path: &Path, connections: u32) -> anyhow::Result<DatabaseConnection> {
    let mut options = common(&format!("sqlite://{}", path.display()), connections);
    options.map_sqlx_sqlite_opts(|options| {
        options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Every commit is on disk before it is acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(SQLITE_BUSY_LIMIT)
            .statement_cache_capacity(STATEMENT_CACHE)
            .pragma("cache_size", SQLITE_CACHE)
            .pragma("temp_store", "memory")
            .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT)
            // Every join of ours has its index. Without this the planner, which takes a project for ten rows, would read
            // all tasks of it and look each up in an index made of the rows of the statement.
            .pragma("automatic_index", "off")
            .row_buffer_size(SQLITE_ROW_BUFFER)
    });
    Database::connect(options).await.with_context(|| format!("open {}", path.display()))
}

fn common(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .connect_timeout(ACQUIRE_LIMIT)
        .test_before_acquire_if_idle_for(PING_AFTER_IDLE)
        .sqlx_logging(false);
    options
}

fn lock_file(database: &Path) -> anyhow::Result<LockFile> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", Path::new(&path).display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "{} is in use by another tasktower process; stop it, or use PostgreSQL to run several",
            database.display()
        );
    }
    Ok(LockFile { _file: file })
}

async fn check_sqlite_version(database: &DatabaseConnection) -> anyhow::Result<()> {
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(database.get_sqlite_connection_pool()).await?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < SQLITE_FLOOR {
        bail!("SQLite {version} is too old: before 3.51.3 its write-ahead log can be corrupted");
    }
    Ok(())
}

/// SQLite runs inside this process, so its clock is ours: the one place that may ask for it.
#[allow(clippy::disallowed_methods, reason = "the one place that may ask the system for the time")]
pub(super) fn process_time() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_is_shown_without_its_secrets() {
        let url: DatabaseUrl = "postgres://user:secret@db.example:5432/app?sslmode=require&password=x".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://db.example:5432/app");
        assert_eq!("sqlite://a/b.db".parse::<DatabaseUrl>().unwrap().to_string(), "sqlite://a/b.db");
        assert!("sqlite::memory:".parse::<DatabaseUrl>().is_err());
        assert!("mysql://x".parse::<DatabaseUrl>().is_err());
    }
}
