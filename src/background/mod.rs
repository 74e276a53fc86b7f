//! Loops: each does a small piece of work every so often, on every replica. What the work is stands in `app`.
//!
//! A [`Tick`] reads the state and acts on it, so it may run on several replicas at once, be late, or run twice. The
//! [`Driver`] gives each loop a task of its own and never lets it end: an error or a panic is logged when it first
//! happens and when it is over, and the loop goes on after its period. A stop lets a tick that runs come to its end.

mod audit;
mod bulk_retrier;
mod bulk_runner;
mod feed_tailer;
mod housekeeping;
mod issuer_refresher;
mod key_refresher;
mod lease_sweep;
mod leaser_waker;
mod project_cleaner;
mod queue_sampler;
mod retention;
mod scheduler;

use std::{any::Any, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{app::App, shutdown};

/// Replicas started together must not come together to the database for ever: each wait is this much shorter or longer.
const JITTER: f64 = 0.1;

/// A piece of work that is done again and again.
pub trait Tick: Send + Sync + 'static {
    /// For the log.
    const NAME: &'static str;
    /// How long to wait between two ticks.
    const PERIOD: Duration;

    /// Ends when there is work before the period is over. Most loops only know the period.
    fn nudge(&self, _app: &App) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does it once.
    fn tick(&self, app: &App) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Runs loops until it is told to stop.
#[derive(Debug)]
pub struct Driver {
    app: App,
    stop: CancellationToken,
    loops: Vec<JoinHandle<()>>,
}

impl Driver {
    /// A driver without loops yet.
    pub fn new(app: App, stop: CancellationToken) -> Self {
        Self { app, stop, loops: Vec::new() }
    }

    /// Starts the loops of this folder.
    #[must_use]
    pub fn with_all(self) -> Self {
        self.with(lease_sweep::LeaseSweep)
            .with(leaser_waker::LeaserWaker)
            .with(feed_tailer::FeedTailer)
            .with(queue_sampler::QueueSampler)
            .with(bulk_runner::BulkRunner)
            .with(bulk_retrier::BulkRetrier)
            .with(housekeeping::Housekeeping)
            .with(key_refresher::KeyRefresher)
            .with(key_refresher::KeyUseWriter)
            .with(issuer_refresher::IssuerRefresher)
            .with(project_cleaner::ProjectCleaner)
            .with(scheduler::Scheduler::default())
            .with(retention::RetentionClock)
            .with(retention::RetentionRunner)
            .with(audit::JournalSealer)
            .with(audit::HeadSigner)
            .with(audit::NoteWriter)
    }

    /// Starts a loop.
    #[must_use]
    pub fn with<T: Tick>(mut self, tick: T) -> Self {
        self.loops.push(shutdown::spawn(T::NAME, run(tick, self.app.clone(), self.stop.clone())));
        self
    }

    /// Waits until every loop has ended, after the stop.
    pub async fn ended(self) {
        for handle in self.loops {
            // A loop catches its own panics; one that ended otherwise is gone all the same.
            let _ = handle.await;
        }
    }
}

async fn run<T: Tick>(tick: T, app: App, stop: CancellationToken) {
    let mut was_well = true;
    while !stop.is_cancelled() {
        let outcome = AssertUnwindSafe(tick.tick(&app)).catch_unwind().await;
        let failure = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(format!("{cause:#}")),
            Err(panic) => Some(format!("panic: {}", panic_text(&*panic))),
        };
        match (&failure, was_well) {
            (Some(cause), true) => tracing::warn!(name = T::NAME, cause, "a background loop fails; it is tried again"),
            (Some(cause), false) => tracing::debug!(name = T::NAME, cause, "a background loop still fails"),
            (None, false) => tracing::info!(name = T::NAME, "a background loop works again"),
            (None, true) => {}
        }
        was_well = failure.is_none();
        tokio::select! {
            () = tokio::time::sleep(jittered(T::PERIOD, rand::random())) => {}
            () = tick.nudge(&app) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// `random` in [0, 1) draws a wait around the period.
fn jittered(period: Duration, random: f64) -> Duration {
    period.mul_f64(1.0 + JITTER * (2.0 * random - 1.0))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_tenth_shorter_or_longer_at_most() {
        let period = Duration::from_secs(10);
        assert_eq!(jittered(period, 0.0), Duration::from_secs(9));
        assert_eq!(jittered(period, 0.5), period);
        assert!(jittered(period, 0.999) <= Duration::from_secs(11));
    }
}
