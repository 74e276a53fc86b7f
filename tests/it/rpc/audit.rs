//! `AuditService` over the wire: entries as clients see them, a watch that resumes, an export that goes on, a verification.

use std::collections::BTreeSet;

use pb::audit_entry::{ActorKind, Outcome};
use serde_json::{Value, json};
use tasktower::pb;
use tonic::{Code, Request, Streaming};

use super::{Rpc, json as payload, reason, refused, seconds, task, token};
use crate::support::{
    backend::for_each_backend,
    wait::{SOON, eventually},
};

const QUEUE: &str = "projects/default/queues/email";

async fn list(rpc: &Rpc, parent: &str, filter: &str) -> Vec<pb::AuditEntry> {
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            pb::ListAuditEntriesRequest { parent: parent.into(), page_size: 3, page_token, filter: filter.into() };
        let page = rpc.clients.audit().list_audit_entries(request).await.expect("a page").into_inner();
        entries.extend(page.audit_entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return entries;
        }
    }
}

/// `path: old → new` of each change, as JSON.
fn changes(entry: &pb::AuditEntry) -> Vec<Value> {
    fn plain(value: &prost_types::Value) -> Value {
        use prost_types::value::Kind;
        match value.kind.as_ref().expect("a kind") {
            Kind::NullValue(_) => Value::Null,
            Kind::BoolValue(flag) => json!(flag),
            Kind::NumberValue(number) => json!(number),
            Kind::StringValue(text) => json!(text),
            Kind::ListValue(list) => list.values.iter().map(plain).collect(),
            Kind::StructValue(fields) => {
                Value::Object(fields.fields.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
            }
        }
    }
    let value = |value: &Option<prost_types::Value>| value.as_ref().map_or(Value::Null, plain);
    let one = |change: &pb::FieldChange| match change.masked {
        true => json!([change.path, "masked", change.old_value.is_some() || change.new_value.is_some()]),
        false => json!([change.path, value(&change.old_value), value(&change.new_value)]),
    };
    entry.changes.iter().map(one).collect()
}

async fn set_queue(rpc: &Rpc, queue: pb::Queue, paths: &[&str]) {
    let request = pb::UpdateQueueRequest {
        queue: Some(pb::Queue { name: QUEUE.into(), ..queue }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
    };
    let mut request = Request::new(request);
    request.metadata_mut().insert("x-request-id", "r-17".parse().expect("ASCII"));
    rpc.clients.queues().update_queue(request).await.expect("changed");
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let next = tokio::time::timeout(SOON, stream.message()).await.expect("it says something soon");
    next.expect("no error").expect("not the end")
}

#[tokio::test]
async fn an_entry_says_who_did_what_to_which_fields() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let rate = Some(pb::Rate { count: 5, ..Default::default() });
        set_queue(&rpc, pb::Queue { max_running: 5, rate, ..Default::default() }, &["max_running", "rate"]).await;
        let lease_duration = Some(seconds(90));
        let second = pb::Queue { max_running: 7, lease_duration, ..Default::default() };
        set_queue(&rpc, second, &["max_running", "lease_duration"]).await;
        let found = list(&rpc, "projects/default", &format!("resource = \"{QUEUE}\"")).await;
        let entry = &found[0];
        assert_eq!((entry.action.as_str(), entry.resource.as_str()), ("queue.updated", QUEUE));
        assert_eq!((entry.outcome(), entry.count), (Outcome::Ok, 1));
        assert_eq!((entry.method.as_str(), entry.request_id.as_str()), ("QueueService/UpdateQueue", "r-17"));
        assert_eq!((entry.address.as_str(), entry.name.as_str()), ("127.0.0.1", "projects/default/auditEntries/2"));
        assert!(!entry.actor.is_empty() && entry.actor_kind() != ActorKind::Unspecified);
        assert!(entry.user_agent.contains("tonic"), "{entry:?}");
        assert_eq!(changes(entry), [json!(["lease_duration", null, "90s"]), json!(["max_running", 5.0, 7.0])]);
        assert_eq!(changes(&found[1]).len(), 2);

        // A task: fields by their path in the proto, and of its input only that there is another one.
        let labels = [("team".to_owned(), "core".to_owned())].into();
        let secret = payload(json!({"password": "hunter2"}));
        let new = pb::Task { priority: 3, labels, input: Some(secret), ..task("t") };
        let name = rpc.submit(new).await;
        let leased = rpc.lease(1).await;
        rpc.fail(token(&leased[0])).await;
        let request = pb::RetryDeadLetterRequest {
            name: name.replace("/tasks/", "/deadLetters/"),
            input: Some(payload(json!({"password": "correct horse"}))),
            ..Default::default()
        };
        rpc.clients.dead_letters().retry_dead_letter(request).await.expect("retried");
        let entries = list(&rpc, "projects/default", &format!("resource = \"{name}\"")).await;
        let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["task.retried", "task.failed", "task.leased", "task.submitted"]);
        let [retried, failed, leased, submitted] = [0, 1, 2, 3].map(|place| changes(&entries[place]));
        for change in [json!(["type", null, "t"]), json!(["priority", null, 3.0]), json!(["labels.team", null, "core"])]
        {
            assert!(submitted.contains(&change), "{change} in {submitted:?}");
        }
        assert!(leased.contains(&json!(["state", "STATE_PENDING", "STATE_RUNNING"])), "{leased:?}");
        assert!(leased.contains(&json!(["worker", null, "projects/default/workers/w"])), "{leased:?}");
        assert!(failed.contains(&json!(["error.type", null, "Broken"])), "{failed:?}");
        assert!(retried.contains(&json!(["input", "masked", false])), "{retried:?}");
        assert!(!format!("{entries:?}").contains("hunter2") && !format!("{entries:?}").contains("horse"));

        // One by one they are the same.
        for expected in &entries {
            let request = pb::GetAuditEntryRequest { name: expected.name.clone() };
            let found = rpc.clients.audit().get_audit_entry(request).await.unwrap().into_inner().audit_entry;
            assert_eq!(found.as_ref(), Some(expected));
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_resumes_and_an_export_goes_on_without_gap_or_repeat() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let watch = |resume_token: &str| pb::WatchAuditEntriesRequest {
            filter: "action = task.submitted".into(),
            resume_token: resume_token.into(),
            ..Default::default()
        };
        let mut stream = rpc.clients.audit().watch_audit_entries(watch("")).await.expect("opened").into_inner();
        let first = next(&mut stream).await;
        assert!(first.audit_entries.is_empty() && !first.resume_token.is_empty());
        rpc.submit(task("t")).await;
        let told = next(&mut stream).await;
        let seen: Vec<_> = told.audit_entries.iter().map(|entry| entry.revision).collect();
        assert_eq!(seen, [1]);
        drop(stream);

        rpc.lease(1).await;
        rpc.submit_many(&task("t"), 120).await;
        let mut stream =
            rpc.clients.audit().watch_audit_entries(watch(&told.resume_token)).await.expect("opened").into_inner();
        let mut seen = BTreeSet::new();
        while seen.len() < 120 {
            for entry in next(&mut stream).await.audit_entries {
                assert_eq!(entry.action, "task.submitted");
                assert!(seen.insert(entry.revision), "twice: {entry:?}");
            }
        }
        assert!(seen.into_iter().eq(3..=122));

        let export = async |after_revision| {
            let request = pb::ExportAuditRequest { after_revision, ..Default::default() };
            let mut stream = rpc.clients.audit().export_audit(request).await.expect("begun").into_inner();
            let (mut lines, mut last) = (String::new(), 0);
            while let Some(piece) = stream.message().await.expect("it goes on") {
                lines.push_str(&piece.jsonl);
                assert!(piece.last_revision >= last);
                last = piece.last_revision;
            }
            let entry = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
            (lines.lines().map(entry).collect::<Vec<_>>(), last)
        };
        let (all, last) = export(0).await;
        let revisions: Vec<_> = all.iter().map(|entry| entry["revision"].as_str().unwrap_or_default()).collect();
        assert_eq!(revisions, (1..=122).map(|revision| revision.to_string()).collect::<Vec<_>>());
        assert_eq!(
            (last, &all[0]["action"], &all[0]["outcome"]),
            (122, &json!("task.submitted"), &json!("OUTCOME_OK"))
        );
        let (rest, _) = export(100).await;
        assert_eq!(rest, all[100..]);
        assert_eq!(export(122).await, (Vec::new(), 122));
    })
    .await;
}

