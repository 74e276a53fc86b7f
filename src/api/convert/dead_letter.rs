//! Dead letters.

use std::ops::RangeInclusive;

use super::{
    bulk_job::bulk_job,
    fields::{Fields, Path},
    name, page, payload,
    scalar::{self, timestamp},
};
use crate::{
    app::{
        bulk_job::BulkPreview,
        dead_letter::{Analysis, Which, WithReplays},
        task::ReplayWish,
    },
    domain::{
        bulk_job::BulkRetry,
        dead_letter::{DeadLetter, Group, MAX_REPLAYS, Processed, Replay, StopRule},
        filter::Filter,
        task::{Micros, SECOND, TaskError},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, bulk_job_name, dead_letter_name, task_name},
    pb,
};

/// Entries a second of a bulk retry: beyond it the batches of one job would be all that a small server does.
const RATE: RangeInclusive<i32> = 1..=1_000;
/// Slow enough to look at what happens, and to stop.
const DEFAULT_RATE: i32 = 10;
/// 100 would never be passed, 0 means never.
const FAILURE_PERCENT: RangeInclusive<i32> = 1..=99;
const FAILURE_WINDOW: RangeInclusive<Micros> = SECOND..=3_600 * SECOND;
const DEFAULT_FAILURE_WINDOW: Micros = 60 * SECOND;
/// Most entries named in one call.
const MAX_NAMES: usize = 1_000;
const MAX_GROUPS: RangeInclusive<i32> = 1..=100;
const DEFAULT_GROUPS: i32 = 20;

/// A list of entries, before its page token is read.
#[derive(Debug)]
pub struct List {
    /// Of this project.
    pub project: ProjectId,
    /// Most entries.
    pub limit: i64,
    /// Where it goes on.
    pub page_token: String,
    /// The filter as written.
    pub filter_text: String,
    /// The filter.
    pub filter: Filter,
}

/// Many entries to be retried.
#[derive(Debug)]
pub struct BulkRetryStart {
    /// In this project.
    pub project: ProjectId,
    /// Which.
    pub which: Which,
    /// Why.
    pub reason: String,
    /// Do it, rather than count.
    pub force: bool,
    /// How.
    pub retry: BulkRetry,
}

