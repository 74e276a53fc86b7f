//! Members: who has which role in which project, or in all of them.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Sql},
};
use crate::domain::{
    member::{Member, Scope},
    role::Role,
};

/// What a principal is a member of. A role that this version does not know gives nothing.
pub async fn of_principal(store: &Store, principal: &str) -> StoreResult<Vec<(Scope, Role)>> {
    let statement = Sql::new("-- members::of_principal\nSELECT project, role FROM member WHERE principal = $1");
    let rows = store.fetch_by_key(statement.text(principal)).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut r = Reader::new(row);
        let project: String = r.get()?;
        let role: i16 = r.get()?;
        found.extend(Role::of_number(role.into()).map(|role| (Scope::of_key(&project), role)));
    }
    Ok(found)
}

/// How many memberships a principal has.
pub async fn count_of_principal(tx: &mut Tx, principal: &str) -> StoreResult<i64> {
    let statement = Sql::new("-- members::count_of_principal\nSELECT count(*) FROM member WHERE principal = $1");
    tx.fetch(statement.text(principal)).await?.first().map_or(Ok(0), |row| Reader::new(row).get())
}

/// Members of a project, or of all projects, after a principal, by principal.
pub async fn list(store: &Store, scope: &Scope, after: Option<&str>, limit: i64) -> StoreResult<Vec<Member>> {
    let statement = Sql::new(
        "-- members::list
         SELECT project, principal, role, create_time FROM member WHERE project = $1 AND principal > $2
         ORDER BY principal LIMIT $3",
    );
    let statement = statement.text(scope.key()).text(after.unwrap_or_default()).int(limit);
    store.fetch(statement).await?.iter().map(decode).collect()
}

/// Locks the members of a scope against each other's changes: of all projects, so that the last administrator stays.
pub async fn lock(tx: &mut Tx) -> StoreResult<()> {
    if tx.is_postgres() {
        let statement = Sql::new("-- members::lock\nSELECT revision FROM counter WHERE project = 'system' FOR UPDATE");
        tx.fetch(statement).await?;
    }
    Ok(())
}

/// One member.
pub async fn get_in(tx: &mut Tx, scope: &Scope, principal: &str) -> StoreResult<Option<Member>> {
    let statement = Sql::new(
        "-- members::get_in
         SELECT project, principal, role, create_time FROM member WHERE project = $1 AND principal = $2",
    );
    tx.fetch(statement.text(scope.key()).text(principal)).await?.first().map(decode).transpose()
}

/// Whether somebody else is an administrator everywhere.
pub async fn has_other_admin(tx: &mut Tx, principal: &str) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- members::has_other_admin
         SELECT 1 FROM member WHERE project = $1 AND role = $2 AND principal <> $3 LIMIT 1",
    );
    let statement = statement.text(Scope::Everywhere.key()).int(Role::Admin as i64).text(principal);
    Ok(!tx.fetch(statement).await?.is_empty())
}

/// Makes a member, or gives it another role.
pub async fn set(tx: &mut Tx, member: &Member) -> StoreResult<()> {
    let statement = Sql::new(
        "-- members::set
         INSERT INTO member (project, principal, role, create_time) VALUES ($1, $2, $3, $4)
         ON CONFLICT (project, principal) DO UPDATE SET role = excluded.role",
    );
    let statement = statement.text(member.scope.key()).text(&member.principal).int(member.role as i64);
    tx.execute(statement.int(member.create_time)).await
}

/// Takes a membership away.
pub async fn remove(tx: &mut Tx, scope: &Scope, principal: &str) -> StoreResult<()> {
    let statement = Sql::new("-- members::remove\nDELETE FROM member WHERE project = $1 AND principal = $2");
    tx.execute(statement.text(scope.key()).text(principal)).await
}

fn decode(row: &QueryResult) -> StoreResult<Member> {
    let mut r = Reader::new(row);
    let project: String = r.get()?;
    let principal: String = r.get()?;
    let role: i16 = r.get()?;
    let role = Role::of_number(role.into()).ok_or_else(|| StoreError::Bug(anyhow::anyhow!("role {role}")))?;
    Ok(Member { scope: Scope::of_key(&project), principal, role, create_time: r.get()? })
}
