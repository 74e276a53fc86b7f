//! Ends what ran out of time: leases without a heartbeat, attempts past their timeout, tasks past their `expire_time`.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// The loop. A dead worker's task is leasable again one period after its lease at the latest.
pub(super) struct LeaseSweep;

impl Tick for LeaseSweep {
    const NAME: &'static str = "lease-sweep";
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        app.sweep().await?;
        Ok(())
    }
}
