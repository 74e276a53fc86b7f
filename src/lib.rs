//! tasktower: the control tower for background tasks.
pub mod pb;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "worker")]
pub mod worker;
