//! Bad requests to `DeadLetterService`.

use tasktower::pb;
use tonic::Code;

use super::{Case, bad, case, missing, seconds};

const LETTERS: &str = "tasktower.v1.DeadLetterService";
const MISSING: &str = "projects/default/deadLetters/0190a6c0-0000-7000-8000-000000000000";

pub fn cases() -> Vec<Case> {
    let none = || MISSING.to_owned();
    let task_name = || MISSING.replace("deadLetters", "tasks");
    let bulk = |filter: &str| pb::BulkRetryDeadLettersRequest { filter: filter.into(), ..Default::default() };
    let mark =
        |reason: &str| pb::MarkDeadLetterProcessedRequest { name: none(), reason: reason.into(), ..Default::default() };
    vec![
        bad(LETTERS, "GetDeadLetter", pb::GetDeadLetterRequest { name: task_name() }, &["name"]),
        missing(LETTERS, "GetDeadLetter", pb::GetDeadLetterRequest { name: none() }),
        bad(
            LETTERS,
            "ListDeadLetters",
            pb::ListDeadLettersRequest { parent: "x".into(), page_size: -1, ..Default::default() },
            &["parent", "page_size"],
        ),
        case(
            LETTERS,
            "ListDeadLetters",
            pb::ListDeadLettersRequest { page_token: "x".into(), ..Default::default() },
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
            &["page_token"],
        ),
        case(
            LETTERS,
            "AnalyzeDeadLetters",
            pb::AnalyzeDeadLettersRequest { filter: "state = FAILED".into(), ..Default::default() },
            Code::InvalidArgument,
            "FILTER_INVALID",
            &["filter"],
        ),
        bad(
            LETTERS,
            "AnalyzeDeadLetters",
            pb::AnalyzeDeadLettersRequest { max_groups: 101, ..Default::default() },
            &["max_groups"],
        ),
        missing(
            LETTERS,
            "AnalyzeDeadLetters",
            pb::AnalyzeDeadLettersRequest { parent: "projects/none".into(), ..Default::default() },
        ),
        bad(
            LETTERS,
            "RetryDeadLetter",
            pb::RetryDeadLetterRequest { name: none(), input: Some(pb::Payload::default()), etag: "e".repeat(200) },
            &["input", "etag"],
        ),
        missing(LETTERS, "RetryDeadLetter", pb::RetryDeadLetterRequest { name: none(), ..Default::default() }),
        bad(LETTERS, "BulkRetryDeadLetters", bulk(""), &["filter"]),
        case(
            LETTERS,
            "BulkRetryDeadLetters",
            bulk("labels.team = core"),
            Code::InvalidArgument,
            "FILTER_INVALID",
            &["filter"],
        ),
        bad(
            LETTERS,
            "BulkRetryDeadLetters",
            pb::BulkRetryDeadLettersRequest {
                rate: -1,
                max_failure_percent: 100,
                failure_window: Some(seconds(3_601)),
                ..bulk("*")
            },
            &["rate", "max_failure_percent", "failure_window"],
        ),
        bad(
            LETTERS,
            "BulkRetryDeadLetters",
            pb::BulkRetryDeadLettersRequest { names: vec![task_name()], ..Default::default() },
            &["names[0]"],
        ),
        missing(
            LETTERS,
            "BulkRetryDeadLetters",
            pb::BulkRetryDeadLettersRequest { parent: "projects/none".into(), ..bulk("*") },
        ),
        bad(LETTERS, "MarkDeadLetterProcessed", mark(""), &["reason"]),
        bad(LETTERS, "MarkDeadLetterProcessed", mark(&"r".repeat(1_025)), &["reason"]),
        missing(LETTERS, "MarkDeadLetterProcessed", mark("done")),
        bad(LETTERS, "ReopenDeadLetter", pb::ReopenDeadLetterRequest::default(), &["name"]),
        missing(LETTERS, "ReopenDeadLetter", pb::ReopenDeadLetterRequest { name: none(), ..Default::default() }),
    ]
}
