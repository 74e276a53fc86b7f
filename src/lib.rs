//! tasktower: the control tower for background tasks.
#[cfg(feature = "server")]
pub mod cli;
pub mod pb;
