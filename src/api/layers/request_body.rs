//! The body of a request. It hands a message on when it is whole, and counts what has come until then: a client may begin
//! a message of 4 MiB on each of its streams and never end it, and tonic makes room for all of a message as soon as its
//! length is known. What is whole is the handler's, and the limits of the use cases hold.
//!
//! A handler is not even begun before its message has [`RequestBody::arrived`]: a thousand that wait are megabytes. What
//! has arrived may have to wait for its turn, and counts until it is handed on.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

use super::{
    held::{Account, Held},
    turns::Turn,
};
use crate::api::MAX_REQUEST_BYTES;

/// Bytes before a message on the wire: a flag, and the length in four bytes.
const PREFIX: usize = 5;
/// Room is made in steps of this, so that a message that does not come costs nothing.
const STEP: usize = 16 * 1024;

/// What a call takes beside its message until that is handed on: its stream, its place in the layers, its metadata. 12 KiB
/// were measured.
const CALL: usize = 16 * 1024;

/// A body whose unfinished message waits here, on its connection's account.
pub struct RequestBody {
    /// None once it ended.
    inner: Option<Body>,
    waiting: Waiting,
    ready: VecDeque<Result<Frame<Bytes>, Status>>,
    held: Held,
    /// Whether something was handed on.
    has_spoken: bool,
    /// For as long as the request is being read.
    _turn: Option<Turn>,
}

impl RequestBody {
    /// Counts on this account.
    pub fn new(inner: Body, account: &Account) -> Self {
        Self {
            inner: Some(inner),
            waiting: Waiting::default(),
            ready: VecDeque::new(),
            held: account.hold(),
            has_spoken: false,
            _turn: None,
        }
    }

    /// Waits until the first message is whole, or will never be.
    pub async fn arrived(mut self) -> Self {
        poll_fn(|context| self.poll_ready(context)).await;
        self
    }

    /// Takes what has arrived out of what was read with it, for a call that has to wait: a message of a few bytes would
    /// keep 64 KiB from being freed.
    pub fn set_apart(&mut self) {
        let ready = std::mem::take(&mut self.ready).into_iter();
        let apart = |frame: Frame<Bytes>| frame.map_data(|data| Bytes::copy_from_slice(&data));
        self.ready = ready.map(|frame| frame.map(apart)).collect();
    }

    /// Keeps a turn until the request is read.
    pub fn with(self, turn: Option<Turn>) -> Self {
        Self { _turn: turn, ..self }
    }

    /// Ready when there is something to hand on, or nothing any more.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.ready.is_empty()
            && let Some(inner) = &mut self.inner
        {
            let frame = match Pin::new(inner).poll_frame(context) {
                Poll::Pending => {
                    self.count();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => frame.into_data(),
                Poll::Ready(Some(Err(broken))) => {
                    self.inner = None;
                    self.ready.push_back(Err(broken));
                    break;
                }
                Poll::Ready(None) => {
                    // What is not whole now never will be; whoever reads it says so.
                    self.inner = None;
                    self.ready.extend(self.waiting.release().map(|data| Ok(Frame::data(data))));
                    break;
                }
            };
            match frame {
                Ok(data) => self.ready.extend(self.waiting.take(data).map(|data| Ok(Frame::data(data)))),
                Err(other) => self.ready.push_back(Ok(other)),
            }
            self.count();
        }
        Poll::Ready(())
    }

    /// Bytes that can be handed on.
    pub fn ready_bytes(&self) -> usize {
        let data = |frame: &Result<Frame<Bytes>, Status>| frame.as_ref().ok()?.data_ref().map(Bytes::len);
        self.ready.iter().filter_map(data).sum()
    }

    fn count(&mut self) {
        let call = if self.has_spoken { 0 } else { CALL };
        self.held.set(call + self.ready_bytes() + self.waiting.room());
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        ready!(self.poll_ready(context));
        let frame = self.ready.pop_front();
        self.has_spoken = true;
        self.count();
        Poll::Ready(frame)
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
    fn take(&mut self, mut data: Bytes) -> impl Iterator<Item = Bytes> + use<> {
        let mut end = self.prefix.walk(&data);
        if self.prefix.is_too_long() {
            end = data.len();
        }
        let whole = (end > 0).then(|| data.split_to(end));
        let before = if whole.is_some() { std::mem::take(&mut self.parts) } else { VecDeque::new() };
        self.keep(&data);
        before.into_iter().map(BytesMut::freeze).chain(whole)
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
        assert_eq!(waiting.take(Bytes::from_static(data)).collect::<Vec<_>>().concat(), expected);
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
