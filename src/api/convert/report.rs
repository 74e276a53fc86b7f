//! What workers report: heartbeats and outcomes. Each item is judged alone: a wrong one is answered with its own status and
//! spoils no other, whether it is the message that is wrong or the lease that is lost.

use super::{
    fields::{Fields, Path},
    name, payload,
    scalar::{self, chars_bounded, duration},
    task::MAX_BATCH,
};
use crate::{
    api::status,
    app::worker::{Extended, HeartbeatAnswer, Report},
    domain::{
        task::{DAY, Micros, Progress, TaskError},
        task_state::TaskState,
        transition::Failure,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    pb,
};

/// The longest a worker may put a task off.
const MAX_DELAY: Micros = 30 * DAY;

/// The largest error of an attempt, in bytes of its three texts.
const MAX_ERROR: usize = 16 * 1024;

/// Most characters of the type of an error.
const MAX_ERROR_TYPE: usize = 256;

/// Items in request order: their tokens, and those that are fit to be carried out with their place.
#[derive(Debug)]
pub struct Batch<T> {
    answers: Vec<(Option<pb::LeaseToken>, Option<Error>)>,
    places: Vec<usize>,
    /// What is to be carried out.
    pub items: Vec<(TaskId, i64, T)>,
}

/// What a heartbeat carries for one lease.
pub type Beat = Option<Progress>;

impl<T> Batch<T> {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            answers: Vec::with_capacity(capacity),
            places: Vec::with_capacity(capacity),
            items: Vec::with_capacity(capacity),
        }
    }

    /// Takes the items of one list of the request; `convert` gives the token and what is to be done.
    fn take<M>(
        &mut self,
        project: &ProjectId,
        list: &Path<'_>,
        messages: Vec<M>,
        convert: impl Fn(&mut Fields, &Path<'_>, M) -> (Option<pb::LeaseToken>, T),
    ) {
        for (index, message) in messages.into_iter().enumerate() {
            let mut fields = Fields::new();
            let at = list.index(index);
            let (token, item) = convert(&mut fields, &at, message);
            let lease = self::token(&mut fields, &at.field("token"), token.as_ref(), project);
            match fields.finish((lease.0, lease.1, item)) {
                Ok(item) => {
                    self.places.push(self.answers.len());
                    self.items.push(item);
                    self.answers.push((token, None));
                }
                Err(error) => self.answers.push((token, Some(error))),
            }
        }
    }

    /// Whether there is nothing to carry out.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Splits into what is to be carried out and what waits for its results.
    pub fn split(self) -> (Vec<(TaskId, i64, T)>, Answers) {
        (self.items, Answers { answers: self.answers, places: self.places })
    }
}

/// The answers that wait for their results.
#[derive(Debug)]
pub struct Answers {
    answers: Vec<(Option<pb::LeaseToken>, Option<Error>)>,
    places: Vec<usize>,
}

impl Answers {
    /// One answer for each item of the request: the results in the order of what was carried out, and the refusals.
    fn with<R>(self, results: Vec<Result<R>>) -> impl Iterator<Item = (Option<pb::LeaseToken>, Result<R>)> {
        let mut results = self.places.into_iter().zip(results).peekable();
        self.answers.into_iter().enumerate().map(move |(place, (token, refused))| {
            let result = match refused {
                Some(error) => Err(error),
                None => results
                    .next_if(|(carried_out, _)| *carried_out == place)
                    .map_or_else(|| Err(Error::internal(anyhow::anyhow!("a report without a result"))), |(_, r)| r),
            };
            (token, result)
        })
    }
}

fn token(fields: &mut Fields, at: &Path<'_>, token: Option<&pb::LeaseToken>, project: &ProjectId) -> (TaskId, i64) {
    match token {
        None => {
            fields.refuse(at, "is required");
            (TaskId(uuid::Uuid::nil()), 0)
        }
        Some(pb::LeaseToken { task, epoch }) => {
            if *epoch < 1 {
                fields.refuse(&at.field("epoch"), "must be at least 1");
            }
            (name::task_of(fields, &at.field("task"), task, project), *epoch)
        }
    }
}

