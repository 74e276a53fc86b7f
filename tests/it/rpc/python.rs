//! The Python example: client and worker live a whole life over generated stubs.

use std::process::Command;

use serde_json::{Value, json};
use tasktower::pb::task::State;
use tokio::time::timeout;

use super::Rpc;
use crate::support::{
    backend::for_each_backend,
    process::Process,
    python::Python,
    wait::{SOON, eventually},
};

/// What the examples exit with: the awaited task failed; 64 and the gRPC code.
const TASK_FAILED: i32 = 3;
const NOT_FOUND: i32 = 64 + 5;

struct Examples<'a> {
    python: &'a Python,
    address: String,
}

impl Examples<'_> {
    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.python.command(&format!("examples/python/{script}.py"));
        command.args(arguments).env("TASKTOWER_ADDRESS", &self.address);
        command
    }

    /// Runs the client to its end: its lines, what it says of an error, and its exit code.
    async fn client(&self, arguments: &[&str]) -> (Vec<Value>, String, i32) {
        let mut command = self.command("client", arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ran").expect("python runs");
        let lines = String::from_utf8_lossy(&output.stdout);
        let lines = lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (lines, error, output.status.code().expect("not killed"))
    }
}

async fn next_line(process: &mut Process) -> Value {
    let line = timeout(SOON, process.stdout_line()).await.expect("a line soon").expect("not the end");
    serde_json::from_str(&line).expect("a line of JSON")
}

#[tokio::test]
async fn client_and_worker_live_a_whole_life() {
    let Some(python) = Python::find() else { return };
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let address = rpc.server.endpoint();
        let examples = Examples { python: &python, address };

        let mut watch = Process::spawn("client.py", &mut examples.command("client", &["watch", "--initial-state"]));
        assert_eq!(next_line(&mut watch).await["type"], "TYPE_SYNCED");
        let mut worker =
            Process::spawn("worker.py", &mut examples.command("worker", &["--name", "py", "--slots", "4"]));

        // Well.
        let arguments = ["submit", "example.echo", "--input", r#"{"text": "hello"}"#, "--wait", "20"];
        let (lines, error, code) = examples.client(&arguments).await;
        assert_eq!(code, 0, "{error}");
        assert_eq!(lines[0]["outcome"], "OUTCOME_CREATED");
        assert_eq!(lines[1]["result"]["json"], json!({"text": "hello"}));
        let name = lines[0]["name"].as_str().unwrap().to_owned();
        for kind in ["KIND_SUBMITTED", "KIND_LEASED", "KIND_COMPLETED"] {
            let event = next_line(&mut watch).await;
            assert_eq!((event["kind"].as_str(), event["task"]["name"].as_str()), (Some(kind), Some(name.as_str())));
        }
        // Badly.
        let told = r#"{"type": "Smtp", "message": "no route", "final": true}"#;
        let (lines, error, code) = examples.client(&["submit", "example.fail", "--input", told, "--wait", "20"]).await;
        assert_eq!(code, TASK_FAILED, "{error}");
        assert_eq!((&lines[1]["state"], &lines[1]["error"]["type"]), (&json!("STATE_FAILED"), &json!("Smtp")));
        // Cancelled while it runs: the worker hears of it and stops.
        let (lines, ..) = examples.client(&["submit", "example.sleep", "--input", r#"{"seconds": 600}"#]).await;
        let name = lines[0]["name"].as_str().unwrap().to_owned();
        eventually("it runs and tells its progress", SOON, async || {
            let task = rpc.get(&name).await;
            if task.state() == State::Running && task.progress.is_some() { Ok(()) } else { Err(format!("{task:?}")) }
        })
        .await;
        let (_, error, code) = examples.client(&["cancel", &name, "--reason", "enough"]).await;
        assert_eq!(code, 0, "{error}");
        let (lines, _, code) = examples.client(&["wait", &name, "--limit", "20"]).await;
        assert_eq!((code, &lines[0]["state"]), (TASK_FAILED, &json!("STATE_CANCELLED")));
        // Refused.
        let (_, error, code) = examples.client(&["get", "0190a6c0-0000-7000-8000-000000000000"]).await;
        assert_eq!(code, NOT_FOUND, "{error}");
        let error: Value = serde_json::from_str(&error).expect("a line of JSON");
        assert_eq!(error["error"]["reason"], "RESOURCE_NOT_FOUND");
        assert!(error["error"]["request_id"].is_string());

        worker.terminate();
        assert!(worker.exited(SOON).await.success());
        let log = worker.log();
        let totals = log.lines().rev().find(|line| line.contains("\"done\"")).expect("the totals come last");
        let totals: Value = serde_json::from_str(totals).expect("a line of JSON");
        assert_eq!((&totals["succeeded"], &totals["failed"], &totals["lost"]), (&json!(1), &json!(2), &json!(0)));
    })
    .await;
}
