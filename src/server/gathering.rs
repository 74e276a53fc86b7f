//! Answers that are ready together leave together. An answer wakes its connection, which runs at once and would write it
//! alone: a system call and a packet for each, and as many for the client to read. So a connection that has something to
//! write lets the tasks that are ready run before, and what they answer goes with it. With nobody else ready that takes a
//! look at the poller, about a microsecond.

use std::{
    future::Future as _,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// When a connection may write.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    state: State,
    turn: Arc<Turn>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// All is written.
    #[default]
    Idle,
    /// The others are running.
    Waiting,
    /// They have run, and it writes.
    Writing,
}

/// What the runtime wakes once it has run what was ready. Answers wake the connection itself, and before that.
#[derive(Debug, Default)]
struct Turn {
    has_come: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl Gathering {
    /// Ready once the tasks that were ready have run; from then on until everything is flushed.
    pub(super) fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.state {
            State::Idle => {
                self.state = State::Waiting;
                self.turn.has_come.store(false, Ordering::Relaxed);
                self.turn.connection.register(context.waker());
                let turn = Waker::from(self.turn.clone());
                // It is never ready at first: it gives the waker to the runtime.
                let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&turn));
            }
            State::Waiting => self.turn.connection.register(context.waker()),
            State::Writing => return Poll::Ready(()),
        }
        if !self.turn.has_come.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.state = State::Writing;
        Poll::Ready(())
    }

    /// All is written; the next write begins anew.
    pub(super) fn flushed(&mut self) {
        if matches!(self.state, State::Writing) {
            self.state = State::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn is_done_at_once(gathering: &mut Gathering) -> bool {
        poll_fn(|context| Poll::Ready(gathering.poll_done(context).is_ready())).await
    }

    #[tokio::test]
    async fn others_run_before_the_first_write_after_a_flush() {
        let mut gathering = Gathering::default();
        for _ in 0..2 {
            let other = crate::shutdown::spawn("other", async {});
            assert!(!is_done_at_once(&mut gathering).await);
            // Whatever else wakes the connection, it is not yet its turn.
            assert!(!is_done_at_once(&mut gathering).await);
            gathering.flushed();
            poll_fn(|context| gathering.poll_done(context)).await;
            assert!(other.is_finished());
            assert!(is_done_at_once(&mut gathering).await);
            gathering.flushed();
        }
    }
}
