//! The server crashes in the middle of a run of retention. The next one goes on where it was: what is counted is what is
//! gone, and nothing that is not final ever goes.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use tasktower::pb::{self, retention_run::State};

use super::plan;
use crate::support::{
    calls,
    client::Clients,
    server::Server,
    sql::Beside,
    wait::{SOON, eventually},
};

const SIGABRT: i32 = 6;
/// Enough for dozens of batches.
const FINISHED: usize = 6_000;
const WAITING: usize = 50;
/// A claim is free after 30 s; then there is the rest to do.
const RUN_LIMIT: Duration = Duration::from_secs(90);
const NAME: &str = "projects/default/retention";

async fn get_run(clients: &Clients, name: &str) -> Option<pb::RetentionRun> {
    let request = pb::GetRetentionRunRequest { name: name.to_owned() };
    clients.retention().get_retention_run(request).await.ok()?.into_inner().retention_run
}

/// Submits tasks of a type and brings those of the first to their end.
async fn prepare(clients: &Clients) {
    for (task_type, count) in [("done", FINISHED), ("waiting", WAITING)] {
        for _ in 0..count.div_ceil(500) {
            let request =
                pb::SubmitTaskRequest { task: Some(calls::task(task_type, "q")), ..pb::SubmitTaskRequest::default() };
            let request = pb::BatchSubmitTasksRequest { requests: vec![request; count.min(500)], ..Default::default() };
            clients.tasks().batch_submit_tasks(request).await.expect("submitted");
        }
    }
    loop {
        let leased = calls::lease(clients, "w", "done", "q", 500, Duration::ZERO).await;
        if leased.is_empty() {
            break;
        }
        let completions = leased
            .iter()
            .map(|leased| pb::TaskCompletion { token: Some(calls::token(leased)), result: None })
            .collect();
        let request = pb::CompleteTasksRequest { completions, ..Default::default() };
        clients.workers().complete_tasks(request).await.expect("completed");
    }
    let age = Some(prost_types::Duration::default());
    let rules = vec![pb::RetentionRule { age, ..Default::default() }];
    let retention = pb::Retention { name: NAME.into(), rules, ..Default::default() };
    let request = pb::UpdateRetentionRequest { retention: Some(retention), update_mask: None };
    clients.retention().update_retention(request).await.expect("set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_after_a_crash_and_counts_what_is_gone() {
    if !plan::has_failpoints() {
        return;
    }
    plan::on_each_backend(async |database| {
        let folder = tempfile::tempdir().expect("a folder");
        let is_before = (plan::seed() + database.backend() as u64).is_multiple_of(2);
        let point = if is_before { "before_commit" } else { "after_commit" };
        let armed = folder.path().join("armed");
        let fault = format!("{point}=abort@{}", armed.display());
        let mut server = Server::start_with_faults(database, &[("TASKTOWER_FAILPOINTS", &fault)]).await;
        let clients = Clients::connect(&server).await;
        prepare(&clients).await;
        let request = pb::RunRetentionRequest { name: NAME.into(), ..Default::default() };
        let begun = clients.retention().run_retention(request).await.expect("begun");
        let run = begun.into_inner().retention_run.expect("an answer holds it").name;
        eventually("the run is at work", SOON, async || match get_run(&clients, &run).await {
            Some(run) if run.deleted_count > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        std::fs::write(&armed, "").expect("armed");
        let ended = async || server.process().ended().ok_or("it lives");
        let status = eventually("the server crashes", SOON, ended).await;
        assert_eq!(status.signal(), Some(SIGABRT));
        std::fs::remove_file(&armed).expect("disarmed");

        let mut beside = Beside::open(database).await;
        let left = beside.number("SELECT count(*) FROM task").await;
        let total = i64::try_from(FINISHED + WAITING).expect("few");
        assert!(left > i64::try_from(WAITING).expect("few") && left < total, "{left} are left: in the middle");
        server.set_faults(&[]);
        server.restart().await;
        let clients = Clients::connect(&server).await;
        let run = eventually("the run is over", RUN_LIMIT, async || match get_run(&clients, &run).await {
            Some(run) if run.state() != State::Running => Ok(run),
            other => Err(format!("{other:?}")),
        })
        .await;
        let finished = i64::try_from(FINISHED).expect("few");
        assert_eq!((run.state(), run.deleted_count, run.busy_count), (State::Succeeded, finished, 0));
        assert_eq!(beside.number("SELECT count(*) FROM task").await, total - finished);
        assert_eq!(beside.number("SELECT count(*) FROM ready").await, total - finished, "what waits was not touched");
        let diffs = beside.texts("SELECT diff FROM journal WHERE kind = 142").await;
        let deleted = diffs.iter().map(|diff| {
            let diff: serde_json::Value = serde_json::from_str(diff).expect("JSON");
            diff["deleted_count"][1].as_i64().expect("a number")
        });
        assert_eq!(deleted.sum::<i64>(), finished, "each batch is one journal row");
        plan::report(&format!(
            "{}: crash at {point} with {left} of {total} tasks left; the run went on and deleted {finished} in {} batches",
            database.backend(),
            diffs.len()
        ));
    })
    .await;
}
