//! Connections of writers, kept between transactions. The pool tries every connection it is given back, which is a round
//! trip after each transaction; one that has just answered COMMIT needs no trial.
//!
//! One is kept only while nobody waits for the pool, so that nobody waits while one is idle, and for [`KEPT_FOR`] only:
//! then it goes back to the pool, which tries it and sees to its age.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Connection, error::StoreResult};

/// How long a connection is kept after it was taken from the pool.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The connections that are kept. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    idle: Vec<(Connection, Instant)>,
    /// How many wait for the pool.
    waiting: usize,
}

impl Writers {
    /// One that is kept, or one from the pool; and since when it is out of it.
    pub(super) async fn take(
        &self,
        from_pool: impl Future<Output = StoreResult<Connection>>,
    ) -> StoreResult<(Connection, Instant)> {
        let _waiting = {
            let mut kept = self.lock();
            while let Some((connection, since)) = kept.idle.pop() {
                if since.elapsed() < KEPT_FOR {
                    return Ok((connection, since));
                }
            }
            kept.waiting += 1;
            Waiting(self)
        };
        Ok((from_pool.await?, Instant::now()))
    }

    /// Keeps a connection that is in no transaction, or gives it back to the pool.
    pub(super) fn give_back(&self, connection: Connection, since: Instant) {
        let mut kept = self.lock();
        if kept.waiting == 0 && since.elapsed() < KEPT_FOR {
            kept.idle.push((connection, since));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for the pool, until it is dropped.
struct Waiting<'a>(&'a Writers);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Drop for Kept {
    /// Closes them here and now: to go back to the pool they would need a runtime, which may be gone.
    fn drop(&mut self) {
        for (connection, _) in self.idle.drain(..) {
            match connection {
                Connection::Postgres(connection) => drop(connection.detach()),
                Connection::Sqlite(connection) => drop(connection.detach()),
            }
        }
    }
}
