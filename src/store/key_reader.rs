//! A connection kept for several reads by whole keys. The pool makes a round trip whenever a connection is given back, to
//! see whether it is fit for the next user; a read of a few rows costs hardly more than that.
//!
//! Whoever has a reader owns its connection, and drops it after an error: the pool looks at it then.

use sea_orm::QueryResult;

use super::{Connection, Store, error::StoreResult, limited, sql::Sql};

/// A connection of its own, and no transaction: each read sees what is committed then.
#[derive(Debug)]
pub struct KeyReader(Connection);

impl Store {
    /// A connection for reads by whole keys.
    pub async fn key_reader(&self) -> StoreResult<KeyReader> {
        Ok(KeyReader(limited(self.acquire(&self.0.key_reader)).await?))
    }
}

impl KeyReader {
    /// Runs a read of a few rows by their whole keys.
    pub(super) async fn fetch(&mut self, statement: Sql) -> StoreResult<Vec<QueryResult>> {
        limited(self.0.fetch(statement)).await
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.0, Connection::Postgres(_))
    }
}
