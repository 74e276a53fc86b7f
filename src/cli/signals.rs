//! SIGTERM and Ctrl-C: the first asks to stop, a second one does not wait.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::shutdown;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A token that is cancelled by the first signal.
pub(super) fn stop() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    shutdown::spawn("signals", async move {
        if let Err(cause) = wait(&cancelled).await {
            tracing::warn!(%cause, "signals are not heard");
        }
    });
    stop
}

async fn wait(stop: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            exit_now();
        }
        stop.cancel();
    }
}

/// Whoever asks twice does not want to wait. Everything acknowledged is durable.
#[allow(clippy::disallowed_methods, reason = "the one place where the process ends without unwinding")]
fn exit_now() -> ! {
    std::process::exit(INTERRUPTED)
}
