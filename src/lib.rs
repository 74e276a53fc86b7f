//! tasktower: the control tower for background tasks.
pub mod pb;

#[cfg(feature = "client")]
pub mod client;