/// One entry.
pub fn get(request: pb::GetDeadLetterRequest) -> Result<(ProjectId, TaskId)> {
    let pb::GetDeadLetterRequest { name } = request;
    let mut fields = Fields::new();
    let named = name::dead_letter(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(named)
}

/// A page of entries.
pub fn list(request: pb::ListDeadLettersRequest) -> Result<List> {
    let pb::ListDeadLettersRequest { parent, page_size, page_token, filter: filter_text } = request;
    let mut fields = Fields::new();
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish(())?;
    let filter = filter(&filter_text)?;
    Ok(List { project, limit, page_token, filter_text, filter })
}

/// What fails, and how often: project, filter, most groups.
pub fn analyze(request: pb::AnalyzeDeadLettersRequest) -> Result<(ProjectId, Filter, i32)> {
    let pb::AnalyzeDeadLettersRequest { parent, filter: filter_text, max_groups } = request;
    let mut fields = Fields::new();
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let at = Path::Request.field("max_groups");
    let groups = scalar::number_or(&mut fields, &at, max_groups, MAX_GROUPS, DEFAULT_GROUPS);
    fields.finish(())?;
    Ok((project, filter(&filter_text)?, groups))
}

/// One entry to be retried.
pub fn retry(request: pb::RetryDeadLetterRequest) -> Result<(ProjectId, TaskId, ReplayWish)> {
    let pb::RetryDeadLetterRequest { name, input, etag } = request;
    let mut fields = Fields::new();
    let (project, task) = name::dead_letter(&mut fields, &Path::Request.field("name"), &name);
    let input = payload::from_wire(&mut fields, &Path::Request.field("input"), input);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((project, task, ReplayWish { etag, input, bulk_job: None }))
}

/// Many entries to be retried.
pub fn bulk_retry(request: pb::BulkRetryDeadLettersRequest) -> Result<BulkRetryStart> {
    let pb::BulkRetryDeadLettersRequest {
        parent,
        filter: filter_text,
        names,
        reason,
        force,
        rate,
        max_failure_percent,
        failure_window,
    } = request;
    let mut fields = Fields::new();
    let field = |name| Path::Request.field(name);
    let project = name::parent(&mut fields, &field("parent"), &parent);
    let reason = scalar::bytes_bounded(&mut fields, &field("reason"), reason, scalar::SHORT_TEXT);
    let rate = scalar::number_or(&mut fields, &field("rate"), rate, RATE, DEFAULT_RATE);
    let at = field("max_failure_percent");
    let max_failure_percent = scalar::number_or(&mut fields, &at, max_failure_percent, FAILURE_PERCENT, 0);
    let window = failure_window.map_or(DEFAULT_FAILURE_WINDOW, |window| {
        scalar::span(&mut fields, &field("failure_window"), &window, &FAILURE_WINDOW)
    });
    let is_filtered = !filter_text.trim().is_empty();
    if is_filtered != names.is_empty() {
        fields.refuse(&field("filter"), "give either a filter (* means every OPEN entry) or names");
    }
    let ids = ids(&mut fields, &names, &project);
    fields.finish(())?;
    let which = if is_filtered {
        let filter = filter(&filter_text)?;
        Which::Matching(filter_text, filter)
    } else {
        Which::Named(ids)
    };
    let stop = StopRule { max_failure_percent, window };
    let retry = BulkRetry { rate, stop, named: None, ended_count: 0, failed_again_count: 0 };
    Ok(BulkRetryStart { project, which, reason, force, retry })
}

/// The tasks of the entries, each once.
fn ids(fields: &mut Fields, names: &[String], project: &ProjectId) -> Vec<TaskId> {
    let at = Path::Request.field("names");
    if !scalar::length(fields, &at, names.len(), 0..=MAX_NAMES) {
        return Vec::new();
    }
    let id = |(index, name): (usize, &String)| name::dead_letter_of(fields, &at.index(index), name, project);
    let mut ids: Vec<TaskId> = names.iter().enumerate().map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// One entry to be put aside: project, task, reason, etag.
pub fn mark_processed(
    request: pb::MarkDeadLetterProcessedRequest,
) -> Result<(ProjectId, TaskId, String, Option<String>)> {
    let pb::MarkDeadLetterProcessedRequest { name, reason, etag } = request;
    let mut fields = Fields::new();
    let (project, task) = name::dead_letter(&mut fields, &Path::Request.field("name"), &name);
    let at = Path::Request.field("reason");
    if reason.trim().is_empty() {
        fields.refuse(&at, "is required: say what was done instead");
    }
    let reason = scalar::bytes_bounded(&mut fields, &at, reason, scalar::SHORT_TEXT);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((project, task, reason, etag))
}

/// One entry to be OPEN again.
pub fn reopen(request: pb::ReopenDeadLetterRequest) -> Result<(ProjectId, TaskId, Option<String>)> {
    let pb::ReopenDeadLetterRequest { name, etag } = request;
    let mut fields = Fields::new();
    let (project, task) = name::dead_letter(&mut fields, &Path::Request.field("name"), &name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((project, task, etag))
}

fn filter(text: &str) -> Result<Filter> {
    Filter::parse_dead_letters(text).map_err(|cause| Error::Filter { column: cause.column, message: cause.message })
}

/// An entry for the wire.
pub fn dead_letter(letter: DeadLetter) -> pb::DeadLetter {
    with_replays((letter, Vec::new()))
}

/// An entry with its replays, for the wire.
pub fn with_replays((letter, replays): WithReplays) -> pb::DeadLetter {
    let etag = letter.etag();
    let DeadLetter {
        project,
        task,
        queue,
        task_type,
        state,
        reason,
        error: last_error,
        fingerprint,
        attempt_count,
        crash_count,
        fail_time,
        first_fail_time,
        replay_count,
        processed,
    } = letter;
    let Processed { by, reason: process_reason, .. } =
        processed.clone().unwrap_or(Processed { time: 0, by: String::new(), reason: String::new() });
    pb::DeadLetter {
        name: dead_letter_name(&project, task),
        task: task_name(&project, task),
        queue,
        r#type: task_type,
        // The numbers of the domain are those of the wire.
        state: state as i32,
        reason: reason as i32,
        error: Some(error(last_error)),
        fingerprint,
        attempt_count,
        crash_count,
        create_time: Some(timestamp(fail_time)),
        first_create_time: Some(timestamp(first_fail_time)),
        replay_count,
        replay_limit: MAX_REPLAYS,
        replays: replays.into_iter().map(|one| replay(&project, one)).collect(),
        process_time: processed.map(|processed| timestamp(processed.time)),
        processed_by: by,
        process_reason,
        etag,
    }
}

fn replay(project: &ProjectId, replay: Replay) -> pb::Replay {
    let Replay { number, time, owner, bulk_job, epoch, input_changed, reason, error: last_error, fail_time } = replay;
    pb::Replay {
        number,
        create_time: Some(timestamp(time)),
        owner,
        bulk_job: bulk_job.map(|job| bulk_job_name(project, job)).unwrap_or_default(),
        epoch,
        input_changed,
        reason: reason as i32,
        error: Some(error(last_error)),
        fail_time: Some(timestamp(fail_time)),
    }
}

fn error(error: TaskError) -> pb::TaskError {
    pb::TaskError { r#type: error.error_type, message: error.message, details: error.details }
}

/// What was started, or would be.
pub fn preview(project: &ProjectId, preview: BulkPreview) -> pb::BulkRetryDeadLettersResponse {
    let BulkPreview { job, matched_count, sample } = preview;
    let sample = sample.into_iter().map(|task| dead_letter_name(project, task)).collect();
    pb::BulkRetryDeadLettersResponse { bulk_job: job.map(bulk_job), matched_count, sample }
}

/// The groups for the wire.
pub fn analysis(analysis: Analysis) -> pb::AnalyzeDeadLettersResponse {
    let Analysis { groups, scanned_count, truncated } = analysis;
    let grouped: i64 = groups.iter().map(|group| group.count).sum();
    let group = |group: Group| pb::DeadLetterGroup {
        fingerprint: group.sample.fingerprint.clone(),
        count: group.count,
        first_create_time: Some(timestamp(group.first_fail_time)),
        last_create_time: Some(timestamp(group.sample.fail_time)),
        sample: Some(dead_letter(group.sample)),
    };
    pb::AnalyzeDeadLettersResponse {
        groups: groups.into_iter().map(group).collect(),
        scanned_count,
        other_count: scanned_count - grouped,
        truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths<T: std::fmt::Debug>(outcome: Result<T>) -> Vec<String> {
        match outcome.unwrap_err() {
            Error::Invalid(violations) => violations.into_iter().map(|violation| violation.path).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bulk_retry_says_all_that_is_wrong_with_it() {
        let bad = pb::BulkRetryDeadLettersRequest {
            parent: "x".into(),
            filter: "*".into(),
            names: vec!["projects/default/tasks/1".into(), "projects/p/deadLetters/y".into()],
            reason: "r".repeat(1_025),
            rate: 1_001,
            max_failure_percent: 100,
            failure_window: Some(scalar::duration(0)),
            force: true,
        };
        let fields =
            ["parent", "reason", "rate", "max_failure_percent", "failure_window", "filter", "names[0]", "names[1]"];
        assert_eq!(paths(bulk_retry(bad)), fields);
        assert_eq!(paths(bulk_retry(pb::BulkRetryDeadLettersRequest::default())), ["filter"]);
        let many = vec![String::new(); MAX_NAMES + 1];
        assert_eq!(paths(bulk_retry(pb::BulkRetryDeadLettersRequest { names: many, ..Default::default() })), ["names"]);
    }

    #[test]
    fn what_is_left_out_has_a_careful_default() {
        let name = |digit: u128| dead_letter_name(&ProjectId::new("default"), TaskId(uuid::Uuid::from_u128(digit)));
        let names = vec![name(2), name(1), name(2)];
        let start = bulk_retry(pb::BulkRetryDeadLettersRequest { names, ..Default::default() }).unwrap();
        let Which::Named(ids) = start.which else { panic!("named") };
        assert_eq!(ids.iter().map(|id| id.0.as_u128()).collect::<Vec<_>>(), [1, 2]);
        assert!(!start.force);
        let stop = StopRule { max_failure_percent: 0, window: 60 * SECOND };
        assert_eq!((start.retry.rate, start.retry.stop), (10, stop));
        let reason = mark_processed(pb::MarkDeadLetterProcessedRequest { name: name(1), ..Default::default() });
        assert_eq!(paths(reason), ["reason"]);
        let wrong = pb::ListDeadLettersRequest { filter: "labels.a = b".into(), ..Default::default() };
        assert!(matches!(list(wrong), Err(Error::Filter { column: 1, .. })));
    }
}
