//! The body of an answer that is one message: taken whole from the handler at once, so that what waits for a client to
//! read it is bytes that can be counted, and not a message with everything behind it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

use super::held::Account;

/// Answers below this are not counted: most are, and all streams of a connection together come to 2 MiB.
const SMALL: usize = 1024;

/// Data and trailers, as they were made.
pub struct AnswerBody {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl AnswerBody {
    /// Takes everything there is; it is there already.
    pub async fn take(mut body: Body, account: Option<&Account>) -> Result<Self, Status> {
        let mut data = Bytes::new();
        let mut trailers = None;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame?.into_data() {
                Ok(all) if data.is_empty() => data = all,
                Ok(more) => {
                    let mut both = BytesMut::from(data);
                    both.extend_from_slice(&more);
                    data = both.freeze();
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        // It has a part in the buffer.
        drop(body);
        let data = match account {
            Some(account) if data.len() >= SMALL => account.hold().until_written(fitting(data)),
            _ => fitting(data),
        };
        Ok(Self { data: (!data.is_empty()).then_some(data), trailers })
    }
}

/// The data in a buffer of about its size. tonic's has 8 KiB for the smallest answer, and one that is compressed has room
/// for all that was there before.
fn fitting(data: Bytes) -> Bytes {
    match data.try_into_mut() {
        Ok(buffer) if buffer.capacity() / 2 <= buffer.len() => buffer.freeze(),
        Ok(buffer) => Bytes::copy_from_slice(&buffer),
        Err(shared) => Bytes::copy_from_slice(&shared),
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}
