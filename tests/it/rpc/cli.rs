//! The command line against a server: what it prints for people and for programs, and what it exits with.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use serde_json::{Value, json};
use tasktower::pb::task::State;
use tempfile::TempDir;

use super::{Rpc, task};
use crate::support::{
    backend::{Database, for_each_backend},
    credentials::PRINCIPAL,
    process::{Process, tasktower},
    wait::{SOON, eventually},
};

const LOCAL: i32 = 1;
const USAGE: i32 = 2;
const TASK_FAILED: i32 = 3;
const INVALID_ARGUMENT: i32 = 64 + 3;
const DEADLINE_EXCEEDED: i32 = 64 + 4;
const NOT_FOUND: i32 = 64 + 5;
const UNAVAILABLE: i32 = 64 + 14;

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    code: i32,
}

impl Said {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.well()).expect("one JSON document")
    }

    /// How it failed must be told with these words.
    #[track_caller]
    fn badly(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {self:?}");
        }
    }
}

fn command(rpc: &Rpc, arguments: &[&str]) -> Command {
    let mut command = tasktower();
    command.args(["--endpoint", &rpc.server.endpoint()]).args(arguments);
    command
}

async fn run(mut command: Command) -> Said {
    command.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ran").expect("it starts");
    Said {
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
        code: output.status.code().expect("not killed"),
    }
}

async fn say(rpc: &Rpc, arguments: &[&str]) -> Said {
    run(command(rpc, arguments)).await
}

fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("handler.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path.to_str().expect("a plain path").to_owned()
}

#[tokio::test]
async fn a_script_works_off_what_is_submitted() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let folder = TempDir::with_prefix("tasktower-handler-").expect("a folder");
        // Echoes its input as the result, and fails when that is the word "bad".
        let handler = script(
            folder.path(),
            "read -r line; [ \"$line\" = '\"bad\"' ] && { echo broken >&2; exit 9; }; echo \"$line\"",
        );
        let arguments = ["worker", "--exec", &handler, "--type", "echo", "--slots", "2", "--name", "sh"];
        let mut worker = Process::spawn("worker --exec", &mut command(&rpc, &arguments));

        let done = say(&rpc, &["submit", "echo", "--input", r#"{"a":[1,2]}"#, "--wait", "-o", "json"]).await.json();
        assert_eq!((&done["state"], &done["result"]["json"]), (&json!("STATE_SUCCEEDED"), &json!({"a": [1, 2]})));
        let arguments = ["submit", "echo", "--input", "\"bad\"", "--max-attempts", "1", "--wait", "-o", "json"];
        let failed = say(&rpc, &arguments).await;
        assert_eq!(failed.code, TASK_FAILED, "{failed:?}");
        let failed: Value = serde_json::from_str(&failed.out).expect("the task as it ended");
        assert_eq!(failed["state"], "STATE_FAILED");
        assert!(failed["error"].to_string().contains("broken"), "{failed}");

        let workers = say(&rpc, &["worker", "list"]).await.well();
        assert!(workers.contains("sh") && workers.contains("ONLINE"), "{workers}");
        let attempts = say(&rpc, &["task", "attempts", failed["name"].as_str().unwrap()]).await.well();
        assert!(attempts.contains("FAILED"), "{attempts}");
        say(&rpc, &["worker", "drain", "sh"]).await.well();
        assert!(worker.exited(SOON).await.success(), "told to drain, it ends well");
    })
    .await;
}

#[tokio::test]
async fn lists_are_for_people_and_for_programs() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let empty = say(&rpc, &["list"]).await;
    assert!(empty.err.contains("no task matches"), "{empty:?}");
    let names = rpc.submit_many(&task("t"), 5).await;
    rpc.submit(task("other")).await;

    let table = say(&rpc, &["list"]).await.well();
    assert!(table.lines().next().unwrap().starts_with("TASK"), "{table}");
    assert_eq!(table.lines().count(), 1 + 6, "{table}");
    let listed =
        say(&rpc, &["list", "--filter", "type = \"t\"", "--order-by", "create_time", "-o", "json"]).await.json();
    let listed: Vec<_> = listed.as_array().expect("a list").iter().map(|task| task["name"].as_str().unwrap()).collect();
    assert_eq!(listed, names);
    let page = ["list", "--filter", "type = \"t\"", "--order-by", "create_time", "-o", "name", "--page-size", "2"];
    let by_name = say(&rpc, &page).await.well();
    assert_eq!(by_name.lines().collect::<Vec<_>>(), names, "over several pages");
    let lines = say(&rpc, &["list", "--limit", "2", "-o", "jsonl"]).await;
    assert!(lines.err.contains("there are more"), "{lines:?}");
    let lines: Vec<Value> = lines.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);

    let queues = say(&rpc, &["queue", "list", "-o", "json"]).await.json();
    assert_eq!(
        (&queues[0]["name"], &queues[0]["readyCount"]),
        (&json!("projects/default/queues/default"), &json!("6"))
    );
    let queues = say(&rpc, &["queue", "list"]).await.well();
    assert!(queues.contains("default"), "{queues}");
    let queue = say(&rpc, &["queue", "pause", "default", "-o", "json"]).await.json();
    assert_eq!(queue["paused"], true);
    say(&rpc, &["queue", "resume", "default"]).await.well();
    // A task by the first digits of its id, and by all of it.
    let id = names[0].rsplit('/').next().unwrap();
    assert_eq!(say(&rpc, &["get", id, "-o", "json"]).await.json()["name"], names[0]);
    let fields = say(&rpc, &["get", id]).await.well();
    assert!(fields.contains("PENDING"), "{fields}");
}

