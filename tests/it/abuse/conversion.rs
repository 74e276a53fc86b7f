//! Decoding and conversion in process: every method's request type meets random and damaged messages. Nothing panics,
//! every refusal is the caller's mistake, and every refusal fits into the trailers that clients accept.
//!
//! [`convert`] is the one list of methods; `every_method_is_fed` compares it with the descriptors, so a new method fails
//! until it stands here. `wire.rs` does the same against a real server, with no list at all.

use std::time::Instant;

use prost::Message;
use tasktower::{
    api::{
        convert::{
            api_key, audit, bulk_job, dead_letter, fields::Path, member, project, queue, report, retention, retry,
            schedule, task, task_change, watch, worker,
        },
        page_token::PageTokens,
        status::to_status,
    },
    error::{Error, Result},
    ids::ProjectId,
    pb,
};
use tonic::Code;

use super::{Fuzz, MethodCall, methods};
use crate::support::messages::{Learnt, Messages, case_seed};

/// What many clients and proxies accept as trailers, in bytes.
const TRAILERS: usize = 8 * 1024;

/// Cases of a method in `make test`.
const SHORT: u64 = 2_000;

/// What became of a message.
enum Fate {
    Unreadable,
    Refused(Error),
    Accepted,
}

/// Decodes the message and converts it as its handler does. None when the method is not known here.
fn convert(method: &str, bytes: &[u8]) -> Option<Fate> {
    fn fed<M: Message + Default, T>(bytes: &[u8], convert: impl FnOnce(M) -> Result<T>) -> Fate {
        match M::decode(bytes).map(convert) {
            Err(_) => Fate::Unreadable,
            Ok(Err(error)) => Fate::Refused(error),
            Ok(Ok(_)) => Fate::Accepted,
        }
    }
    let principal = "system:dev";
    Some(match method {
        "tasktower.v1.TaskService/SubmitTask" => fed(bytes, |m| task::submit(m, None, principal)),
        "tasktower.v1.TaskService/BatchSubmitTasks" => fed(bytes, |m| task::batch_submit(m, None, principal)),
        "tasktower.v1.TaskService/GetTask" => fed(bytes, task::get),
        "tasktower.v1.TaskService/BatchGetTasks" => fed(bytes, task::batch_get),
        "tasktower.v1.TaskService/ListTasks" => fed(bytes, |m| place(&task::list(m)?.page_token)),
        "tasktower.v1.TaskService/ListAttempts" => fed(bytes, |m| place(&task::list_attempts(m)?.3)),
        "tasktower.v1.TaskService/UpdateTask" => fed(bytes, task_change::update),
        "tasktower.v1.TaskService/CancelTask" => fed(bytes, task_change::cancel),
        "tasktower.v1.TaskService/RetryTask" => fed(bytes, task_change::retry),
        "tasktower.v1.TaskService/RunTaskNow" => fed(bytes, task_change::run_now),
        "tasktower.v1.TaskService/DeleteTask" => fed(bytes, task_change::delete),
        "tasktower.v1.TaskService/WaitTask" => fed(bytes, task::wait),
        "tasktower.v1.TaskService/WatchTasks" => fed(bytes, watch::request),
        "tasktower.v1.TaskService/BulkCancelTasks" => fed(bytes, bulk_job::cancel_tasks),
        "tasktower.v1.TaskService/BulkPurgeTasks" => fed(bytes, bulk_job::purge_tasks),
        "tasktower.v1.TaskService/GetBulkJob" => fed(bytes, bulk_job::get),
        "tasktower.v1.TaskService/ListBulkJobs" => fed(bytes, |m| place(&bulk_job::list(m)?.2)),
        "tasktower.v1.TaskService/WatchBulkJob" => fed(bytes, bulk_job::watch),
        "tasktower.v1.TaskService/CancelBulkJob" => fed(bytes, bulk_job::cancel),
        "tasktower.v1.QueueService/GetQueue" => fed(bytes, queue::get),
        "tasktower.v1.QueueService/ListQueues" => fed(bytes, |m| place(&queue::list(m)?.2)),
        "tasktower.v1.QueueService/UpdateQueue" => fed(bytes, queue::update),
        "tasktower.v1.QueueService/PauseQueue" => fed(bytes, queue::pause),
        "tasktower.v1.QueueService/ResumeQueue" => fed(bytes, queue::resume),
        "tasktower.v1.WorkerService/Session" => fed(bytes, said),
        "tasktower.v1.WorkerService/LeaseTasks" => fed(bytes, |m| worker::lease(m, None)),
        "tasktower.v1.WorkerService/Heartbeat" => fed(bytes, |m| items(report::heartbeat(m).map(|beat| beat.batch))),
        "tasktower.v1.WorkerService/CompleteTasks" => {
            fed(bytes, |m| items(report::complete(m).map(|(_, batch)| batch)))
        }
        "tasktower.v1.WorkerService/FailTasks" => fed(bytes, |m| items(report::fail(m).map(|(_, batch)| batch))),
        "tasktower.v1.WorkerService/ReleaseTasks" => fed(bytes, |m| items(report::release(m).map(|(_, batch)| batch))),
        "tasktower.v1.WorkerService/GetWorker" => fed(bytes, worker::get),
        "tasktower.v1.WorkerService/ListWorkers" => fed(bytes, |m| place(&worker::list(m)?.2)),
        "tasktower.v1.WorkerService/DrainWorker" => fed(bytes, worker::drain),
        "tasktower.v1.RetentionService/GetRetention" => fed(bytes, retention::get),
        "tasktower.v1.RetentionService/UpdateRetention" => fed(bytes, retention::update),
        "tasktower.v1.RetentionService/PreviewRetention" => fed(bytes, retention::preview),
        "tasktower.v1.RetentionService/RunRetention" => fed(bytes, retention::run),
        "tasktower.v1.RetentionService/GetRetentionRun" => fed(bytes, retention::get_run),
        "tasktower.v1.RetentionService/ListRetentionRuns" => fed(bytes, |m| place(&retention::list_runs(m)?.2)),
        "tasktower.v1.RetryService/CreateRetryPolicy" => fed(bytes, retry::create),
        "tasktower.v1.RetryService/GetRetryPolicy" => fed(bytes, retry::get),
        "tasktower.v1.RetryService/ListRetryPolicies" => fed(bytes, |m| place(&retry::list(m)?.2)),
        "tasktower.v1.RetryService/UpdateRetryPolicy" => fed(bytes, retry::update),
        "tasktower.v1.RetryService/DeleteRetryPolicy" => fed(bytes, retry::delete),
        "tasktower.v1.RetryService/EvaluateRetry" => fed(bytes, retry::evaluate),
        "tasktower.v1.RetryService/SimulatePolicy" => fed(bytes, retry::simulate),
        "tasktower.v1.RetryService/GetRetryStatistics" => fed(bytes, retry::statistics),
        "tasktower.v1.DeadLetterService/GetDeadLetter" => fed(bytes, dead_letter::get),
        "tasktower.v1.DeadLetterService/ListDeadLetters" => fed(bytes, |m| place(&dead_letter::list(m)?.page_token)),
        "tasktower.v1.DeadLetterService/AnalyzeDeadLetters" => fed(bytes, dead_letter::analyze),
        "tasktower.v1.DeadLetterService/RetryDeadLetter" => fed(bytes, dead_letter::retry),
        "tasktower.v1.DeadLetterService/BulkRetryDeadLetters" => fed(bytes, dead_letter::bulk_retry),
        "tasktower.v1.DeadLetterService/MarkDeadLetterProcessed" => fed(bytes, dead_letter::mark_processed),
        "tasktower.v1.DeadLetterService/ReopenDeadLetter" => fed(bytes, dead_letter::reopen),
        "tasktower.v1.ProjectService/CreateProject" => fed(bytes, project::create),
        "tasktower.v1.ProjectService/GetProject" => fed(bytes, project::get),
        "tasktower.v1.ProjectService/ListProjects" => fed(bytes, |m| place(&project::list(m)?.page_token)),
        "tasktower.v1.ProjectService/UpdateProject" => fed(bytes, project::update),
        "tasktower.v1.ProjectService/DeleteProject" => fed(bytes, project::delete),
        "tasktower.v1.ProjectService/UndeleteProject" => fed(bytes, project::undelete),
        "tasktower.v1.ProjectService/ListMembers" => fed(bytes, |m| place(&member::list(m)?.2)),
        "tasktower.v1.ProjectService/SetMember" => fed(bytes, member::set),
        "tasktower.v1.ProjectService/RemoveMember" => fed(bytes, member::remove),
        "tasktower.v1.ApiKeyService/CreateApiKey" => fed(bytes, api_key::create),
        "tasktower.v1.ApiKeyService/GetApiKey" => fed(bytes, api_key::get),
        "tasktower.v1.ApiKeyService/ListApiKeys" => fed(bytes, |m| place(&api_key::list(m)?.1)),
        "tasktower.v1.ApiKeyService/UpdateApiKey" => fed(bytes, api_key::update),
        "tasktower.v1.ApiKeyService/RotateApiKey" => fed(bytes, api_key::rotate),
        "tasktower.v1.ApiKeyService/RevokeApiKey" => fed(bytes, api_key::revoke),
        "tasktower.v1.ScheduleService/CreateSchedule" => fed(bytes, schedule::create),
        "tasktower.v1.ScheduleService/GetSchedule" => fed(bytes, schedule::get),
        "tasktower.v1.ScheduleService/ListSchedules" => fed(bytes, |m| place(&schedule::list(m)?.2)),
        "tasktower.v1.ScheduleService/UpdateSchedule" => fed(bytes, schedule::update),
        "tasktower.v1.ScheduleService/DeleteSchedule" => fed(bytes, schedule::delete),
        "tasktower.v1.ScheduleService/PauseSchedule" => fed(bytes, schedule::pause),
        "tasktower.v1.ScheduleService/ResumeSchedule" => fed(bytes, schedule::resume),
        "tasktower.v1.ScheduleService/PreviewSchedule" => fed(bytes, schedule::preview),
        "tasktower.v1.ScheduleService/RunSchedule" => fed(bytes, schedule::run),
        "tasktower.v1.ScheduleService/BackfillSchedule" => fed(bytes, schedule::backfill),
        "tasktower.v1.ScheduleService/ListOccurrences" => fed(bytes, |m| place(&schedule::list_occurrences(m)?.3)),
        "tasktower.v1.AuditService/ListAuditEntries" => fed(bytes, |m| place(&audit::list(m)?.page_token)),
        "tasktower.v1.AuditService/GetAuditEntry" => fed(bytes, audit::get),
        "tasktower.v1.AuditService/WatchAuditEntries" => fed(bytes, audit::watch),
        "tasktower.v1.AuditService/ExportAudit" => fed(bytes, audit::export),
        "tasktower.v1.AuditService/VerifyAudit" => fed(bytes, audit::verify),
        "tasktower.v1.AuditService/GetAuditHead" => fed(bytes, audit::head),
        _ => return None,
    })
}

