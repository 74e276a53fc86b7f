//! Logs: one line each on stderr, text for people and JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged unless `TASKTOWER_LOG` says otherwise, in the syntax of `RUST_LOG`. h2 warns of frames that a client
/// should not send, once for each, and sqlx of each call that waited long for a connection: floods would fill the disk.
const DEFAULT_FILTER: &str = "info,sea_orm_migration=warn,h2=error,sqlx::pool=error";

/// Starts logging. A terminal gets text, anything else JSON.
pub fn start() -> anyhow::Result<()> {
    let filter = std::env::var("TASKTOWER_LOG").unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(filter)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        logs.with_target(false).try_init()
    } else {
        logs.json().flatten_event(true).with_current_span(false).try_init()
    };
    started.map_err(|cause| anyhow::anyhow!("start logging: {cause}"))
}
