//! Bad requests to `RetentionService`.

use bytes::Bytes;
use prost::Message as _;
use tasktower::pb;
use tonic::Code;

use super::{Case, ID, bad, missing, span};

const RETENTION: &str = "tasktower.v1.RetentionService";

pub fn cases() -> Vec<Case> {
    let name = || "projects/default/retention".to_owned();
    let nowhere = || "projects/none/retention".to_owned();
    let rule = |age| pb::RetentionRule { age, ..Default::default() };
    let update = |name: String, rules: Vec<pb::RetentionRule>| pb::UpdateRetentionRequest {
        retention: Some(pb::Retention { name, rules, ..Default::default() }),
        update_mask: None,
    };
    let odd = pb::RetentionRule {
        states: vec![pb::task::State::Running as i32],
        r#type: "a b".into(),
        queue: "ä".into(),
        age: span(-1, 0),
    };
    let faults = ["rules[0].age", "rules[0].states[0]", "rules[0].type", "rules[0].queue"];
    let within = |message: &str| faults.map(|fault| format!("{message}.{fault}"));
    let bad_rule = |method: &str, message: &str, request: Bytes| Case {
        method: format!("{RETENTION}/{method}"),
        message: request,
        code: Code::InvalidArgument,
        reason: "FIELD_INVALID",
        fields: within(message).to_vec(),
    };
    let tried =
        pb::PreviewRetentionRequest { name: name(), rules: Some(pb::RetentionRules { rules: vec![odd.clone()] }) };
    vec![
        bad(RETENTION, "GetRetention", pb::GetRetentionRequest { name: "projects/default".into() }, &["name"]),
        missing(RETENTION, "GetRetention", pb::GetRetentionRequest { name: nowhere() }),
        bad(RETENTION, "UpdateRetention", pb::UpdateRetentionRequest::default(), &["retention"]),
        bad_rule("UpdateRetention", "retention", update(name(), vec![odd]).encode_to_vec().into()),
        bad(RETENTION, "UpdateRetention", update(name(), vec![rule(span(0, 0)); 101]), &["retention.rules"]),
        missing(RETENTION, "UpdateRetention", update(nowhere(), vec![rule(span(0, 0))])),
        bad_rule("PreviewRetention", "rules", tried.encode_to_vec().into()),
        missing(RETENTION, "PreviewRetention", pb::PreviewRetentionRequest { name: nowhere(), rules: None }),
        bad(RETENTION, "RunRetention", pb::RunRetentionRequest::default(), &["name"]),
        missing(RETENTION, "RunRetention", pb::RunRetentionRequest { name: nowhere(), etag: String::new() }),
        bad(RETENTION, "GetRetentionRun", pb::GetRetentionRunRequest { name: name() }, &["name"]),
        missing(
            RETENTION,
            "GetRetentionRun",
            pb::GetRetentionRunRequest { name: format!("projects/default/retentionRuns/{ID}") },
        ),
        bad(
            RETENTION,
            "ListRetentionRuns",
            pb::ListRetentionRunsRequest { page_size: -1, ..Default::default() },
            &["page_size"],
        ),
        missing(
            RETENTION,
            "ListRetentionRuns",
            pb::ListRetentionRunsRequest { parent: "projects/none".into(), ..Default::default() },
        ),
    ]
}
