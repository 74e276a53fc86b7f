//! Stand-in.

pub mod hub;
