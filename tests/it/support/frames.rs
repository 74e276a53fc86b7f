//! Calls below the generated clients: bytes of our own choice go out as the body, and what comes back is looked at as it
//! is. For what no well-behaved client sends.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame};
use tonic::{Status, body::Body};

use super::credentials::Wire;
use tower::{Service as _, ServiceExt as _};

/// gRPC's prefix of a message: the compressed-flag and the length.
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// A body of these pieces, each a DATA frame of its own.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// What came back.
#[derive(Debug, Default)]
pub struct Answer {
    /// What the call ended with; none when it was left while it went on.
    pub status: Option<Status>,
    /// The messages, as far as they were waited for.
    pub messages: Vec<Bytes>,
}

/// Posts the pieces to a method and reads the answer. One that goes on is left after `messages` of them, or when nothing
/// comes for `patience`. The error is that of the transport: no answer, a broken one, or one without a status.
pub async fn post(
    channel: &Wire,
    path: &str,
    headers: &HeaderMap,
    pieces: Vec<Bytes>,
    messages: usize,
    patience: Duration,
) -> Result<Answer, String> {
    let mut request = Request::post(path).body(Body::new(Pieces(pieces.into()))).expect("a request");
    let all = request.headers_mut();
    all.insert("te", http::HeaderValue::from_static("trailers"));
    all.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    all.extend(headers.clone());
    let mut channel = channel.clone();
    channel.ready().await.map_err(|error| format!("no connection: {error}"))?;
    let response = match channel.call(request).await {
        Ok(response) => response,
        // tonic's channel reads `grpc-timeout` too, and may be the first to give up.
        Err(_) if headers.contains_key("grpc-timeout") => {
            return Ok(Answer { status: Some(Status::cancelled("given up by the client")), messages: Vec::new() });
        }
        Err(error) => return Err(format!("no answer: {error:?}")),
    };
    if !response.status().is_success() {
        return Err(format!("answered with HTTP {}", response.status()));
    }
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Ok(Answer { status: Some(status), messages: Vec::new() });
    }
    let mut body = std::pin::pin!(response.into_body());
    let mut answer = Answer::default();
    let mut buffer = BytesMut::new();
    while answer.messages.len() < messages {
        let next = std::future::poll_fn(|context| body.as_mut().poll_frame(context));
        let frame = match tokio::time::timeout(patience, next).await {
            Err(_) => return Ok(answer),
            Ok(None) => return Err("the body ended without a status".to_owned()),
            Ok(Some(Err(error))) => return Err(format!("the body broke: {error}")),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Some(trailers) = frame.trailers_ref() {
            answer.status = Status::from_header_map(trailers);
            return if answer.status.is_some() { Ok(answer) } else { Err("trailers without a status".to_owned()) };
        }
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(length) = buffer.get(1..5).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
            && buffer.len() >= 5 + length
        {
            answer.messages.push(buffer.split_to(5 + length).freeze().slice(5..));
        }
    }
    Ok(answer)
}
