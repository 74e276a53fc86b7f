//! The rules, as functions of values: no I/O, no async, no clock and no random source of their own.

pub mod authority;
pub mod bulk_job;
pub mod dead_letter;
pub mod etag;
pub mod event;
pub mod filter;
pub mod fingerprint;
pub mod glob;
pub mod pace;
pub mod permission;
pub mod project;
pub mod queue;
pub mod retention;
pub mod retry;
pub mod retry_budget;
pub mod retry_pattern;
pub mod retry_policy;
pub mod retry_report;
pub mod schedule;
pub mod snapshot;
pub mod task;
pub mod task_fields;
pub mod task_list;
pub mod task_state;
pub mod transition;
pub mod worker;
