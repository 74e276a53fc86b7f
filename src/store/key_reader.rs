//! A connection kept for several reads by whole keys. The pool makes a round trip whenever a connection is given back, to
//! see whether it is fit for the next user; a read of a few rows costs hardly more than that.
//!
//! Whoever has a reader owns its connection, and drops it after an error: the pool looks at it then.

use sea_orm::{DatabaseBackend, QueryResult};

use super::{Store, TxConnection, error::StoreResult, limited, sql::Sql};

/// A connection of its own, and no transaction: each read sees what is committed then.
#[derive(Debug)]
pub struct KeyReader(TxConnection);

impl Store {
    /// A connection for reads by whole keys.
    pub async fn key_reader(&self) -> StoreResult<KeyReader> {
        let pool = &self.0.key_reader;
        limited(async {
            Ok(KeyReader(match self.backend() {
                DatabaseBackend::Sqlite => TxConnection::Sqlite(pool.get_sqlite_connection_pool().acquire().await?),
                _ => TxConnection::Postgres(pool.get_postgres_connection_pool().acquire().await?),
            }))
        })
        .await
    }
}

impl KeyReader {
    /// Runs a read of a few rows by their whole keys.
    pub(super) async fn fetch(&mut self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        limited(async {
            match &mut self.0 {
                TxConnection::Postgres(connection) => statement.fetch_postgres(connection).await,
                TxConnection::Sqlite(connection) => statement.fetch_sqlite(connection).await,
            }
        })
        .await
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.0, TxConnection::Postgres(_))
    }
}
