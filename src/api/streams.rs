//! How many streams one caller may have open on this server. HTTP/2 bounds them per connection only, and a caller may
//! open many connections.
//!
//! A stream takes a `Place` before it begins and gives it up when it is dropped, however it ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt as _;

use super::call::Answers;
use crate::{
    context::Caller,
    error::{Error, Result},
};

/// Streams one principal may have open: more than a fleet of workers and dashboards needs, and still a bound.
const LIMIT: usize = 10_000;

/// Counts the open streams of each principal. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<HashMap<Arc<str>, usize>>>);

impl Streams {
    /// A place for one more stream of this caller.
    pub fn enter(&self, caller: &Caller) -> Result<Place> {
        self.enter_within(&caller.principal, LIMIT)
    }

    fn enter_within(&self, principal: &Arc<str>, limit: usize) -> Result<Place> {
        let mut open = self.lock();
        let count = open.entry(principal.clone()).or_default();
        if *count >= limit {
            return Err(Error::TooManyStreams { limit });
        }
        *count += 1;
        Ok(Place { streams: self.clone(), principal: principal.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place; dropping it gives it up.
#[derive(Debug)]
pub struct Place {
    streams: Streams,
    principal: Arc<str>,
}

impl Place {
    /// Keeps the place for as long as the stream is there.
    pub fn hold<T: 'static>(self, answers: Answers<T>) -> Answers<T> {
        Box::pin(answers.inspect(move |_| {
            // The closure owns the place.
            let _ = &self;
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            // Callers that are gone leave nothing behind.
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_principal_has_its_places_until_its_streams_are_dropped() {
        let streams = Streams::default();
        let (ada, bob) = (Arc::from("ada"), Arc::from("bob"));
        let first = streams.enter_within(&ada, 2).unwrap();
        let mut held = first.hold(Box::pin(futures_util::stream::iter([Ok(1), Ok(2)])));
        let _second = streams.enter_within(&ada, 2).unwrap();
        assert_eq!(held.next().await.unwrap().unwrap(), 1);
        assert!(matches!(streams.enter_within(&ada, 2), Err(Error::TooManyStreams { limit: 2 })));
        let other = streams.enter_within(&bob, 1).unwrap();
        drop(held);
        drop(other);
        let _third = streams.enter_within(&ada, 2).unwrap();
        assert_eq!(streams.lock().len(), 1, "who has none open is forgotten");
    }
}
