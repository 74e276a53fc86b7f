//! The store by itself, on every kind of database.

mod audit;
mod bulk_jobs;
mod dead_letters;
mod idempotency;
mod lists;
mod projects;
mod queues;
mod stand_by;
mod statements;
mod tasks;
mod unique_keys;
mod watch;
mod workers;
mod writers;

use tasktower::{
    ids::ProjectId,
    store::{DatabaseUrl, Store, migrate},
};

use crate::support::backend::Database;

/// A migrated, empty database.
async fn open(database: &Database) -> Store {
    let url: DatabaseUrl = database.url().parse().expect("the harness gives good URLs");
    migrate::up(&url).await.expect("migrations");
    Store::open(&url).await.expect("a migrated database opens")
}

fn project() -> ProjectId {
    ProjectId::new("default")
}
