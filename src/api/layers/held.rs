//! What the server holds for its clients: answers they have not read yet, requests they have not finished. HTTP/2 gives a
//! client the say in both, by its windows and its pace, so without a bound one could make us hold gigabytes.
//!
//! The cast: the [`Ledger`] of the process knows how much each connection makes us hold; an [`Account`] belongs to one
//! connection; a [`Held`] is some bytes, taken off when it is dropped. When everything together exceeds [`LIMIT`], the
//! connection that makes us hold most is cut off, so that those who read what they ask for never notice. What it had
//! open ends as with any connection that breaks. While what it held is still being freed, the next ones that hold more
//! than a [`FAIR`] share go the same way; who holds less only goes when those that are left exceed the limit by themselves.
//! Meanwhile nothing is read from who holds more than a [`SMALL`] share, so that nobody fills what is being freed.
//!
//! Before it comes to that, pages are only made for a connection that reads the ones it has ([`Account::has_read`]), and a
//! connection is read later while much of it waits to be decompressed ([`Account::queue`]).
//!
//! The ledger also knows who is there for nothing (`visit`), and cuts one of them off when a new connection needs its place.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::visit::Visit;

/// Bytes held for all clients together: eight answers of the largest size, and far more of the usual ones. With what it
/// takes to make answers, and with what was freed in the last second, which the allocator keeps for so long, the process
/// stays within 100 MiB.
const LIMIT: usize = 24 * 1024 * 1024;

/// Bytes that no connection is cut off for while others are to blame; that it may leave unread before it has to wait for
/// more; that may wait to be decompressed before more of it is read: one message of the largest size.
const FAIR: usize = 4 * 1024 * 1024;

/// Bytes of a connection that may go on sending while others are freed: a dozen calls at their beginning, or a request of
/// the usual size.
const SMALL: usize = 256 * 1024;

/// What data that waits to be written takes beside itself: a place in h2's queue of 312 bytes, in a list that doubles as it
/// grows, and the note that it is held.
const FRAME: usize = 768;

/// Who makes the process hold how much. Clones are the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: Arc<Mutex<Entries>>,
    /// Whether everything together exceeds the limit.
    is_over: Arc<AtomicBool>,
    /// Of the visits.
    clock: Arc<AtomicU64>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Entries {
    /// All that is held.
    total: usize,
    /// Of it by those that are not cut off: what the others hold is on its way out.
    lasting: usize,
    next_id: u64,
    /// Connections cut off for what they held since somebody asked.
    cut_off: u32,
    of_connection: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    held: usize,
    visit: Arc<Visit>,
    cut_off: Arc<CutOff>,
}

impl Entry {
    fn is_cut_off(&self) -> bool {
        self.cut_off.is_set.load(Ordering::Relaxed)
    }

    /// Cuts it off; answers what it holds, which is on its way out now.
    fn cut_off(&self) -> usize {
        self.cut_off.is_set.store(true, Ordering::Release);
        self.cut_off.waker.wake();
        self.held
    }
}

#[derive(Debug, Default)]
struct CutOff {
    is_set: AtomicBool,
    waker: AtomicWaker,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { entries: Arc::default(), is_over: Arc::default(), clock: Arc::default(), limit: LIMIT }
    }
}

impl Ledger {
    /// An account for a new connection.
    pub fn open(&self) -> Account {
        let cut_off = Arc::new(CutOff::default());
        let mut entries = self.lock();
        let id = entries.next_id;
        entries.next_id += 1;
        let visit = Arc::new(Visit::new(id, self.clock.clone()));
        entries.of_connection.insert(id, Entry { held: 0, visit: visit.clone(), cut_off: cut_off.clone() });
        let (unread, queued, read) = (AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
        Account(Arc::new(Connection { ledger: self.clone(), id, visit, cut_off, unread, queued, read }))
    }

    /// Cuts off a connection that has no call under way, if there is one, for a new one to take its place.
    pub fn make_room(&self) {
        let mut entries = self.lock();
        let Entries { lasting, of_connection, .. } = &mut *entries;
        let idle = of_connection.values().filter(|entry| !entry.is_cut_off());
        let ranked = idle.filter_map(|entry| Some((entry.visit.rank()?, entry)));
        if let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) {
            *lasting -= entry.cut_off();
        }
    }

