//! Keeps K calls in flight for a time and measures them.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::report::{Measuring, Times};
use crate::cli::failure::true_code;

/// After a refusal that passes by itself.
pub const PAUSE: Duration = Duration::from_millis(20);

/// What was measured.
pub struct Measured {
    /// The time of each call that succeeded.
    pub times: Times,
    /// What the calls achieved together.
    pub items: u64,
    /// From the first call to the end of the last.
    pub elapsed: Duration,
}

/// A server that is busy or restarts is asked again; the time this takes is part of the result.
pub fn may_pass(status: &Status) -> bool {
    matches!(true_code(status), Code::ResourceExhausted | Code::Unavailable)
}

/// Runs `lanes` loops for `time`. `call` is given the number of its lane and answers how many items it achieved.
pub async fn keep_in_flight<C, F>(lanes: usize, time: Duration, call: C) -> anyhow::Result<Measured>
where
    C: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<u64, Status>> + Send,
{
    let measuring = Measuring::begin();
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let call = call.clone();
        running.spawn(async move { run_lane(lane, end, call).await });
    }
    let mut measured = Measured { times: Times::new()?, items: 0, elapsed: Duration::ZERO };
    let mut refused = 0;
    while let Some(lane) = running.join_next().await {
        let lane = lane??;
        measured.times.add(&lane.times)?;
        measured.items += lane.items;
        refused += lane.refused;
    }
    measured.elapsed = measuring.end();
    if refused > 0 {
        eprintln!("{refused} calls were refused for the moment and made again");
    }
    Ok(measured)
}

struct Lane {
    times: Times,
    items: u64,
    refused: u64,
}

async fn run_lane<C, F>(number: usize, end: Instant, call: C) -> anyhow::Result<Lane>
where
    C: Fn(usize) -> F,
    F: Future<Output = Result<u64, Status>>,
{
    let mut lane = Lane { times: Times::new()?, items: 0, refused: 0 };
    while Instant::now() < end {
        let began = Instant::now();
        match call(number).await {
            Ok(items) => {
                lane.times.record(began.elapsed());
                lane.items += items;
            }
            Err(status) if may_pass(&status) => {
                lane.refused += 1;
                // A server that was never there is an error, not a slow one.
                if lane.items == 0 && Instant::now() + PAUSE >= end {
                    return Err(status.into());
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_of_all_lanes_are_added() {
        let measured = keep_in_flight(3, Duration::from_millis(50), |_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(10)
        });
        let measured = measured.await.unwrap();
        assert_eq!(measured.items, measured.times.count() * 10);
        assert!(measured.times.count() >= 3);
    }

    #[tokio::test]
    async fn an_error_that_does_not_pass_ends_the_run() {
        let refused = keep_in_flight(1, Duration::from_secs(60), |_| async { Err(Status::not_found("gone")) }).await;
        assert!(refused.is_err());
        let absent = keep_in_flight(1, Duration::from_millis(50), |_| async { Err(Status::unavailable("down")) }).await;
        assert!(absent.is_err());
    }
}
