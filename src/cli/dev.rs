//! `tasktower dev`: a server on this machine, with no set-up.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

/// Loopback only, no credentials, SQLite unless told otherwise.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  tasktower dev                    data is kept in the user's data directory
  tasktower dev --db tasks.db      data is kept in tasks.db
  tasktower dev --demo             temporary data, two workers and a task a second")]
pub struct DevArgs {
    /// Run two workers and submit a task a second, on temporary data
    #[arg(long)]
    pub demo: bool,
    /// The SQLite file to keep data in
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// Where to listen; loopback addresses only
    #[arg(long, env = "TASKTOWER_LISTEN", default_value = "127.0.0.1:50051", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where to answer probes
    #[arg(long, env = "TASKTOWER_ADMIN_LISTEN", default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// Another database than SQLite: postgres://…; --db wins over it
    #[arg(long, env = "TASKTOWER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

/// Runs until it is told to stop.
pub async fn run(_args: DevArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the server is not built into this binary")
}
