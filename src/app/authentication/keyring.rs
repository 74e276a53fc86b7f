//! The API keys of the installation, in memory. There are few of them, so all are here, and who makes keys up causes no
//! search in the database.
//!
//! A loop reads what changed, once a second (`background/key_refresher.rs`), and so does whoever changes a key here. Should
//! the loop not come for [`STALE`], calls read by themselves: what was revoked elsewhere is not taken for longer than that.
//! A key that is not known may have been made on another server a moment ago, so then it is looked for as well, but not
//! more often than every [`GLANCE`], by however many.
//!
//! When keys were used is noted here and written by a loop, all at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::App;
use crate::{
    domain::{
        api_key::ApiKey,
        task::{DAY, Micros, SECOND},
    },
    error::{Error, Result},
    store::api_keys,
};

/// Without a look for so long, calls look by themselves.
const STALE: Duration = Duration::from_secs(4);
/// Unknown keys cause a look this often at most.
const GLANCE: Duration = Duration::from_millis(50);
/// After a look that failed, calls do not try it again for so long.
const REST: Duration = Duration::from_millis(500);
/// A transaction may commit so much later than the time it gave a key: more than it can last.
const OVERLAP: Micros = 60 * SECOND;
/// Keys that ended are known for so long, so that their holders are told why they are refused.
const REMEMBERED: Micros = 30 * DAY;

/// A key, and when it was used.
#[derive(Debug)]
pub struct Held {
    /// What is kept of it.
    pub key: ApiKey,
    /// The name of the key, as callers have it for a credential.
    pub name: Arc<str>,
    /// Its principal, shared by all its calls.
    pub principal: Arc<str>,
    used: AtomicI64,
    /// As far as that is in the database.
    noted: AtomicI64,
}

/// The keys.
#[derive(Debug, Default)]
pub struct Keyring {
    state: RwLock<State>,
    /// Held by who looks, with when the last look that failed was.
    looking: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<String, Arc<Held>>,
    /// The database's time at the last look, and when that was.
    looked: Option<(Micros, Instant)>,
}

impl Keyring {
    /// A key that is known.
    pub fn find(&self, id: &str) -> Option<Arc<Held>> {
        self.state().keys.get(id).cloned()
    }

    /// The database's time, carried on since the last look; none before the first.
    pub fn now(&self) -> Option<Micros> {
        let (time, at) = self.state().looked?;
        Some(time.saturating_add(i64::try_from(at.elapsed().as_micros()).unwrap_or(0)))
    }

    /// Whether any key is neither revoked nor over.
    pub fn has_standing(&self) -> bool {
        let now = self.now().unwrap_or(0);
        self.state().keys.values().any(|held| held.key.stands(now).is_ok())
    }

    fn age(&self) -> Option<Duration> {
        self.state().looked.map(|(_, at)| at.elapsed())
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        // A panic while it was held left nothing half-done.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge(&self, changed: Vec<ApiKey>, now: Micros, at: Instant) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.looked = Some((now, at));
        if changed.is_empty() {
            return;
        }
        for key in changed {
            let before = state.keys.get(&key.id);
            if before.is_some_and(|held| held.key == key) {
                continue;
            }
            let noted = key.last_used_time.unwrap_or(0);
            let used = before.map_or(0, |held| held.used.load(Ordering::Relaxed)).max(noted);
            let held = Held {
                name: Arc::from(crate::ids::api_key_name(&key.id)),
                principal: Arc::from(key.principal.as_str()),
                used: AtomicI64::new(used),
                noted: AtomicI64::new(noted),
                key,
            };
            state.keys.insert(held.key.id.clone(), Arc::new(held));
        }
        let ended = now - REMEMBERED;
        state.keys.retain(|_, held| {
            let end = [held.key.revoke_time, held.key.settings.expire_time].into_iter().flatten().min();
            end.is_none_or(|end| end > ended)
        });
    }
}

impl Held {
    /// A call came with it.
    pub fn was_used(&self, now: Micros) {
        self.used.fetch_max(now, Ordering::Relaxed);
    }
}

impl App {
    /// Reads what changed since the last look.
    pub async fn refresh_keys(&self) -> Result<()> {
        self.look_unless_newer_than(Duration::ZERO).await
    }

    /// The database's time as keys and tokens are judged by it, once what was revoked lately is known.
    pub(super) async fn time_of_credentials(&self) -> Result<Micros> {
        if let Some(now) = self.keyring().now().filter(|_| self.keyring().age().is_some_and(|age| age < STALE)) {
            return Ok(now);
        }
        self.look_unless_newer_than(STALE).await?;
        self.keyring().now().ok_or(Error::DatabaseUnavailable)
    }

    /// Looks for a key that is not known.
    pub(super) async fn find_new_key(&self, id: &str) -> Result<Option<Arc<Held>>> {
        self.look_unless_newer_than(GLANCE).await?;
        Ok(self.keyring().find(id))
    }

    /// One look at a time; who waited for one that was young enough, or failed, is content with that.
    async fn look_unless_newer_than(&self, age: Duration) -> Result<()> {
        let ring = self.keyring();
        let mut failed = ring.looking.lock().await;
        if ring.age().is_some_and(|known| known < age) {
            return Ok(());
        }
        if age > Duration::ZERO && failed.is_some_and(|at| at.elapsed() < REST) {
            return Err(Error::DatabaseUnavailable);
        }
        let last = ring.state().looked.map_or(0, |(time, _)| time);
        let at = Instant::now();
        let looked = async {
            let now = self.store().now().await?;
            Ok((api_keys::changed(self.store(), last - OVERLAP, now - REMEMBERED).await?, now))
        };
        match looked.await {
            Ok((changed, now)) => {
                *failed = None;
                ring.merge(changed, now, at);
                Ok(())
            }
            Err(cause) => {
                *failed = Some(Instant::now());
                Err(cause)
            }
        }
    }

    /// Writes when keys were used.
    pub async fn note_used_keys(&self) -> Result<()> {
        let used: Vec<Arc<Held>> = {
            let state = self.keyring().state();
            let is_new = |held: &&Arc<Held>| held.used.load(Ordering::Relaxed) > held.noted.load(Ordering::Relaxed);
            state.keys.values().filter(is_new).cloned().collect()
        };
        if used.is_empty() {
            return Ok(());
        }
        let times: Vec<_> = used.iter().map(|held| (held.key.id.clone(), held.used.load(Ordering::Relaxed))).collect();
        let mut tx = self.store().begin().await?;
        api_keys::used(&mut tx, &times).await?;
        tx.commit().await.map_err(|_| Error::DatabaseUnavailable)?;
        for (held, (_, time)) in used.iter().zip(times) {
            held.noted.store(time, Ordering::Relaxed);
        }
        Ok(())
    }
}
