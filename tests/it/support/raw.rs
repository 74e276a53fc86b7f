//! HTTP/2 by hand: frames of our own choice over a plain TCP connection, for what no HTTP/2 library would send.
//! RFC 9113 for the frames, RFC 7541 for the header block, of which only literals without an index are used.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
};

/// The first bytes of every client.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const NONE: u8 = 0;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting that says how much may be sent on a stream before it is given more.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Bytes before the payload of a frame.
const HEAD: usize = 9;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload below 16 MiB").to_be_bytes();
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend_from_slice(&length[1..]);
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A SETTINGS frame.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    frame(SETTINGS, NONE, 0, &payload)
}

/// The header block of a call.
pub fn call_headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-api-key", super::credentials::key()),
    ] {
        literal(&mut block, name, value);
    }
    block
}

/// Adds a header to a block.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        // A length of 7 bits, then in 7-bit groups.
        match text.len() {
            short @ 0..127 => block.push(short as u8),
            long => {
                block.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    block.push(rest as u8 | 128);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
        }
        block.extend_from_slice(text.as_bytes());
    }
}

/// A whole call with one message: HEADERS and DATA.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut frames = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
    frames.extend(frame(DATA, END_STREAM, stream, &super::frames::framed(0, message)));
    frames
}

/// The numbers a client may give its streams.
pub fn stream_ids() -> impl Iterator<Item = u32> {
    (1..1 << 31).step_by(2)
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
    /// How much the server takes as data on this connection, as far as it was read ([`Raw::data`]).
    window: i64,
}

/// The window of a connection before anything is said.
const FIRST_WINDOW: i64 = 65_535;

impl Raw {
    /// Connects and says nothing.
    pub async fn silent(address: SocketAddr) -> io::Result<Raw> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream, window: FIRST_WINDOW })
    }

    /// Connects and says hello, with these settings.
    pub async fn connect(address: SocketAddr, wanted: &[(u16, u32)]) -> io::Result<Raw> {
        let mut raw = Raw::silent(address).await?;
        raw.send(PREFACE).await?;
        raw.send(&settings(wanted)).await?;
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await?;
        Ok(raw)
    }

    /// Sends bytes; an error when the server closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends bytes and forgets what came in the meantime, so that the server is never held up by what it has to say.
    pub async fn flood(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.drain()?;
            let ready = self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_writable() {
                match self.stream.try_write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // Others have their turn, however fast this one is.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Reads and forgets what is there. An error when the server closed the connection.
    fn drain(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let mut drained = 0;
        loop {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => drained += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(drained),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next frame: kind, flags, stream, payload.
    pub async fn receive(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if let (WINDOW_UPDATE, 0, Ok(more)) = (head[3], stream, <[u8; 4]>::try_from(payload.as_slice())) {
            self.window += i64::from(u32::from_be_bytes(more));
        }
        Ok((head[3], head[4], stream, payload))
    }

    /// Sends data as the server's window for the connection allows. Only for connections that read with `receive`.
    pub async fn data(&mut self, stream: u32, payload: &[u8]) -> io::Result<()> {
        let bytes = i64::try_from(payload.len()).expect("a small payload");
        while self.window < bytes {
            self.receive().await?;
        }
        self.window -= bytes;
        self.send(&frame(DATA, NONE, stream, payload)).await
    }

    /// Reads until the server closes the connection; false when it does not within the time. PINGs are answered, as even
    /// an idle client does.
    pub async fn closed_within(&mut self, limit: Duration) -> bool {
        let closed = async {
            loop {
                match self.receive().await {
                    Err(_) => break,
                    Ok((PING, NONE, _, payload)) => {
                        if self.send(&frame(PING, ACK, 0, &payload)).await.is_err() {
                            break;
                        }
                    }
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(limit, closed).await.is_ok()
    }
}
