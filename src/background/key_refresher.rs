//! Keeps the API keys in memory as they are in the database, and the database told when they are used.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::authentication::keyring`.
pub(super) struct KeyRefresher;

impl Tick for KeyRefresher {
    const NAME: &'static str = "key-refresher";
    /// A key that is revoked is refused everywhere within 5 s: this leaves time for a tick that fails.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.refresh_keys().await?)
    }
}

/// See `app::authentication::keyring`.
pub(super) struct KeyUseWriter;

impl Tick for KeyUseWriter {
    const NAME: &'static str = "key-use-writer";
    /// People ask which key was used this week, not this second.
    const PERIOD: Duration = Duration::from_secs(15);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.note_used_keys().await?)
    }
}
