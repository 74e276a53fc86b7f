//! Reads the keys of issuers again.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// See `app::authentication::issuers`, which knows what is due.
pub(super) struct IssuerRefresher;

impl Tick for IssuerRefresher {
    const NAME: &'static str = "issuer-refresher";
    /// How long a changed file waits at most, and an issuer that did not answer at the start.
    const PERIOD: Duration = Duration::from_secs(30);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        app.refresh_issuers().await;
        Ok(())
    }
}
