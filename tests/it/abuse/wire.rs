//! Random and damaged messages over the wire, to every method of a real server: in damaged frames, with odd headers,
//! several where one is due, none at all. Nothing panics, no answer is INTERNAL or UNKNOWN, none takes longer than
//! [`CALL_LIMIT`], and the server serves on.
//!
//! There is no list of methods: the descriptors say what there is. What the server answers is learnt, so that names,
//! etags and tokens that exist come back to it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost_reflect::DynamicMessage;
use rand::{RngExt as _, seq::IndexedRandom as _};
use tasktower::pb;
use tonic::{Code, Status};

use super::{Fuzz, MethodCall, methods};
use crate::support::{
    backend::{Database, for_each_backend},
    client::Clients,
    frames::{Answer, framed, post},
    messages::{Learnt, Messages, case_seed},
    server::Server,
};

/// Cases of a method in `make test`.
const SHORT: u64 = 150;
/// The most a call may take that waits for nothing.
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// A call that took longer is asked again so often, alone: on a busy machine anything may be slow once.
const SECOND_CHANCES: usize = 3;
/// Calls at the same time.
const IN_FLIGHT: usize = 8;
/// Messages read of a stream that goes on.
const MESSAGES_READ: usize = 3;
/// How long a stream may be silent before it is left.
const PATIENCE: Duration = Duration::from_millis(30);
/// Most messages a client streams.
const MESSAGES_SENT: usize = 6;

/// One call, ready to be sent more than once.
struct Case {
    headers: HeaderMap,
    pieces: Vec<Bytes>,
    /// All messages as they were made, to show them.
    bytes: Vec<u8>,
}

/// Makes a case: messages, their frames, and the headers around them.
fn case(fuzz: &Fuzz, method: &MethodCall, number: u64, learnt: &Learnt) -> Case {
    let mut messages = Messages::new(case_seed(fuzz.seed, &method.path, number), learnt);
    let count = match (method.takes_stream, messages.rng().random_ratio(1, 40)) {
        (true, _) => messages.rng().random_range(0..MESSAGES_SENT),
        (false, true) => *[0, 2].choose(messages.rng()).expect("not empty"),
        (false, false) => 1,
    };
    let mut bytes = Vec::new();
    let mut pieces = Vec::new();
    for index in 0..count {
        let message = if method.takes_stream && index == 0 && messages.rng().random_bool(0.8) {
            // Conversations begin with the first thing there is to say; without it they end at once.
            messages.message_of_field(&method.input, 1)
        } else {
            messages.message(&method.input)
        };
        pieces.push(framed(0, &message));
        bytes.extend_from_slice(&message);
    }
    let rng = messages.rng();
    let mut headers = HeaderMap::new();
    if rng.random_ratio(1, 12)
        && let Some(last) = pieces.pop()
    {
        pieces.extend(damaged_frame(rng, &last));
    }
    if rng.random_ratio(1, 12) {
        let odd: [(&'static str, &[u8]); 12] = [
            ("grpc-timeout", b"0n"),
            ("grpc-timeout", b"1n"),
            ("grpc-timeout", b"99999999H"),
            ("grpc-timeout", b"soon"),
            ("grpc-encoding", b"gzip"),
            ("grpc-encoding", b"snappy"),
            ("grpc-accept-encoding", b"gzip,\xff"),
            ("x-request-id", b"\xff\xfe"),
            ("idempotency-key", b"\xc3\xa4"),
            ("idempotency-key", b"one and the same"),
            ("user-agent", &[b'u'; 5_000]),
            ("tasktower-bin", b"not base64 !"),
        ];
        let (name, value) = *odd.choose(rng).expect("not empty");
        headers.insert(name, HeaderValue::from_bytes(value).expect("bytes a header may hold"));
    }
    Case { headers, pieces, bytes }
}

/// A frame whose prefix lies, or that comes in pieces.
fn damaged_frame(rng: &mut impl rand::Rng, frame: &Bytes) -> Vec<Bytes> {
    let mut damaged = frame.to_vec();
    match rng.random_range(0..5) {
        // Says that it is compressed, or something that does not exist.
        0 => damaged[0] = *[1, 2, 0xff].choose(rng).expect("not empty"),
        1 => rng.fill_bytes(&mut damaged[1..5]),
        2 => damaged.truncate(rng.random_range(0..damaged.len())),
        3 => damaged.push(0),
        _ => {
            let at = rng.random_range(0..damaged.len());
            return vec![frame.slice(..at), frame.slice(at..)];
        }
    }
    vec![damaged.into()]
}

/// What a code says about the server.
fn is_our_fault(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss)
}

