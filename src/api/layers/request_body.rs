//! The body of a request. It hands a message on when it is whole, and counts what has come until then: a client may begin
//! a message of 4 MiB on each of its streams and never end it, and tonic makes room for all of a message as soon as its
//! length is known. What is whole is the handler's, and the limits of the use cases hold. If the call has to wait for its
//! turn (`turns`), it does so here, with its message whole.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

use super::{
    held::{Account, Held},
    turns::{Place, Turn},
};
use crate::api::MAX_REQUEST_BYTES;

/// Bytes before a message on the wire: a flag, and the length in four bytes.
const PREFIX: usize = 5;
/// Room is made in steps of this, so that a message that does not come costs nothing.
const STEP: usize = 16 * 1024;

/// A body whose unfinished message waits here, on its connection's account.
pub struct RequestBody {
    /// None once it ended.
    inner: Option<Body>,
    waiting: Waiting,
    ready: VecDeque<Frame<Bytes>>,
    held: Held,
    /// Until the call has its turn.
    turn: Option<BoxFuture<'static, Turn>>,
    /// Where the turn is then.
    place: Option<Place>,
}

impl RequestBody {
    /// Counts on this account.
    pub fn new(inner: Body, account: &Account) -> Self {
        let (waiting, ready) = (Waiting::default(), VecDeque::new());
        Self { inner: Some(inner), waiting, ready, held: account.hold(), turn: None, place: None }
    }

    /// Waits for a turn before the first message is handed on, and leaves it in the place.
    pub fn after(self, turn: impl Future<Output = Turn> + Send + 'static, place: Place) -> Self {
        Self { turn: Some(Box::pin(turn)), place: Some(place), ..self }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty()
                && let Some(turn) = &mut this.turn
            {
                let turn = ready!(turn.as_mut().poll(context));
                this.turn = None;
                if let Some(place) = &this.place {
                    // It is empty until now.
                    let _ = place.set(turn);
                }
            }
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(inner).poll_frame(context)) {
                Some(Err(broken)) => return Poll::Ready(Some(Err(broken))),
                Some(Ok(frame)) => frame,
                None => {
                    // What is not whole now never will be; whoever reads it says so.
                    this.inner = None;
                    this.ready.extend(this.waiting.release().map(Frame::data));
                    this.held.set(0);
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    this.ready.extend(this.waiting.take(data).into_iter().map(Frame::data));
                    this.held.set(this.waiting.room());
                }
                Err(other) => this.ready.push_back(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty()
            && self.waiting.parts.is_empty()
            && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

/// A message that is not whole yet.
#[derive(Debug, Default)]
struct Waiting {
    prefix: Prefix,
    parts: VecDeque<BytesMut>,
}

/// How far a message has come.
#[derive(Debug, Default)]
struct Prefix {
    bytes: [u8; PREFIX],
    /// Of the prefix itself.
    taken: usize,
    /// Of the message after it.
    message: usize,
}

impl Prefix {
    /// Walks over data. Answers where in it the last message ends that is whole: 0 if none does.
    fn walk(&mut self, data: &[u8]) -> usize {
        let (mut at, mut end) = (0, 0);
        while at < data.len() {
            let data = &data[at..];
            let part = if self.taken < PREFIX {
                let part = data.len().min(PREFIX - self.taken);
                self.bytes[self.taken..][..part].copy_from_slice(&data[..part]);
                self.taken += part;
                part
            } else {
                let part = data.len().min(self.length() - self.message);
                self.message += part;
                part
            };
            at += part;
            if self.taken == PREFIX && self.message == self.length() {
                *self = Self::default();
                end = at;
            }
        }
        end
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.bytes;
        u32::from_be_bytes(length) as usize
    }

    /// Whether it is refused before it is read, so that there is no point in waiting for the rest.
    fn is_too_long(&self) -> bool {
        self.taken == PREFIX && self.length() > MAX_REQUEST_BYTES
    }
}

impl Waiting {
    /// Takes data; answers what can be handed on. A message that comes at once is not copied.
    fn take(&mut self, mut data: Bytes) -> Vec<Bytes> {
        let mut end = self.prefix.walk(&data);
        if self.prefix.is_too_long() {
            end = data.len();
        }
        if end == 0 {
            self.keep(&data);
            return Vec::new();
        }
        let whole = data.split_to(end);
        let ready = self.release().chain([whole]).collect();
        self.keep(&data);
        ready
    }

    fn keep(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.parts.back().map_or(0, |last| last.capacity() - last.len());
            if room == 0 {
                self.parts.push_back(BytesMut::with_capacity(STEP));
                continue;
            }
            let (now, later) = data.split_at(data.len().min(room));
            if let Some(last) = self.parts.back_mut() {
                last.extend_from_slice(now);
            }
            data = later;
        }
    }

    /// Everything that waits.
    fn release(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        std::mem::take(&mut self.parts).into_iter().map(BytesMut::freeze)
    }

    /// What the waiting takes in memory.
    fn room(&self) -> usize {
        self.parts.iter().map(BytesMut::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn passes(waiting: &mut Waiting, data: &'static [u8], expected: &[u8]) {
        assert_eq!(waiting.take(Bytes::from_static(data)).concat(), expected);
    }

    #[test]
    fn a_message_waits_until_it_is_whole() {
        let mut waiting = Waiting::default();
        passes(&mut waiting, &[0, 0, 0], &[]);
        passes(&mut waiting, &[0, 3, 7, 7], &[]);
        assert_eq!(waiting.room(), STEP);
        passes(&mut waiting, &[7], &[0, 0, 0, 0, 3, 7, 7, 7]);
        assert_eq!(waiting.room(), 0);
        // Two at once, one of them empty, go on as they are.
        let both = &[0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9];
        passes(&mut waiting, both, both);
        // The beginning of the next one does not hold up the one that ends.
        passes(&mut waiting, &[0, 0, 0, 0, 1], &[]);
        passes(&mut waiting, &[5, 0, 0], &[0, 0, 0, 0, 1, 5]);
        assert_eq!(waiting.room(), STEP);
        passes(&mut waiting, &[0, 0, 1, 5], &[0, 0, 0, 0, 1, 5]);
    }

    #[test]
    fn what_is_too_long_is_handed_on_at_once() {
        let mut waiting = Waiting::default();
        passes(&mut waiting, &[0, 0x7f, 0, 0, 0, 1], &[0, 0x7f, 0, 0, 0, 1]);
        passes(&mut waiting, &[1, 1, 1], &[1, 1, 1]);
        assert_eq!(waiting.room(), 0);
    }
}
