//! Who is told, in this process and at once: watchers ([`hub`]), waiting leasers ([`wakeups`]), sessions ([`sessions`]).
//!
//! Nothing here is true, it only makes things sooner: whoever is not told finds out from the database a little later.

pub mod hub;
pub mod sessions;
pub mod wakeups;
