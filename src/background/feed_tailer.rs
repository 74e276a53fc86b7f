//! Brings the journal rows of other replicas to the watchers of this one.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// The loop. Its period is how late a watcher may hear of another replica's change; a gap in this one's feed nudges it.
pub(super) struct FeedTailer;

impl Tick for FeedTailer {
    const NAME: &'static str = "feed-tailer";
    const PERIOD: Duration = Duration::from_millis(250);

    async fn nudge(&self, app: &App) {
        app.hub().behind().await;
    }

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        app.tail_journals().await?;
        Ok(())
    }
}
