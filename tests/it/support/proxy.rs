//! A TCP proxy that takes its time: each piece of data waits a little, in both directions, so that what clients cancel is
//! somewhere between them and the server.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use super::wait::pause;

/// As much as is read at once.
const PIECE: usize = 16 * 1024;

/// Ends with its connections when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// To the server at `endpoint`; each piece waits up to `most_delay`.
    pub async fn start(endpoint: &str, most_delay: Duration) -> Proxy {
        let target: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connect(client, target, most_delay));
            }
        });
        Proxy { address, _tasks: tasks }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn connect(client: TcpStream, target: SocketAddr, most_delay: Duration) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Delays are ours to make.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, most_delay) => {}
        () = carry(from_server, to_client, most_delay) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, most_delay: Duration) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        pause("the network is slow", most_delay.mul_f64(rand::random())).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
