//! What can go wrong between us and the database, sorted by what the caller can do about it. Driver text stays here and
//! in the log.

use sea_orm::{DbErr, RuntimeErr};

use crate::error::Error;

/// The result of every store function.
pub type StoreResult<T> = Result<T, StoreError>;

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique key was taken meanwhile: read again and decide again.
    #[error("a unique key is taken")]
    Unique,
    /// Deadlock, lock time-out, or a row that is not as it was read: the same transaction may succeed when run again.
    #[error("the transaction lost against another one")]
    Conflict,
    /// The database does not answer, or broke the connection.
    #[error("the database does not answer")]
    Unavailable(#[source] anyhow::Error),
    /// A list was not done in its time: the database works, it has too much to look at.
    #[error("a list took too long")]
    ListTooSlow,
    /// No space left.
    #[error("the database is full")]
    Full,
    /// A fault of ours.
    #[error("unexpected answer of the database")]
    Bug(#[source] anyhow::Error),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(cause = format!("{cause:#}"), "the database does not answer");
                Self::DatabaseUnavailable
            }
            StoreError::Unique | StoreError::Conflict => Self::Overloaded,
            StoreError::ListTooSlow => Self::ListTooSlow,
            StoreError::Full => Self::StorageFull,
            StoreError::Bug(cause) => Self::internal(cause),
        }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(cause))
            | DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => Self::from(&*cause),
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Self::Unavailable(error.into()),
            _ => Self::Bug(error.into()),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&sqlx::Error> for StoreError {
    fn from(error: &sqlx::Error) -> Self {
        let cause = anyhow::anyhow!("{error}");
        match error {
            sqlx::Error::Database(database) => {
                if database.is_unique_violation() {
                    return Self::Unique;
                }
                match database.code().as_deref() {
                    Some(code) => by_code(code, cause),
                    None => Self::Bug(cause),
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(cause),
            _ => Self::Bug(cause),
        }
    }
}

/// The error of a list: one that PostgreSQL stopped at its statement time-out is too slow, and no sign of trouble.
pub(super) fn of_list(error: DbErr) -> StoreError {
    match &error {
        DbErr::Query(RuntimeErr::SqlxError(cause))
            if cause.as_database_error().and_then(|error| error.code()).as_deref() == Some(QUERY_CANCELED) =>
        {
            StoreError::ListTooSlow
        }
        _ => error.into(),
    }
}

/// PostgreSQL's statement time-out.
const QUERY_CANCELED: &str = "57014";

/// SQLSTATE of PostgreSQL (five characters), or the result code of SQLite (a number).
fn by_code(code: &str, cause: anyhow::Error) -> StoreError {
    if let Ok(sqlite) = code.parse::<i32>()
        && code.len() < 5
    {
        // The low byte is the primary code: 5 BUSY, 6 LOCKED, 10 IOERR, 13 FULL, 14 CANTOPEN.
        return match sqlite & 0xff {
            5 | 6 => StoreError::Conflict,
            13 => StoreError::Full,
            10 | 14 => StoreError::Unavailable(cause),
            _ => StoreError::Bug(cause),
        };
    }
    match code {
        // serialization_failure, deadlock_detected, lock_not_available; and division_by_zero, which is how a statement says
        // that something is not as it was read (`Sql::fetch_postgres_with`)
        "40001" | "40P01" | "55P03" | "22012" => StoreError::Conflict,
        // disk_full
        "53100" => StoreError::Full,
        // idle_in_transaction_session_timeout, read_only_sql_transaction
        QUERY_CANCELED | "25P03" | "25006" => StoreError::Unavailable(cause),
        // connection exceptions, shutdown and start-up of the server, too many connections
        _ if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") => {
            StoreError::Unavailable(cause)
        }
        _ => StoreError::Bug(cause),
    }
}
