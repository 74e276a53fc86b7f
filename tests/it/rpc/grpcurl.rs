//! A client that knows nothing but what reflection tells it: `buf curl`, as the README shows it.

use serde_json::{Value, json};
use tasktower::pb;
use tokio::time::timeout;

use super::{Rpc, task};
use crate::support::{
    backend::Database,
    buf::Buf,
    process::Process,
    wait::{SOON, eventually},
};

const TASKS: &str = "tasktower.v1.TaskService";

fn method(name: &str) -> String {
    format!("{TASKS}/{name}")
}

/// The next JSON document of a stream, which `buf` prints over several lines.
async fn next_document(process: &mut Process) -> Value {
    let mut text = String::new();
    loop {
        let line = timeout(SOON, process.stdout_line()).await.expect("the stream says something").expect("it goes on");
        text.push_str(&line);
        if let Ok(document) = serde_json::from_str(&text) {
            return document;
        }
    }
}

#[tokio::test]
async fn reflection_alone_submits_lists_watches_and_cancels() {
    let Some(buf) = Buf::find() else { return };
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let server = &rpc.server;

    let request = json!({"task": {"type": "email.send", "timeout": "30s", "labels": {"team": "core"},
        "input": {"json": {"to": "ada@example.org", "n": [1, null]}}}});
    let created = buf.curl(server, &method("SubmitTask"), &request).unwrap().remove(0);
    assert_eq!(created["outcome"], "OUTCOME_CREATED");
    let name = created["name"].as_str().expect("a name").to_owned();

    let listed =
        buf.curl(server, &method("ListTasks"), &json!({"filter": "labels.team = \"core\""})).unwrap().remove(0);
    assert_eq!(listed["tasks"][0]["name"], name);
    assert_eq!(listed["tasks"][0]["timeout"], "30s");
    let found = buf.curl(server, &method("GetTask"), &json!({"name": name})).unwrap().remove(0);
    assert_eq!(found["task"]["input"]["json"], request["task"]["input"]["json"]);

    let request = json!({"task": name, "initialState": true});
    let mut watch = Process::spawn("buf curl", &mut buf.curl_command(server, &method("WatchTasks"), &request));
    let first = next_document(&mut watch).await;
    assert_eq!(first["events"][0]["type"], "TYPE_INITIAL");
    let cancelled =
        buf.curl(server, &method("CancelTask"), &json!({"name": name, "reason": "enough"})).unwrap().remove(0);
    assert_eq!(cancelled["task"]["state"], "STATE_CANCELLED");
    let event = loop {
        let message = next_document(&mut watch).await;
        if let Some(event) =
            message["events"].as_array().and_then(|all| all.iter().find(|e| e["kind"] == "KIND_CANCELLED"))
        {
            break event.clone();
        }
    };
    assert_eq!(event["task"]["cancelReason"], "enough");
    // The watch ends with its task, so the program ends well.
    assert!(watch.exited(SOON).await.success());

    let refusal = buf.curl(server, &method("GetTask"), &json!({"name": "nonsense"})).unwrap_err();
    assert!(refusal.contains("invalid_argument") && refusal.contains("projects/{project}/tasks/{task}"), "{refusal}");
}

#[tokio::test]
async fn a_watch_of_a_project_goes_on_until_it_is_stopped() {
    let Some(buf) = Buf::find() else { return };
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let command = &mut buf.curl_command(&rpc.server, &method("WatchTasks"), &json!({"filter": "type = \"t\""}));
    let mut watch = Process::spawn("buf curl", command);
    let first = next_document(&mut watch).await;
    assert_eq!(first["events"][0]["type"], "TYPE_BOOKMARK");
    let names = [rpc.submit(task("t")).await, rpc.submit(task("t")).await];
    for name in names {
        let message = next_document(&mut watch).await;
        assert_eq!(message["events"][0]["task"]["name"], name);
    }
    watch.interrupt();
    watch.exited(SOON).await;
    // Nobody watches any more, and the server goes on.
    eventually("the server answers", SOON, async || {
        rpc.clients
            .tasks()
            .list_tasks(pb::ListTasksRequest::default())
            .await
            .map(drop)
            .map_err(|status| status.to_string())
    })
    .await;
}
