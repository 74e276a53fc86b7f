//! The composition root: opens the database, builds the service, starts the loops, listens, and stops in order.
//!
//! Stopping: readiness is withdrawn and the server goes on serving for the drain delay; then streams and long-polls end
//! with a token or an empty answer, no connection is accepted, calls under way finish. Connections that are still open
//! [`CLOSING_LIMIT`] later have nothing under way but a client that says or reads nothing; they are left behind, and so is
//! everything at [`HARD_LIMIT`], because what was acknowledged is durable.

mod bucket;
mod descriptors;
pub mod first_key;
mod frames;
mod gathering;
mod health;
mod incoming;
mod tls;
mod transport;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::{incoming::Incoming, tls::Certificate};
use crate::{
    api,
    api::layers::{Layers, authentication::Authentication, held::Ledger},
    app::{App, audit_head::AuditKey},
    background::Driver,
    config::{Callers, ServerConfig},
    shutdown,
    store::Store,
};

/// From the signal to the exit, whatever is open: under the 30 s that orchestrators allow by default.
const HARD_LIMIT: Duration = Duration::from_secs(25);
/// From the end of the drain delay until open connections are no longer waited for: a call may take 5 s, and its answer
/// some time to arrive.
const CLOSING_LIMIT: Duration = Duration::from_secs(8);
/// An idle connection is tried this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// … and given up when it does not answer for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls and streams of one connection at a time.
const STREAMS_PER_CONNECTION: u32 = 1_000;
/// Connections are told to go elsewhere at about this age, so that new replicas get load.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Metadata of one call, in bytes.
const HEADER_LIMIT: u32 = 16 * 1024;
/// Probes open at a time: an orchestrator has a handful.
const ADMIN_CONNECTIONS: usize = 256;
/// Calls of one connection for probes at a time.
const ADMIN_STREAMS: u32 = 16;
/// Flow-control window of a stream: one full batch of submits fits, so it never waits for a window update.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Flow-control window of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Where a running server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// Probes.
    pub admin: SocketAddr,
}

/// Serves until `stop` is cancelled. `ready` is called once it answers calls.
pub async fn run(config: ServerConfig, stop: CancellationToken, ready: impl FnOnce(Addresses)) -> anyhow::Result<()> {
    let store = Store::open(&config.database).await.with_context(|| format!("open {}", config.database))?;
    let draining = CancellationToken::new();
    let app = App::with_callers(store, draining.clone(), config.retention.clone(), config.callers.clone())?;
    if let Some(file) = &config.audit_key_file {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        app.sign_heads_with(AuditKey::from_pem(&text).with_context(|| format!("in {}", file.display()))?);
    }
    let tls = config.tls.clone().map(Certificate::load).transpose()?;
    let authentication = match &config.callers {
        Callers::Anyone => Authentication::open(),
        Callers::Known { .. } => {
            require_credentials(&app, &config).await?;
            Authentication::By(app.clone())
        }
    };
    let layers = Layers::load(authentication, app.notes().clone())?;
    let loops = Driver::new(app.clone(), draining.clone()).with_all();
    let health = health::start(&app, stop.clone()).await;

    let connections = descriptors::connection_limit(ADMIN_CONNECTIONS);
    let listener = bind(config.listen).await?;
    let admin_listener = bind(config.admin_listen).await?;
    let addresses = Addresses { grpc: listener.local_addr()?, admin: admin_listener.local_addr()? };
    let services = api::Services::new(app.clone(), health.service.clone())?;

    let age = CONNECTION_AGE.mul_f64(0.9 + 0.2 * rand::random::<f64>());
    let grpc = bounded(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        // Without a grace: tonic sends no GOAWAY when one is set. Streams end by their own age.
        .max_connection_age(age)
        .layer(layers)
        .serve_with_incoming_shutdown(
            services,
            Incoming::new(listener, connections, Ledger::default(), tls.clone()),
            draining.clone().cancelled_owned(),
        );
    // A ledger of its own: who crowds one port takes no place on the other.
    let probes = Incoming::new(admin_listener, ADMIN_CONNECTIONS, Ledger::default(), None);
    let admin = bounded(ADMIN_STREAMS)
        .add_service(health.service.clone())
        .serve_with_incoming_shutdown(probes, draining.clone().cancelled_owned());
    if let Some(certificate) = tls {
        shutdown::spawn("certificate", certificate.keep_fresh(draining.clone()));
    }
    let serving = shutdown::spawn("serve", async move { tokio::try_join!(grpc, admin) });

    health.watch_database().await;
    ready(addresses);
    tracing::info!(grpc = %addresses.grpc, admin = %addresses.admin, database = %config.database, "serving");

    stop.cancelled().await;
    let hard_limit = tokio::time::Instant::now() + HARD_LIMIT;
    tracing::info!(delay = ?config.drain_delay, "stopping: readiness is withdrawn");
    health.withdraw().await;
    tokio::time::sleep(config.drain_delay).await;
    draining.cancel();
    let ended = async {
        loops.ended().await;
        let served = tokio::time::timeout(CLOSING_LIMIT, serving).await;
        app.settled().await;
        served
    };
    match tokio::time::timeout_at(hard_limit, ended).await {
        Ok(Ok(Ok(Ok(_)))) => tracing::info!("stopped"),
        Ok(Ok(Ok(Err(cause)))) => return Err(cause).context("serve"),
        Ok(Ok(Err(cause))) => return Err(cause).context("serve"),
        Ok(Err(_)) | Err(_) => tracing::warn!("stopped with connections still open: their time is over"),
    }
    Ok(())
}

/// Reads the keys of the database and those of issuers, and refuses to serve when nobody could call.
async fn require_credentials(app: &App, config: &ServerConfig) -> anyhow::Result<()> {
    app.refresh_keys().await.context("read the API keys")?;
    app.refresh_issuers().await;
    if app.has_credentials() {
        return Ok(());
    }
    anyhow::bail!(
        "no credentials are configured, so nobody could call this server. Make a first key with\n\n    \
         tasktower key create service:admin --role admin --database-url {}\n\n\
         or set TASKTOWER_JWT_SECRET, or an issuer of tokens in the configuration file. \
         `tasktower dev` needs none of them",
        config.database
    )
}

/// A server within the bounds that hold on every port.
fn bounded(streams: u32) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(streams))
        .http2_max_header_list_size(Some(HEADER_LIMIT))
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}
