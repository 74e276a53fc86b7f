//! `tasktower dev --demo`: something to see.
//!
//! Two workers serve three queues; once a second a task is submitted. About 8 % of the mails fail for good and become
//! dead letters, invoices fail at first and recover on retry, reports take their time and tell their progress. Every
//! change is printed. All of it goes through the public API, like any client; a call that fails is told about and made
//! again, so the demo survives a restart of its server.

use std::{process::ExitCode, sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Context,
    connect::{Api, Credentials},
    output::{ColorChoice, Output, Painter},
    task::{
        json_to_wire,
        watch::{Cursor, EventPrinter, follow},
    },
    time::to_duration,
};
use crate::pb::{
    CompleteTasksRequest, FailTasksRequest, HeartbeatRequest, LeaseHeartbeat, LeaseTasksRequest, LeaseToken,
    LeasedTask, Payload, Progress, RetrySettings, SubmitTaskRequest, Task, TaskCompletion, TaskError, TaskFailure,
    WatchTasksRequest, WorkerIdentity, payload::Kind,
};

const SUBMIT_INTERVAL: Duration = Duration::from_secs(1);
/// After a call failed.
const PAUSE: Duration = Duration::from_secs(1);
const CALL_DEADLINE: Duration = Duration::from_secs(5);
const LEASE_WAIT: Duration = Duration::from_secs(2);
const SLOTS: i32 = 4;
/// Of a hundred mails so many fail for good.
const FAILURES_PER_HUNDRED: u32 = 8;
/// An invoice fails in its first attempts and succeeds in this one.
const INVOICE_SUCCEEDS_IN: i32 = 3;
/// A report takes so many steps, each a little longer than the second in which progress is recorded once.
const REPORT_STEPS: u32 = 4;
const REPORT_STEP: Duration = Duration::from_millis(1_100);

const MAIL: &str = "email.send";
const INVOICE: &str = "invoice.sync";
const REPORT: &str = "report.build";

/// Runs the demo load against a server and prints what happens, until `stop` is cancelled.
pub async fn run(endpoint: &str, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let context = Arc::new(Context {
        api: Api::new(endpoint, Credentials::default(), CALL_DEADLINE, None)?,
        project: "projects/default".to_owned(),
        output: Output::new(None, ColorChoice::Auto),
        talk: Painter::for_stream(ColorChoice::Auto, std::io::IsTerminal::is_terminal(&std::io::stderr())),
    });
    let printer = EventPrinter::new(&context);
    let mut cursor =
        Cursor::new(WatchTasksRequest { parent: context.project.clone(), initial_state: true, ..Default::default() });
    let mut print = |message: &_| printer.print(message);
    tokio::select! {
        () = stop.cancelled() => Ok(ExitCode::SUCCESS),
        () = submit_for_ever(&context) => Ok(ExitCode::SUCCESS),
        () = work_for_ever(&context, "demo-worker-1") => Ok(ExitCode::SUCCESS),
        () = work_for_ever(&context, "demo-worker-2") => Ok(ExitCode::SUCCESS),
        watched = follow(&context, &mut cursor, &mut print) => watched.map(|()| ExitCode::SUCCESS),
    }
}

async fn submit_for_ever(context: &Context) {
    let mut tick = tokio::time::interval(SUBMIT_INTERVAL);
    for number in 1_u32.. {
        tick.tick().await;
        let request = SubmitTaskRequest {
            parent: context.project.clone(),
            task: Some(next_task(number)),
            request_id: Uuid::now_v7().to_string(),
            ..Default::default()
        };
        if let Err(status) = context.api.tasks().submit_task(context.api.call(request)).await {
            eprintln!("demo: cannot submit: {}", status.message());
        }
    }
}

/// Mails mostly; every fourth an invoice, every sixth a report.
fn next_task(number: u32) -> Task {
    let (kind, queue, input) = match number {
        n if n % 6 == 0 => (REPORT, "reports", json!({ "report": "daily", "number": n })),
        n if n % 4 == 0 => (INVOICE, "billing", json!({ "invoice": n })),
        n => (MAIL, "email", json!({ "to": format!("user{n}@example.org"), "subject": "Hello" })),
    };
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    Task {
        r#type: kind.to_owned(),
        queue: queue.to_owned(),
        // Literals above are small, so they always fit the wire.
        input: json_to_wire(&input).ok().map(|value| Payload { kind: Some(Kind::Json(value)) }),
        retry: Some(RetrySettings {
            max_attempts: 5,
            initial_backoff: Some(second),
            max_backoff: Some(second),
            ..Default::default()
        }),
        labels: [("source".to_owned(), "demo".to_owned())].into(),
        ..Default::default()
    }
}

