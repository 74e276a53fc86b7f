//! Retention deletes finished tasks while a load goes on: nothing that is not final ever goes, and the journal says how
//! many went.

use std::time::Duration;

use tasktower::pb::{
    ErrorReason, GetRetentionRunRequest, Retention, RetentionRule, RetentionRun, RunRetentionRequest,
    UpdateRetentionRequest, retention_run::State,
};

use crate::support::{
    backend::for_each_backend,
    client::Clients,
    invariants::{Inspector, When, assert_holds},
    load::{Load, Shape},
    server::Server,
    wait::{SOON, eventually},
};

const NAME: &str = "projects/default/retention";
const RUNS: usize = 6;
/// Calls of the load between two runs.
const CALLS: usize = 150;
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

async fn run(clients: &Clients) -> RetentionRun {
    let request = RunRetentionRequest { name: NAME.to_owned(), etag: String::new() };
    let begun = clients.retention().run_retention(request).await.expect("begun").into_inner();
    let name = begun.retention_run.expect("an answer holds it").name;
    eventually("the run is over", SOON, async || {
        let request = GetRetentionRunRequest { name: name.clone() };
        let answer = clients.retention().get_retention_run(request).await.expect("found").into_inner();
        let run = answer.retention_run.expect("an answer holds it");
        if run.state() == State::Running { Err(format!("{run:?}")) } else { Ok(run) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_tasks_go_while_others_are_under_way() {
    for_each_backend(async |database| {
        let server = Server::start(database).await;
        let mut inspector = Inspector::open(database).await;
        let clients = Clients::connect(&server).await;
        let rules = vec![RetentionRule { age: Some(prost_types::Duration::default()), ..RetentionRule::default() }];
        let retention = Retention { name: NAME.to_owned(), rules, ..Retention::default() };
        let request = UpdateRetentionRequest { retention: Some(retention), update_mask: None };
        clients.retention().update_retention(request).await.expect("set");

        let mut shape = Shape::on(&[server.endpoint()]);
        // Of a task that was deleted.
        shape.explained = &[ErrorReason::ResourceNotFound];
        let load = Load::start(shape).await;
        let mut deleted = 0;
        for _ in 0..RUNS {
            load.advance(CALLS, SOON).await;
            let run = run(&clients).await;
            assert_eq!((run.state(), run.error_count), (State::Succeeded, 0));
            deleted += run.deleted_count;
        }
        let known = load.finish(&mut inspector, DRAIN_LIMIT).await;
        let facts = inspector.facts("default").await;
        assert_holds(&facts, &known, When::Quiet);
        assert!(deleted > 0 && facts.purged_count() == deleted, "{deleted} deleted");
        println!(
            "{}: {deleted} of {} tasks deleted in {RUNS} runs, {} calls",
            database.backend(),
            known.submits.len(),
            known.acknowledged
        );
        inspector.close().await;
    })
    .await;
}
