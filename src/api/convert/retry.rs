//! Retry policies: what is asked about them, and what is answered.

use std::sync::Arc;

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, page, report, retry_settings,
    scalar::{self, duration, identifier, timestamp},
    task,
};
use crate::{
    app::retry_report::{AskedWindow, Evaluated, Evaluation, EvaluationBy, SettingsChoice},
    domain::{
        etag,
        retry::{RetrySettings, Verdict},
        retry_policy::{PolicyContent, PolicyPatch, PolicyVersion, RetryPolicy},
        retry_report::{Failure, RetryCounts, RetryStatistics, Simulation},
        task::{DAY, Micros},
    },
    error::{Error, Result},
    ids::{ProjectId, retry_policy_name, task_name},
    pb,
};

/// Most task types of a policy.
const MAX_TYPES: usize = 100;
/// The age of a task may be anything; this is what fits.
const ANY_SPAN: std::ops::RangeInclusive<Micros> = 0..=36_500 * DAY;
/// Most attempts a task has.
const MAX_ATTEMPT: i32 = 1_000;
/// Failures a simulation looks at unless the caller says how many, and at most.
const USUAL_LIMIT: i32 = 1_000;
const MAX_LIMIT: i32 = 10_000;

/// A policy to be made.
#[derive(Debug)]
pub struct Create {
    /// In this project.
    pub project: ProjectId,
    /// Under this id.
    pub id: String,
    /// With this content.
    pub content: PolicyContent,
}

/// A policy to be made.
pub fn create(request: pb::CreateRetryPolicyRequest) -> Result<Create> {
    let mut fields = Fields::new();
    let pb::CreateRetryPolicyRequest { parent, retry_policy_id, retry_policy } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let id = name::short_id(&mut fields, &Path::Request.field("retry_policy_id"), retry_policy_id);
    let at = Path::Request.field("retry_policy");
    let Some(policy) = retry_policy else { return Err(Error::field("retry_policy", "is required")) };
    let pb::RetryPolicy {
        description,
        settings,
        task_types,
        name: _,
        version: _,
        create_time: _,
        update_time: _,
        etag: _,
    } = policy;
    let content = PolicyContent {
        description: self::description(&mut fields, &at, description),
        settings: Arc::new(self::settings(&mut fields, &at, settings)),
        task_types: self::task_types(&mut fields, &at, task_types),
    };
    fields.finish(Create { project, id, content })
}

fn description(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    scalar::bytes_bounded(fields, &at.field("description"), text, scalar::SHORT_TEXT)
}

fn settings(fields: &mut Fields, at: &Path<'_>, settings: Option<pb::RetrySettings>) -> RetrySettings {
    retry_settings::settings(fields, &at.field("settings"), settings.unwrap_or_default())
}

/// In order, each once, as they are kept.
fn task_types(fields: &mut Fields, at: &Path<'_>, types: Vec<String>) -> Vec<String> {
    let list = at.field("task_types");
    if !scalar::length(fields, &list, types.len(), 0..=MAX_TYPES) {
        return Vec::new();
    }
    let read = |(index, of_type)| identifier(fields, &list.index(index), of_type);
    let mut types: Vec<String> = types.into_iter().enumerate().map(read).collect();
    types.sort_unstable();
    types.dedup();
    types
}

/// One policy.
pub fn get(request: pb::GetRetryPolicyRequest) -> Result<(ProjectId, String)> {
    let mut fields = Fields::new();
    let pb::GetRetryPolicyRequest { name } = request;
    let (project, id) = name::retry_policy(&mut fields, &Path::Request.field("name"), &name);
    fields.finish((project, id.to_owned()))
}

/// A page of policies, before its page token is read: project, size, page token.
pub fn list(request: pb::ListRetryPoliciesRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListRetryPoliciesRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, limit, page_token))
}