/// Leases to extend.
pub fn heartbeats(project: &ProjectId, list: &Path<'_>, leases: Vec<pb::LeaseHeartbeat>) -> Result<Batch<Beat>> {
    let mut fields = Fields::new();
    scalar::length(&mut fields, list, leases.len(), 0..=MAX_BATCH);
    fields.finish(())?;
    let mut batch = Batch::with_capacity(leases.len());
    batch.take(project, list, leases, |fields, at, lease| {
        let pb::LeaseHeartbeat { token, progress } = lease;
        (token, progress.map(|p| self::progress(fields, &at.field("progress"), p)))
    });
    Ok(batch)
}

fn progress(fields: &mut Fields, at: &Path<'_>, progress: pb::Progress) -> Progress {
    let pb::Progress { percent, message } = progress;
    // NaN is in no range.
    if !(0.0..=100.0).contains(&percent) {
        fields.refuse(&at.field("percent"), "must be 0 to 100");
    }
    let message = scalar::bytes_bounded(fields, &at.field("message"), message, scalar::SHORT_TEXT);
    Progress { percent, message }
}

/// A heartbeat call.
#[derive(Debug)]
pub struct Heartbeat {
    /// In this project.
    pub project: ProjectId,
    /// The worker and its incarnation, if it says so.
    pub who: Option<(String, String)>,
    /// The leases.
    pub batch: Batch<Beat>,
}

/// A worker with its leases.
pub fn heartbeat(request: pb::HeartbeatRequest) -> Result<Heartbeat> {
    let mut fields = Fields::new();
    let pb::HeartbeatRequest { parent, worker, incarnation, leases } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let incarnation = if incarnation.is_empty() {
        worker.clone()
    } else {
        scalar::identifier(&mut fields, &Path::Request.field("incarnation"), incarnation)
    };
    let who = (!worker.is_empty())
        .then(|| (scalar::identifier(&mut fields, &Path::Request.field("worker"), worker), incarnation));
    let who = fields.finish(who)?;
    let batch = heartbeats(&project, &Path::Request.field("leases"), leases)?;
    Ok(Heartbeat { project, who, batch })
}

/// Answers each lease.
pub fn heartbeat_response(answers: Answers, answer: HeartbeatAnswer, request_id: &str) -> pb::HeartbeatResponse {
    let HeartbeatAnswer { results, drain } = answer;
    let results = answers.with(results).map(|(token, result)| match result {
        Ok(Extended { duration: lasts, cancel }) => pb::LeaseHeartbeatResult {
            token,
            status: Some(tonic_types::Status::default()),
            lease_duration: Some(duration(lasts)),
            cancel_requested: cancel.is_some(),
            cancel_reason: cancel.unwrap_or_default(),
        },
        Err(error) => pb::LeaseHeartbeatResult {
            token,
            status: Some(status::to_rpc_status(&error, request_id)),
            ..Default::default()
        },
    });
    pb::HeartbeatResponse { results: results.collect(), drain }
}

/// Successes.
pub fn complete(request: pb::CompleteTasksRequest) -> Result<(ProjectId, Batch<Report>)> {
    let pb::CompleteTasksRequest { parent, completions } = request;
    let project = batch_of(&parent, "completions", completions.len())?;
    let mut batch = Batch::with_capacity(completions.len());
    batch.take(&project, &Path::Request.field("completions"), completions, completion);
    Ok((project, batch))
}

/// Failures.
pub fn fail(request: pb::FailTasksRequest) -> Result<(ProjectId, Batch<Report>)> {
    let pb::FailTasksRequest { parent, failures } = request;
    let project = batch_of(&parent, "failures", failures.len())?;
    let mut batch = Batch::with_capacity(failures.len());
    batch.take(&project, &Path::Request.field("failures"), failures, failure);
    Ok((project, batch))
}