/// Sends a case; what was wrong, if anything.
async fn send(clients: &Clients, method: &MethodCall, case: &Case) -> (Duration, Result<Answer, String>) {
    let started = Instant::now();
    let pieces = case.pieces.clone();
    let channel = clients.channel();
    let sent = post(&channel, &method.path, &case.headers, pieces, MESSAGES_READ, PATIENCE);
    // Long enough to tell a slow answer from none.
    let answer = tokio::time::timeout(CALL_LIMIT * 10, sent).await;
    let answer = answer.unwrap_or_else(|_| Err("no end of it".to_owned()));
    let mut took = started.elapsed();
    if let Ok(Answer { status: None, .. }) = &answer {
        // The end was our own patience.
        took = took.saturating_sub(PATIENCE);
    }
    let answer = match answer {
        Ok(Answer { status: Some(status), .. }) if is_our_fault(&status) => Err(format!("{status:?}")),
        other => other,
    };
    (took, answer)
}

/// Sends one case and judges it.
async fn judge(fuzz: &Fuzz, clients: &Clients, method: &MethodCall, number: u64, learnt: &Mutex<Learnt>) -> Code {
    let known = learnt.lock().expect("no panic while it was held").clone();
    let case = case(fuzz, method, number, &known);
    let _shown = fuzz.show(method, number, &case.bytes);
    if asks_to_wait(method, &case) {
        return Code::Ok;
    }
    let (mut took, answer) = send(clients, method, &case).await;
    let answer = answer.unwrap_or_else(|fault| panic!("{}: {fault}", method.path));
    let mut chances = SECOND_CHANCES;
    while took > CALL_LIMIT && chances > 0 {
        eprintln!("{} took {took:?}; it is asked again", method.path);
        took = send(clients, method, &case).await.0;
        chances -= 1;
    }
    assert!(took <= CALL_LIMIT, "{} took {took:?}, again and again", method.path);
    for message in &answer.messages {
        let message = DynamicMessage::decode(method.output.clone(), message.clone()).expect("the server's own message");
        learnt.lock().expect("no panic while it was held").learn(&message);
    }
    answer.status.map_or(Code::Ok, |status| status.code())
}

/// Whether the call is to wait: the generator asks for a wait of 0, but damage may have made it longer, or lost it.
fn asks_to_wait(method: &MethodCall, case: &Case) -> bool {
    let Some(field) = method.input.get_field_by_name("wait") else { return false };
    let Ok(message) = DynamicMessage::decode(method.input.clone(), case.bytes.as_slice()) else { return false };
    let is_zero = message.get_field(&field).as_message().is_some_and(|wait| wait.fields().next().is_none());
    !(message.has_field(&field) && is_zero)
}

async fn storm(fuzz: &Fuzz, database: &Database) {
    let mut server = Server::start(database).await;
    let clients = Clients::connect(&server).await;
    let methods = Arc::new(methods());
    let learnt = Arc::new(Mutex::new(Learnt::default()));
    let (next, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(std::collections::BTreeMap::new())));
    let started = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (fuzz, clients, methods) = (*fuzz, clients.clone(), methods.clone());
        let (learnt, next, answered) = (learnt.clone(), next.clone(), answered.clone());
        callers.spawn(async move {
            loop {
                // Methods in turn, so that what one makes is there for the others.
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let (number, method) = (turn / methods.len() as u64, &methods[turn as usize % methods.len()]);
                if number >= fuzz.count {
                    break;
                }
                let code = judge(&fuzz, &clients, method, number, &learnt).await;
                *answered.lock().expect("no panic while it was held").entry(format!("{code:?}")).or_insert(0_u64) += 1;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no fault in any case; the case is printed above");
    }
    let answered = answered.lock().expect("all callers ended").clone();
    eprintln!(
        "{}: {} calls in {:.1?}: {answered:?}",
        database.backend(),
        next.load(Ordering::Relaxed),
        started.elapsed()
    );
    assert!(answered.get("Ok").is_some_and(|ok| ok * 20 > fuzz.count * methods.len() as u64), "too wild to show much");

    // It is well: the same connection and a new one are served, and nothing panicked out of sight.
    for clients in [clients, Clients::connect(&server).await] {
        clients.tasks().list_tasks(pb::ListTasksRequest::default()).await.expect("it serves on");
    }
    let log = server.process().log();
    assert!(!log.contains("panicked"), "something panicked: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_calls_are_answered_at_once_and_never_internal() {
    let fuzz = Fuzz::from_environment("wire", SHORT);
    for_each_backend(async |database| storm(&fuzz, database).await).await;
}