    /// How many connections were cut off for what they held since this was asked last.
    pub fn cut_off(&self) -> u32 {
        std::mem::take(&mut self.lock().cut_off)
    }

    fn change(&self, id: u64, from: usize, to: usize) {
        let mut entries = self.lock();
        let Entries { total, lasting, cut_off, of_connection, .. } = &mut *entries;
        let Some(entry) = of_connection.get_mut(&id) else { return };
        entry.held = entry.held + to - from;
        *total = *total + to - from;
        if !entry.is_cut_off() {
            *lasting = *lasting + to - from;
        }
        self.is_over.store(*total > self.limit, Ordering::Relaxed);
        if to < from || *total <= self.limit {
            return;
        }
        loop {
            let others = of_connection.values().filter(|entry| !entry.is_cut_off());
            let Some(largest) = others.max_by_key(|entry| entry.held) else { return };
            let enough_is_going = *lasting <= self.limit;
            if enough_is_going && largest.held <= FAIR {
                return;
            }
            tracing::warn!(bytes = largest.held, "a connection is cut off: it makes the server hold too much");
            *lasting -= largest.cut_off();
            *cut_off += 1;
            if *lasting <= self.limit {
                // One at a time: its bytes may be enough.
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic while it was held left nothing half-done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection makes us hold. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Account(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    ledger: Ledger,
    id: u64,
    visit: Arc<Visit>,
    cut_off: Arc<CutOff>,
    /// Bytes of answers that are not written yet.
    unread: AtomicUsize,
    /// Bytes of whole requests that wait to be decompressed.
    queued: AtomicUsize,
    /// Some of them were written.
    read: Notify,
}

/// A call under way, for as long as it is kept.
#[derive(Debug)]
pub struct Call(Account);

impl Call {
    /// Of its connection.
    pub fn account(&self) -> &Account {
        &self.0
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.visit.end();
    }
}

impl Account {
    /// A call begins.
    pub fn call(&self) -> Call {
        self.0.visit.begin();
        Call(self.clone())
    }

    /// Nothing held yet.
    pub fn hold(&self) -> Held {
        Held { account: self.clone(), bytes: 0 }
    }

    /// Waits until no more than a fair share of answers is unread.
    pub async fn has_read(&self) {
        let Connection { unread, read, .. } = &*self.0;
        loop {
            let mut more = std::pin::pin!(read.notified());
            // Before the look, so that nothing is missed.
            more.as_mut().enable();
            if unread.load(Ordering::Acquire) <= FAIR {
                return;
            }
            more.await;
        }
    }

    /// So many bytes wait to be decompressed, until the answer is dropped. They are whole, so they go on without more being
    /// read.
    pub fn queue(&self, bytes: usize) -> Queued {
        self.0.queued.fetch_add(bytes, Ordering::Relaxed);
        Queued { account: self.clone(), bytes }
    }

    /// Whether it is not to be read for now: much of it waits to be decompressed; or too much is held, and not little of it
    /// for this connection.
    pub fn has_to_rest(&self) -> bool {
        let Connection { ledger, id, queued, .. } = &*self.0;
        let is_larger = || ledger.lock().of_connection.get(id).is_some_and(|entry| entry.held > SMALL);
        queued.load(Ordering::Relaxed) > FAIR || (ledger.is_over.load(Ordering::Relaxed) && is_larger())
    }

    /// Ready once the connection is to be closed.
    pub fn poll_cut_off(&self, context: &mut Context<'_>) -> Poll<()> {
        let CutOff { is_set, waker } = &*self.0.cut_off;
        waker.register(context.waker());
        if is_set.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Everything held has an account, so nothing is left.
        self.ledger.lock().of_connection.remove(&self.id);
    }
}

/// Some bytes of a connection that wait to be decompressed.
#[derive(Debug)]
pub struct Queued {
    account: Account,
    bytes: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.account.0.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Some bytes held for a connection.
#[derive(Debug)]
pub struct Held {
    account: Account,
    bytes: usize,
}

impl Held {
    /// As many bytes as this.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.account.0.ledger.change(self.account.0.id, self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// The data, held until its last byte is written or thrown away.
    pub fn until_written(mut self, data: Bytes) -> Bytes {
        self.set(data.len() + FRAME);
        self.account.0.unread.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(HeldData { data, held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

struct HeldData {
    data: Bytes,
    held: Held,
}

impl Drop for HeldData {
    fn drop(&mut self) {
        let Connection { unread, read, .. } = &*self.held.account.0;
        unread.fetch_sub(self.data.len(), Ordering::Release);
        read.notify_waiters();
    }
}

impl AsRef<[u8]> for HeldData {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut_off(account: &Account) -> bool {
        account.poll_cut_off(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_one_that_makes_us_hold_most_is_cut_off() {
        let ledger = Ledger { limit: 100, ..Ledger::default() };
        let (greedy, honest) = (ledger.open(), ledger.open());
        let mut few = honest.hold();
        few.set(20);
        let mut many = greedy.hold();
        many.set(80);
        assert!(!is_cut_off(&greedy));
        // It is the honest one's byte that is too many, and still not its fault.
        few.set(21);
        assert!(is_cut_off(&greedy) && !is_cut_off(&honest));
        assert_eq!((ledger.cut_off(), ledger.cut_off()), (1, 0));
        // What is cut off no longer counts.
        many.set(160);
        few.set(100);
        assert!(!is_cut_off(&honest));
        drop((many, few, greedy, honest));
        let entries = ledger.lock();
        assert_eq!((entries.total, entries.lasting, entries.of_connection.len()), (0, 0, 0));
    }

    #[test]
    fn data_is_held_until_its_last_part_is_gone() {
        let ledger = Ledger::default();
        let account = ledger.open();
        let mut data = account.hold().until_written(Bytes::from_static(b"abcdef"));
        let part = data.split_to(2);
        drop(data);
        assert_eq!(ledger.lock().total, 6 + FRAME);
        drop(part);
        assert_eq!(ledger.lock().total, 0);
    }

    #[test]
    fn an_idle_connection_makes_room_and_is_nobodys_fault() {
        let ledger = Ledger::default();
        let (busy, idle, silent) = (ledger.open(), ledger.open(), ledger.open());
        let call = busy.call();
        drop(idle.call());
        let mut unread = silent.hold();
        unread.set(7);
        ledger.make_room();
        assert!(is_cut_off(&silent) && !is_cut_off(&idle));
        ledger.make_room();
        ledger.make_room();
        assert!(is_cut_off(&idle) && !is_cut_off(&busy));
        assert_eq!(ledger.cut_off(), 0);
        drop(call);
        ledger.make_room();
        assert!(is_cut_off(&busy));
        unread.set(0);
        assert_eq!(ledger.lock().lasting, 0);
    }

    #[tokio::test]
    async fn who_does_not_read_waits_for_more() {
        let account = Ledger::default().open();
        let full = || account.hold().until_written(Bytes::from(vec![0; FAIR]));
        let first = full();
        account.has_read().await;
        let second = full();
        let mut waits = Box::pin(account.has_read());
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(first);
        waits.await;
        drop(second);
    }

    #[test]
    fn nothing_is_read_while_much_waits_or_others_are_freed() {
        let ledger = Ledger { limit: SMALL * 2, ..Ledger::default() };
        let (one, other) = (ledger.open(), ledger.open());
        let first = one.queue(FAIR);
        assert!(!one.has_to_rest());
        let second = one.queue(1);
        assert!(one.has_to_rest() && !other.has_to_rest());
        drop((first, second));
        assert!(!one.has_to_rest());

        let (mut most, mut little, mut more) = (one.hold(), other.hold(), other.hold());
        most.set(SMALL * 2);
        little.set(SMALL);
        assert!(is_cut_off(&one) && !other.has_to_rest());
        more.set(1);
        assert!(other.has_to_rest());
        most.set(0);
        assert!(!other.has_to_rest());
    }
}