/// Leases given back.
pub fn release(request: pb::ReleaseTasksRequest) -> Result<(ProjectId, Batch<Report>)> {
    let pb::ReleaseTasksRequest { parent, releases } = request;
    let project = batch_of(&parent, "releases", releases.len())?;
    let mut batch = Batch::with_capacity(releases.len());
    batch.take(&project, &Path::Request.field("releases"), releases, given_back);
    Ok((project, batch))
}

/// Everything one report of a session holds: completions, then failures, then releases.
pub fn session(project: &ProjectId, report: pb::SessionReport) -> Result<(i64, Batch<Report>)> {
    let pb::SessionReport { sequence, completions, failures, releases } = report;
    let at = Path::Request.field("report");
    let total = completions.len() + failures.len() + releases.len();
    let mut fields = Fields::new();
    scalar::length(&mut fields, &at, total, 0..=MAX_BATCH);
    fields.finish(())?;
    let mut batch = Batch::with_capacity(total);
    batch.take(project, &at.field("completions"), completions, completion);
    batch.take(project, &at.field("failures"), failures, failure);
    batch.take(project, &at.field("releases"), releases, given_back);
    Ok((sequence, batch))
}

/// Tokens a worker confirms.
pub fn accepted(project: &ProjectId, accepted: pb::SessionAccepted) -> Result<Vec<(TaskId, i64)>> {
    let pb::SessionAccepted { tokens } = accepted;
    let mut fields = Fields::new();
    let at = Path::Request.field("accepted");
    let list = at.field("tokens");
    let mut taken = Vec::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        taken.push(self::token(&mut fields, &list.index(index), Some(token), project));
    }
    fields.finish(taken)
}

fn batch_of(parent: &str, list: &'static str, length: usize) -> Result<ProjectId> {
    let mut fields = Fields::new();
    let project = name::parent(&mut fields, &Path::Request.field("parent"), parent);
    scalar::length(&mut fields, &Path::Request.field(list), length, 1..=MAX_BATCH);
    fields.finish(project)
}

fn completion(fields: &mut Fields, at: &Path<'_>, completion: pb::TaskCompletion) -> (Option<pb::LeaseToken>, Report) {
    let pb::TaskCompletion { token, result } = completion;
    (token, Report::Complete { result: payload::from_wire(fields, &at.field("result"), result) })
}

