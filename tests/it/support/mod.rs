//! What the tests stand on. A test reads like this:
//!
//! ```ignore
//! #[tokio::test]
//! async fn a_task_is_found_again() {
//!     for_each_backend(async |database| {
//!         let server = Server::start(database).await;
//!         let clients = Clients::connect(&server).await;
//!         …
//!         eventually("the task succeeds", SOON, async || …).await;
//!     })
//!     .await;
//! }
//! ```
//!
//! A server is the real binary in its own process, so that it can be killed, frozen and started again. Every test has a
//! database of its own. Whatever a test started is gone when it ends, however it ends; when it fails, the logs of its
//! processes are printed.

#![allow(dead_code, reason = "a harness offers more than the tests of the day use")]

pub mod backend;
pub mod buf;
pub mod calls;
pub mod client;
pub mod cluster;
pub mod credentials;
pub mod frames;
pub mod history;
pub mod invariants;
pub mod load;
pub mod messages;
pub mod missing;
pub mod process;
pub mod proxy;
pub mod python;
pub mod raw;
pub mod seals;
pub mod server;
pub mod sockets;
pub mod sql;
pub mod wait;

use std::path::PathBuf;

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
