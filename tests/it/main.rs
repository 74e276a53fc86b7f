//! The integration tests: one binary, so that it links once.
//!
//! `cargo test` alone runs what needs nothing installed and says what it left out; `make test` brings PostgreSQL, Redis,
//! buf and Python, and then nothing may be left out.
//!
//! - `support` is what tests stand on: a server process, a fresh database, clients, waiting.
//! - `access` is who may do what: a matrix of every method, the roles, members and projects.
//! - `abuse` is hostile input: messages, frames and clients nobody wants.
//! - `app` is the use cases in process, on every kind of database.
//! - `architecture` holds the import rules of `src/`.
//! - `coverage` compares what is documented with what the API descriptors say.
//! - `crash` is the crash lane: a load under a schedule of faults, and mutants that the checker has to find.
//! - `flows` is whole stories over the wire: processes are killed, frozen, stopped, and nothing acknowledged is lost.
//! - `rpc` is the real server over the wire, as clients of every kind see it.
//! - `store` is the store by itself, on every kind of database.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans shape the product; tests have no runtime to block and no stop to join"
)]

mod abuse;
mod access;
mod app;
mod architecture;
mod coverage;
mod crash;
mod flows;
mod rpc;
mod store;
mod support;
