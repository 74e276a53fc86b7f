//! Turns for calls that are much work: pages and batches of tasks, and requests that have to be decompressed. Any number
//! of them may be sent at once, and each may take as long as a thousand calls for one task; without turns those would
//! wait behind them.
//!
//! A call waits for a turn of its connection first and then for one of the server, so that a connection with a thousand
//! lists is not a thousand places ahead of the others in the queue. It waits once its request is there, so that nobody
//! has a turn who keeps us waiting, and waiting counts on the call's deadline.
//!
//! A list is bounded, and what it reads was once submitted. A compressed request costs its sender next to nothing, so one
//! that took long to read is followed by a rest: nobody can keep a core busy with bombs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use super::caller::Peer;
use crate::api::access::Rule;

/// Such calls of one connection at a time.
const OF_CONNECTION: usize = 2;
/// Such calls at a time on a small machine. Any larger one leaves one core to the other calls.
const LEAST: usize = 1;
/// Such calls at a time on the largest machine: fewer than there are connections to read with, for the same reason.
const MOST: usize = 8;

/// To read a compressed request takes long if it takes more than this: then it is half a megabyte and more.
const LONG: Duration = Duration::from_millis(1);
/// The rest after it, in times of what it took: a quarter of a core for bombs, 100 MiB a second for others.
const REST: u32 = 3;
/// The longest rest: what took longer was not at work all the time.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// The header of a call that says how its messages are compressed.
const ENCODING: &str = "grpc-encoding";

/// The turns of one connection, or of the server.
#[derive(Clone, Debug)]
pub struct Turns {
    places: Arc<Semaphore>,
    rest: Arc<Rest>,
}

/// A call's turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// For a request; before the places, so that the rest begins before somebody else does.
    _reading: Option<Reading>,
    _of_connection: Option<OwnedSemaphorePermit>,
    _of_server: Option<OwnedSemaphorePermit>,
}

/// Until when nobody begins.
#[derive(Debug, Default)]
struct Rest(Mutex<Option<Instant>>);

impl Rest {
    /// None when there is none.
    fn until(&self, now: Instant) -> Option<Instant> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until > now)
    }

    /// After a request that took so long, if it did.
    fn begin(&self, now: Instant, took: Duration) {
        if took > LONG {
            let until = now + (took * REST).min(LONGEST_REST);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
    }
}

/// A request being read; a rest follows if it takes long.
#[derive(Debug)]
struct Reading {
    began: Instant,
    rest: Arc<Rest>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let now = Instant::now();
        self.rest.begin(now, now - self.began);
    }
}

impl Turns {
    /// For a new connection.
    pub fn of_connection() -> Self {
        Self::new(OF_CONNECTION)
    }

    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), rest: Arc::default() }
    }

    /// For the server.
    pub fn of_server() -> Self {
        let cores = std::thread::available_parallelism().map_or(LEAST, usize::from);
        Self::new(cores.saturating_sub(1).clamp(LEAST, MOST))
    }

    /// Waits for a turn of the connection, and then for one of these. Before a page is made, the connection has to read what
    /// it was answered before, if that is much. `bytes` is how large the request is.
    pub async fn take(self, peer: &Peer, work: Work, bytes: usize) -> Turn {
        let _queued = (work == Work::Request).then(|| peer.account.queue(bytes));
        // The semaphores are never closed; if they were, nobody would have to wait.
        let _of_connection = peer.turns.places.clone().acquire_owned().await.ok();
        if work == Work::Call {
            peer.account.has_read().await;
        }
        let _of_server = self.places.acquire_owned().await.ok();
        if let Some(until) = self.rest.until(Instant::now()) {
            sleep_until(until).await;
        }
        let _reading = (work == Work::Request).then(|| Reading { began: Instant::now(), rest: self.rest });
        Turn { _reading, _of_connection, _of_server }
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
    use tonic::transport::server::TcpConnectInfo;

    use super::*;
    use crate::api::layers::held::Ledger;

    fn peer() -> Peer {
        let address = TcpConnectInfo { local_addr: None, remote_addr: None };
        Peer { address, account: Ledger::default().open(), turns: Turns::of_connection() }
    }

    #[tokio::test]
    async fn a_connection_with_many_calls_is_not_ahead_of_another() {
        let server = Turns::new(OF_CONNECTION);
        let (greedy, honest) = (peer(), peer());
        let turn = |of| server.clone().take(of, Work::Call, 0);
        let mut at_work = vec![turn(&greedy).await, turn(&greedy).await];
        let (mut queue, mut mine) = (Box::pin(turn(&greedy)), Box::pin(turn(&honest)));
        let moment = Duration::from_millis(5);
        assert!(timeout(moment, &mut queue).await.is_err() && timeout(moment, &mut mine).await.is_err());
        // It came later, and is next: the other one waits for its own connection.
        at_work.pop();
        let _mine = timeout(Duration::from_secs(5), &mut mine).await.expect("its turn");
        assert!(timeout(moment, &mut queue).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_took_long_is_followed_by_a_rest() {
        let server = Turns::new(LEAST);
        let began = Instant::now();
        server.rest.begin(began, LONG);
        assert_eq!(server.rest.until(began), None);
        server.rest.begin(began, LONG * 2);
        assert_eq!(server.rest.until(began), Some(began + LONG * 2 * REST));
        server.rest.begin(began, Duration::from_secs(1));
        assert_eq!(server.rest.until(began), Some(began + LONGEST_REST));
        // Whatever it is that comes next.
        let _turn = server.clone().take(&peer(), Work::Call, 0).await;
        assert!(began.elapsed() >= LONGEST_REST);
        assert_eq!(server.rest.until(Instant::now()), None);
    }
}
