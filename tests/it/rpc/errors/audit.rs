//! Bad requests to `AuditService`.

use prost::Message as _;
use tasktower::pb;
use tonic::Code;

use super::{Case, bad, case, missing};

const AUDIT: &str = "tasktower.v1.AuditService";

pub fn cases() -> Vec<Case> {
    let nowhere = || "projects/none".to_owned();
    let filter = || "action = \"task.eaten\"".to_owned();
    let by = |method: &str, message: Vec<u8>| Case {
        method: format!("{AUDIT}/{method}"),
        message: message.into(),
        code: Code::InvalidArgument,
        reason: "FILTER_INVALID",
        fields: vec!["filter".to_owned()],
    };
    let list = pb::ListAuditEntriesRequest::default;
    let entry = |name: &str| pb::GetAuditEntryRequest { name: name.into() };
    let watch = pb::WatchAuditEntriesRequest::default;
    let export = pb::ExportAuditRequest::default;
    let head = |head: &str| pb::VerifyAuditRequest { parent: String::new(), head: head.into() };
    vec![
        bad(AUDIT, "ListAuditEntries", pb::ListAuditEntriesRequest { page_size: -1, ..list() }, &["page_size"]),
        bad(AUDIT, "ListAuditEntries", pb::ListAuditEntriesRequest { parent: "p".into(), ..list() }, &["parent"]),
        by("ListAuditEntries", pb::ListAuditEntriesRequest { filter: filter(), ..list() }.encode_to_vec()),
        missing(AUDIT, "ListAuditEntries", pb::ListAuditEntriesRequest { parent: nowhere(), ..list() }),
        bad(AUDIT, "GetAuditEntry", entry("projects/default/auditEntries/0"), &["name"]),
        bad(AUDIT, "GetAuditEntry", entry("projects/default/auditEntries/01"), &["name"]),
        missing(AUDIT, "GetAuditEntry", entry("projects/default/auditEntries/1")),
        by("WatchAuditEntries", pb::WatchAuditEntriesRequest { filter: filter(), ..watch() }.encode_to_vec()),
        case(
            AUDIT,
            "WatchAuditEntries",
            pb::WatchAuditEntriesRequest { resume_token: "x".into(), ..watch() },
            Code::InvalidArgument,
            "RESUME_INVALID",
            &["resume_token"],
        ),
        bad(AUDIT, "ExportAudit", pb::ExportAuditRequest { after_revision: -1, ..export() }, &["after_revision"]),
        by("ExportAudit", pb::ExportAuditRequest { filter: filter(), ..export() }.encode_to_vec()),
        bad(AUDIT, "VerifyAudit", head("tth1.AAAA.AAAA"), &["head"]),
        missing(AUDIT, "VerifyAudit", pb::VerifyAuditRequest { parent: nowhere(), ..head("") }),
        bad(AUDIT, "GetAuditHead", pb::GetAuditHeadRequest { parent: "projects/".into() }, &["parent"]),
        missing(AUDIT, "GetAuditHead", pb::GetAuditHeadRequest { parent: "projects/default".into() }),
    ]
}
