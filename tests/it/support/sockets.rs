//! The TCP sockets of this machine as the kernel lists them: how many a server holds, and whose bytes nobody reads.

use std::fs;

const ESTABLISHED: &str = "01";
const CLOSE_WAIT: &str = "08";

/// Connections that clients have to a local port, and those that they closed and the server did not.
pub fn connections(port: u16) -> usize {
    let local = format!(":{port:04X}");
    let is_open = |socket: &&Socket| [ESTABLISHED, CLOSE_WAIT].contains(&socket.state.as_str());
    sockets().iter().filter(|socket| socket.local.ends_with(&local)).filter(is_open).count()
}

/// Sockets with bytes that were not sent, or not read: they tell which side of a call that hangs is asleep.
pub fn with_bytes_waiting() -> Vec<String> {
    let told = |socket: Socket| {
        let Socket { local, remote, state, queues } = socket;
        (queues != "00000000:00000000").then(|| format!("{local} to {remote}, state {state}, sent:received {queues}"))
    };
    sockets().into_iter().filter_map(told).collect()
}

struct Socket {
    local: String,
    remote: String,
    state: String,
    /// Bytes that wait to be sent, and to be read.
    queues: String,
}

fn sockets() -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel lists connections");
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1).map(str::to_owned);
        Some(Socket { local: fields.next()?, remote: fields.next()?, state: fields.next()?, queues: fields.next()? })
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[test]
fn bytes_that_nobody_reads_are_seen_on_the_side_that_should() {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it has an address").port();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the kernel accepts");
    assert_eq!(connections(port), 1);
    client.write_all(b"hello").expect("there is room");
    let waiting = with_bytes_waiting();
    let place = format!(":{port:04X} to ");
    assert!(waiting.iter().any(|socket| socket.contains(&place) && socket.ends_with(":00000005")), "{waiting:?}");
}
