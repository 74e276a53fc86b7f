//! Accepts connections, with the bounds hyper and tonic do not set: how many are open, how long one may take until it
//! speaks HTTP/2, how many come in a second, how many empty frames it may send (`frames`), how much it may make us hold
//! (`api::layers::held`), and what happens when the process is out of descriptors. When all places are taken, a new
//! connection gets the place of one that has no call under way (`api::layers::visit`), so that a crowd which only is there
//! keeps nobody out. What is ready together is written together (`gathering`), and no small write waits (TCP_NODELAY):
//! without it answers wait for delayed acknowledgements, about 40 ms each.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{bucket::Bucket, frames::FrameGauge, gathering::Gathering, tls::Certificate, transport::Transport};
use crate::api::layers::{
    caller::Peer,
    held::{Account, Ledger},
    turns::Turns,
};

/// New connections at once …
const CONNECT_BURST: u32 = 1_000;
/// … and then a second; more wait in the kernel's queue. A connection costs as much as some calls, and one that is closed
/// for what it sends comes back at once.
const CONNECT_RATE: u32 = 500;
/// A connection that was cut off counts as so many new ones.
const CUT_OFF_COUNTS: u32 = 100;
/// From accept to the end of the preface.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);
/// How long accepting rests when the process has no descriptors left; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection rests that may not be read while others are freed: that takes a few milliseconds.
const HELD_REST: Duration = Duration::from_millis(5);
/// A connection that is to make room is gone by then. If not, or if all were busy, it is tried again.
const ROOM_WITHIN: Duration = Duration::from_millis(50);

/// The connections of one listener.
pub(super) struct Incoming {
    accept: Pin<Box<dyn Future<Output = (Listening, io::Result<Connection>)> + Send>>,
}

struct Listening {
    listener: TcpListener,
    places: Arc<Semaphore>,
    pace: Bucket,
    ledger: Ledger,
    tls: Option<Certificate>,
}

impl Incoming {
    /// Accepts up to `limit` connections at a time. What they make us hold is in the ledger.
    /// With a certificate, clients have to speak TLS.
    pub(super) fn new(listener: TcpListener, limit: usize, ledger: Ledger, tls: Option<Certificate>) -> Self {
        let pace = Bucket::new(CONNECT_BURST, CONNECT_RATE, Instant::now());
        let listening = Listening { listener, places: Arc::new(Semaphore::new(limit)), pace, ledger, tls };
        Self { accept: Box::pin(accept(listening)) }
    }
}

impl Listening {
    /// A place for a new connection. While all are taken by others with calls under way, it and those behind it wait.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            self.ledger.make_room();
            // The semaphore is never closed.
            if let Ok(Ok(place)) = timeout(ROOM_WITHIN, self.places.clone().acquire_owned()).await {
                return place;
            }
        }
    }
}

async fn accept(mut listening: Listening) -> (Listening, io::Result<Connection>) {
    if let Some(rest) = listening.pace.rest(Instant::now()) {
        sleep(rest).await;
    }
    // The places of those that are cut off are not to be taken by the same again before what they held is freed.
    listening.pace.take(1 + listening.ledger.cut_off() * CUT_OFF_COUNTS);
    loop {
        match listening.listener.accept().await {
            Ok((stream, _)) => {
                let place = listening.place().await;
                let connection = stream.set_nodelay(true).map(|()| Connection {
                    address: stream.connect_info(),
                    stream: Transport::new(stream, listening.tls.as_ref()),
                    preface: Some(Box::pin(sleep(PREFACE_LIMIT))),
                    gauge: FrameGauge::new(Instant::now()),
                    rest: None,
                    gathering: Gathering::default(),
                    account: listening.ledger.open(),
                    turns: Turns::of_connection(),
                    _place: place,
                });
                return (listening, connection);
            }
            Err(cause) => {
                tracing::warn!(%cause, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready((listening, connection)) = self.accept.as_mut().poll(cx) else { return Poll::Pending };
        self.accept = Box::pin(accept(listening));
        Poll::Ready(Some(connection))
    }
}

/// A connection that must speak in time and keep within bounds.
pub(super) struct Connection {
    address: TcpConnectInfo,
    /// Secured before the first byte is read: the handshake has the time of the preface.
    stream: Transport,
    /// Until the preface is there.
    preface: Option<Pin<Box<Sleep>>>,
    gauge: FrameGauge,
    /// While nothing is read, because too many empty frames were, or too much is held.
    rest: Option<Pin<Box<Sleep>>>,
    gathering: Gathering,
    account: Account,
    turns: Turns,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.address.clone(), account: self.account.clone(), turns: self.turns.clone() }
    }
}

impl Connection {
    /// Ready when something may be written.
    fn poll_may_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper does not read while it cannot write.
        if self.account.poll_cut_off(cx).is_ready() {
            return Poll::Ready(Err(cut_off()));
        }
        self.gathering.poll_done(cx).map(Ok)
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it makes the server hold too much")
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.account.poll_cut_off(cx).is_ready() {
            return Poll::Ready(Err(cut_off()));
        }
        if let Some(rest) = &mut this.rest {
            std::task::ready!(rest.as_mut().poll(cx));
            this.rest = None;
        }
        if this.account.has_to_rest() {
            let rest = this.rest.insert(Box::pin(sleep(HELD_REST)));
            std::task::ready!(rest.as_mut().poll(cx));
        }
        if this.gauge.has_begun_many() {
            // After the calls that were read.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.gauge.take(&buf.filled()[before..]);
        this.rest = this.gauge.rest(Instant::now()).map(|rest| Box::pin(sleep(rest)));
        if this.gauge.has_spoken() {
            this.preface = None;
        } else if let Some(limit) = &mut this.preface
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection never spoke")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_may_write(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathering.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// No: h2 then copies answers up to 1 KiB one after the other and writes them at once. Otherwise it writes each above
    /// 256 bytes by itself, because it keeps a reference to one of them only.
    fn is_write_vectored(&self) -> bool {
        false
    }
}
