//! Remembers the totals of all queues, for their activity of the last minute.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::activity`.
pub(super) struct QueueSampler;

impl Tick for QueueSampler {
    const NAME: &'static str = "queue-sampler";
    /// A twelfth of the minute it is for.
    const PERIOD: Duration = Duration::from_secs(5);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.sample_queues().await?)
    }
}
