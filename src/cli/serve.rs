//! `tasktower serve`: a server in production.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

/// Flags win over the environment, the environment over the file.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  tasktower serve --config tasktower.toml
  TASKTOWER_DATABASE_URL=postgres://… tasktower serve --listen 0.0.0.0:50051")]
pub struct ServeArgs {
    /// The configuration file (TOML)
    #[arg(long, env = "TASKTOWER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for gRPC
    #[arg(long, env = "TASKTOWER_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where to answer probes and metrics, in plaintext
    #[arg(long, env = "TASKTOWER_ADMIN_LISTEN", value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// The database: postgres://… or sqlite://…
    #[arg(long, env = "TASKTOWER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Redis: redis://…
    #[arg(long, env = "TASKTOWER_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
}

/// Runs until it is told to stop.
pub async fn run(_args: ServeArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the server is not built into this binary")
}
