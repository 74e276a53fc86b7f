//! Stub of the use cases: signatures only, so that `api/` compiles before they exist.
#![allow(missing_docs, dead_code, unused_variables, clippy::unused_async)]

pub mod bulk_job;
pub mod project;
pub mod queue;
pub mod session;
pub mod task;
pub mod watch;
pub mod worker;

use std::{pin::Pin, sync::Arc};

use crate::store::Store;

/// A stream that can be stored and sent.
pub type BoxStream<T> = Pin<Box<dyn futures_util::Stream<Item = T> + Send + 'static>>;

#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
}

impl App {
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store }))
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }
}