/// The page token of a list. What a place is made of differs, but nobody gets that far without the key.
fn place(token: &str) -> Result<Option<String>> {
    PageTokens::new(b"the key of this test").of("List", &[]).read(token)
}

/// The items of a batch, which are judged one by one and answered one by one.
fn items<T>(batch: Result<report::Batch<T>>) -> Result<()> {
    let (items, answers) = batch?.split();
    let results = items.iter().map(|_| Ok(tasktower::domain::task_state::TaskState::Succeeded)).collect();
    for result in report::results(answers, results, "r") {
        let code = Code::from_i32(result.status.map_or(0, |status| status.code));
        assert!(matches!(code, Code::Ok | Code::InvalidArgument), "an item is answered {code:?}");
    }
    Ok(())
}

/// What a worker says in a session.
fn said(request: pb::SessionRequest) -> Result<()> {
    use pb::session_request::Message as Said;
    let project = ProjectId::new("default");
    let at = Path::Request.field("heartbeat");
    match request.message {
        Some(Said::Hello(hello)) => worker::hello(hello).map(drop),
        Some(Said::Accepted(accepted)) => report::accepted(&project, accepted).map(drop),
        Some(Said::Heartbeat(beat)) => report::heartbeats(&project, &at.field("leases"), beat.leases).map(drop),
        Some(Said::Report(report)) => items(report::session(&project, report).map(|(_, batch)| batch)),
        Some(Said::Credits(_) | Said::Drain(_)) | None => Ok(()),
    }
}

