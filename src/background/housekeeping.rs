//! Takes away what nobody asks for any more.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::housekeeping`.
pub(super) struct Housekeeping;

impl Tick for Housekeeping {
    const NAME: &'static str = "housekeeping";
    /// Seldom enough to cost nothing, often enough that each time is short.
    const PERIOD: Duration = Duration::from_secs(60);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.keep_house().await?)
    }
}
