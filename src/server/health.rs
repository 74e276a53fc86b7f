//! grpc.health.v1 as Kubernetes and clients ask it. `liveness` says the process answers, nothing else. `readiness`, the
//! empty name and each service follow the database, looked at in the background; a probe reads the last result.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{api, app::App, shutdown, store::Store};

/// Between two looks at the database: readiness flips well within 10 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// A look that takes longer has failed.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The health service and what feeds it.
pub(super) struct HealthState {
    pub(super) service: HealthServer<HealthService>,
    reporter: HealthReporter,
    store: Store,
    stop: CancellationToken,
}

/// Makes the service; everything but liveness is NOT_SERVING until the first look.
pub(super) async fn start(app: &App, stop: CancellationToken) -> HealthState {
    let reporter = HealthReporter::new();
    let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    reporter.set_service_status("liveness", ServingStatus::Serving).await;
    let state = HealthState { service, reporter, store: app.store().clone(), stop };
    set_all(&state.reporter, ServingStatus::NotServing).await;
    state
}

impl HealthState {
    /// Looks at the database now, and from then on until the server stops.
    pub(super) async fn watch_database(&self) {
        let (reporter, store, stop) = (self.reporter.clone(), self.store.clone(), self.stop.clone());
        let mut ready = look(&store).await;
        set_all(&reporter, status(ready)).await;
        shutdown::spawn("health", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(CHECK_INTERVAL) => {}
                    () = stop.cancelled() => break,
                }
                let found = look(&store).await;
                if found != ready && !stop.is_cancelled() {
                    tracing::warn!(ready = found, "readiness changed");
                    ready = found;
                    set_all(&reporter, status(ready)).await;
                }
            }
        });
    }

    /// The server is stopping: send calls elsewhere.
    pub(super) async fn withdraw(&self) {
        set_all(&self.reporter, ServingStatus::NotServing).await;
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

async fn look(store: &Store) -> bool {
    matches!(tokio::time::timeout(CHECK_LIMIT, store.ping()).await, Ok(Ok(())))
}

async fn set_all(reporter: &HealthReporter, status: ServingStatus) {
    for name in ["", "readiness"].into_iter().chain(api::SERVICES) {
        reporter.set_service_status(name, status).await;
    }
}
