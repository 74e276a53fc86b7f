//! When this replica looks for due schedules again. The loop sets it after each round; whoever changes a schedule resets it.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// The alarm of one replica.
#[derive(Debug, Default)]
pub struct Alarm {
    at: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Alarm {
    /// Something changed: look at once.
    pub fn reset(&self) {
        self.changed.notify_one();
    }

    /// The next round is at this moment; without one when something changes.
    pub(super) fn set(&self, at: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Waits until it is time.
    pub async fn rings(&self) {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let time = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            () = self.changed.notified() => {}
        }
    }
}
