//! tasktower: the control tower for background tasks.
<<<<<<< HEAD
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod context;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
pub mod ids;
=======
#[cfg(feature = "server")]
pub mod cli;
>>>>>>> cli
pub mod pb;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "worker")]
pub mod worker;
