//! The audit: what is asked, and entries.

mod changes;

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::{Value, value::Kind};

use super::{
    fields::{Fields, Path},
    name, page,
    scalar::{timestamp, without_nul},
};
use crate::{
    app::{
        audit::{AuditBatch, AuditPiece},
        audit_head::SignedHead,
        audit_verify::{Verdict, Verification},
    },
    context::PrincipalKind,
    domain::{
        audit::{JournalRow, Outcome},
        filter::Filter,
    },
    error::{Error, Result},
    ids::{ProjectId, audit_entry_name, project_name},
    pb,
};

/// The descriptors, for what is read from them: paths of fields, and which are not shown. Empty if they are damaged, which
/// no build that passed its tests has.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).unwrap_or_default());

/// A list, before its page token is read.
pub struct List {
    /// The project.
    pub project: ProjectId,
    /// The size of a page.
    pub limit: i64,
    /// The token.
    pub page_token: String,
    /// The filter, as written and read.
    pub filter: (String, Filter),
}

/// Which page is asked for.
pub fn list(request: pb::ListAuditEntriesRequest) -> Result<List> {
    let mut fields = Fields::new();
    let pb::ListAuditEntriesRequest { parent, page_size, page_token, filter } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish(())?;
    let read = self::filter(&filter)?;
    Ok(List { project, limit, page_token, filter: (filter, read) })
}

/// Which entry is asked for.
pub fn get(request: pb::GetAuditEntryRequest) -> Result<(ProjectId, i64)> {
    let mut fields = Fields::new();
    let found = name::audit_entry(&mut fields, &Path::Request.field("name"), &request.name);
    fields.finish(found)
}

/// What to follow: project, filter, resume token.
pub fn watch(request: pb::WatchAuditEntriesRequest) -> Result<(ProjectId, Filter, Option<String>)> {
    let mut fields = Fields::new();
    let pb::WatchAuditEntriesRequest { parent, filter, resume_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let at = Path::Request.field("resume_token");
    let resume_token = (!resume_token.is_empty()).then(|| without_nul(&mut fields, &at, resume_token));
    fields.finish(())?;
    Ok((project, self::filter(&filter)?, resume_token))
}

/// What to write out: project, filter, the revision before the first.
pub fn export(request: pb::ExportAuditRequest) -> Result<(ProjectId, Filter, i64)> {
    let mut fields = Fields::new();
    let pb::ExportAuditRequest { parent, filter, after_revision } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    if after_revision < 0 {
        fields.refuse(&Path::Request.field("after_revision"), "must not be negative");
    }
    fields.finish(())?;
    Ok((project, self::filter(&filter)?, after_revision))
}

/// What to verify: project, signed head.
pub fn verify(request: pb::VerifyAuditRequest) -> Result<(ProjectId, Option<String>)> {
    let mut fields = Fields::new();
    let pb::VerifyAuditRequest { parent, head } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    fields.finish((project, Some(head).filter(|head| !head.is_empty())))
}

/// Whose head is asked for.
pub fn head(request: pb::GetAuditHeadRequest) -> Result<ProjectId> {
    let mut fields = Fields::new();
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &request.parent);
    fields.finish(project)
}

fn filter(text: &str) -> Result<Filter> {
    Filter::parse_audit_entries(text).map_err(|cause| Error::Filter { column: cause.column, message: cause.message })
}

/// An entry for the wire.
pub fn entry(row: &JournalRow) -> pb::AuditEntry {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let actor_kind = match PrincipalKind::of(&row.actor) {
        PrincipalKind::System => pb::audit_entry::ActorKind::System,
        PrincipalKind::Service => pb::audit_entry::ActorKind::Service,
        PrincipalKind::User => pb::audit_entry::ActorKind::User,
    };
    let note = changes::note(row);
    pb::AuditEntry {
        name: audit_entry_name(&row.project, row.revision),
        revision: row.revision,
        event_time: Some(timestamp(row.time)),
        actor: row.actor.clone(),
        actor_kind: actor_kind as i32,
        credential: text(&row.credential),
        address: text(&row.address),
        user_agent: text(&row.agent),
        request_id: text(&row.request_id),
        method: text(&row.method),
        resource: row.resource_name(),
        action: row.action().to_owned(),
        outcome: outcome(row.outcome()) as i32,
        changes: if note.is_some() { Vec::new() } else { changes::of(row) },
        count: note.as_ref().map_or(1, |note| note.count),
        reason: note.map(|note| note.reason).unwrap_or_default(),
    }
}

