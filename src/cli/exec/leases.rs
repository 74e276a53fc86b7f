//! What this worker may run, and until when.
//!
//! Every lease is here from its grant until its report begins. Times are monotonic and counted from before the call that
//! gave or extended the lease, so they are never later than the server's.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    cli::time::from_duration,
    pb::{HeartbeatResponse, LeaseHeartbeat, LeaseToken, LeasedTask},
};

/// A lease is used up to this share of its time; the rest is for stopping the program before somebody else starts.
const USABLE_SHARE: f64 = 0.9;
/// A heartbeat is due after this part of the lease.
const HEARTBEATS_PER_LEASE: u32 = 3;
/// What a server that does not say means.
const DEFAULT_LEASE: Duration = Duration::from_secs(60);

/// Why a program is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The lease is not ours any more, or its time is over: nothing we report counts.
    LeaseLost,
    /// Cancellation was asked for, with this reason.
    Cancelled(String),
    /// This worker ends.
    Drained,
}

/// All leases held.
#[derive(Default)]
pub struct Leases {
    held: Mutex<BTreeMap<Key, Held>>,
}

type Key = (String, i64);

struct Held {
    duration: Duration,
    /// When the lease was last given or extended.
    extended: Instant,
    /// The attempt ends here, heartbeats or not.
    attempt_end: Option<Instant>,
    stop: watch::Sender<Option<Stop>>,
}

impl Held {
    fn end(&self) -> Instant {
        let end = self.extended + self.duration.mul_f64(USABLE_SHARE);
        self.attempt_end.map_or(end, |attempt_end| attempt_end.min(end))
    }

    fn stop(&self, why: &Stop) {
        // The first reason stands.
        self.stop.send_if_modified(|stop| stop.is_none() && stop.replace(why.clone()).is_none());
    }
}

impl Leases {
    /// Takes a lease that was asked for at `asked`; answers how its end is heard of.
    pub fn take(&self, leased: &LeasedTask, asked: Instant) -> watch::Receiver<Option<Stop>> {
        let (stop, stopped) = watch::channel(None);
        let duration = leased.lease_duration.as_ref().map_or(DEFAULT_LEASE, from_duration);
        let attempt_end = leased.attempt_timeout.as_ref().and_then(|timeout| asked.checked_add(from_duration(timeout)));
        let held = Held { duration, extended: asked, attempt_end, stop };
        self.lock().insert(key(leased.token.as_ref()), held);
        stopped
    }

    /// Gives a lease up, for its report; answers until when the report may count.
    pub fn give_up(&self, token: &LeaseToken) -> Instant {
        self.lock().remove(&key(Some(token))).map_or_else(Instant::now, |held| held.end())
    }

    /// The leases that need a heartbeat at `now`.
    pub fn due(&self, now: Instant) -> Vec<LeaseHeartbeat> {
        let held = self.lock();
        let due = held.iter().filter(|(_, held)| now >= held.extended + held.duration / HEARTBEATS_PER_LEASE);
        due.map(|((task, epoch), _)| LeaseHeartbeat {
            token: Some(LeaseToken { task: task.clone(), epoch: *epoch }),
            progress: None,
        })
        .collect()
    }

    /// Learns from the answer to heartbeats sent at `asked`.
    pub fn learn(&self, answer: &HeartbeatResponse, asked: Instant) {
        let mut held = self.lock();
        for result in &answer.results {
            let Some(lease) = held.get_mut(&key(result.token.as_ref())) else { continue };
            if result.status.as_ref().is_some_and(|status| status.code != 0) {
                lease.stop(&Stop::LeaseLost);
                continue;
            }
            lease.extended = asked;
            if let Some(duration) = &result.lease_duration {
                lease.duration = from_duration(duration);
            }
            if result.cancel_requested {
                lease.stop(&Stop::Cancelled(result.cancel_reason.clone()));
            }
        }
    }

    /// Stops what is past its time.
    pub fn expire(&self, now: Instant) {
        for held in self.lock().values().filter(|held| now >= held.end()) {
            held.stop(&Stop::LeaseLost);
        }
    }

    /// Stops everything.
    pub fn stop_all(&self, why: &Stop) {
        for held in self.lock().values() {
            held.stop(why);
        }
    }

    /// No step under the lock can leave the map half changed, so a poisoned lock is as good as a sound one.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(token: Option<&LeaseToken>) -> Key {
    token.map(|token| (token.task.clone(), token.epoch)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::LeaseHeartbeatResult;

    fn token(task: &str) -> LeaseToken {
        LeaseToken { task: task.into(), epoch: 1 }
    }

    fn leased(task: &str, seconds: i64) -> LeasedTask {
        LeasedTask {
            token: Some(token(task)),
            lease_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    fn answer(task: &str, code: i32, cancel: bool) -> HeartbeatResponse {
        let result = LeaseHeartbeatResult {
            token: Some(token(task)),
            status: Some(tonic_types::Status { code, ..Default::default() }),
            cancel_requested: cancel,
            cancel_reason: "enough".into(),
            ..Default::default()
        };
        HeartbeatResponse { results: vec![result], drain: false }
    }

    #[test]
    fn heartbeats_are_due_after_a_third_and_again_after_the_next() {
        let (leases, start) = (Leases::default(), Instant::now());
        let _stop = leases.take(&leased("a", 30), start);
        assert!(leases.due(start + Duration::from_secs(9)).is_empty());
        assert_eq!(leases.due(start + Duration::from_secs(10)).len(), 1);
        leases.learn(&answer("a", 0, false), start + Duration::from_secs(10));
        assert!(leases.due(start + Duration::from_secs(19)).is_empty());
    }

    #[test]
    fn a_lease_ends_before_the_server_thinks_so() {
        let (leases, start) = (Leases::default(), Instant::now());
        let stop = leases.take(&leased("a", 30), start);
        leases.expire(start + Duration::from_secs(26));
        assert_eq!(*stop.borrow(), None);
        leases.expire(start + Duration::from_secs(27));
        assert_eq!(*stop.borrow(), Some(Stop::LeaseLost));
    }

    #[test]
    fn the_attempt_ends_whatever_heartbeats_say() {
        let (leases, start) = (Leases::default(), Instant::now());
        let attempt_timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        let stop = leases.take(&LeasedTask { attempt_timeout, ..leased("a", 30) }, start);
        leases.learn(&answer("a", 0, false), start + Duration::from_secs(4));
        leases.expire(start + Duration::from_secs(5));
        assert_eq!(*stop.borrow(), Some(Stop::LeaseLost));
    }

    #[test]
    fn the_first_reason_to_stop_stands() {
        let (leases, start) = (Leases::default(), Instant::now());
        let stop = leases.take(&leased("a", 30), start);
        leases.learn(&answer("a", 0, true), start);
        leases.learn(&answer("a", 10, false), start);
        leases.stop_all(&Stop::Drained);
        assert_eq!(*stop.borrow(), Some(Stop::Cancelled("enough".into())));
        leases.give_up(&token("a"));
        assert!(leases.due(start + Duration::from_secs(20)).is_empty());
    }
}
