//! Audit entries, verdicts, heads.

use super::{first_line, moment, moment_in_full, or_dash, strip};
use crate::{
    cli::output::{Color, Look, Resource, Styled, json_line},
    pb::{
        AuditEntry, AuditHead, AuditVerdict, FieldChange,
        audit_entry::{ActorKind, Outcome},
    },
};

/// Changes of one entry in a column.
const MAX_CHANGES: usize = 60;

fn outcome(entry: &AuditEntry) -> Styled {
    let color = if entry.outcome() == Outcome::Ok { Color::Green } else { Color::Red };
    Styled::new(strip(entry.outcome().as_str_name(), "OUTCOME_"), color)
}

fn actor_kind(entry: &AuditEntry) -> &'static str {
    match entry.actor_kind() {
        ActorKind::Unspecified => "",
        ActorKind::System => "SYSTEM",
        ActorKind::Service => "SERVICE",
        ActorKind::User => "USER",
    }
}

/// `max_running: 0 → 5`.
fn change(change: &FieldChange) -> String {
    if change.masked {
        return format!("{}: changed, not shown", change.path);
    }
    let value = |value: &Option<prost_types::Value>| match value {
        None => "-".to_owned(),
        // A value that does not print as JSON is no value of a protobuf message.
        Some(value) => super::super::output::to_json("google.protobuf.Value", value)
            .and_then(|json| json_line(&json))
            .unwrap_or_default(),
    };
    format!("{}: {} → {}", change.path, value(&change.old_value), value(&change.new_value))
}

fn changes(entry: &AuditEntry, between: &str) -> String {
    let mut parts: Vec<String> = entry.changes.iter().map(change).collect();
    if entry.count > 1 {
        parts.push(format!("{} times", entry.count));
    }
    if !entry.reason.is_empty() {
        parts.push(entry.reason.clone());
    }
    parts.join(between)
}

/// An entry as a line for people who watch.
pub fn audit_line(entry: &AuditEntry) -> String {
    let clock = entry.event_time.map(|time| time.to_string()).unwrap_or_default();
    let clock = clock.get(11..19).unwrap_or_default();
    let changes = first_line(&changes(entry, ", "), MAX_CHANGES);
    let line = format!("{clock}  {:22}  {:22}  {}  {changes}", entry.action, entry.actor, entry.resource);
    line.trim_end().to_owned()
}

impl Resource for AuditEntry {
    const PROTO: &'static str = "tasktower.v1.AuditEntry";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "REVISION",
                "TIME",
                "ACTOR",
                "ACTION",
                "RESOURCE",
                "OUTCOME",
                "METHOD",
                "CREDENTIAL",
                "ADDRESS",
                "CHANGES",
            ]
        } else {
            &["REVISION", "TIME", "ACTOR", "ACTION", "RESOURCE", "CHANGES"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let mut cells = vec![
            self.revision.to_string().into(),
            moment(self.event_time.as_ref(), look),
            self.actor.as_str().into(),
            self.action.as_str().into(),
            or_dash(&*self.resource),
        ];
        if look.wide {
            cells.extend([outcome(self), or_dash(&*self.method), or_dash(&*self.credential), or_dash(&*self.address)]);
        }
        cells.push(first_line(&changes(self, ", "), MAX_CHANGES).into());
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Entry", Styled::new(&self.name, Color::Bold)),
            ("Time", moment_in_full(self.event_time.as_ref(), look)),
            ("Action", self.action.as_str().into()),
            ("Outcome", outcome(self)),
            ("Resource", self.resource.as_str().into()),
            ("Actor", self.actor.as_str().into()),
            ("Actor kind", actor_kind(self).into()),
            ("Credential", self.credential.as_str().into()),
            ("Method", self.method.as_str().into()),
            ("Address", self.address.as_str().into()),
            ("User agent", self.user_agent.as_str().into()),
            ("Request", self.request_id.as_str().into()),
            ("Changes", changes(self, "\n").into()),
        ]
    }
}

impl Resource for AuditVerdict {
    const PROTO: &'static str = "tasktower.v1.AuditVerdict";

    /// A verdict has no name; what is wrong says most.
    fn name(&self) -> &str {
        if self.intact { "INTACT" } else { strip(self.fault().as_str_name(), "FAULT_") }
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["VERDICT", "FIRST BAD ROW", "OLDEST", "NOT SEALED YET"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        vec![
            Styled::new(self.name(), if self.intact { Color::Green } else { Color::Red }),
            or_dash(if self.intact { String::new() } else { self.first_bad_revision.to_string() }),
            self.oldest_revision.to_string().into(),
            self.unsealed_count.to_string().into(),
        ]
    }

    fn details(&self, _look: &Look) -> Vec<(&'static str, Styled)> {
        let row = if self.intact { String::new() } else { self.first_bad_revision.to_string() };
        vec![
            ("Verdict", Styled::new(self.name(), if self.intact { Color::Green } else { Color::Red })),
            ("First bad row", row.into()),
            ("Why", self.description.as_str().into()),
            ("Kept from row", self.oldest_revision.to_string().into()),
            ("Not sealed yet", self.unsealed_count.to_string().into()),
            ("Head compared", if self.head_compared { "yes" } else { "no" }.into()),
        ]
    }
}

impl Resource for AuditHead {
    const PROTO: &'static str = "tasktower.v1.AuditHead";

    /// What is to be kept of it.
    fn name(&self) -> &str {
        &self.token
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["PROJECT", "SEAL", "LAST ROW", "SIGNED", "HASH"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            self.project.as_str().into(),
            self.seal_number.to_string().into(),
            self.last_revision.to_string().into(),
            moment(self.sign_time.as_ref(), look),
            self.hash.as_str().into(),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let key = if self.key_configured { "from the configuration" } else { "from the database" };
        vec![
            ("Project", Styled::new(&self.project, Color::Bold)),
            ("Seal", self.seal_number.to_string().into()),
            ("Last row", self.last_revision.to_string().into()),
            ("Hash", self.hash.as_str().into()),
            ("Signed", moment_in_full(self.sign_time.as_ref(), look)),
            ("Key", key.into()),
            ("Public key", self.public_key.as_str().into()),
            ("Token", self.token.as_str().into()),
        ]
    }
}