fn failure(fields: &mut Fields, at: &Path<'_>, failure: pb::TaskFailure) -> (Option<pb::LeaseToken>, Report) {
    let pb::TaskFailure { token, error, r#final, retry_after } = failure;
    let retry_after = retry_after.map(|span| delay(fields, &at.field("retry_after"), &span));
    let error = self::error(fields, &at.field("error"), error);
    (token, Report::Fail(Failure { error, is_final: r#final, retry_after }))
}

fn given_back(fields: &mut Fields, at: &Path<'_>, release: pb::TaskRelease) -> (Option<pb::LeaseToken>, Report) {
    let pb::TaskRelease { token, delay } = release;
    (token, Report::Release { delay: delay.map(|span| self::delay(fields, &at.field("delay"), &span)) })
}

fn delay(fields: &mut Fields, at: &Path<'_>, span: &prost_types::Duration) -> Micros {
    scalar::span(fields, at, span, &(0..=MAX_DELAY))
}

/// Why an attempt failed.
pub(super) fn error(fields: &mut Fields, at: &Path<'_>, error: Option<pb::TaskError>) -> TaskError {
    let Some(error) = error else {
        fields.refuse(at, "is required");
        return TaskError::own("", "");
    };
    let pb::TaskError { r#type, message, details } = error;
    if r#type.is_empty() {
        fields.refuse(&at.field("type"), "is required");
    }
    if r#type.len() + message.len() + details.len() > MAX_ERROR {
        fields.refuse(at, format!("is longer than {MAX_ERROR} bytes in all"));
    }
    TaskError {
        error_type: chars_bounded(fields, &at.field("type"), r#type, MAX_ERROR_TYPE),
        message: scalar::without_nul(fields, &at.field("message"), message),
        details: scalar::without_nul(fields, &at.field("details"), details),
    }
}

/// Answers each report.
pub fn results(answers: Answers, results: Vec<Result<TaskState>>, request_id: &str) -> Vec<pb::ReportResult> {
    let answer = |(token, result): (_, Result<TaskState>)| match result {
        Ok(state) => {
            pb::ReportResult { token, status: Some(tonic_types::Status::default()), state: i32::from(state.number()) }
        }
        Err(error) => pb::ReportResult { token, status: Some(status::to_rpc_status(&error, request_id)), state: 0 },
    };
    answers.with(results).map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::task_name;

    fn token(epoch: i64) -> Option<pb::LeaseToken> {
        let name = task_name(&ProjectId::new("default"), TaskId::generate());
        Some(pb::LeaseToken { task: name, epoch })
    }

    #[test]
    fn a_wrong_item_spoils_no_other() {
        let error = |kind: &str| Some(pb::TaskError { r#type: kind.into(), ..Default::default() });
        let failure = |token, error| pb::TaskFailure { token, error, ..Default::default() };
        let request = pb::FailTasksRequest {
            parent: String::new(),
            failures: vec![
                failure(token(1), error("A")),
                failure(token(0), error("A")),
                failure(None, None),
                failure(token(2), error("B")),
                failure(token(3), error(&"x".repeat(257))),
            ],
        };
        let (_, batch) = fail(request).unwrap();
        assert_eq!(batch.items.len(), 2);
        let (items, answers) = batch.split();
        assert_eq!(items.iter().map(|i| i.1).collect::<Vec<_>>(), [1, 2]);
        let lost = Error::LeaseLost { task: "t".into(), epoch: 2 };
        let results = results(answers, vec![Ok(TaskState::Retrying), Err(lost)], "r-1");
        let codes: Vec<_> = results.iter().map(|r| r.status.as_ref().unwrap().code).collect();
        assert_eq!(codes, [0, 3, 3, 10, 3]);
        assert_eq!(results[0].state(), pb::task::State::Retrying);
        assert!(results[2].status.as_ref().unwrap().message.contains("failures[2].token: is required"));
        assert_eq!(results[3].token.as_ref().unwrap().epoch, 2);
    }

    #[test]
    fn a_missing_result_is_a_fault_of_ours_and_no_panic() {
        let request = pb::CompleteTasksRequest {
            completions: vec![pb::TaskCompletion { token: token(1), result: None }],
            ..Default::default()
        };
        let (_, answers) = complete(request).unwrap().1.split();
        assert_eq!(results(answers, Vec::new(), "r")[0].status.as_ref().unwrap().code, 13);
    }

    #[test]
    fn batches_and_progress_are_bounded() {
        assert!(complete(pb::CompleteTasksRequest::default()).is_err());
        let one = |percent, message: &str| {
            let progress = Some(pb::Progress { percent, message: message.into() });
            let leases = vec![pb::LeaseHeartbeat { token: token(1), progress }];
            heartbeat(pb::HeartbeatRequest { leases, ..Default::default() }).unwrap().batch
        };
        assert_eq!(one(100.0, "ok").items.len(), 1);
        for (percent, message) in [(f64::NAN, ""), (-0.1, ""), (100.1, ""), (1.0, "\0"), (1.0, &"x".repeat(1025))] {
            assert!(one(percent, message).is_empty(), "{percent} {message}");
        }
        let many = vec![pb::LeaseHeartbeat::default(); MAX_BATCH + 1];
        assert!(heartbeat(pb::HeartbeatRequest { leases: many, ..Default::default() }).is_err());
    }
}