#[tokio::test]
async fn tasks_are_cancelled_by_filter_with_a_yes() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let names = rpc.submit_many(&task("t"), 30).await;
        let other = rpc.submit(task("other")).await;
        let filter = ["cancel", "--filter", "type = \"t\""];
        let with = |more: &[&'static str]| [filter.as_slice(), more].concat();
        let looked = say(&rpc, &with(&["--dry-run"])).await;
        assert!(looked.code == 0 && looked.err.contains("30 tasks match"), "{looked:?}");
        // Nobody is there to ask.
        say(&rpc, &with(&[])).await.badly(USAGE, &["--yes"]);
        assert_eq!(rpc.get(&names[0]).await.state(), State::Pending);
        let job = say(&rpc, &with(&["--yes", "--reason", "clean", "-o", "json"])).await.json();
        assert_eq!((&job["state"], &job["doneCount"]), (&json!("STATE_SUCCEEDED"), &json!("30")));
        assert_eq!(rpc.get(&names[29]).await.cancel_reason, "clean");
        assert_eq!(rpc.get(&other).await.state(), State::Pending);
        let purged = say(&rpc, &["task", "purge", "--filter", "*", "--yes", "-o", "json"]).await.json();
        assert_eq!(purged["doneCount"], "30");
        say(&rpc, &["cancel", &other]).await.well();
        say(&rpc, &["task", "delete", &other]).await.well();
        say(&rpc, &["task", "delete", &other, "--allow-missing"]).await.well();
        say(&rpc, &["task", "delete", &other]).await.badly(NOT_FOUND, &["RESOURCE_NOT_FOUND"]);
    })
    .await;
}

#[tokio::test]
async fn a_watch_prints_a_line_for_each_event() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let first = rpc.submit(task("t")).await;
    let mut watch = Process::spawn("tasktower watch", &mut command(&rpc, &["watch", "--initial-state", "-o", "jsonl"]));
    let mut names = Vec::new();
    let mut second = None;
    while names.len() < 2 {
        let line = tokio::time::timeout(SOON, watch.stdout_line()).await.expect("a line soon").expect("not the end");
        let event: Value = serde_json::from_str(&line).expect("a line of JSON");
        if let Some(name) = event["task"]["name"].as_str() {
            names.push(name.to_owned());
        }
        if second.is_none() {
            second = Some(rpc.submit(task("t")).await);
        }
    }
    assert_eq!(names, [first, second.unwrap()]);
    watch.interrupt();
    watch.exited(SOON).await;
}

