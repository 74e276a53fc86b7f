//! Members: who has which role in a project, or in all of them.
//!
//! A change locks the members against each other, so that of two administrators who take each other's role at once one is
//! refused. Its journal row holds the role before and after; it stands in the project's journal, or in that of the system.

use serde_json::json;

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
};
use crate::{
    context::Caller,
    domain::{
        event::ResourceKind,
        member::{Member, Scope},
        role::Role,
    },
    error::{Error, Result},
    ids::{ProjectId, SYSTEM_PROJECT},
    store::{
        Tx,
        journal::{self, Entry},
        members,
    },
};

/// Memberships of one principal: all are read when it calls. Who works in more projects is a member of all.
const MAX_MEMBERSHIPS: i64 = 1_000;

impl App {
    /// Members by principal, those after `after`; and the principal after which the next page goes on.
    pub async fn list_members(
        &self,
        scope: &Scope,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Member>, Option<String>)> {
        if let Scope::Project(project) = scope {
            self.require_project(project).await?;
        }
        let found = members::list(self.store(), scope, after.as_deref(), one_more(limit)).await?;
        Ok(cut(found, limit, |member| member.principal.clone()))
    }

    /// Gives a principal a role in place of the one it has there.
    pub async fn set_member(&self, caller: &Caller, scope: Scope, principal: String, role: Role) -> Result<Member> {
        let member = self.change_member(caller, scope, principal, Some(role)).await?;
        member.ok_or_else(|| Error::internal(anyhow::anyhow!("a role was given to nobody")))
    }

    /// Takes a principal's role away.
    pub async fn remove_member(&self, caller: &Caller, scope: Scope, principal: String) -> Result<()> {
        self.change_member(caller, scope, principal, None).await.map(|_| ())
    }

    async fn change_member(
        &self,
        caller: &Caller,
        scope: Scope,
        principal: String,
        role: Option<Role>,
    ) -> Result<Option<Member>> {
        if let Scope::Project(project) = &scope {
            self.require_project(project).await?;
        }
        let partition = partition(&scope);
        let write = ChangeMember { caller: caller.clone(), scope, principal: principal.clone(), role };
        let member = self.write(write).await?;
        self.forget_authority(&principal);
        self.hub().journal_moved(&partition);
        Ok(member)
    }
}

struct ChangeMember {
    caller: Caller,
    scope: Scope,
    principal: String,
    /// None to take it away.
    role: Option<Role>,
}

impl NamedWrite for ChangeMember {
    const NAME: &'static str = "change-member";
    /// The member; none when it is one no longer.
    type Answer = Option<Member>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        change(tx, &self.caller, &self.scope, &self.principal, self.role).await
    }
}

/// Gives a principal a role, or takes the one it has away with none; by its rules, and with its journal row.
pub(super) async fn change(
    tx: &mut Tx,
    caller: &Caller,
    scope: &Scope,
    principal: &str,
    role: Option<Role>,
) -> std::result::Result<Done<Option<Member>>, Stop> {
    members::lock(tx).await?;
    let name = format!("{}/members/{principal}", scope.name());
    let before = members::get_in(tx, scope, principal).await?;
    if before.as_ref().map(|member| member.role) == role {
        return match before {
            Some(_) => Ok(Done::Nothing(before)),
            None => Err(Error::NotFound { kind: "member", name }.into()),
        };
    }
    // Somebody must be left who can give roles.
    let is_admin_everywhere =
        *scope == Scope::Everywhere && before.as_ref().is_some_and(|member| member.role == Role::Admin);
    if is_admin_everywhere && !members::has_other_admin(tx, principal).await? {
        let hint = "make another principal an administrator of projects/* first";
        return Err(Error::StateConflict { name, state: "the last administrator of all projects", hint }.into());
    }
    if before.is_none() && members::count_of_principal(tx, principal).await? >= MAX_MEMBERSHIPS {
        let what = "memberships of one principal";
        return Err(Error::QuotaExceeded { project: scope.name(), what, limit: MAX_MEMBERSHIPS }.into());
    }
    let now = tx.now();
    let after = role.map(|role| Member {
        scope: scope.clone(),
        principal: principal.to_owned(),
        role,
        create_time: before.as_ref().map_or(now, |before| before.create_time),
    });
    match &after {
        Some(member) => members::set(tx, member).await?,
        None => members::remove(tx, scope, principal).await?,
    }
    let kind = if after.is_some() { ResourceKind::MemberSet } else { ResourceKind::MemberRemoved };
    let named = |member: &Option<Member>| member.as_ref().map(|member| member.role.name());
    let diff = json!({ "role": [named(&before), named(&after)] }).to_string();
    let entry = Entry::of_resource(kind, name, now, Some(diff), caller);
    journal::append(tx, &partition(scope), &[entry]).await?;
    Ok(Done::Commit(after))
}

/// Where a change of members is kept.
pub(super) fn partition(scope: &Scope) -> ProjectId {
    match scope {
        Scope::Everywhere => ProjectId::new(SYSTEM_PROJECT),
        Scope::Project(project) => project.clone(),
    }
}
