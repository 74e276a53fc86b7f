//! `tasktower dev`: a server on this machine, with no set-up.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use tempfile::TempDir;

use super::{demo, serve::RetentionArgs, signals};
use crate::{
    config::{Callers, ServerConfig},
    server::{self, Addresses},
    store::{DatabaseUrl, migrate},
    telemetry,
};

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
    #[command(flatten)]
    pub retention: RetentionArgs,
}

/// Runs until it is told to stop.
pub async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    telemetry::start()?;
    if !args.listen.ip().is_loopback() {
        bail!("dev has no authentication and listens on loopback addresses only, not on {}", args.listen);
    }
    let place = Place::of(&args)?;
    let applied = migrate::up(&place.url).await?;
    if !applied.is_empty() {
        tracing::info!(migrations = applied.len(), "the database was brought up to date");
    }
    let config = ServerConfig {
        listen: args.listen,
        admin_listen: args.admin_listen,
        database: place.url.clone(),
        // Nothing is balanced over a server for development.
        drain_delay: Duration::ZERO,
        retention: args.retention.clone().into_settings().retention()?,
        audit_key_file: None,
        callers: Callers::Anyone,
        tls: None,
    };
    let stop = signals::stop();
    let (tell, told) = tokio::sync::oneshot::channel();
    let server = server::run(config, stop.clone(), |addresses| {
        // The receiver waits below for as long as the server runs.
        let _ = tell.send(addresses);
    });
    let beside = async {
        let Ok(addresses) = told.await else { return Ok(()) };
        greet(addresses, &place);
        if args.demo {
            demo::run(&format!("http://{}", addresses.grpc), stop.clone()).await?;
        }
        stop.cancelled().await;
        Ok(())
    };
    tokio::try_join!(server, beside)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the data is.
struct Place {
    url: DatabaseUrl,
    /// Removed with everything in it when the server ends.
    temporary: Option<TempDir>,
}

impl Place {
    fn of(args: &DevArgs) -> anyhow::Result<Self> {
        if let Some(file) = &args.db {
            return Ok(Self { url: DatabaseUrl::Sqlite(file.clone()), temporary: None });
        }
        if args.demo {
            let folder = tempfile::tempdir().context("make a temporary folder")?;
            return Ok(Self { url: DatabaseUrl::Sqlite(folder.path().join("demo.db")), temporary: Some(folder) });
        }
        if let Some(url) = &args.database_url {
            return Ok(Self { url: url.parse()?, temporary: None });
        }
        let folder = data_folder()?;
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { url: DatabaseUrl::Sqlite(folder.join("dev.db")), temporary: None })
    }
}

/// The user's data folder by the XDG base directory specification.
fn data_folder() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    let base = base.context("there is no home folder to keep data in; name a file with --db")?;
    Ok(base.join("tasktower"))
}

fn greet(addresses: Addresses, place: &Place) {
    let kept = if place.temporary.is_some() { "temporary, gone when this ends" } else { "kept" };
    let grpc = addresses.grpc;
    println!(
        "tasktower {} for development: no authentication, loopback only

  gRPC      {grpc} (reflection is on)
  health    {} (plaintext)
  data      {} ({kept})

Try, in another terminal:
  tasktower watch --endpoint http://{grpc}
  tasktower submit email.send --input '{{\"to\":\"a@example.org\"}}' --endpoint http://{grpc}
  grpcurl -plaintext {grpc} list
",
        env!("CARGO_PKG_VERSION"),
        addresses.admin,
        place.url,
    );
}
