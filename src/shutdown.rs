//! The one place that spawns: every task of the server has a name in its span and dies with the process, not before.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Runs a future on its own, under a span with its name. It goes on when the handle is dropped: that is what database
/// work needs when its caller goes away.
#[allow(clippy::disallowed_methods, reason = "this is the one place that may spawn")]
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(work.instrument(tracing::debug_span!("task", name)))
}