fn outcome(outcome: Outcome) -> pb::audit_entry::Outcome {
    match outcome {
        Outcome::Ok => pb::audit_entry::Outcome::Ok,
        Outcome::PermissionDenied => pb::audit_entry::Outcome::PermissionDenied,
        Outcome::Unauthenticated => pb::audit_entry::Outcome::Unauthenticated,
    }
}

/// A message of a watch for the wire.
pub fn watched(batch: AuditBatch) -> pb::WatchAuditEntriesResponse {
    let AuditBatch { rows, resume_token } = batch;
    pb::WatchAuditEntriesResponse { audit_entries: rows.iter().map(entry).collect(), resume_token }
}

/// A piece of an export for the wire.
pub fn piece(piece: AuditPiece) -> pb::ExportAuditResponse {
    let AuditPiece { rows, last_revision } = piece;
    pb::ExportAuditResponse { jsonl: rows.iter().map(|row| line(&entry(row))).collect(), last_revision }
}

/// An entry as a line of proto3 JSON.
fn line(entry: &pb::AuditEntry) -> String {
    let json = to_json(entry, "tasktower.v1.AuditEntry", &SerializeOptions::new());
    format!("{}\n", json.unwrap_or_default())
}

/// A message as proto3 JSON; none if the descriptors do not know it.
fn to_json(message: &impl prost::Message, of: &str, options: &SerializeOptions) -> Option<serde_json::Value> {
    let mut dynamic = DynamicMessage::new(POOL.get_message_by_name(of)?);
    dynamic.transcode_from(message).ok()?;
    dynamic.serialize_with_options(serde_json::value::Serializer, options).map(whole_numbers).ok()
}

/// JSON of the wire holds every number as a double; a whole one is written without a fraction.
fn whole_numbers(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    match json {
        Json::Number(number) => match number.as_f64() {
            // Within 2^53 the cast is exact.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= MAX_EXACT => (float as i64).into(),
            _ => Json::Number(number),
        },
        Json::Array(values) => values.into_iter().map(whole_numbers).collect(),
        Json::Object(fields) => fields.into_iter().map(|(key, value)| (key, whole_numbers(value))).collect(),
        other => other,
    }
}

/// How far a verification is, for the wire.
pub fn verification(told: Verification) -> pb::VerifyAuditResponse {
    let Verification { count, revision, sealed_revision, verdict } = told;
    pb::VerifyAuditResponse {
        verified_count: count,
        verified_revision: revision,
        sealed_revision,
        verdict: verdict.map(self::verdict),
    }
}

fn verdict(verdict: Verdict) -> pb::AuditVerdict {
    let Verdict { bad, oldest, unsealed, head_compared } = verdict;
    pb::AuditVerdict {
        intact: bad.is_none(),
        first_bad_revision: bad.as_ref().map_or(0, |bad| bad.revision),
        // The numbers of the domain are those of the wire.
        fault: bad.as_ref().map_or(0, |bad| bad.fault as i32),
        description: bad.map(|bad| bad.description).unwrap_or_default(),
        oldest_revision: oldest,
        unsealed_count: unsealed,
        head_compared,
    }
}

/// A signed head for the wire.
pub fn signed_head(signed: SignedHead) -> pb::AuditHead {
    let SignedHead { head, time, token, public_key, is_configured } = signed;
    pb::AuditHead {
        project: project_name(&head.project),
        seal_number: head.link.number,
        last_revision: head.link.last,
        hash: head.link.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        sign_time: Some(timestamp(time)),
        token,
        public_key,
        key_configured: is_configured,
    }
}

/// JSON as a value of the wire; none for null, which says that there is none.
fn wire_value(json: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => return None,
        Json::Bool(flag) => Kind::BoolValue(*flag),
        Json::Number(number) => match number.as_i64() {
            // As proto3 JSON writes what a double cannot hold.
            Some(whole) if whole.unsigned_abs() > 1 << 53 => Kind::StringValue(whole.to_string()),
            _ => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => {
            let null = || Value { kind: Some(Kind::NullValue(0)) };
            let values = values.iter().map(|value| wire_value(value).unwrap_or_else(null)).collect();
            Kind::ListValue(prost_types::ListValue { values })
        }
        Json::Object(fields) => {
            let field = |(key, value): (&String, &Json)| wire_value(value).map(|value| (key.clone(), value));
            Kind::StructValue(prost_types::Struct { fields: fields.iter().filter_map(field).collect() })
        }
    };
    Some(Value { kind: Some(kind) })
}
