//! All attempts of a worker: found by their lease while they run, taken when their handler is gone.
//!
//! Dropping this drops every handler.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

use super::{
    Failure,
    attempt::{Attempt, LeaseClock, Outcome},
    handler::BoxedHandler,
};
use crate::pb::{LeaseToken, LeasedTask};

#[derive(Default)]
pub(super) struct Attempts {
    tasks: JoinSet<Outcome>,
    tokens: HashMap<Id, LeaseToken>,
    attempts: HashMap<LeaseToken, Attempt>,
}

/// An attempt whose handler is gone; without an outcome it was dropped.
pub(super) struct Ended {
    pub(super) attempt: Attempt,
    pub(super) outcome: Option<Outcome>,
}

impl Attempts {
    pub(super) fn start(&mut self, handler: BoxedHandler, leased: LeasedTask, token: LeaseToken, clock: LeaseClock) {
        let attempt = Attempt::start(handler, leased, token.clone(), clock, &mut self.tasks);
        self.tokens.insert(attempt.id(), token.clone());
        self.attempts.insert(token, attempt);
    }

    /// How many slots are taken. A handler that was dropped takes its slot until it is gone.
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn contains(&self, token: &LeaseToken) -> bool {
        self.attempts.contains_key(token)
    }

    pub(super) fn get_mut(&mut self, token: &LeaseToken) -> Option<&mut Attempt> {
        self.attempts.get_mut(token)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Attempt> {
        self.attempts.values_mut()
    }

    /// Waits until a handler is gone; for ever while there is none. Dropping the future loses nothing.
    pub(super) async fn next_ended(&mut self) -> Ended {
        while let Some(joined) = self.tasks.join_next_with_id().await {
            if let Some(ended) = self.ended(joined) {
                return ended;
            }
        }
        std::future::pending().await
    }

    /// The next one whose handler is gone already.
    pub(super) fn try_ended(&mut self) -> Option<Ended> {
        loop {
            let joined = self.tasks.try_join_next_with_id()?;
            if let Some(ended) = self.ended(joined) {
                return Some(ended);
            }
        }
    }

    fn ended(&mut self, joined: Result<(Id, Outcome), JoinError>) -> Option<Ended> {
        let (id, outcome) = match joined {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                let id = error.id();
                (id, error.try_into_panic().ok().map(|panic| Err(Failure::panicked(&*panic))))
            }
        };
        let token = self.tokens.remove(&id)?;
        let attempt = self.attempts.remove(&token)?;
        Some(Ended { attempt, outcome })
    }
}
