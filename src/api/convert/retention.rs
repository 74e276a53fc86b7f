//! Retention: rules, previews, runs.

use std::ops::RangeInclusive;

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, page,
    scalar::{self, duration, timestamp},
};
use crate::{
    app::retention::RetentionPreview,
    domain::{
        etag,
        retention::{
            Counts, MAX_AGE, MAX_RULES, Retention, RetentionPolicy, RetentionRule, RetentionRun, RetentionSettings,
        },
        task::Micros,
        task_state::TaskState,
    },
    error::{Error, Result},
    ids::{ProjectId, RetentionRunId, retention_name, retention_run_name},
    pb,
};

const AGE: RangeInclusive<Micros> = 0..=MAX_AGE;
/// Most characters of a pattern: those of what it is held against.
const MAX_PATTERN: usize = 128;
/// Final states in a rule: each of them once.
const FINAL_STATES: usize = 3;

/// The rules of one project.
pub fn get(request: pb::GetRetentionRequest) -> Result<ProjectId> {
    let mut fields = Fields::new();
    let pb::GetRetentionRequest { name } = request;
    let project = name::retention(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(project)
}

/// Other rules for a project.
#[derive(Debug)]
pub struct Update {
    /// Of this project.
    pub project: ProjectId,
    /// The rules; none leaves them as they are.
    pub rules: Option<Vec<RetentionRule>>,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// A change of rules.
pub fn update(request: pb::UpdateRetentionRequest) -> Result<Update> {
    const RULES: [(&str, Rule); 11] = [
        ("rules", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("default_age", Rule::OutputOnly),
        ("feed_age", Rule::OutputOnly),
        ("audit_age", Rule::OutputOnly),
        ("journal_age", Rule::OutputOnly),
        ("next_run_time", Rule::OutputOnly),
        ("daily_time", Rule::OutputOnly),
        ("time_zone", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateRetentionRequest { retention, update_mask } = request;
    let Some(retention) = retention else { return Err(Error::field("retention", "is required")) };
    let pb::Retention {
        name,
        rules,
        etag,
        default_age: _,
        feed_age: _,
        audit_age: _,
        journal_age: _,
        next_run_time: _,
        daily_time: _,
        time_zone: _,
        update_time: _,
    } = retention;
    let at = Path::Request.field("retention");
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let project = name::retention(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let changes = mask.changes("rules", !rules.is_empty());
    let rules = changes.then(|| self::rules(&mut fields, &at.field("rules"), rules));
    fields.finish(Update { project, rules, etag })
}

/// A look at what a run would do: the project, and the rules to try out.
pub fn preview(request: pb::PreviewRetentionRequest) -> Result<(ProjectId, Option<Vec<RetentionRule>>)> {
    let mut fields = Fields::new();
    let pb::PreviewRetentionRequest { name, rules } = request;
    let project = name::retention(&mut fields, &Path::Request.field("name"), &name);
    let at = Path::Request.field("rules");
    let rules = rules.map(|pb::RetentionRules { rules }| self::rules(&mut fields, &at.field("rules"), rules));
    fields.finish((project, rules))
}

/// A run to begin: the project, and the etag its rules must have.
pub fn run(request: pb::RunRetentionRequest) -> Result<(ProjectId, Option<String>)> {
    let mut fields = Fields::new();
    let pb::RunRetentionRequest { name, etag } = request;
    let project = name::retention(&mut fields, &Path::Request.field("name"), &name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((project, etag))
}

/// One run.
pub fn get_run(request: pb::GetRetentionRunRequest) -> Result<(ProjectId, RetentionRunId)> {
    let mut fields = Fields::new();
    let pb::GetRetentionRunRequest { name } = request;
    let named = name::retention_run(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(named)
}

/// A page of runs, before its page token is read: project, size, page token.
pub fn list_runs(request: pb::ListRetentionRunsRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListRetentionRunsRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, limit, page_token))
}

fn rules(fields: &mut Fields, at: &Path<'_>, rules: Vec<pb::RetentionRule>) -> Vec<RetentionRule> {
    if !scalar::length(fields, at, rules.len(), 0..=MAX_RULES) {
        return Vec::new();
    }
    rules.into_iter().enumerate().map(|(index, rule)| self::rule(fields, &at.index(index), rule)).collect()
}

fn rule(fields: &mut Fields, at: &Path<'_>, rule: pb::RetentionRule) -> RetentionRule {
    let pb::RetentionRule { states, r#type, queue, age } = rule;
    let age = match age {
        Some(age) => scalar::span(fields, &at.field("age"), &age, &AGE),
        None => {
            fields.refuse(&at.field("age"), "is required; 0s means until the next run");
            MAX_AGE
        }
    };
    RetentionRule {
        states: self::states(fields, &at.field("states"), &states),
        task_type: pattern(fields, &at.field("type"), r#type),
        queue: pattern(fields, &at.field("queue"), queue),
        age,
    }
}

fn states(fields: &mut Fields, at: &Path<'_>, numbers: &[i32]) -> Vec<TaskState> {
    if !scalar::length(fields, at, numbers.len(), 0..=FINAL_STATES) {
        return Vec::new();
    }
    let mut states = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        let state = i16::try_from(*number).ok().and_then(|number| TaskState::try_from(number).ok());
        match state.filter(|state| state.is_final()) {
            Some(state) if states.contains(&state) => fields.refuse(&at.index(index), "is there twice"),
            Some(state) => states.push(state),
            None => {
                fields.refuse(&at.index(index), "must be SUCCEEDED, FAILED or CANCELLED; other tasks are never deleted")
            }
        }
    }
    states
}

fn pattern(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-' | b'*' | b'?');
    if text.len() > MAX_PATTERN || !text.bytes().all(is_allowed) {
        fields.refuse(at, "must match [A-Za-z0-9._:*?-]{0,128}; * stands for any characters, ? for one");
    }
    text
}

/// The rules of a project for the wire, with what the server was told.
pub fn retention(retention: Retention, settings: &RetentionSettings) -> pb::Retention {
    let Retention { project, rules, update_time, next_run_time } = retention;
    pb::Retention {
        name: retention_name(&project),
        etag: etag::retention_etag(&project, &rules),
        rules: rules.into_iter().map(rule_out).collect(),
        default_age: Some(duration(settings.history)),
        feed_age: Some(duration(settings.feed)),
        audit_age: Some(duration(settings.audit)),
        journal_age: Some(duration(settings.journal())),
        next_run_time: Some(timestamp(next_run_time)),
        daily_time: settings.daily.clock(),
        time_zone: settings.daily.zone_name().to_owned(),
        update_time: update_time.map(timestamp),
    }
}

fn rule_out(rule: RetentionRule) -> pb::RetentionRule {
    let RetentionRule { states, task_type, queue, age } = rule;
    pb::RetentionRule {
        states: states.into_iter().map(|state| state.number().into()).collect(),
        r#type: task_type,
        queue,
        age: Some(duration(age)),
    }
}

/// A preview for the wire.
pub fn preview_out(preview: RetentionPreview) -> pb::PreviewRetentionResponse {
    let RetentionPreview { policy, counts, is_partial, etag } = preview;
    pb::PreviewRetentionResponse {
        deleted_count: counts.deleted(),
        kept_count: counts.kept(),
        open_dead_letter_count: counts.open_dead_letters,
        tallies: tallies(&policy, &counts, true),
        journal_deleted_count: counts.journal_deleted,
        is_partial,
        etag,
    }
}

/// A run for the wire.
pub fn run_out(run: RetentionRun) -> pb::RetentionRun {
    let RetentionRun {
        project,
        id,
        trigger,
        owner,
        state,
        policy,
        // What became of it is in the counts.
        journal_age: _,
        counts,
        error_message,
        create_time,
        update_time,
        finish_time,
    } = run;
    pb::RetentionRun {
        name: retention_run_name(&project, id),
        // The numbers of the domain are those of the wire.
        trigger: trigger as i32,
        owner,
        state: state as i32,
        deleted_count: counts.deleted(),
        kept_count: counts.kept(),
        open_dead_letter_count: counts.open_dead_letters,
        busy_count: counts.busy,
        tallies: tallies(&policy, &counts, false),
        journal_deleted_count: counts.journal_deleted,
        error_count: counts.errors,
        error_message,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        finish_time: finish_time.map(timestamp),
    }
}

fn tallies(policy: &RetentionPolicy, counts: &Counts, with_oldest: bool) -> Vec<pb::RetentionTally> {
    let both = policy.all_rules().zip(&counts.tallies).enumerate();
    both.map(|(place, (rule, tally))| pb::RetentionTally {
        rule: Some(rule_out(rule)),
        is_default: place == policy.rules.len(),
        deleted_count: tally.deleted,
        kept_count: tally.kept,
        oldest_finish_time: tally.oldest.filter(|_| with_oldest).map(timestamp),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_of(states: &[pb::task::State], r#type: &str, age: Option<i64>) -> pb::RetentionRule {
        pb::RetentionRule {
            states: states.iter().map(|state| *state as i32).collect(),
            r#type: r#type.into(),
            queue: String::new(),
            age: age.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        }
    }

    fn update_of(rules: Vec<pb::RetentionRule>, paths: &[&str]) -> Result<Update> {
        let retention = pb::Retention { name: "projects/default/retention".into(), rules, ..Default::default() };
        let update_mask = prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        update(pb::UpdateRetentionRequest { retention: Some(retention), update_mask: Some(update_mask) })
    }

    #[test]
    fn rules_come_back_as_they_went() {
        use pb::task::State::{Cancelled, Failed};
        let sent = vec![rule_of(&[Failed, Cancelled], "mail.*", Some(86_400)), rule_of(&[], "", Some(0))];
        let read = update_of(sent.clone(), &[]).unwrap().rules.unwrap();
        assert_eq!(read.into_iter().map(rule_out).collect::<Vec<_>>(), sent);
        assert_eq!(update_of(Vec::new(), &[]).unwrap().rules, None);
        assert_eq!(update_of(Vec::new(), &["rules"]).unwrap().rules, Some(Vec::new()));
        assert!(update_of(Vec::new(), &["default_age"]).unwrap().rules.is_none());
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said_at_its_place() {
        use pb::task::State::{Failed, Running};
        for (rule, path) in [
            (rule_of(&[Running], "", Some(1)), "retention.rules[1].states[0]"),
            (rule_of(&[Failed, Failed], "", Some(1)), "retention.rules[1].states[1]"),
            (rule_of(&[], "mail send", Some(1)), "retention.rules[1].type"),
            (rule_of(&[], &"x".repeat(129), Some(1)), "retention.rules[1].type"),
            (rule_of(&[], "", None), "retention.rules[1].age"),
            (rule_of(&[], "", Some(-1)), "retention.rules[1].age"),
            (rule_of(&[], "", Some(36_501 * 86_400)), "retention.rules[1].age"),
        ] {
            let good = rule_of(&[], "*", Some(1));
            let Err(Error::Invalid(found)) = update_of(vec![good, rule], &[]) else { panic!("{path}") };
            assert_eq!(found.iter().map(|violation| violation.path.as_str()).collect::<Vec<_>>(), [path]);
        }
        let many = vec![rule_of(&[], "", Some(1)); MAX_RULES + 1];
        assert!(update_of(many[1..].to_vec(), &[]).is_ok());
        assert!(update_of(many, &[]).is_err());
    }
}