async fn work_for_ever(context: &Arc<Context>, worker: &str) {
    let identity = WorkerIdentity {
        worker: worker.to_owned(),
        incarnation: Uuid::now_v7().to_string(),
        types: vec![MAIL.to_owned(), INVOICE.to_owned(), REPORT.to_owned()],
        queues: vec!["email".to_owned(), "billing".to_owned(), "reports".to_owned()],
        slots: SLOTS,
        labels: [("source".to_owned(), "demo".to_owned())].into(),
    };
    loop {
        let request = LeaseTasksRequest {
            parent: context.project.clone(),
            identity: Some(identity.clone()),
            max_tasks: SLOTS,
            wait: Some(to_duration(LEASE_WAIT)),
            request_id: Uuid::now_v7().to_string(),
        };
        match context.api.workers().lease_tasks(context.api.call_waiting(request, LEASE_WAIT)).await {
            Ok(answer) => {
                let handlers: Vec<_> =
                    answer.into_inner().tasks.into_iter().map(|task| handle(context, task)).collect();
                futures_util::future::join_all(handlers).await;
            }
            Err(status) => {
                eprintln!("demo: {worker} cannot lease: {}", status.message());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Handles a task and reports. A report that fails is not repeated: the lease runs out and the task is run again, which
/// is worth seeing too.
async fn handle(context: &Context, leased: LeasedTask) {
    let (Some(task), Some(token)) = (leased.task, leased.token) else { return };
    let outcome = match task.r#type.as_str() {
        REPORT => {
            build_report(context, &token).await;
            Ok(json!({ "pages": REPORT_STEPS }))
        }
        INVOICE => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            // The count is of attempts that ended.
            if task.attempt_count + 1 < INVOICE_SUCCEEDS_IN {
                Err(("LedgerBusy", "the ledger is locked by another booking", false))
            } else {
                Ok(json!({ "booked": true }))
            }
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..900))).await;
            if rand::random_range(0..100) < FAILURES_PER_HUNDRED {
                Err(("MailboxUnknown", "550 no such user here", true))
            } else {
                Ok(json!({ "accepted": true }))
            }
        }
    };
    let reported = report(context, token, outcome).await;
    if let Err(status) = reported {
        eprintln!("demo: cannot report: {}", status.message());
    }
}

async fn build_report(context: &Context, token: &LeaseToken) {
    for step in 1..=REPORT_STEPS {
        tokio::time::sleep(REPORT_STEP).await;
        let progress = Progress {
            percent: f64::from(step) * 100.0 / f64::from(REPORT_STEPS),
            message: format!("page {step} of {REPORT_STEPS}"),
        };
        let request = HeartbeatRequest {
            parent: context.project.clone(),
            leases: vec![LeaseHeartbeat { token: Some(token.clone()), progress: Some(progress) }],
            ..Default::default()
        };
        // Progress that does not get through is not worth more than this.
        let _ = context.api.workers().heartbeat(context.api.call(request)).await;
    }
}

async fn report(
    context: &Context,
    token: LeaseToken,
    outcome: Result<serde_json::Value, (&str, &str, bool)>,
) -> Result<(), tonic::Status> {
    let (parent, token) = (context.project.clone(), Some(token));
    match outcome {
        Ok(result) => {
            let result = json_to_wire(&result).ok().map(|value| Payload { kind: Some(Kind::Json(value)) });
            let request = CompleteTasksRequest { parent, completions: vec![TaskCompletion { token, result }] };
            context.api.workers().complete_tasks(context.api.call(request)).await?;
        }
        Err((kind, message, r#final)) => {
            let error = Some(TaskError { r#type: kind.into(), message: message.into(), details: String::new() });
            let failures = vec![TaskFailure { token, error, r#final, retry_after: None }];
            let request = FailTasksRequest { parent, failures };
            context.api.workers().fail_tasks(context.api.call(request)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_queues_see_work() {
        let queues: std::collections::BTreeSet<String> = (1..=12).map(|n| next_task(n).queue).collect();
        assert_eq!(queues.len(), 3);
        assert!((1..=12).all(|n| next_task(n).input.is_some()));
    }
}
