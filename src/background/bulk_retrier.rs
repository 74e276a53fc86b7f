//! Works on bulk jobs that retry dead letters, turn by turn, until there is none whose next entry is due.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::bulk_retry`.
pub(super) struct BulkRetrier;

impl Tick for BulkRetrier {
    const NAME: &'static str = "bulk-retrier";
    /// How long a new job waits at most. Half of what a job catches up (`domain::pace`), so that a job whose entries are
    /// due less often than a turn takes keeps its pace.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        while !app.draining().is_cancelled() && app.work_on_bulk_retries().await? {}
        Ok(())
    }
}
