//! Tells the server how a task ended. A report the server cannot take right now is sent again until the lease would be
//! over; after that somebody else has the task.

use std::time::{Duration, Instant};

use tonic::Code;

use super::{Host, outcome::Outcome};
use crate::cli::failure::true_code;
use crate::pb::{
    CompleteTasksRequest, FailTasksRequest, LeaseToken, ReleaseTasksRequest, ReportResult, TaskCompletion, TaskError,
    TaskFailure, TaskRelease,
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reports until the server answered or `until` has come. Answers what to tell the operator.
pub async fn send(host: &Host, token: LeaseToken, outcome: Outcome, until: Instant) -> String {
    if outcome == Outcome::Nothing {
        return "lease lost".to_owned();
    }
    let answer = deliver(host, &token, &outcome, until).await;
    let said = match &outcome {
        Outcome::Succeeded(_) => "succeeded".to_owned(),
        Outcome::Failed { error, .. } => format!("failed: {}: {}", error.r#type, error.message),
        Outcome::Released | Outcome::Nothing => "given back".to_owned(),
    };
    match answer {
        Ok(()) => said,
        // A result the server does not take, too deep for example, must end the task, else it would run for ever.
        Err(refusal) if refusal.code == Code::InvalidArgument as i32 && matches!(outcome, Outcome::Succeeded(_)) => {
            let error = TaskError {
                r#type: "ResultRefused".to_owned(),
                message: refusal.message.clone(),
                details: String::new(),
            };
            let failure = Outcome::Failed { error, is_final: true };
            match deliver(host, &token, &failure, until).await {
                Ok(()) => format!("failed: the result was refused: {}", refusal.message),
                Err(again) => format!("{said}, but the server refused the report: {}", again.message),
            }
        }
        Err(refusal) => format!("{said}, but the server refused the report: {}", refusal.message),
    }
}

/// Sends one report, again and again while the server is away.
async fn deliver(
    host: &Host,
    token: &LeaseToken,
    outcome: &Outcome,
    until: Instant,
) -> Result<(), tonic_types::Status> {
    let mut pause = FIRST_PAUSE;
    loop {
        let status = match call(host, token.clone(), outcome).await {
            Ok(results) => {
                let status = results.into_iter().next().and_then(|result| result.status).unwrap_or_default();
                return if status.code == 0 { Ok(()) } else { Err(status) };
            }
            Err(status) => status,
        };
        let may_pass = matches!(
            true_code(&status),
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted
        );
        if !may_pass || Instant::now() + pause >= until {
            let message = status.message().to_owned();
            return Err(tonic_types::Status { code: status.code() as i32, message, details: Vec::new() });
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn call(host: &Host, token: LeaseToken, outcome: &Outcome) -> Result<Vec<ReportResult>, tonic::Status> {
    let (parent, token) = (host.context.project.clone(), Some(token));
    let api = &host.context.api;
    let results = match outcome {
        Outcome::Nothing => Vec::new(),
        Outcome::Succeeded(result) => {
            let completions = vec![TaskCompletion { token, result: result.clone() }];
            let request = api.call(CompleteTasksRequest { parent, completions });
            api.workers().complete_tasks(request).await?.into_inner().results
        }
        Outcome::Failed { error, is_final } => {
            let failures =
                vec![TaskFailure { token, error: Some(error.clone()), r#final: *is_final, retry_after: None }];
            let request = api.call(FailTasksRequest { parent, failures });
            api.workers().fail_tasks(request).await?.into_inner().results
        }
        Outcome::Released => {
            let request = api.call(ReleaseTasksRequest { parent, releases: vec![TaskRelease { token, delay: None }] });
            api.workers().release_tasks(request).await?.into_inner().results
        }
    };
    Ok(results)
}
