//! Marks tasks whose `run_time` has come, and wakes waiting leasers for tasks that became due without a word to this
//! process.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// The loop. Its period is how late a task may start whose `run_time` came, or that another replica took in.
pub(super) struct LeaserWaker;

impl Tick for LeaserWaker {
    const NAME: &'static str = "leaser-waker";
    const PERIOD: Duration = Duration::from_millis(200);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        app.promote().await?;
        app.wake_leasers().await?;
        Ok(())
    }
}
