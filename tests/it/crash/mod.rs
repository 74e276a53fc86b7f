//! The crash lane: a load of clients that keep a history, a seeded schedule of faults, and the checker over the database
//! and the histories afterwards. Each fault is asserted to have happened.
//!
//! - `kills`: the server is killed, from outside and at every failpoint.
//! - `postgres`: the database is stopped, frozen, and loses its connections under the server.
//! - `full_disk`: there is no room for a write, then there is again.
//! - `cancelled`: clients go away in the middle of their calls.
//! - `retention`: the server crashes in the middle of deleting what is too old.
//! - `paused`: a replica is frozen inside its COMMIT.
//! - `schedules`: three servers fire schedules while one after the other is killed.
//! - `mutants`: servers that are wrong on purpose, each found by a check.
//! - `plan`: how much of it, and the seed.
//!
//! `make test` runs a short form, `make crash` all of it. What needs failpoints or a PostgreSQL of its own is left out,
//! loudly, where there is none.

mod cancelled;
mod full_disk;
mod kills;
mod mutants;
mod paused;
mod plan;
mod postgres;
mod retention;
mod schedules;
