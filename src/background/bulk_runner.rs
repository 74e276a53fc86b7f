//! Works on bulk jobs, turn by turn, until there is none left.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::bulk_run`.
pub(super) struct BulkRunner;

impl Tick for BulkRunner {
    const NAME: &'static str = "bulk-runner";
    /// How long a new job waits at most, and one whose turn ended on an error.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        while !app.draining().is_cancelled() && app.work_on_bulk_job().await? {}
        Ok(())
    }
}
