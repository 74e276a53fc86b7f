//! Sees to it that the tasks of deleted projects are cancelled.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::project_deletion`.
pub(super) struct ProjectCleaner;

impl Tick for ProjectCleaner {
    const NAME: &'static str = "project-cleaner";
    /// Short beside the time for which nothing is cancelled after a deletion.
    const PERIOD: Duration = Duration::from_secs(2);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        while !app.draining().is_cancelled() && app.cancel_tasks_of_deleted().await? {}
        Ok(())
    }
}
