//! Accepts connections, with the bounds tonic does not set: how many are open, how long one may stay silent before it
//! speaks HTTP/2, and what happens when the process is out of descriptors. Small writes go out at once (TCP_NODELAY):
//! without it answers wait for delayed acknowledgements, about 40 ms each.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections open at a time, per listener.
const CONNECTION_LIMIT: usize = 10_000;
/// From accept to the first byte.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);
/// How long accepting rests when the process has no descriptors left; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connections of one listener.
pub(super) struct Incoming {
    accept: Pin<Box<dyn Future<Output = Accepted> + Send>>,
}

type Accepted = (TcpListener, Arc<Semaphore>, io::Result<Connection>);

impl Incoming {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { accept: Box::pin(accept(listener, Arc::new(Semaphore::new(CONNECTION_LIMIT)))) }
    }
}

async fn accept(listener: TcpListener, limit: Arc<Semaphore>) -> Accepted {
    loop {
        // Beyond the limit connections wait in the kernel's queue. The semaphore is never closed.
        let Ok(permit) = limit.clone().acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = stream.set_nodelay(true).map(|()| Connection {
                    stream,
                    preface: Some(Box::pin(sleep(PREFACE_LIMIT))),
                    _permit: permit,
                });
                return (listener, limit, connection);
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
        let Poll::Ready((listener, limit, connection)) = self.accept.as_mut().poll(cx) else { return Poll::Pending };
        self.accept = Box::pin(accept(listener, limit));
        Poll::Ready(Some(connection))
    }
}

/// A connection that must speak in time.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until the first byte.
    preface: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.preface = None;
        } else if let Some(limit) = &mut self.preface
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection never spoke")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
