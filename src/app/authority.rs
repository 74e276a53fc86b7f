//! What a principal may do: its memberships, looked up by its name and remembered for a few seconds.
//!
//! A change of memberships made here is forgotten at once; one made on another replica holds here [`REMEMBERED`] later. A
//! busy principal costs one read in that time: the first who finds that the memory is [getting old](REFRESHED) reads anew
//! while the others go on with what there is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::App;
use crate::{
    domain::{
        authority::{Authority, Grants},
        member::Scope,
        permission::PermissionSet,
    },
    error::Result,
    ids::ProjectId,
    store::members,
};

/// How long memberships are believed without a look.
const REMEMBERED: Duration = Duration::from_secs(5);
/// From here on one caller looks again.
const REFRESHED: Duration = Duration::from_secs(4);
/// Principals remembered: more than call within the time. Each is some hundred bytes.
const MANY: usize = 4_096;
/// Authorities of one principal kept ready, one for each set of scopes of its credentials.
const LIMITS: usize = 8;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Authorities(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    principals: HashMap<Arc<str>, Known>,
    /// Raised by every change: what was read before it is not kept.
    changes: u64,
}

#[derive(Debug)]
struct Known {
    memberships: Arc<Grants>,
    read: Instant,
    is_read_again: bool,
    /// Narrowed to what a credential lets through.
    narrowed: Vec<(PermissionSet, Authority)>,
}

impl App {
    /// What a principal may do with a credential that lets `limit` through.
    pub async fn authority(&self, principal: &Arc<str>, limit: PermissionSet) -> Result<Authority> {
        if let Some(known) = self.authorities().known(principal, limit) {
            return Ok(known);
        }
        let changes = self.authorities().memory().changes;
        let asked = Instant::now();
        let found = members::of_principal(self.store(), principal).await?;
        let mut memberships = Grants { limit: PermissionSet::ALL, ..Grants::default() };
        for (scope, role) in found {
            match scope {
                Scope::Everywhere => memberships.everywhere = role.permissions(),
                Scope::Project(project) => {
                    memberships.projects.insert(project, role.permissions());
                }
            }
        }
        if self.authentication().is_admin(principal) {
            memberships.everywhere = PermissionSet::ALL;
        }
        let authority = narrowed(&memberships, limit);
        self.authorities().keep(principal, memberships, asked, changes);
        Ok(authority)
    }

    /// The memberships of a principal have changed.
    pub(super) fn forget_authority(&self, principal: &str) {
        let mut memory = self.authorities().memory();
        memory.changes += 1;
        memory.principals.remove(principal);
    }
}

impl Authorities {
    fn known(&self, principal: &Arc<str>, limit: PermissionSet) -> Option<Authority> {
        let mut memory = self.memory();
        let known = memory.principals.get_mut(principal)?;
        let age = known.read.elapsed();
        if age >= REMEMBERED || (age >= REFRESHED && !known.is_read_again) {
            known.is_read_again = true;
            return None;
        }
        if let Some((_, ready)) = known.narrowed.iter().find(|(narrowed_to, _)| *narrowed_to == limit) {
            return Some(ready.clone());
        }
        let authority = narrowed(&known.memberships, limit);
        if known.narrowed.len() < LIMITS {
            known.narrowed.push((limit, authority.clone()));
        }
        Some(authority)
    }

    fn keep(&self, principal: &Arc<str>, memberships: Grants, read: Instant, changes: u64) {
        let mut memory = self.memory();
        if memory.changes != changes {
            return;
        }
        if memory.principals.len() >= MANY {
            memory.principals.retain(|_, known| known.read.elapsed() < REMEMBERED);
        }
        if memory.principals.len() >= MANY {
            memory.principals.clear();
        }
        let memberships = Arc::new(memberships);
        let known = Known { memberships, read, is_read_again: false, narrowed: Vec::new() };
        memory.principals.insert(principal.clone(), known);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memberships as far as a credential lets them through.
fn narrowed(memberships: &Grants, limit: PermissionSet) -> Authority {
    let let_through =
        |(project, permissions): (&ProjectId, &PermissionSet)| (project.clone(), permissions.intersection(limit));
    Authority::Granted(Arc::new(Grants {
        everywhere: memberships.everywhere.intersection(limit),
        projects: memberships.projects.iter().map(let_through).collect(),
        limit,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{permission::Permission, role::Role};

    #[test]
    fn what_is_remembered_is_narrowed_bounded_and_forgotten() {
        let authorities = Authorities::default();
        let ada: Arc<str> = Arc::from("service:ada");
        let shop = ProjectId::new("shop");
        let memberships = || Grants {
            projects: HashMap::from([(shop.clone(), Role::Operator.permissions())]),
            limit: PermissionSet::ALL,
            ..Grants::default()
        };
        assert!(authorities.known(&ada, PermissionSet::ALL).is_none());
        authorities.keep(&ada, memberships(), Instant::now(), 0);
        let scopes = PermissionSet::of(&[Permission::TasksRead]);
        let authority = authorities.known(&ada, scopes).unwrap();
        assert!(authority.permits(Permission::TasksRead, Some(&shop)));
        assert!(!authority.permits(Permission::TasksSubmit, Some(&shop)));
        let all = authorities.known(&ada, PermissionSet::ALL).unwrap();
        assert!(all.permits(Permission::TasksSubmit, Some(&shop)));

        // Read before a change that came meanwhile.
        authorities.memory().changes += 1;
        let bob: Arc<str> = Arc::from("service:bob");
        authorities.keep(&bob, memberships(), Instant::now(), 0);
        assert!(authorities.known(&bob, PermissionSet::ALL).is_none());

        let old = Instant::now().checked_sub(REFRESHED).unwrap();
        authorities.keep(&ada, memberships(), old, 1);
        assert!(authorities.known(&ada, scopes).is_none(), "the first looks again");
        assert!(authorities.known(&ada, scopes).is_some(), "the others do not wait for it");
        for number in 0..2 * MANY {
            authorities.keep(&Arc::from(format!("service:{number}")), memberships(), Instant::now(), 1);
        }
        assert!(authorities.memory().principals.len() <= MANY);
    }
}
