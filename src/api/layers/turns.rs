//! Turns for calls that are much work: pages and batches of tasks, and requests that have to be decompressed. Any number
//! of them may be sent at once, and each may take as long as a thousand calls for one task; without turns those would
//! wait behind them.
//!
//! A call waits for a turn of its connection first and then for one of the server, so that a connection with a thousand
//! lists is not a thousand places ahead of the others in the queue. It waits once its request is there, so that nobody
//! has a turn who keeps us waiting, and waiting counts on the call's deadline.

use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::access::Rule;

/// Such calls of one connection at a time.
const OF_CONNECTION: usize = 2;
/// Such calls at a time on a small machine. Any larger one leaves one core to the other calls.
const LEAST: usize = 1;
/// Such calls at a time on the largest machine: fewer than there are connections to read with, for the same reason.
const MOST: usize = 8;

/// The header of a call that says how its messages are compressed.
const ENCODING: &str = "grpc-encoding";

/// The turns of one connection, or of the server.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// A call's turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _of_connection: Option<OwnedSemaphorePermit>,
    _of_server: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// For a new connection.
    pub fn of_connection() -> Self {
        Self(Arc::new(Semaphore::new(OF_CONNECTION)))
    }

    /// For the server.
    pub fn of_server() -> Self {
        let cores = std::thread::available_parallelism().map_or(LEAST, usize::from);
        Self(Arc::new(Semaphore::new(cores.saturating_sub(1).clamp(LEAST, MOST))))
    }

    /// Waits for a turn of the connection, and then for one of these.
    pub async fn take(self, of_connection: Self) -> Turn {
        // The semaphores are never closed; if they were, nobody would have to wait.
        let _of_connection = of_connection.0.acquire_owned().await.ok();
        Turn { _of_connection, _of_server: self.0.acquire_owned().await.ok() }
    }
}

/// What of a call is much work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// To read its request: it is compressed.
    Request,
    /// All of it.
    Call,
}

/// What of a call is much work, if anything is. A stream is neither: it may be open for hours.
pub fn work(rule: &Rule, headers: &HeaderMap) -> Option<Work> {
    let is_compressed = headers.get(ENCODING).is_some_and(|encoding| encoding != "identity");
    match () {
        () if rule.is_stream => None,
        () if rule.reads_many => Some(Work::Call),
        () => is_compressed.then_some(Work::Request),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_connection_with_many_calls_is_not_ahead_of_another() {
        let server = Turns(Arc::new(Semaphore::new(OF_CONNECTION)));
        let (greedy, honest) = (Turns::of_connection(), Turns::of_connection());
        let mut at_work = vec![server.clone().take(greedy.clone()).await, server.clone().take(greedy.clone()).await];
        let (mut queue, mut mine) =
            (Box::pin(server.clone().take(greedy.clone())), Box::pin(server.clone().take(honest.clone())));
        let moment = Duration::from_millis(5);
        assert!(timeout(moment, &mut queue).await.is_err() && timeout(moment, &mut mine).await.is_err());
        // It came later, and is next: the other one waits for its own connection.
        at_work.pop();
        let _mine = timeout(Duration::from_secs(5), &mut mine).await.expect("its turn");
        assert!(timeout(moment, &mut queue).await.is_err());
    }
}
