//! Takes away what is too old, once a day and when asked to.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// Begins the daily runs; see `app::retention_run`.
pub(super) struct RetentionClock;

impl Tick for RetentionClock {
    const NAME: &'static str = "retention-clock";
    /// How late a daily run begins at most. Nobody waits for it.
    const PERIOD: Duration = Duration::from_secs(30);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.begin_daily_retention().await?)
    }
}

/// Works on runs, turn by turn, until there is none left; see `app::retention_run`.
pub(super) struct RetentionRunner;

impl Tick for RetentionRunner {
    const NAME: &'static str = "retention-runner";
    /// How long a new run waits at most, and one whose turn ended on an error.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        while !app.draining().is_cancelled() && app.work_on_retention().await? {}
        Ok(())
    }
}
