//! The only code that knows SQL. It takes and returns domain values; rows stay inside.
//!
//! Reads go through sea-orm on a pool of their own. Writes are explicit transactions ([`Tx`]): the committer's batches and
//! the rare named writes (`app/named_write.rs`). A transaction that is not finished (a panic, a dropped future) closes its
//! connection, so that no later user finds it inside somebody's BEGIN.
//!
//! On SQLite there is one writer: `BEGIN IMMEDIATE` on a pool of one. Everything written for PostgreSQL holds there too,
//! only row locks are not needed.

mod clock;
mod connect;
mod error;
mod filter;
mod installation;
mod key_reader;
mod placeholders;
mod sabotage;
mod sql;
mod texts;
mod writers;

pub mod api_keys;
pub mod audit;
pub mod bulk_jobs;
pub mod dead_letters;
pub mod history;
pub mod idempotency;
pub mod journal;
pub mod members;
pub mod migrate;
pub mod occurrences;
pub mod projects;
pub mod queues;
pub mod retention;
pub mod retention_runs;
pub mod retry_policies;
pub mod retry_reports;
pub mod schedules;
pub mod seals;
pub mod tasks;
pub mod unique_keys;
pub mod workers;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{DatabaseBackend, DatabaseConnection, DbErr, QueryResult};
use sqlx::{Postgres, Sqlite, pool::PoolConnection};

use self::{
    clock::Clock,
    sql::{Reader, Sql},
    writers::Writers,
};
pub use self::{
    connect::DatabaseUrl,
    error::{StoreError, StoreResult},
    installation::Installation,
    key_reader::KeyReader,
};
use crate::{
    domain::task::Micros,
    faults::{Mutant, Point},
};

/// A statement or a COMMIT that takes longer means the database hangs; the caller is answered before its own limit.
const STATEMENT_LIMIT: Duration = Duration::from_secs(4);