#[tokio::test]
async fn exit_codes_say_what_kind_of_failure_it_was() {
    let database = Database::sqlite();
    let mut rpc = Rpc::start(&database).await;
    let missing = "0190a6c0-0000-7000-8000-000000000000";
    say(&rpc, &["get", missing]).await.badly(NOT_FOUND, &["NOT_FOUND", "RESOURCE_NOT_FOUND", "request id"]);
    say(&rpc, &["list", "--filter", "state = "]).await.badly(INVALID_ARGUMENT, &["FILTER_INVALID", "hint"]);
    say(&rpc, &["submit", "no type", "--wait"]).await.badly(INVALID_ARGUMENT, &["task.type"]);
    say(&rpc, &["list", "-o", "xml"]).await.badly(USAGE, &["xml"]);
    say(&rpc, &["submit", "t", "--input", "{"]).await.badly(LOCAL, &["not JSON"]);
    say(&rpc, &["submit", "t", "--input", "@/nonexistent/input.json"]).await.badly(LOCAL, &["/nonexistent"]);
    let name = rpc.submit(task("nobody.serves")).await;
    say(&rpc, &["task", "wait", &name, "--timeout", "200ms"]).await.badly(DEADLINE_EXCEEDED, &["PENDING"]);
    say(&rpc, &["cancel", &name]).await.well();
    say(&rpc, &["task", "wait", &name]).await.badly(TASK_FAILED, &[]);
    rpc.server.kill();
    eventually("the port is closed", SOON, async || {
        let said = say(&rpc, &["list"]).await;
        if said.code == UNAVAILABLE && said.err.contains("tasktower dev") { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
}

#[tokio::test]
async fn every_measurement_ends_with_its_json() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        for arguments in [
            &["lifecycle", "--tasks", "200", "--workers", "2", "--batch", "20"][..],
            &["lifecycle", "--tasks", "50", "--workers", "2", "--batch", "20", "--unary"],
            &["submit", "--seconds", "1", "--inflight", "4"],
            &["latency", "--rate", "50", "--seconds", "1", "--warm-up", "5"],
            &["read", "--seconds", "1", "--inflight", "4"],
            &["list", "--seconds", "1", "--tasks", "300", "--inflight", "2"],
            &["backlog", "--waiting", "50", "--leases", "5", "--batch", "10"],
            &["bulk-retry", "--tasks", "100", "--rate", "500"],
            &["bulk-retry", "--tasks", "200", "--rate", "50", "--fail", "60s"],
            &["retention", "--tasks", "300", "--cycles", "2", "--seconds", "1"],
            &["watch", "--streams", "20", "--connections", "2", "--events", "100"],
            &["watch", "--streams", "20", "--connections", "2", "--events", "100", "--rate", "2000"],
        ] {
            let said = say(&rpc, &[&["bench"], arguments, &["--json"]].concat()).await.well();
            let last = said.lines().last().expect("a last line");
            let figures: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"));
            assert_eq!(figures["scenario"], arguments[0], "{figures}");
        }
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_looked_at_retried_and_put_aside() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let empty = say(&rpc, &["dlq", "list"]).await;
        assert!(empty.err.contains("no dead letter matches"), "{empty:?}");
        let name = rpc.failed().await;
        let id = name.rsplit('/').next().expect("an id");
        let entry = format!("projects/default/deadLetters/{id}");
        assert_eq!(say(&rpc, &["dead-letter", "list", "-o", "name"]).await.well().trim(), entry);
        let wide = say(&rpc, &["dlq", "list", "--filter", "state = OPEN", "-o", "wide"]).await.well();
        assert!(wide.contains("FINAL") && wide.contains("Broken: it broke"), "{wide}");

        // Nothing is changed by looking.
        let shown = say(&rpc, &["dlq", "retry", id, "--dry-run", "-o", "json"]).await.json();
        assert_eq!(shown[0]["state"], "STATE_OPEN");
        let dry = say(&rpc, &["dlq", "bulk-retry", "--filter", "*", "--dry-run"]).await;
        assert!(dry.err.contains("1 OPEN entries match"), "{dry:?}");
        let unasked = say(&rpc, &["dlq", "bulk-retry", "--filter", "*"]).await;
        unasked.badly(USAGE, &["--yes", "--dry-run"]);
        let groups = say(&rpc, &["dlq", "analyze", "-o", "json"]).await.json();
        assert_eq!((&groups[0]["count"], &groups[0]["sample"]["name"]), (&json!("1"), &json!(entry)));

        let marked = say(&rpc, &["dlq", "mark-processed", id, "--reason", "by hand", "-o", "json"]).await.json();
        assert_eq!((&marked[0]["state"], &marked[0]["processReason"]), (&json!("STATE_PROCESSED"), &json!("by hand")));
        say(&rpc, &["dlq", "reopen", &entry]).await.well();
        let job = say(&rpc, &["dlq", "bulk-retry", id, "--rate", "100", "--force", "-o", "json"]).await.json();
        assert_eq!((&job["state"], &job["doneCount"]), (&json!("STATE_SUCCEEDED"), &json!("1")));
        let details = say(&rpc, &["dlq", "get", id]).await.well();
        assert!(details.contains("REPLAYED") && details.contains("1 of 10"), "{details}");
        const FAILED_PRECONDITION: i32 = 64 + 9;
        say(&rpc, &["dlq", "retry", id]).await.badly(FAILED_PRECONDITION, &["REPLAYED"]);
        say(&rpc, &["dlq", "get", "0190a6c0-0000-7000-8000-000000000000"]).await.badly(NOT_FOUND, &["dead letter"]);
    })
    .await;
}

