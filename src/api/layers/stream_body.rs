//! The body of a streaming answer. It ends with a status whatever happens inside: at the client's deadline, which tonic
//! watches only up to the head, when the stream panics, and when what its caller is known by is good no longer.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Sleep;
use tonic::{Status, body::Body};

use super::{held::Call, log};
use crate::{api::status, error::Error};

/// A body that always ends with trailers.
pub struct StreamBody {
    /// None once it ended.
    inner: Option<Body>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Ends when the stream may not go on, with the reason.
    lost: Option<Pin<Box<dyn Future<Output = Error> + Send>>>,
    /// Under way until the stream is dropped; its connection has what is not read on its account.
    call: Option<Call>,
    method: String,
    request_id: String,
    started: Instant,
    span: tracing::Span,
}

impl StreamBody {
    /// `limit` counts from now.
    pub fn new(inner: Body, limit: Option<Duration>, call: Option<Call>, method: &str, request_id: &str) -> Self {
        Self {
            inner: Some(inner),
            deadline: limit.map(|limit| Box::pin(tokio::time::sleep(limit))),
            lost: None,
            call,
            method: method.to_owned(),
            request_id: request_id.to_owned(),
            started: Instant::now(),
            span: tracing::Span::current(),
        }
    }

    /// Ends it when this ends.
    pub fn until(self, lost: Option<impl Future<Output = Error> + Send + 'static>) -> Self {
        Self { lost: lost.map(|lost| Box::pin(lost) as Pin<Box<_>>), ..self }
    }

    /// Ends the stream with a status.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        self.lost = None;
        let mut trailers = HeaderMap::new();
        // A status of ours has no text that headers refuse; should it, the stream ends without one.
        let added = status.add_header(&mut trailers);
        debug_assert!(added.is_ok());
        self.span.in_scope(|| log::failed(&self.method, self.started, Some(status)));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.inner.is_none() {
            return Poll::Ready(None);
        }
        if let Some(Poll::Ready(error)) = this.lost.as_mut().map(|lost| lost.as_mut().poll(context)) {
            let status = status::to_status(&error, &this.request_id);
            return this.end(&status);
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // The body is dropped after a panic, so nobody sees it half done.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context)));
        match polled {
            Err(_) => {
                let (method, request_id) = (&this.method, &this.request_id);
                this.span.in_scope(|| tracing::error!(method, request.id = request_id, "the stream panicked"));
                let status = status::panicked(&this.request_id);
                this.end(&status)
            }
            Ok(Poll::Ready(frame)) => {
                if let Some(trailers) = frame.as_ref().and_then(|f| f.as_ref().ok()).and_then(Frame::trailers_ref) {
                    let status = Status::from_header_map(trailers);
                    this.span.in_scope(|| log::failed(&this.method, this.started, status.as_ref()));
                }
                // However small: who gives us a window of gigabytes may leave any number of messages unread.
                let call = this.call.as_ref();
                let counted = |data| match call {
                    Some(call) => call.account().hold().until_written(data),
                    None => data,
                };
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(counted))))
            }
            Ok(Poll::Pending) => {
                let deadline = this.deadline.as_mut();
                if deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
                    let status = status::to_status(&Error::DeadlineExceeded, &this.request_id);
                    return this.end(&status);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tonic::Code;

    use super::*;

    /// A body that never has anything, or panics.
    struct Inner(bool);

    impl HttpBody for Inner {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            assert!(!self.0, "as the test wants");
            Poll::Pending
        }
    }

    async fn last_status(inner: Inner, limit: Option<Duration>) -> Status {
        let mut body = StreamBody::new(Body::new(inner), limit, None, "/m", "r-1");
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
        Status::from_header_map(frame.trailers_ref().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_past_the_deadline_ends_with_trailers() {
        let status = last_status(Inner(false), Some(Duration::from_millis(5))).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_stream_ends_with_what_its_caller_is_known_by() {
        let lost = async { Error::Unauthenticated(crate::error::Refusal::Revoked) };
        let mut body = StreamBody::new(Body::new(Inner(false)), None, None, "/m", "r-1").until(Some(lost));
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        let status = Status::from_header_map(frame.trailers_ref().unwrap()).unwrap();
        assert_eq!(status.code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_with_trailers() {
        assert_eq!(last_status(Inner(true), None).await.code(), Code::Internal);
    }
}
