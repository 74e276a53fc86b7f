//! What README.md and the pages for operators tell people to type is typed here. Only the address is another one, and the ids are what they are.

use std::{fs, path::Path, process::Command};

use super::{Rpc, task, token};
use crate::support::{
    backend::Database,
    buf::Buf,
    credentials,
    process::{Process, tasktower},
    repository,
    wait::{SOON, eventually},
};

/// The address the README speaks of.
const ADDRESS: &str = "127.0.0.1:50051";

/// Commands that go on until somebody stops them.
const ENDLESS: [&str; 4] = ["WatchTasks", "tasktower watch", "--exec", "tasktower serve"];

/// The shell examples of the README that have this in them.
fn examples(of: &str) -> Vec<String> {
    let found: Vec<_> = examples_of("README.md").into_iter().filter(|block| block.contains(of)).collect();
    assert!(!found.is_empty(), "the README has an example of {of:?}");
    found
}

/// The shell examples of a page.
fn examples_of(page: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(page)).expect("the page");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```")).map(|(block, _)| block);
    blocks.map(str::to_owned).collect()
}

/// A shell for examples: ends at the first command that fails, and finds our binary and buf.
fn shell(rpc: &Rpc, script: &str) -> Command {
    let address = rpc.server.endpoint().trim_start_matches("http://").to_owned();
    let binary = tasktower();
    let folder = Path::new(binary.get_program()).parent().expect("a folder").to_owned();
    let folders = [folder, repository().join("target/tools/bin")];
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&others))).expect("a path");
    let mut command = Command::new("sh");
    command.args(["-e", "-c", &with_key(&script.replace(ADDRESS, &address))]);
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("PATH", path).env("TASKTOWER_ADDRESS", address);
    command
}

/// The README speaks of a server for development, which needs no key; ours does, and `buf` does not read the environment.
fn with_key(script: &str) -> String {
    script.replace("buf curl ", &format!("buf curl --header 'x-api-key: {}' ", credentials::key()))
}

async fn run(rpc: &Rpc, script: &str) {
    let mut process = Process::spawn("an example of the README", &mut shell(rpc, script));
    let status = process.exited(SOON).await;
    assert!(status.success(), "{status}: {script}");
}

#[tokio::test]
async fn the_examples_of_buf_curl_work() {
    if Buf::find().is_none() {
        return;
    }
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    for example in examples("buf curl ") {
        if ENDLESS.iter().any(|word| example.contains(word)) {
            let mut process = Process::spawn("an example of the README", &mut shell(&rpc, &format!("exec {example}")));
            let line = tokio::time::timeout(SOON, process.stdout_line()).await.expect("it says something soon");
            assert!(line.is_some(), "it goes on: {example}");
        } else {
            run(&rpc, &example).await;
        }
    }
}

#[tokio::test]
async fn the_examples_of_the_command_line_work() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let worker = examples("tasktower worker --exec").remove(0);
    let _worker = Process::spawn("the worker of the README", &mut shell(&rpc, &format!("exec {worker}")));
    let mut tried = 0;
    for example in examples("tasktower ") {
        // What needs more than a server: another terminal, another database, a build.
        let skips = ENDLESS.iter().chain(&["migrate", "cargo", "git ", "PATH"]);
        if !skips.into_iter().any(|word| example.contains(word)) {
            run(&rpc, &example).await;
            tried += 1;
        }
    }
    assert!(tried >= 3, "{tried} examples");
}

/// The page's examples, one after the other, on a server of their own.
async fn work_through(page: &str) {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    for example in examples_of(page) {
        run(&rpc, &example).await;
    }
}

#[tokio::test]
async fn the_examples_about_retries_work() {
    work_through("docs/operate/retries.md").await;
}

/// Each example finds an entry that is OPEN, for its ENTRY.
#[tokio::test]
async fn the_examples_about_dead_letters_work() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    for example in examples_of("docs/operate/dead-letters.md") {
        let name = rpc.submit(task("t")).await;
        // What the example before opened again fails with it.
        for leased in rpc.lease(100).await {
            rpc.fail(token(&leased)).await;
        }
        let entry = name.rsplit('/').next().expect("an id");
        run(&rpc, &example.replace("ENTRY", entry)).await;
    }
}

#[tokio::test]
async fn the_examples_about_schedules_work() {
    work_through("docs/operate/schedules.md").await;
}

#[tokio::test]
async fn the_examples_about_projects_work() {
    work_through("docs/operate/projects.md").await;
}

#[tokio::test]
async fn the_examples_about_retention_work() {
    work_through("docs/operate/retention.md").await;
}

#[tokio::test]
async fn the_examples_about_the_audit_work() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let name = rpc.submit(task("t")).await;
    // Sealed within seconds.
    eventually("a seal", SOON, async || {
        let head = rpc.clients.audit().get_audit_head(tasktower::pb::GetAuditHeadRequest::default()).await;
        head.map(drop).map_err(|status| status.to_string())
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    for example in examples_of("docs/operate/audit.md") {
        if ENDLESS.iter().chain(&["audit watch", "openssl"]).any(|word| example.contains(word)) {
            continue;
        }
        run(&rpc, &format!("cd {}\n{}", folder.path().display(), example.replace("TASK", &name))).await;
    }
}

#[tokio::test]
async fn the_examples_about_authentication_work() {
    work_through("docs/operate/authentication.md").await;
}
