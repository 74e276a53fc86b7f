//! Keeps leases alive and hears what the server wants: stop this attempt, stop leasing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Host;
use crate::pb::{HeartbeatRequest, LeaseHeartbeat};

/// How often leases are looked at; the shortest lease is 5 s.
const TICK: Duration = Duration::from_millis(500);
/// The server takes so many in one call.
const MAX_BATCH: usize = 1_000;

/// Runs until aborted. A call that fails is simply made again at the next tick; leases run out meanwhile on our clock.
pub async fn run(host: Arc<Host>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for batch in host.leases.due(Instant::now()).chunks(MAX_BATCH) {
            beat(&host, batch.to_vec()).await;
        }
    }
}

/// Stops what is past its time, whether or not heartbeats get through. Runs until aborted.
pub async fn run_expiry(host: Arc<Host>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        host.leases.expire(Instant::now());
    }
}

/// Sends heartbeats for these leases.
pub async fn beat(host: &Host, leases: Vec<LeaseHeartbeat>) {
    let asked = Instant::now();
    let request = HeartbeatRequest {
        parent: host.context.project.clone(),
        worker: host.identity.worker.clone(),
        incarnation: host.identity.incarnation.clone(),
        leases,
    };
    match host.context.api.workers().heartbeat(host.context.api.call(request)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            host.leases.learn(&answer, asked);
            if answer.drain && !host.draining.is_cancelled() {
                host.say("the server asks to drain: no more tasks");
                host.draining.cancel();
            }
        }
        Err(status) => host.say(&format!("heartbeat failed: {}", status.message())),
    }
}
