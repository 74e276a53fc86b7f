//! Stand-in.

pub mod activity;
pub mod bulk_job;
mod bulk_run;
mod housekeeping;
mod named_write;
pub mod project;
pub mod queue;
pub mod task;

use std::{future::Future, pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;

use self::activity::Activity;
use crate::{
    error::{Error, Result},
    ids::{ProjectId, project_name},
    live::hub::Hub,
    shutdown,
    store::{Store, projects},
};

/// Stand-in.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Stand-in.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    hub: Arc<Hub>,
    activity: Activity,
    draining: CancellationToken,
}

impl App {
    /// Stand-in.
    pub fn new(store: Store, draining: CancellationToken) -> Self {
        Self(Arc::new(Inner { store, hub: Arc::default(), activity: Activity::default(), draining }))
    }

    /// Stand-in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Stand-in.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// Stand-in.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// Stand-in.
    pub fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    async fn require_project(&self, project: &ProjectId) -> Result<()> {
        if projects::exists(self.store(), project).await? {
            return Ok(());
        }
        Err(Error::NotFound { kind: "project", name: project_name(project) })
    }

    async fn detached<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        shutdown::spawn(name, work)
            .await
            .unwrap_or_else(|cause| Err(Error::internal(anyhow::anyhow!("{name} ended early: {cause}"))))
    }
}
