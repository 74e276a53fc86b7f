//! tasktower: the control tower for background tasks.
//!
//! The service, layer by layer: `api` knows the wire, `app` the use cases, `domain` the rules, `store` the database,
//! `live` who is told at once, `background` the loops. `client` and `worker` are the other side of the wire; `cli` is the
//! program. ARCHITECTURE.md is the map.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod background;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod context;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
pub mod faults;
#[cfg(feature = "server")]
pub mod ids;
#[cfg(feature = "server")]
pub mod live;
pub mod pb;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod shutdown;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "worker")]
pub mod worker;
