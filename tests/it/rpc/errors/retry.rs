//! Bad requests to `RetryService`.

use tasktower::pb;
use tonic::Code;

use super::{Case, bad, case, missing, seconds};

const RETRIES: &str = "tasktower.v1.RetryService";
const MISSING: &str = "projects/default/retryPolicies/none";

pub fn cases() -> Vec<Case> {
    let create = |id: &str, policy| pb::CreateRetryPolicyRequest {
        retry_policy_id: id.into(),
        retry_policy: policy,
        ..Default::default()
    };
    let update = |policy| pb::UpdateRetryPolicyRequest {
        retry_policy: Some(pb::RetryPolicy { name: MISSING.into(), ..policy }),
        update_mask: None,
    };
    let settings = |settings| Some(pb::RetryPolicy { settings: Some(settings), ..Default::default() });
    let error = || Some(pb::TaskError { r#type: "E".into(), ..Default::default() });
    let evaluate = |decider| pb::EvaluateRetryRequest { decider: Some(decider), error: error(), ..Default::default() };
    let by_none = || Some(pb::simulate_policy_request::Decider::RetryPolicy(MISSING.into()));
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    use pb::evaluate_retry_request::Decider;
    vec![
        bad(RETRIES, "CreateRetryPolicy", pb::CreateRetryPolicyRequest::default(), &["retry_policy"]),
        bad(
            RETRIES,
            "CreateRetryPolicy",
            create("P", settings(pb::RetrySettings { max_attempts: 1_001, ..Default::default() })),
            &["retry_policy_id", "retry_policy.settings.max_attempts"],
        ),
        bad(
            RETRIES,
            "CreateRetryPolicy",
            create("p", settings(pb::RetrySettings { max_age: Some(seconds(0)), ..Default::default() })),
            &["retry_policy.settings.max_age"],
        ),
        bad(
            RETRIES,
            "CreateRetryPolicy",
            create("p", Some(pb::RetryPolicy { task_types: vec!["a b".into()], ..Default::default() })),
            &["retry_policy.task_types[0]"],
        ),
        missing(
            RETRIES,
            "CreateRetryPolicy",
            pb::CreateRetryPolicyRequest {
                parent: "projects/none".into(),
                ..create("p", Some(pb::RetryPolicy::default()))
            },
        ),
        bad(RETRIES, "GetRetryPolicy", pb::GetRetryPolicyRequest { name: "mail".into() }, &["name"]),
        missing(RETRIES, "GetRetryPolicy", pb::GetRetryPolicyRequest { name: MISSING.into() }),
        bad(
            RETRIES,
            "ListRetryPolicies",
            pb::ListRetryPoliciesRequest { page_size: -1, ..Default::default() },
            &["page_size"],
        ),
        case(
            RETRIES,
            "ListRetryPolicies",
            pb::ListRetryPoliciesRequest { page_token: "x".into(), ..Default::default() },
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
            &["page_token"],
        ),
        bad(RETRIES, "UpdateRetryPolicy", pb::UpdateRetryPolicyRequest::default(), &["retry_policy"]),
        bad(
            RETRIES,
            "UpdateRetryPolicy",
            pb::UpdateRetryPolicyRequest {
                update_mask: Some(prost_types::FieldMask { paths: vec!["settings.rules".into()] }),
                ..update(pb::RetryPolicy::default())
            },
            &["update_mask.paths[0]"],
        ),
        missing(RETRIES, "UpdateRetryPolicy", update(pb::RetryPolicy::default())),
        bad(RETRIES, "DeleteRetryPolicy", pb::DeleteRetryPolicyRequest::default(), &["name"]),
        missing(
            RETRIES,
            "DeleteRetryPolicy",
            pb::DeleteRetryPolicyRequest { name: MISSING.into(), ..Default::default() },
        ),
        bad(RETRIES, "EvaluateRetry", pb::EvaluateRetryRequest::default(), &["error"]),
        bad(
            RETRIES,
            "EvaluateRetry",
            pb::EvaluateRetryRequest {
                attempt: -1,
                retry_after: Some(seconds(-1)),
                ..evaluate(Decider::Task("projects/other/tasks/x".into()))
            },
            &["task", "attempt", "retry_after"],
        ),
        missing(RETRIES, "EvaluateRetry", evaluate(Decider::RetryPolicy(MISSING.into()))),
        missing(RETRIES, "EvaluateRetry", evaluate(Decider::Task(format!("projects/default/tasks/{}", super::ID)))),
        bad(
            RETRIES,
            "SimulatePolicy",
            pb::SimulatePolicyRequest { limit: 10_001, queue: "a b".into(), ..Default::default() },
            &["retry_policy", "queue", "limit"],
        ),
        missing(RETRIES, "SimulatePolicy", pb::SimulatePolicyRequest { decider: by_none(), ..Default::default() }),
        bad(
            RETRIES,
            "GetRetryStatistics",
            pb::GetRetryStatisticsRequest { start_time: time(10), end_time: time(10), ..Default::default() },
            &["start_time"],
        ),
        missing(
            RETRIES,
            "GetRetryStatistics",
            pb::GetRetryStatisticsRequest { parent: "projects/none".into(), ..Default::default() },
        ),
    ]
}
