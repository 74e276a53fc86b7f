//! Rare writes, each a type with a transaction of its own: projects, queues, bulk jobs, housekeeping.
//!
//! A write decides and writes; it may run again after it lost against another transaction, so it does nothing that cannot
//! be taken back. It runs detached from its caller, who publishes afterwards.

use std::future::Future;

use super::App;
use crate::{
    error::{Error, Result},
    store::{CommitError, Store, StoreError, Tx},
};

/// How often a write is run before its caller is told to come back: losing three times in a row means it is busy here.
const MAX_RUNS: u32 = 3;

/// A write and all it needs.
pub(super) trait NamedWrite: Send + Sync + 'static {
    /// For the log.
    const NAME: &'static str;
    /// What it answers.
    type Answer: Send + 'static;

    /// Decides and writes. On an error everything is rolled back.
    fn run(&self, tx: &mut Tx) -> impl Future<Output = std::result::Result<Done<Self::Answer>, Stop>> + Send;
}

/// What a write came to.
#[derive(Debug)]
pub(super) enum Done<T> {
    /// Make it durable.
    Commit(T),
    /// There was nothing to write.
    Nothing(T),
}

/// Why a write stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// It lost against another transaction and may succeed when run again.
    Lost(StoreError),
    /// It will not succeed.
    Refused(Error),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict | StoreError::Unique => Self::Lost(error),
            _ => Self::Refused(error.into()),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<CommitError> for Stop {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::RolledBack(cause) => cause.into(),
            CommitError::Unknown(cause) => {
                tracing::warn!(%cause, "the connection broke during a commit");
                Self::Refused(Error::CommitUnknown)
            }
        }
    }
}

impl App {
    /// Runs a write, again when it lost, and commits it.
    pub(super) async fn write<W: NamedWrite>(&self, write: W) -> Result<W::Answer> {
        let store = self.store().clone();
        self.detached(W::NAME, async move { repeat(&store, &write).await }).await
    }
}

async fn repeat<W: NamedWrite>(store: &Store, write: &W) -> Result<W::Answer> {
    let mut runs = 1;
    loop {
        match once(store, write).await {
            Ok(answer) => return Ok(answer),
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Lost(cause)) if runs >= MAX_RUNS => return Err(cause.into()),
            Err(Stop::Lost(cause)) => tracing::debug!(name = W::NAME, %cause, runs, "a write lost and runs again"),
        }
        runs += 1;
    }
}

async fn once<W: NamedWrite>(store: &Store, write: &W) -> std::result::Result<W::Answer, Stop> {
    let mut tx = store.begin().await?;
    match write.run(&mut tx).await {
        Ok(Done::Commit(answer)) => {
            tx.commit().await?;
            Ok(answer)
        }
        Ok(Done::Nothing(answer)) => {
            tx.rollback().await;
            Ok(answer)
        }
        Err(stop) => {
            tx.rollback().await;
            Err(stop)
        }
    }
}
