//! Tasks in the database: one wide row, and a narrow row that says where the task is (`ready`, `lease`).

mod claim;
pub(in crate::store) mod decode;
mod list;
mod load;
mod purge;
mod walks;
mod write;

pub use self::{
    claim::{
        Claimed, Due, Lane, claim, due_lanes, expired_running, expired_waiting, find_due, overdue_projects, promote,
    },
    list::{COUNT_LIMIT, attempts, count, get, list},
    load::{Held, Loaded, inputs, last_attempts, load, lock, peek},
    purge::{candidates, lock_candidates, purge},
    write::{Net, Replayed, write},
};
