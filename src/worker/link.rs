//! The connection of a worker: one session after the other.
//!
//! The link opens a session, says hello, waits for the welcome, and hands on what the server says. When the session breaks
//! it waits a little and opens the next one, for ever; only a worker that was never welcome is told why and ends. It knows
//! nothing of leases.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    client::{Backoff, Client, Error},
    pb::{
        ErrorReason, SessionHello, SessionRequest, SessionResponse, session_request,
        session_response::{self, Message},
    },
};

/// How long the server may take to open a session, and then to say welcome.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that lasted this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// The longest wait the server can ask for: idle workers cost more than one more connection.
const LONGEST_TOLD_WAIT: Duration = Duration::from_secs(30);

/// Messages on their way into the connection. Few: while they wait, more is gathered for the next ones.
const OUTGOING_MESSAGES: usize = 8;

type Messages = BoxStream<'static, Result<SessionResponse, Status>>;
type Opening = BoxFuture<'static, Result<Messages, Status>>;

/// Opens the stream that sends what comes out of the receiver.
pub(super) type Opener = Box<dyn Fn(mpsc::Receiver<SessionRequest>) -> Opening + Send>;

/// What happened on the link.
pub(super) enum LinkEvent {
    /// A session is open. Dropping the sender closes it.
    Welcome { heartbeat_interval: Option<Duration>, outgoing: mpsc::Sender<SessionRequest> },
    /// The server said something, not earlier than `before`.
    Message { message: Message, before: Instant },
    /// The session is gone; the next one is on its way.
    Lost,
    /// This worker is not welcome, and never was.
    Refused(Error),
}

pub(super) struct Link {
    open: Opener,
    hello: SessionHello,
    phase: Phase,
    backoff: Backoff,
    was_welcome: bool,
}

enum Phase {
    Waiting(Pin<Box<Sleep>>),
    Opening {
        opening: Opening,
        outgoing: mpsc::Sender<SessionRequest>,
        limit: Pin<Box<Sleep>>,
    },
    Greeting {
        messages: Messages,
        outgoing: mpsc::Sender<SessionRequest>,
        limit: Pin<Box<Sleep>>,
    },
    Open {
        messages: Messages,
        since: Instant,
        /// The last moment at which nothing had arrived.
        quiet_at: Instant,
    },
}

impl Link {
    pub(super) fn new(client: &Client, hello: SessionHello) -> Self {
        let stub = client.workers();
        Self::with_opener(
            Box::new(move |outgoing| {
                let mut stub = stub.clone();
                Box::pin(async move { Ok(stub.session(ReceiverStream::new(outgoing)).await?.into_inner().boxed()) })
            }),
            hello,
        )
    }

    pub(super) fn with_opener(open: Opener, hello: SessionHello) -> Self {
        let phase = Phase::Waiting(Box::pin(sleep(Duration::ZERO)));
        Self { open, hello, phase, backoff: Backoff::default(), was_welcome: false }
    }

    /// The next event. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> LinkEvent {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Gives up the session, because its other end does not do its part.
    pub(super) fn give_up(&mut self, why: &'static str) {
        self.lost(Status::unavailable(why));
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<LinkEvent> {
        loop {
            let status = match &mut self.phase {
                Phase::Waiting(wait) => {
                    ready!(wait.as_mut().poll(context));
                    self.phase = self.dial();
                    continue;
                }
                Phase::Opening { opening, outgoing, limit } => match opening.as_mut().poll(context) {
                    Poll::Ready(Ok(messages)) => {
                        let (outgoing, limit) = (outgoing.clone(), Box::pin(sleep(OPEN_TIMEOUT)));
                        self.phase = Phase::Greeting { messages, outgoing, limit };
                        continue;
                    }
                    Poll::Ready(Err(status)) => status,
                    Poll::Pending => {
                        ready!(limit.as_mut().poll(context));
                        Status::unavailable("the session did not open in time")
                    }
                },
                Phase::Greeting { messages, outgoing, limit } => match messages.poll_next_unpin(context) {
                    Poll::Ready(Some(Ok(SessionResponse { message: Some(Message::Welcome(welcome)) }))) => {
                        let heartbeat_interval =
                            welcome.heartbeat_interval.and_then(|interval| interval.try_into().ok());
                        let outgoing = outgoing.clone();
                        let messages = std::mem::replace(messages, futures_util::stream::empty().boxed());
                        let now = Instant::now();
                        self.phase = Phase::Open { messages, since: now, quiet_at: now };
                        self.was_welcome = true;
                        return Poll::Ready(LinkEvent::Welcome { heartbeat_interval, outgoing });
                    }
                    Poll::Ready(Some(Ok(_))) => Status::unavailable("the session did not begin with a welcome"),
                    Poll::Ready(Some(Err(status))) => status,
                    Poll::Ready(None) => Status::unavailable("the session ended before its welcome"),
                    Poll::Pending => {
                        ready!(limit.as_mut().poll(context));
                        Status::unavailable("there was no welcome in time")
                    }
                },
                Phase::Open { messages, quiet_at, .. } => {
                    // Taken before the look: what is not there at this look arrives later than this.
                    let looked_at = Instant::now();
                    match messages.poll_next_unpin(context) {
                        Poll::Pending => {
                            *quiet_at = looked_at;
                            return Poll::Pending;
                        }
                        Poll::Ready(Some(Ok(SessionResponse { message: Some(message) }))) => {
                            return Poll::Ready(LinkEvent::Message { message, before: *quiet_at });
                        }
                        // A kind of message that a newer server knows.
                        Poll::Ready(Some(Ok(SessionResponse { message: None }))) => continue,
                        Poll::Ready(Some(Err(status))) => status,
                        Poll::Ready(None) => Status::unavailable("the server closed the session"),
                    }
                }
            };
            return Poll::Ready(self.lost(status));
        }
    }

    fn dial(&self) -> Phase {
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MESSAGES);
        let hello = session_request::Message::Hello(self.hello.clone());
        // The channel is new and has room.
        let _ = outgoing.try_send(SessionRequest { message: Some(hello) });
        Phase::Opening { opening: (self.open)(receiver), outgoing, limit: Box::pin(sleep(OPEN_TIMEOUT)) }
    }

    fn lost(&mut self, status: Status) -> LinkEvent {
        if let Phase::Open { since, .. } = &self.phase
            && since.elapsed() >= GOOD_SESSION
        {
            self.backoff.reset();
        }
        let error = Error::from(status);
        let is_first_wait = self.backoff.waits() == 0;
        let mut wait = self.backoff.next_wait();
        match error.reason() {
            // The server is well and another one waits for us: only a little spread, so that not all come at once.
            ErrorReason::Reconnect | ErrorReason::ShuttingDown if is_first_wait => {}
            _ => wait = wait.max(error.retry_after().unwrap_or_default().min(LONGEST_TOLD_WAIT)),
        }
        self.phase = Phase::Waiting(Box::pin(sleep(wait)));
        if !self.was_welcome && is_hopeless(error.code()) {
            return LinkEvent::Refused(error);
        }
        tracing::warn!(%error, ?wait, "session lost");
        LinkEvent::Lost
    }
}

/// Whether the same hello would be refused again. A worker that was welcome once goes on trying even then: its handlers
/// run, and whoever broke its credentials may mend them.
fn is_hopeless(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

impl From<session_request::Message> for SessionRequest {
    fn from(message: session_request::Message) -> Self {
        Self { message: Some(message) }
    }
}

impl From<session_response::Message> for SessionResponse {
    fn from(message: session_response::Message) -> Self {
        Self { message: Some(message) }
    }
}
