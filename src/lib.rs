//! tasktower: the control tower for background tasks.
pub mod pb;