/// A policy to be changed.
#[derive(Debug)]
pub struct Update {
    /// In this project.
    pub project: ProjectId,
    /// This one.
    pub id: String,
    /// What changes.
    pub patch: PolicyPatch,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// A policy to be changed.
pub fn update(request: pb::UpdateRetryPolicyRequest) -> Result<Update> {
    const RULES: [(&str, Rule); 8] = [
        ("description", Rule::Changes),
        ("settings", Rule::Changes),
        ("task_types", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("version", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateRetryPolicyRequest { retry_policy, update_mask } = request;
    let Some(policy) = retry_policy else { return Err(Error::field("retry_policy", "is required")) };
    let pb::RetryPolicy { name, description, settings, task_types, etag, version: _, create_time: _, update_time: _ } =
        policy;
    let at = Path::Request.field("retry_policy");
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let (project, id) = name::retry_policy(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let mut patch = PolicyPatch::default();
    if mask.changes("description", !description.is_empty()) {
        patch.description = Some(self::description(&mut fields, &at, description));
    }
    if mask.changes("settings", settings.is_some()) {
        patch.settings = Some(self::settings(&mut fields, &at, settings));
    }
    if mask.changes("task_types", !task_types.is_empty()) {
        patch.task_types = Some(self::task_types(&mut fields, &at, task_types));
    }
    fields.finish(Update { project, id: id.to_owned(), patch, etag })
}

/// A policy to be deleted.
#[derive(Debug)]
pub struct Delete {
    /// In this project.
    pub project: ProjectId,
    /// This one.
    pub id: String,
    /// Only if this is the current etag.
    pub etag: Option<String>,
    /// It may be gone already.
    pub allow_missing: bool,
}

/// A policy to be deleted.
pub fn delete(request: pb::DeleteRetryPolicyRequest) -> Result<Delete> {
    let mut fields = Fields::new();
    let pb::DeleteRetryPolicyRequest { name, etag, allow_missing } = request;
    let (project, id) = name::retry_policy(&mut fields, &Path::Request.field("name"), &name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish(Delete { project, id: id.to_owned(), etag, allow_missing })
}

/// An error to be decided about.
pub fn evaluate(request: pb::EvaluateRetryRequest) -> Result<(ProjectId, Evaluation)> {
    use pb::evaluate_retry_request::Decider;

    let mut fields = Fields::new();
    let pb::EvaluateRetryRequest { parent, decider, error, attempt, age, retry_after } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let by = match decider {
        None => EvaluationBy::Settings(SettingsChoice::Settings(RetrySettings::default())),
        Some(Decider::RetryPolicy(name)) => EvaluationBy::Settings(policy_choice(&mut fields, &name, &project)),
        Some(Decider::Settings(settings)) => EvaluationBy::Settings(settings_choice(&mut fields, settings)),
        Some(Decider::Task(name)) => {
            EvaluationBy::Task(name::task_of(&mut fields, &Path::Request.field("task"), &name, &project))
        }
    };
    let error = report::error(&mut fields, &Path::Request.field("error"), error);
    let attempt = scalar::number_or(&mut fields, &Path::Request.field("attempt"), attempt, 1..=MAX_ATTEMPT, 0);
    let age = age.map(|span| scalar::span(&mut fields, &Path::Request.field("age"), &span, &ANY_SPAN));
    let retry_after =
        retry_after.map(|span| scalar::span(&mut fields, &Path::Request.field("retry_after"), &span, &ANY_SPAN));
    let attempt = (attempt != 0).then_some(attempt);
    fields.finish((project, Evaluation { by, error, attempt, age, retry_after }))
}

fn policy_choice(fields: &mut Fields, name: &str, project: &ProjectId) -> SettingsChoice {
    SettingsChoice::Policy(name::retry_policy_of(fields, &Path::Request.field("retry_policy"), name, project))
}

fn settings_choice(fields: &mut Fields, settings: pb::RetrySettings) -> SettingsChoice {
    SettingsChoice::Settings(retry_settings::settings(fields, &Path::Request.field("settings"), settings))
}

/// What would be decided.
pub fn evaluated(project: &ProjectId, evaluated: &Evaluated) -> pb::EvaluateRetryResponse {
    let Evaluated { decision, max_wait, policy } = evaluated;
    let min_wait = match decision.verdict {
        Verdict::Retry(wait) | Verdict::Snooze(wait) => Some(wait),
        Verdict::DeadLetter => None,
    };
    pb::EvaluateRetryResponse {
        decision: Some(retry_settings::decision(project, decision, policy.as_ref())),
        min_wait: min_wait.map(duration),
        max_wait: max_wait.map(duration),
    }
}

/// Failures to be put to a policy.
#[derive(Debug)]
pub struct Simulate {
    /// Of this project.
    pub project: ProjectId,
    /// What would have decided.
    pub choice: SettingsChoice,
    /// Which failures.
    pub window: AskedWindow,
    /// Most of them.
    pub limit: i64,
}

/// Failures to be put to a policy.
pub fn simulate(request: pb::SimulatePolicyRequest) -> Result<Simulate> {
    use pb::simulate_policy_request::Decider;

    let mut fields = Fields::new();
    let pb::SimulatePolicyRequest { parent, decider, queue, task_type, start_time, end_time, limit } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let choice = match decider {
        None => {
            fields.refuse(&Path::Request.field("retry_policy"), "is required, or settings");
            SettingsChoice::Settings(RetrySettings::default())
        }
        Some(Decider::RetryPolicy(name)) => policy_choice(&mut fields, &name, &project),
        Some(Decider::Settings(settings)) => settings_choice(&mut fields, settings),
    };
    let window = window(&mut fields, queue, task_type, start_time, end_time);
    let limit = scalar::number_or(&mut fields, &Path::Request.field("limit"), limit, 1..=MAX_LIMIT, USUAL_LIMIT);
    fields.finish(Simulate { project, choice, window, limit: limit.into() })
}

/// Failures to be counted.
pub fn statistics(request: pb::GetRetryStatisticsRequest) -> Result<(ProjectId, AskedWindow)> {
    let mut fields = Fields::new();
    let pb::GetRetryStatisticsRequest { parent, queue, task_type, start_time, end_time } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let window = window(&mut fields, queue, task_type, start_time, end_time);
    fields.finish((project, window))
}

fn window(
    fields: &mut Fields,
    queue: String,
    task_type: String,
    start_time: Option<prost_types::Timestamp>,
    end_time: Option<prost_types::Timestamp>,
) -> AskedWindow {
    let mut named = |field, text: String| {
        if text.is_empty() { text } else { identifier(fields, &Path::Request.field(field), text) }
    };
    let (queue, task_type) = (named("queue", queue), named("task_type", task_type));
    let mut time = |field, time: Option<prost_types::Timestamp>| {
        time.map(|time| scalar::time(fields, &Path::Request.field(field), &time))
    };
    AskedWindow { start: time("start_time", start_time), end: time("end_time", end_time), queue, task_type }
}

/// A policy for the wire.
pub fn policy(policy: RetryPolicy) -> pb::RetryPolicy {
    let etag = etag::retry_policy_etag(&policy);
    let RetryPolicy { project, id, content, version, create_time, update_time } = policy;
    let PolicyContent { description, settings, task_types } = content;
    pb::RetryPolicy {
        name: retry_policy_name(&project, &id),
        description,
        settings: Some(retry_settings::settings_to_wire(&settings)),
        task_types,
        version,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        etag,
    }
}

/// What would have been decided otherwise.
pub fn simulated(
    project: &ProjectId,
    simulation: Simulation,
    policy: Option<&PolicyVersion>,
) -> pb::SimulatePolicyResponse {
    let Simulation { examined, same, saved, dead_lettered, other, differences, truncated } = simulation;
    let differences = differences.into_iter().map(|(failure, was, would_be)| {
        let Failure { task, epoch, error, age: _, number, decided: _ } = failure;
        pb::simulate_policy_response::Difference {
            task: task_name(project, task),
            epoch,
            number,
            error: Some(task::error(&error)),
            was: Some(retry_settings::decision(project, &was.decision, was.policy.as_ref())),
            would_be: Some(retry_settings::decision(project, &would_be, policy)),
        }
    });
    pb::SimulatePolicyResponse {
        examined_count: examined,
        same_count: same,
        saved_count: saved,
        dead_lettered_count: dead_lettered,
        other_count: other,
        differences: differences.collect(),
        truncated,
    }
}

/// Counted failures for the wire.
pub fn counted(project: &ProjectId, statistics: RetryStatistics) -> pb::GetRetryStatisticsResponse {
    use pb::get_retry_statistics_response::{ErrorType, Rule};

    let RetryStatistics { total, rules, error_types, truncated } = statistics;
    let rule = |(policy, rule, count): (Option<PolicyVersion>, i32, RetryCounts)| Rule {
        retry_policy: policy.as_ref().map(|policy| retry_policy_name(project, &policy.id)).unwrap_or_default(),
        retry_policy_version: policy.map_or(0, |policy| policy.version),
        rule,
        counts: Some(counts(count)),
    };
    let of_type = |(error_type, count)| ErrorType { error_type, counts: Some(counts(count)) };
    pb::GetRetryStatisticsResponse {
        total: Some(counts(total)),
        rules: rules.into_iter().map(rule).collect(),
        error_types: error_types.into_iter().map(of_type).collect(),
        truncated,
    }
}

fn counts(counts: RetryCounts) -> pb::RetryCounts {
    let RetryCounts { failed, retried, snoozed, dead_lettered, tasks, recovered_tasks } = counts;
    pb::RetryCounts {
        failed_count: failed,
        retried_count: retried,
        snoozed_count: snoozed,
        dead_lettered_count: dead_lettered,
        task_count: tasks,
        recovered_task_count: recovered_tasks,
    }
}
