//! Use cases in process, on every kind of database.

mod api_keys;
mod background;
mod bulk_jobs;
mod projects;
mod queues;
mod retention;
mod schedules;

use std::sync::Arc;

use tasktower::{
    app::App,
    context::{Caller, CallerInfo},
    domain::event::{ResourceKind, Subject},
    ids::ProjectId,
    store::{DatabaseUrl, Store, journal, migrate},
};
use tokio_util::sync::CancellationToken;

use crate::support::backend::Database;

/// The service on a migrated, empty database.
async fn start(database: &Database) -> App {
    let url: DatabaseUrl = database.url().parse().expect("the harness gives good URLs");
    migrate::up(&url).await.expect("migrations");
    App::new(Store::open(&url).await.expect("a migrated database opens"), CancellationToken::new())
}

fn project() -> ProjectId {
    ProjectId::new("default")
}

fn caller() -> Caller {
    let info = CallerInfo {
        request_id: "r1".to_owned(),
        address: Some("192.0.2.1".to_owned()),
        ..CallerInfo::of_server(Arc::from("user:ada"))
    };
    Caller::new(info)
}

/// The rows of a journal that are not about tasks.
async fn journal_of(app: &App, project: &str) -> Vec<(ResourceKind, String, String)> {
    let events = journal::read(app.store(), &ProjectId::new(project), 0, 1_000).await.expect("the journal reads");
    let row = |event: tasktower::domain::event::Event| match event.subject {
        Subject::Resource { kind, name } => Some((kind, name.to_string(), event.actor.to_string())),
        Subject::Task { .. } => None,
    };
    events.into_iter().filter_map(row).collect()
}