/// PostgreSQL's time in microseconds.
macro_rules! now {
    () => {
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: DatabaseUrl,
    reader: DatabaseConnection,
    key_reader: DatabaseConnection,
    writer: DatabaseConnection,
    writers: Writers,
    installation: Installation,
    /// PostgreSQL's, as it was last read.
    clock: Clock,
    /// Added to every time read from the database. Only tests move it.
    clock_shift: AtomicI64,
    /// Statements of write transactions so far.
    statements: Arc<AtomicU64>,
    /// Held for as long as the store is open, so that a second process is refused.
    _lock: Option<connect::LockFile>,
}

impl Store {
    /// Opens a migrated database.
    pub async fn open(url: &DatabaseUrl) -> anyhow::Result<Self> {
        let opened = connect::open(url, connect::Purpose::Serve).await?;
        migrate::require_current(&opened.writer).await?;
        let installation = installation::load(&opened.writer).await?;
        Ok(Self(Arc::new(Inner {
            url: url.clone(),
            reader: opened.reader,
            key_reader: opened.key_reader,
            writer: opened.writer,
            writers: Writers::default(),
            installation,
            clock: Clock::default(),
            clock_shift: AtomicI64::new(0),
            statements: Arc::default(),
            _lock: opened.lock,
        })))
    }

    /// Where the data is, without secrets.
    pub fn url(&self) -> &DatabaseUrl {
        &self.0.url
    }

    /// Which database this is.
    pub fn installation(&self) -> &Installation {
        &self.0.installation
    }

    /// Moves the store's clock forward: for tests of time-outs and schedules.
    pub fn shift_clock(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.clock_shift.fetch_add(micros, Ordering::Relaxed);
    }

    /// The database's time.
    pub async fn now(&self) -> StoreResult<Micros> {
        let shift = self.0.clock_shift.load(Ordering::Relaxed);
        if self.backend() == DatabaseBackend::Sqlite {
            return Ok(connect::process_time() + shift);
        }
        let rows = self.fetch(Sql::new(concat!("-- store::now\n", now!()))).await?;
        let row = rows.first().ok_or_else(|| StoreError::Bug(anyhow::anyhow!("no time")))?;
        Ok(self.0.clock.was_read(Reader::new(row).get()?, Instant::now()) + shift)
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> StoreResult<()> {
        self.fetch(Sql::new("-- store::ping\nSELECT revision FROM counter WHERE project = 'system'")).await.map(|_| ())
    }

    /// Begins a write transaction and reads the database's time, once for all that is decided in it.
    pub async fn begin(&self) -> StoreResult<Tx> {
        Point::BeforeBegin.pass().await.map_err(StoreError::Unavailable)?;
        let tx = limited(async {
            let shift = self.0.clock_shift.load(Ordering::Relaxed);
            // The guard exists before BEGIN is sent: whatever happens from here on closes the connection.
            let mut tx = self.transaction().await?;
            if self.backend() == DatabaseBackend::Sqlite {
                tx.run("BEGIN IMMEDIATE").await?;
                tx.now = connect::process_time() + shift;
                return Ok(tx);
            }
            tx.count();
            if let Some(Connection::Postgres(connection)) = &mut tx.connection {
                // One round trip for all of it.
                let row = sqlx::raw_sql(concat!("BEGIN; ", now!())).fetch_one(&mut **connection).await?;
                let time = Reader::new(&QueryResult::from(row)).get::<i64>()?;
                tx.now = self.0.clock.was_read(time, Instant::now()) + shift;
            }
            Ok(tx)
        })
        .await?;
        Point::AfterBegin.pass().await.map_err(StoreError::Unavailable)?;
        Ok(tx)
    }

    /// The same without a round trip and without locks, if the time is known: reads see what is committed, BEGIN is sent
    /// before the first write, or never if that is the only one ([`Tx::only`]). What is decided on rows that were read so
    /// is written on condition that they are still as they were; a time that lags by the way of an answer is as good as
    /// one that was just read.
    pub async fn begin_optimistic(&self) -> StoreResult<Tx> {
        let fresh = if self.backend() == DatabaseBackend::Sqlite { None } else { self.0.clock.time(Instant::now()) };
        // What a mutant does wrong, it does in a transaction.
        let is_mutant = Mutant::ALL.iter().any(|mutant| mutant.is_on() && *mutant != Mutant::WritesUnchecked);
        let Some(time) = fresh.filter(|_| !is_mutant) else { return self.begin().await };
        Point::BeforeBegin.pass().await.map_err(StoreError::Unavailable)?;
        let mut tx = limited(self.transaction()).await?;
        tx.has_begun = false;
        tx.now = time + self.0.clock_shift.load(Ordering::Relaxed);
        Point::AfterBegin.pass().await.map_err(StoreError::Unavailable)?;
        Ok(tx)
    }

    /// A connection for a transaction that is about to begin.
    async fn transaction(&self) -> StoreResult<Tx> {
        let (writers, statements) = (self.0.writers.clone(), self.0.statements.clone());
        // Boxed, because it is large, and seldom run.
        let (connection, since) = writers.take(Box::pin(self.acquire(&self.0.writer))).await?;
        let connection = Some(connection);
        Ok(Tx { connection, since, writers, has_begun: true, now: 0, deferred: Vec::new(), statements })
    }

    /// How many statements write transactions have run so far, BEGIN and COMMIT included. On PostgreSQL each is a round
    /// trip.
    pub fn statements(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    /// Runs a read statement on its own.
    async fn fetch(&self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        limited(async { self.acquire(self.reader()).await?.fetch(statement).await }).await
    }

    /// A connection of a pool.
    async fn acquire(&self, pool: &DatabaseConnection) -> StoreResult<Connection> {
        Ok(match self.backend() {
            DatabaseBackend::Sqlite => Connection::Sqlite(pool.get_sqlite_connection_pool().acquire().await?),
            _ => Connection::Postgres(pool.get_postgres_connection_pool().acquire().await?),
        })
    }

    /// Runs a read of a few rows by their whole keys. It is planned once, whatever it is given.
    async fn fetch_by_key(&self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        self.key_reader().await?.fetch(statement).await
    }

    /// Waits for a list as long as a statement may take. PostgreSQL ends it at its statement time-out; SQLite, which cannot
    /// be told, goes on in its thread.
    async fn in_time_for_a_list<T>(&self, list: impl Future<Output = Result<T, DbErr>> + Send) -> StoreResult<T> {
        match tokio::time::timeout(STATEMENT_LIMIT, Box::pin(list)).await {
            Ok(outcome) => outcome.map_err(error::of_list),
            Err(_) => Err(StoreError::ListTooSlow),
        }
    }

    fn reader(&self) -> &DatabaseConnection {
        &self.0.reader
    }

    fn backend(&self) -> DatabaseBackend {
        self.0.writer.get_database_backend()
    }

    /// Whether rows must be locked before they are decided on.
    pub fn has_row_locks(&self) -> bool {
        self.backend() != DatabaseBackend::Sqlite
    }
}

/// A write transaction. Dropped without [`Tx::commit`] it rolls back by closing its connection.
#[derive(Debug)]
pub struct Tx {
    /// None only once finished.
    connection: Option<Connection>,
    /// When it was taken from the pool.
    since: Instant,
    /// Where it goes afterwards.
    writers: Writers,
    /// Whether BEGIN was sent.
    has_begun: bool,
    now: Micros,
    /// Statements that may wait for the next one, and how many rows each must change.
    deferred: Vec<(Sql, Option<usize>)>,
    /// The store's count of statements.
    statements: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Connection {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Connection {
    /// Runs a statement and returns the rows it answers.
    async fn fetch(&mut self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        match self {
            Self::Postgres(connection) => statement.fetch_postgres(connection).await,
            Self::Sqlite(connection) => statement.fetch_sqlite(connection).await,
        }
    }
}

/// How a COMMIT failed.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing was written.
    RolledBack(StoreError),
    /// The connection broke before the answer: it may or may not be written.
    Unknown(StoreError),
}

impl Tx {
    /// The database's time, read at BEGIN, or carried on since it was last read.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Runs a write that answers rows, or a read that locks them.
    async fn fetch(&mut self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.flush_first().await?;
        self.begin_first().await?;
        self.read(statement).await
    }

    /// Runs a read. It needs no BEGIN.
    async fn read(&mut self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        if statement.is_idle() {
            return Ok(Vec::new());
        }
        self.flush_first().await?;
        self.count();
        let connection = self.connection.as_mut().ok_or_else(finished)?;
        limited(connection.fetch(statement)).await
    }

    async fn execute(&mut self, statement: Sql) -> StoreResult<()> {
        if statement.is_idle() {
            return Ok(());
        }
        self.flush_first().await?;
        self.run_one(statement).await.map(|_| ())
    }

    /// Runs a statement with the next write at the latest, and fails that one with a conflict if it does not change, or
    /// lock, exactly the `expected` number of rows.
    fn defer(&mut self, statement: Sql, expected: Option<usize>) {
        if !statement.is_idle() {
            self.deferred.push((statement, expected));
        }
    }

    fn count(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs what was deferred before another statement. Boxed, because it is rare and every statement's future holds it.
    async fn flush_first(&mut self) -> StoreResult<()> {
        if self.deferred.is_empty() { Ok(()) } else { Box::pin(self.flush()).await }
    }

    /// Runs what was deferred, one after the other.
    async fn flush(&mut self) -> StoreResult<()> {
        for (statement, expected) in std::mem::take(&mut self.deferred) {
            let changed = self.run_one(statement).await?;
            if expected.is_some_and(|expected| usize::try_from(changed) != Ok(expected)) {
                return Err(StoreError::Conflict);
            }
        }
        Ok(())
    }

    /// Sends BEGIN if that was left for later. Boxed, because it is rare and every statement's future holds it.
    async fn begin_first(&mut self) -> StoreResult<()> {
        if self.has_begun {
            return Ok(());
        }
        self.has_begun = true;
        Box::pin(limited(self.run("BEGIN"))).await
    }

    /// Whether it is optimistic: nothing was written or locked so far, so that one statement can be all of it.
    pub(crate) fn is_optimistic(&self) -> bool {
        !self.has_begun
    }

    /// Runs a statement, what was deferred, and `after`, as all there is of a transaction that is
    /// [optimistic](Self::is_optimistic): it commits by itself, in the same round trip.
    async fn only(mut self, statement: Sql, after: Vec<Sql>) -> Result<Vec<QueryResult>, CommitError> {
        match self.send_only(statement, after).await {
            Ok(rows) => Ok(rows),
            Err(cause @ StoreError::Unavailable(_)) => Err(CommitError::Unknown(cause)),
            Err(cause) => {
                // The database refused it, so the connection is in no transaction.
                self.give_back();
                Err(CommitError::RolledBack(cause))
            }
        }
    }

    async fn send_only(&mut self, statement: Sql, after: Vec<Sql>) -> StoreResult<Vec<QueryResult>> {
        Point::BeforeCommit.pass().await.map_err(StoreError::Unavailable)?;
        let rows = self.send_together(statement, after).await?;
        self.give_back();
        Point::AfterCommit.pass().await.map_err(StoreError::Unavailable)?;
        Ok(rows)
    }

    /// Runs a statement, what was deferred, and `after`, in one round trip ([`Sql::fetch_postgres_with`]).
    async fn fetch_together(&mut self, statement: Sql, after: Vec<Sql>) -> StoreResult<Vec<QueryResult>> {
        self.begin_first().await?;
        self.send_together(statement, after).await
    }

    async fn send_together(&mut self, statement: Sql, after: Vec<Sql>) -> StoreResult<Vec<QueryResult>> {
        let mut others = std::mem::take(&mut self.deferred);
        others.extend(after.into_iter().map(|statement| (statement, None)));
        self.count();
        let Some(Connection::Postgres(connection)) = &mut self.connection else { return Err(finished()) };
        limited(statement.fetch_postgres_with(others, connection)).await
    }

    /// Runs a statement and answers how many rows it changed.
    async fn run_one(&mut self, statement: Sql) -> StoreResult<u64> {
        self.begin_first().await?;
        self.count();
        let connection = self.connection.as_mut().ok_or_else(finished)?;
        limited(async {
            match connection {
                Connection::Postgres(connection) => statement.execute_postgres(connection).await,
                Connection::Sqlite(connection) => statement.execute_sqlite(connection).await,
            }
        })
        .await
    }

    fn is_postgres(&self) -> bool {
        matches!(self.connection, Some(Connection::Postgres(_)))
    }

    /// Makes it durable.
    pub async fn commit(mut self) -> Result<(), CommitError> {
        if let Err(cause) = self.flush().await {
            self.rollback().await;
            return Err(CommitError::RolledBack(cause));
        }
        if Mutant::AnswerBeforeCommit.is_on() {
            return self.commit_later();
        }
        match self.send_commit().await {
            Ok(()) => Ok(()),
            Err(cause @ StoreError::Unavailable(_)) => Err(CommitError::Unknown(cause)),
            Err(cause) => Err(CommitError::RolledBack(cause)),
        }
    }

    async fn send_commit(&mut self) -> StoreResult<()> {
        Point::BeforeCommit.pass().await.map_err(StoreError::Unavailable)?;
        self.finish("COMMIT").await?;
        Point::AfterCommit.pass().await.map_err(StoreError::Unavailable)
    }

    /// Gives it up and keeps the connection.
    pub async fn rollback(mut self) {
        if !self.has_begun {
            self.give_back();
            return;
        }
        if let Err(cause) = self.finish("ROLLBACK").await {
            tracing::debug!(%cause, "rollback on a broken connection");
        }
    }

    async fn finish(&mut self, word: &'static str) -> StoreResult<()> {
        limited(self.run(word)).await?;
        // Only now is the connection fit for the next user; otherwise Drop closes it.
        self.give_back();
        Ok(())
    }

    /// The transaction is over, so the connection is fit for the next one.
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.writers.give_back(connection, self.since);
        }
    }

    async fn run(&mut self, word: &'static str) -> StoreResult<()> {
        self.count();
        match self.connection.as_mut().ok_or_else(finished)? {
            Connection::Postgres(connection) => sqlx::raw_sql(word).execute(&mut **connection).await.map(|_| ())?,
            Connection::Sqlite(connection) => sqlx::raw_sql(word).execute(&mut **connection).await.map(|_| ())?,
        }
        Ok(())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if Mutant::CancelledCallDropsTransaction.is_on() {
            return;
        }
        match &mut self.connection {
            Some(Connection::Postgres(connection)) => connection.close_on_drop(),
            Some(Connection::Sqlite(connection)) => connection.close_on_drop(),
            None => {}
        }
    }
}

fn finished() -> StoreError {
    StoreError::Bug(anyhow::anyhow!("the transaction is finished"))
}

/// No wait on the database is without an end. Boxed, because the driver's futures are large and would be part of every
/// caller's.
async fn limited<T>(work: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
    let work: Pin<Box<dyn Future<Output = StoreResult<T>> + Send + '_>> = Box::pin(work);
    match tokio::time::timeout(STATEMENT_LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable(anyhow::anyhow!("no answer within {}s", STATEMENT_LIMIT.as_secs()))),
    }
}
