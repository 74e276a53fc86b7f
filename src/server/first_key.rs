//! Makes a key straight in the database, when nobody has one yet to ask a server with.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    context::Caller,
    domain::{api_key::KeySettings, member::Scope, role::Role},
    ids::ProjectId,
    store::{DatabaseUrl, Store},
};

/// Who made a key, when that was done in the database.
const OPERATOR: &str = "system:key-create";

/// What to make.
#[derive(Debug)]
pub struct FirstKey {
    /// Whose credential it is.
    pub principal: String,
    /// A name for people.
    pub display_name: String,
    /// What its principal becomes: a role, by name, in a project or in all (`*`).
    pub member: Option<(String, String)>,
}

/// Makes it, and answers its name and the key. On SQLite no server may be running: it has the database to itself.
pub async fn create(database: &DatabaseUrl, first: FirstKey) -> anyhow::Result<(String, String)> {
    let member = first.member.map(|(project, role)| {
        let role = Role::of_name(&role).with_context(|| format!("{role:?} is no role"))?;
        let scope = if project == "*" { Scope::Everywhere } else { Scope::Project(ProjectId::new(&project)) };
        anyhow::Ok((scope, role))
    });
    let member = member.transpose()?;
    let store = Store::open(database).await.with_context(|| {
        format!("open {database}; where a server runs on it, leave --database-url out and ask that server")
    })?;
    let stop = CancellationToken::new();
    let app = App::new(store, stop.clone());
    let settings = KeySettings { display_name: first.display_name, ..KeySettings::default() };
    let (key, text) = app.create_api_key(&Caller::system(OPERATOR), first.principal, settings, member).await?;
    stop.cancel();
    Ok((crate::ids::api_key_name(&key.id), text))
}
