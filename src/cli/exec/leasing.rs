//! Asks for tasks as slots are free, and sees each through to its report.
//!
//! A call that waits for tasks is never cut off, because a lease granted meanwhile would be nobody's until it ran out;
//! it waits `LONGEST_WAIT` only, so draining is prompt. What it brings while draining is given back at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    Host, child, heartbeat,
    outcome::{self, Outcome},
    report,
};
use crate::{
    cli::{
        failure::true_code,
        names,
        time::{brief, from_duration, to_duration},
    },
    pb::{LeaseHeartbeat, LeaseTasksRequest, LeaseTasksResponse, LeasedTask},
};

const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The server gives so many in one call.
const MAX_BATCH: usize = 1_000;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A lease older than this part of its time when it arrives, because the call waited, is confirmed before the program
/// starts.
const FRESH_PART: u32 = 3;

/// Works until draining is over, or the server refuses this worker.
pub async fn run(host: &Arc<Host>) -> anyhow::Result<()> {
    let running = TaskTracker::new();
    let outcome = lease_until_draining(host, &running).await;
    host.draining.cancel();
    running.close();
    running.wait().await;
    outcome.map_err(Into::into)
}

async fn lease_until_draining(host: &Arc<Host>, running: &TaskTracker) -> Result<(), Status> {
    let slots = Arc::new(Semaphore::new(host.slots));
    let mut pause = FIRST_PAUSE;
    let mut request_id = new_request_id();
    loop {
        let Some(mut free) = free_slots(host, &slots).await else { return Ok(()) };
        let asked = Instant::now();
        match lease(host, free.len(), &request_id).await {
            Ok(answer) => {
                pause = FIRST_PAUSE;
                request_id = new_request_id();
                for leased in answer.tasks {
                    let slot = free.pop();
                    let host = host.clone();
                    running.spawn(async move {
                        see_through(&host, leased, asked).await;
                        drop(slot);
                    });
                }
                if answer.drain && !host.draining.is_cancelled() {
                    host.say("the server asks to drain: no more tasks");
                    host.draining.cancel();
                }
            }
            Err(status) if may_pass(&status) => {
                // The same request id again: leases of an answer that was lost on the way are answered once more.
                host.say(&format!("cannot lease ({}); trying again", status.message()));
                tokio::select! {
                    () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))) => (),
                    () = host.draining.cancelled() => (),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(status) => return Err(status),
        }
    }
}

fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// Errors that pass by themselves: the server restarts, is busy, or the way to it is broken.
fn may_pass(status: &Status) -> bool {
    matches!(
        true_code(status),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
    )
}

/// Waits for a free slot and takes all that are free; none when draining.
async fn free_slots(host: &Host, slots: &Arc<Semaphore>) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = host.draining.cancelled() => return None,
        // The semaphore is never closed.
        slot = slots.clone().acquire_owned() => slot.ok()?,
    };
    let mut free = vec![first];
    while free.len() < MAX_BATCH {
        let Ok(slot) = slots.clone().try_acquire_owned() else { break };
        free.push(slot);
    }
    Some(free)
}

async fn lease(host: &Host, count: usize, request_id: &str) -> Result<LeaseTasksResponse, Status> {
    let request = LeaseTasksRequest {
        parent: host.context.project.clone(),
        identity: Some(host.identity.clone()),
        // At most MAX_BATCH.
        max_tasks: i32::try_from(count).unwrap_or(i32::MAX),
        wait: Some(to_duration(LONGEST_WAIT)),
        request_id: request_id.to_owned(),
    };
    let call = host.context.api.call_waiting(request, LONGEST_WAIT);
    Ok(host.context.api.workers().lease_tasks(call).await?.into_inner())
}

/// Runs one task and reports on it.
async fn see_through(host: &Host, leased: LeasedTask, asked: Instant) {
    let Some(token) = leased.token.clone() else { return };
    let stop = host.leases.take(&leased, asked);
    if host.draining.is_cancelled() {
        let until = host.leases.give_up(&token);
        report::send(host, token, Outcome::Released, until).await;
        return;
    }
    let duration = leased.lease_duration.as_ref().map(from_duration).unwrap_or_default();
    if asked.elapsed() > duration / FRESH_PART {
        heartbeat::beat(host, vec![LeaseHeartbeat { token: Some(token.clone()), progress: None }]).await;
    }
    let began = Instant::now();
    let already = stop.borrow().clone();
    let ended = match already {
        Some(why) => child::Ended::Stopped(why),
        None => {
            let (input, input_type) = outcome::stdin_of(&leased);
            child::run(&host.command, environment(host, &leased, input_type), input, stop).await
        }
    };
    let until = host.leases.give_up(&token);
    let told = report::send(host, token.clone(), outcome::of(ended), until).await;
    let kind = leased.task.as_ref().map(|task| task.r#type.as_str()).unwrap_or_default();
    host.say(&format!("{kind} {} {told} after {}", names::id(&token.task), brief(began.elapsed())));
}

fn environment(host: &Host, leased: &LeasedTask, input_type: String) -> Vec<(&'static str, String)> {
    let task = leased.task.as_ref();
    let token = leased.token.clone().unwrap_or_default();
    vec![
        ("TASKTOWER_TASK_TYPE", task.map(|task| task.r#type.clone()).unwrap_or_default()),
        ("TASKTOWER_EPOCH", token.epoch.to_string()),
        ("TASKTOWER_TASK", token.task),
        ("TASKTOWER_PROJECT", names::id(&host.context.project).to_owned()),
        ("TASKTOWER_ADDRESS", host.context.api.address()),
        ("TASKTOWER_INPUT_TYPE", input_type),
    ]
}
