//! Counts the HTTP/2 frames of a connection that carry nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, resets,
//! CONTINUATION, and DATA of next to nothing. They cost a client a few bytes each and us as much work as a call, so more
//! than any client needs is not refused but read later: the connection rests ([`FrameGauge::rest`]).
//!
//! It also counts the calls that begin, so that those that were read have their place in the account of their connection
//! before more are read ([`FrameGauge::has_begun_many`]).
//!
//! It sees the bytes before hyper does and changes nothing. It sits above TLS, should there be any.

use std::time::{Duration, Instant};

use super::bucket::Bucket;

/// Frames without content a connection may send a second. Calls need none; a client that reads large answers sends a few
/// window updates for each, one that measures its line a PING for each round trip.
const RATE: u32 = 5_000;
/// How many of them at once: a client that cancels all its streams, a few times over.
const BURST: u32 = 5_000;
/// DATA below this that does not end its stream counts: no message of ours is that small, prefix and all.
const TINY_DATA: usize = 8;

/// Calls of a new connection that begin before they run. A client may begin a thousand in one packet; that is 12 MiB which
/// nobody has counted yet, and again as soon as it was cut off for it.
const CALLS_AT_ONCE: u32 = 64;
/// A connection is no longer new after so many calls: as many as may be open at a time.
const FIRST_CALLS: u32 = 1_000;

/// What every client says first.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// Bytes before the payload of a frame.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameGauge {
    /// Of the preface, still to come.
    preface: usize,
    head: [u8; HEAD],
    head_bytes: usize,
    /// Of the payload, still to come.
    payload: usize,
    empty_frames: Bucket,
    /// Begun so far.
    calls: u32,
    /// Of them, those that had the time to run.
    ran: u32,
}

impl FrameGauge {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            preface: PREFACE,
            head: [0; HEAD],
            head_bytes: 0,
            payload: 0,
            empty_frames: Bucket::new(BURST, RATE, now),
            calls: 0,
            ran: 0,
        }
    }

    /// Whether the client has said its preface.
    pub(super) fn has_spoken(&self) -> bool {
        self.preface == 0
    }

    /// Takes note of what was read.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let part = if self.preface > 0 {
                let part = bytes.len().min(self.preface);
                self.preface -= part;
                part
            } else if self.payload > 0 {
                let part = bytes.len().min(self.payload);
                self.payload -= part;
                part
            } else {
                let part = bytes.len().min(HEAD - self.head_bytes);
                self.head[self.head_bytes..][..part].copy_from_slice(&bytes[..part]);
                self.head_bytes += part;
                if self.head_bytes == HEAD {
                    self.frame();
                }
                part
            };
            bytes = &bytes[part..];
        }
    }

    /// A frame begins.
    fn frame(&mut self) {
        let [length @ .., kind, flags, _, _, _, _] = self.head;
        let [a, b, c] = length;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        self.head_bytes = 0;
        let carries = match kind {
            HEADERS => {
                self.calls = self.calls.saturating_add(1);
                true
            }
            DATA => self.payload >= TINY_DATA || flags & END_STREAM != 0,
            _ => false,
        };
        if !carries {
            self.empty_frames.take(1);
        }
    }

    /// Whether the connection is new and so many calls began that they should run before more is read; it is taken that
    /// they do.
    pub(super) fn has_begun_many(&mut self) -> bool {
        let is_many = self.ran < FIRST_CALLS && self.calls - self.ran >= CALLS_AT_ONCE;
        if is_many {
            self.ran = self.calls;
        }
        is_many
    }

    /// How long the connection is to rest before it is read again; none when it is within bounds.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Duration> {
        self.empty_frames.rest(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + payload, 0xff);
        frame
    }

    fn spoken(now: Instant) -> FrameGauge {
        let mut gauge = FrameGauge::new(now);
        assert!(!gauge.has_spoken());
        gauge.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(gauge.has_spoken());
        gauge
    }

    #[test]
    fn calls_cost_nothing_and_empty_frames_do_whatever_the_pieces() {
        let now = Instant::now();
        for size in [1, 7, 1_000] {
            let mut gauge = spoken(now);
            let call = [frame(HEADERS, 4, 90), frame(DATA, END_STREAM, 5), frame(DATA, 0, 60)].concat();
            let empty = [frame(DATA, 0, 0), frame(6, 0, 8), frame(4, 0, 0), frame(9, 0, 3)].concat();
            for bytes in [call, empty].concat().chunks(size) {
                gauge.take(bytes);
            }
            assert!(!gauge.has_begun_many());
            // Four of them are gone.
            assert_eq!(gauge.rest(now), None);
            gauge.take(&frame(6, 0, 8).repeat(BURST as usize - 4));
            assert_eq!(gauge.rest(now), None);
            gauge.take(&frame(6, 0, 8));
            assert!(gauge.rest(now).is_some());
            gauge.take(&frame(HEADERS, 4, 90).repeat(CALLS_AT_ONCE as usize - 1));
            assert!(gauge.has_begun_many() && !gauge.has_begun_many());
            gauge.take(&frame(HEADERS, 4, 90).repeat(FIRST_CALLS as usize));
            assert!(gauge.has_begun_many());
            gauge.take(&frame(HEADERS, 4, 90).repeat(FIRST_CALLS as usize));
            assert!(!gauge.has_begun_many());
        }
    }
}
