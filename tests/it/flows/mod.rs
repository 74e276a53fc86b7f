//! Whole stories over the wire: real servers, real clients, and what happens when any of them is killed, frozen or cut off.

mod checker;
mod restart;
mod resume;
mod retention;
mod two_replicas;
mod worker_death;
