//! Hostile input and abuse: what a client may send that no honest one would. The server refuses it, lives on, stays
//! within its limits, and honest clients notice nothing.
//!
//! - `conversion`: random and damaged messages through decoding and conversion, in process.
//! - `http2`: attacks on HTTP/2 itself (`attacks`), beside an honest client (`good_client`).
//! - `slow_readers`: watches that nobody reads.
//! - `stopping`: SIGTERM with all of that around.
//! - `wire`: the same messages over the wire against a real server, with damaged frames and headers around them.
//!
//! `make test` runs a short form of each; `make abuse` the full one. Everything random comes from a seed that is printed:
//! `TASKTOWER_ABUSE_SEED=… TASKTOWER_ABUSE_COUNT=… cargo test --test it abuse::` does the same again.

mod attacks;
mod conversion;
mod good_client;
mod http2;
mod memory;
mod slow_readers;
mod stopping;
mod wire;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// A seed to repeat a run with.
const SEED: &str = "TASKTOWER_ABUSE_SEED";
/// Set for the full form: longer, larger, and with promises about time. It wants a release build and a quiet machine.
const FULL: &str = "TASKTOWER_ABUSE_FULL";
/// Messages for each method, instead of the short form's number.
const COUNT: &str = "TASKTOWER_ABUSE_COUNT";
/// Most bytes of a message that are shown when a case fails.
const SHOWN: usize = 2_048;

/// Whether this is the full form.
fn is_full() -> bool {
    std::env::var_os(FULL).is_some()
}

/// A method of the API as the descriptors have it.
#[derive(Clone, Debug)]
struct MethodCall {
    /// `/package.Service/Method`.
    path: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
    takes_stream: bool,
}

/// Every method there is.
fn methods() -> Vec<MethodCall> {
    let pool = DescriptorPool::decode(tasktower::pb::DESCRIPTORS).expect("our own descriptors");
    let of_service = |service: prost_reflect::ServiceDescriptor| {
        let call = |method: prost_reflect::MethodDescriptor| MethodCall {
            path: format!("/{}/{}", service.full_name(), method.name()),
            input: method.input(),
            output: method.output(),
            takes_stream: method.is_client_streaming(),
        };
        service.methods().map(call).collect::<Vec<_>>()
    };
    pool.services().flat_map(of_service).collect()
}

/// How much to try, and from which seed.
#[derive(Clone, Copy)]
struct Fuzz {
    seed: u64,
    count: u64,
}

impl Fuzz {
    /// As the environment says; by default a new seed and the short form. Prints the seed.
    fn from_environment(what: &str, short: u64) -> Fuzz {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        let fuzz = Fuzz { seed: number(SEED).unwrap_or_else(rand::random), count: number(COUNT).unwrap_or(short) };
        eprintln!("{what}: {SEED}={} {COUNT}={}", fuzz.seed, fuzz.count);
        fuzz
    }

    /// Keeps the case in mind: should the test fail before this is dropped, it is printed.
    fn show<'a>(&self, method: &'a MethodCall, case: u64, bytes: &'a [u8]) -> Shown<'a> {
        Shown { seed: self.seed, path: &method.path, case, bytes }
    }
}

/// A case under way.
struct Shown<'a> {
    seed: u64,
    path: &'a str,
    case: u64,
    bytes: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{SEED}={} case {} of {}, {} bytes: {hex}", self.seed, self.case, self.path, self.bytes.len());
        }
    }
}
