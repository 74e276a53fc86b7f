//! Between messages and domain values.
//!
//! Inbound functions take a message apart field by field, so that a new field of the proto does not compile until
//! somebody decided about it; they note every fault with its path (`fields`). Outbound functions build messages.
//! `scalar` holds what all nouns share: texts, numbers, times, labels; `name` the resource names; `json` and `payload`
//! the values that travel with tasks. Nothing of the wire goes further than `api/`, nothing here decides anything.

pub mod api_key;
pub mod audit;
pub mod bulk_job;
pub mod dead_letter;
pub mod fields;
pub mod json;
pub mod mask;
pub mod member;
pub mod name;
pub mod page;
pub mod payload;
pub mod project;
pub mod queue;
pub mod report;
pub mod request_id;
pub mod retention;
pub mod retry;
pub mod retry_settings;
pub mod scalar;
pub mod schedule;
pub mod task;
pub mod task_change;
pub mod watch;
pub mod worker;