#[tokio::test]
async fn schedules_are_driven_from_the_command_line() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let create = ["schedule", "create", "nightly", "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin"];
    let task =
        ["--type", "report", "--queue", "reports", "--label", "team=core", "--overlap", "queue-one", "-o", "json"];
    let made = say(&rpc, &[&create[..], &task].concat()).await.json();
    assert_eq!(
        (&made["timeZone"], &made["overlapPolicy"]),
        (&json!("Europe/Berlin"), &json!("OVERLAP_POLICY_QUEUE_ONE"))
    );
    assert_eq!(made["task"]["labels"], json!({"team": "core"}));

    let change =
        ["schedule", "update", "nightly", "--priority", "5", "--catch-up", "all", "--end", "none", "-o", "json"];
    let changed = say(&rpc, &change).await.json();
    assert_eq!((&changed["task"]["priority"], &changed["task"]["queue"]), (&json!(5), &json!("reports")));
    assert_eq!(changed["catchUp"]["policy"], "CATCH_UP_POLICY_ALL");
    say(&rpc, &["schedule", "update", "nightly"]).await.badly(USAGE, &["nothing to change"]);
    let wrong = ["schedule", "update", "nightly", "--cron", "30 25 * * *"];
    say(&rpc, &wrong).await.badly(INVALID_ARGUMENT, &["schedule.cron", "hour, column 4"]);
    say(&rpc, &["schedule", "get", "weekly"]).await.badly(NOT_FOUND, &["schedules/weekly"]);

    let preview = ["schedule", "preview", "nightly", "--after", "2026-03-28T12:00:00Z", "--count", "2", "-o", "name"];
    let told = say(&rpc, &preview).await;
    assert!(told.err.contains("tz data 20"), "{told:?}");
    assert_eq!(told.well(), "2026-03-29T03:00:00+02:00\n2026-03-30T02:30:00+02:00\n");

    let range = ["--start", "2026-10-01T00:00:00Z", "--end", "2026-10-11T00:00:00Z"];
    let backfill = |more: &[&'static str]| [&["schedule", "backfill", "nightly"], &range[..], more].concat();
    let counted = say(&rpc, &backfill(&["--dry-run"])).await;
    assert!(counted.err.contains("10 ticks, 0 of them made a task already; 10 tasks to be made"), "{counted:?}");
    say(&rpc, &backfill(&[])).await.badly(USAGE, &["--yes"]);
    let made = say(&rpc, &backfill(&["--yes", "--rate", "10/1m"])).await.json();
    assert_eq!(made["backfilledCount"], 10);
    let told = say(&rpc, &["schedule", "occurrences", "nightly"]).await.well();
    assert_eq!(told.matches("BACKFILLED").count(), 10);
    let listed = say(&rpc, &["schedule", "list"]).await.well();
    assert!(listed.contains("ACTIVE") && listed.contains("30 2 * * *"), "{listed}");
    assert_eq!(say(&rpc, &["schedule", "delete", "nightly"]).await.well(), "projects/default/schedules/nightly\n");
}

#[tokio::test]
async fn retention_says_what_it_would_delete_before_it_does() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    rpc.submit_many(&task("t"), 3).await;
    say(&rpc, &["cancel", "--filter", "state = PENDING", "--yes"]).await.well();
    rpc.submit(task("t")).await;
    let rule = ["retention", "set", "--rule", "state=CANCELLED,type=t*,age=0s"];
    let tried = say(&rpc, &[&rule[..], &["--dry-run"]].concat()).await.well();
    assert!(tried.contains("To delete:") && tried.contains("state=CANCELLED,type=t*,age=0s: 3 deleted"), "{tried}");
    say(&rpc, &["retention", "set", "--rule", "state=CANCELLED"]).await.badly(USAGE, &["age"]);
    say(&rpc, &[&rule[..], &["--etag", "\"x\""]].concat()).await.badly(64 + 10, &["ETAG_MISMATCH"]);
    let rules = say(&rpc, &rule).await.well();
    assert!(rules.contains(":00 UTC") && rules.contains("30d"), "{rules}");

    // Nobody is there to ask, so nothing is done.
    say(&rpc, &["retention", "run"]).await.badly(USAGE, &["3 tasks and 0 journal rows are too old", "--yes"]);
    let only_said = say(&rpc, &["retention", "run", "--dry-run", "-o", "json"]).await.json();
    assert_eq!(only_said["deletedCount"], "3");
    assert_eq!(say(&rpc, &["list", "-o", "name"]).await.well().lines().count(), 4);

    let run = say(&rpc, &["retention", "run", "--yes", "-o", "json"]).await.json();
    assert_eq!((&run["state"], &run["deletedCount"]), (&json!("STATE_SUCCEEDED"), &json!("3")));
    assert_eq!(say(&rpc, &["list", "-o", "name"]).await.well().lines().count(), 1);
    let runs = say(&rpc, &["retention", "runs"]).await.well();
    assert!(runs.contains("CALL") && runs.contains("SUCCEEDED") && runs.contains(PRINCIPAL), "{runs}");
    let id = run["name"].as_str().expect("a name").rsplit('/').next().expect("an id");
    let one = say(&rpc, &["retention", "runs", id]).await.well();
    assert!(one.contains("(default): 0 deleted"), "{one}");
    say(&rpc, &["retention", "set", "--no-rules"]).await.well();
}