#[test]
fn every_method_is_fed() {
    let missing: Vec<_> =
        methods().into_iter().filter(|MethodCall { path, .. }| convert(&path[1..], &[]).is_none()).collect();
    assert!(missing.is_empty(), "not in `convert` of tests/it/abuse/conversion.rs: {missing:?}");
}

#[test]
fn hostile_messages_are_refused_and_never_panic() {
    let fuzz = Fuzz::from_environment("conversion", SHORT);
    let started = Instant::now();
    let methods = methods();
    let (mut unreadable, mut refused, mut accepted) = (0_u64, 0_u64, 0_u64);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let share = |part: usize| {
            let mine = methods.iter().skip(part).step_by(threads);
            let mut fates = [0_u64; 3];
            for method in mine {
                for case in 0..fuzz.count {
                    fates[feed(&fuzz, method, case)] += 1;
                }
            }
            fates
        };
        let handles: Vec<_> = (0..threads).map(|part| scope.spawn(move || share(part))).collect();
        for handle in handles {
            let [a, b, c] = handle.join().expect("no panic in any case; the case is printed above");
            (unreadable, refused, accepted) = (unreadable + a, refused + b, accepted + c);
        }
    });
    eprintln!(
        "{} methods × {} messages in {:.1?}: {unreadable} could not be read, {refused} were refused, {accepted} accepted",
        methods.len(),
        fuzz.count,
        started.elapsed()
    );
    // Else the generator has become too wild or too tame to show anything.
    let total = unreadable + refused + accepted;
    for (what, count) in [("unreadable", unreadable), ("refused", refused), ("accepted", accepted)] {
        assert!(count * 20 > total, "only {count} of {total} messages were {what}");
    }
}

/// Feeds one case; answers which fate it had.
fn feed(fuzz: &Fuzz, method: &MethodCall, case: u64) -> usize {
    let learnt = Learnt::default();
    let bytes = Messages::new(case_seed(fuzz.seed, &method.path, case), &learnt).message(&method.input);
    let shown = fuzz.show(method, case, &bytes);
    let fate = convert(&method.path[1..], &bytes).expect("`every_method_is_fed` checks that");
    let fate = match fate {
        Fate::Unreadable => 0,
        Fate::Accepted => 2,
        Fate::Refused(error) => {
            let status = to_status(&error, "request-1");
            assert!(!matches!(status.code(), Code::Internal | Code::Unknown | Code::Ok), "{error:?}");
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).expect("it can be sent");
            let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(bytes <= TRAILERS, "a refusal of {bytes} bytes: {error:?}");
            1
        }
    };
    drop(shown);
    fate
}