#[tokio::test]
async fn a_running_server_seals_and_its_record_verifies() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.submit_many(&task("t"), 50).await;
        let head = eventually("a seal over all", SOON, async || {
            let head = rpc.clients.audit().get_audit_head(pb::GetAuditHeadRequest::default()).await;
            let head = head.map_err(|status| status.to_string())?.into_inner().audit_head.expect("a head");
            if head.last_revision == 50 { Ok(head) } else { Err(format!("{head:?}")) }
        })
        .await;
        assert_eq!((head.project.as_str(), head.key_configured), ("projects/default", false));
        let request = pb::VerifyAuditRequest { head: head.token.clone(), ..Default::default() };
        let mut stream = rpc.clients.audit().verify_audit(request).await.expect("begun").into_inner();
        let mut last = next(&mut stream).await;
        while let Some(message) = stream.message().await.expect("it goes on") {
            last = message;
        }
        let verdict = last.verdict.expect("a verdict");
        assert!(verdict.intact && verdict.head_compared, "{verdict:?}");
        assert_eq!((last.verified_count, verdict.unsealed_count, verdict.oldest_revision), (50, 0, 1));

        let other = pb::VerifyAuditRequest { parent: "projects/system".into(), head: head.token };
        let refusal = rpc.clients.audit().verify_audit(other).await;
        refused(refusal, Code::InvalidArgument, "FIELD_INVALID", &["head"]);
        let nothing = pb::GetAuditHeadRequest { parent: "projects/system".into() };
        let status = rpc.clients.audit().get_audit_head(nothing).await.expect_err("nothing is sealed");
        assert_eq!(reason(&status), "RESOURCE_NOT_FOUND");
    })
    .await;
}
