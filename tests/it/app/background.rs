use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasktower::{
    app::App,
    background::{Driver, Tick},
};
use tokio_util::sync::CancellationToken;

use super::start;
use crate::support::{
    backend::Database,
    wait::{SOON, eventually},
};

/// Panics, then fails, then works.
struct Clumsy(Arc<AtomicUsize>);

impl Tick for Clumsy {
    const NAME: &'static str = "clumsy";
    const PERIOD: Duration = Duration::from_millis(5);

    async fn tick(&self, _app: &App) -> anyhow::Result<()> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("at first"),
            1 => anyhow::bail!("and then"),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_loop_goes_on_after_errors_and_panics_until_it_is_stopped() {
    let database = Database::sqlite();
    let app = start(&database).await;
    let (ticks, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let driver = Driver::new(app, stop.clone()).with_all().with(Clumsy(ticks.clone()));
    eventually("the fourth tick", SOON, async || match ticks.load(Ordering::Relaxed) {
        0..4 => Err("too few"),
        _ => Ok(()),
    })
    .await;
    stop.cancel();
    driver.ended().await;
}
