//! Fires schedules.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Tick;
use crate::app::App;

/// How often next ticks are checked against the time zone data of this version.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// The loop. It wakes when the next schedule is due; its period is how late it hears of one that another replica was told
/// of, should that replica die.
#[derive(Default)]
pub(super) struct Scheduler {
    /// When that was last done.
    renewed: Mutex<Option<Instant>>,
}

impl Scheduler {
    fn renewed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tick for Scheduler {
    const NAME: &'static str = "scheduler";
    const PERIOD: Duration = Duration::from_secs(1);

    async fn nudge(&self, app: &App) {
        app.alarm().rings().await;
    }

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        let is_time = self.renewed().is_none_or(|at| at.elapsed() >= RENEW_EVERY);
        if is_time {
            app.renew_time_zones().await?;
            *self.renewed() = Some(Instant::now());
        }
        app.fire_schedules().await?;
        Ok(())
    }
}
