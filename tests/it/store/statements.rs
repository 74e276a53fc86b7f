//! How many statements a batch takes: on PostgreSQL each is a round trip, and ARCHITECTURE.md states the number.

use tasktower::error::Error;

use super::{
    lists::execute,
    tasks::{World, new_task, spec},
};
use crate::support::backend::{Backend, for_each_backend};

/// Statements of one batch, in the order submit, lease, complete. On SQLite a lease may take one more: tasks whose time has
/// come are marked due now and then.
struct Statements {
    submit: u64,
    lease: u64,
    complete: u64,
}

/// A submit is one statement that commits by itself: the write with journal and figures. A lease first looks at what is due,
/// a report at its tasks, and has kept from their lease what else it needs to know; neither locks what it reads.
const POSTGRES: Statements = Statements { submit: 1, lease: 2, complete: 2 };
/// One writer inside the process: each write is a statement of its own.
const SQLITE: Statements = Statements { submit: 7, lease: 9, complete: 8 };

#[tokio::test]
async fn a_batch_takes_as_many_statements_as_the_architecture_says() {
    for_each_backend(async |database| {
        let expected = match database.backend() {
            Backend::Postgres => POSTGRES,
            Backend::Sqlite => SQLITE,
        };
        let w = World::on(database).await;
        // What only the first batch does: make the queue, make the worker known.
        w.submit(spec()).await;
        w.complete(&w.lease(1).await).await;
        // As many for a hundred tasks as for one.
        for tasks in [1, 100] {
            let count = || w.app.store().statements();
            let start = count();
            w.submit_many(tasks).await;
            let submitted = count();
            let leased = w.lease(tasks).await;
            let granted = count();
            assert_eq!(leased.len(), tasks);
            w.complete(&leased).await;
            let completed = count();
            assert_eq!(submitted - start, expected.submit, "submit of {tasks}");
            assert!(
                (expected.lease..=expected.lease + 1).contains(&(granted - submitted)),
                "lease of {tasks}: {}",
                granted - submitted
            );
            assert_eq!(completed - granted, expected.complete, "complete of {tasks}");
        }
    })
    .await;
}

/// The counter is raised in the statement that writes everything else; without one nothing of it may stay.
#[tokio::test]
async fn a_submit_to_a_project_without_a_counter_writes_nothing() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        w.submit(spec()).await;
        execute(database, "UPDATE counter SET project = 'elsewhere' WHERE project = 'default'").await;
        for tasks in [1, 3] {
            let refused = w.try_submit((0..tasks).map(|_| new_task(spec())).collect(), None).await;
            assert!(matches!(refused, Err(Error::NotFound { kind: "project", .. })), "{refused:?}");
        }
        execute(database, "UPDATE counter SET project = 'default' WHERE project = 'elsewhere'").await;
        assert_eq!(w.lease(10).await.len(), 1);
    })
    .await;
}
