//! API keys: make, read, change, rotate and revoke them.
//!
//! A key is drawn here and answered once; its hash is all that is kept. What changes is read by this server's keyring at
//! once (`authentication/keyring.rs`), and by that of every other within a second or two. Keys belong to no project, so
//! their changes stand in the journal of the system.

use rand::{RngExt as _, distr::Alphanumeric};
use serde_json::{Map, Value, json};

use super::{
    App, member,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
    project::require_live,
};
use crate::{
    context::Caller,
    domain::{
        api_key::{ApiKey, ID_LENGTH, KeyPatch, KeySettings, MAX_KEYS, SECRET_LENGTH, SecretHash, key_text},
        etag,
        event::ResourceKind,
        member::Scope,
        role::Role,
        task::Micros,
    },
    error::{Error, Result},
    ids::{ProjectId, SYSTEM_PROJECT, api_key_name},
    store::{
        Tx, api_keys,
        journal::{self, Entry},
    },
};

impl App {
    /// Makes a key. Answers it with what is kept of it; with `member` its principal becomes one in the same transaction.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        principal: String,
        settings: KeySettings,
        member: Option<(Scope, Role)>,
    ) -> Result<(ApiKey, String)> {
        let (id, secret) = (drawn(ID_LENGTH), drawn(SECRET_LENGTH));
        let text = key_text(&id, &secret);
        let partition = member.as_ref().map(|(scope, _)| member::partition(scope));
        let write =
            CreateKey { caller: caller.clone(), id, secret: SecretHash::of(&secret), principal, settings, member };
        let key = self.write(write).await?;
        if let Some(partition) = partition {
            self.forget_authority(&key.principal);
            self.hub().journal_moved(&partition);
        }
        self.keys_changed().await;
        Ok((key, text))
    }

    /// One key.
    pub async fn get_api_key(&self, id: &str) -> Result<ApiKey> {
        api_keys::get(self.store(), id).await?.ok_or_else(|| not_found(id))
    }

    /// Keys by id, those after `after`; and the id after which the next page goes on.
    pub async fn list_api_keys(
        &self,
        principal: Option<&str>,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<ApiKey>, Option<String>)> {
        let found = api_keys::list(self.store(), principal, after.as_deref(), one_more(limit)).await?;
        Ok(cut(found, limit, |key| key.id.clone()))
    }

    /// Changes the settings of a key.
    pub async fn update_api_key(
        &self,
        caller: &Caller,
        id: String,
        patch: KeyPatch,
        etag: Option<String>,
    ) -> Result<ApiKey> {
        self.change_api_key(caller, id, etag, Change::Update(patch)).await
    }

    /// Gives a key a new secret; the one before goes on for `overlap`. Answers the new key.
    pub async fn rotate_api_key(
        &self,
        caller: &Caller,
        id: String,
        overlap: Micros,
        etag: Option<String>,
    ) -> Result<(ApiKey, String)> {
        let secret = drawn(SECRET_LENGTH);
        let text = key_text(&id, &secret);
        let change = Change::Rotate { secret: SecretHash::of(&secret), overlap };
        Ok((self.change_api_key(caller, id, etag, change).await?, text))
    }

    /// Ends a key for good.
    pub async fn revoke_api_key(&self, caller: &Caller, id: String, etag: Option<String>) -> Result<ApiKey> {
        self.change_api_key(caller, id, etag, Change::Revoke).await
    }

    async fn change_api_key(
        &self,
        caller: &Caller,
        id: String,
        etag: Option<String>,
        change: Change,
    ) -> Result<ApiKey> {
        let key = self.write(ChangeKey { caller: caller.clone(), id, etag, change }).await?;
        self.keys_changed().await;
        Ok(key)
    }

    async fn keys_changed(&self) {
        self.hub().journal_moved(&ProjectId::new(SYSTEM_PROJECT));
        // The change is durable; should this fail, the keyring's loop does it a second later.
        let _ = self.refresh_keys().await;
    }
}

/// So many random letters and digits.
fn drawn(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

fn not_found(id: &str) -> Error {
    Error::NotFound { kind: "API key", name: api_key_name(id) }
}

struct CreateKey {
    caller: Caller,
    id: String,
    secret: SecretHash,
    principal: String,
    settings: KeySettings,
    member: Option<(Scope, Role)>,
}

impl NamedWrite for CreateKey {
    const NAME: &'static str = "create-api-key";
    type Answer = ApiKey;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<ApiKey>, Stop> {
        let now = tx.now();
        require_future("api_key.expire_time", self.settings.expire_time, now)?;
        if api_keys::count_standing(tx).await? >= MAX_KEYS {
            return Err(Error::QuotaExceeded { project: "apiKeys".into(), what: "API keys", limit: MAX_KEYS }.into());
        }
        let key = ApiKey {
            id: self.id.clone(),
            principal: self.principal.clone(),
            settings: self.settings.clone(),
            secret: self.secret,
            previous: None,
            rotate_time: now,
            revoke_time: None,
            last_used_time: None,
            create_time: now,
            update_time: now,
        };
        api_keys::create(tx, &key).await?;
        if let Some((scope, role)) = &self.member {
            if let Scope::Project(project) = scope {
                require_live(tx, project).await?;
            }
            member::change(tx, &self.caller, scope, &self.principal, Some(*role)).await?;
        }
        let entry = entry(&self.caller, ResourceKind::ApiKeyCreated, None, &key, now);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(key))
    }
}

enum Change {
    Update(KeyPatch),
    Rotate { secret: SecretHash, overlap: Micros },
    Revoke,
}

struct ChangeKey {
    caller: Caller,
    id: String,
    etag: Option<String>,
    change: Change,
}

impl NamedWrite for ChangeKey {
    const NAME: &'static str = "change-api-key";
    type Answer = ApiKey;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<ApiKey>, Stop> {
        let Some(old) = api_keys::lock(tx, &self.id).await? else { return Err(not_found(&self.id).into()) };
        let current = etag::api_key_etag(&old);
        if self.etag.as_ref().is_some_and(|asked| *asked != current) {
            return Err(Error::EtagMismatch { name: api_key_name(&self.id), current }.into());
        }
        let now = tx.now();
        let (kind, changed) = match (&self.change, old.revoke_time) {
            (Change::Revoke, Some(_)) => return Ok(Done::Nothing(old)),
            (_, Some(_)) => return Err(self.conflict("revoked").into()),
            (Change::Revoke, None) => (ResourceKind::ApiKeyRevoked, ApiKey { revoke_time: Some(now), ..old.clone() }),
            (Change::Update(patch), None) => {
                let settings = old.settings.patched(patch.clone());
                if settings == old.settings {
                    return Ok(Done::Nothing(old));
                }
                if settings.expire_time != old.settings.expire_time {
                    require_future("api_key.expire_time", settings.expire_time, now)?;
                }
                (ResourceKind::ApiKeyUpdated, ApiKey { settings, ..old.clone() })
            }
            (Change::Rotate { secret, overlap }, None) => {
                if old.stands(now).is_err() {
                    return Err(self.conflict("expired").into());
                }
                let previous = (*overlap > 0).then_some((old.secret, now + overlap));
                let key = ApiKey { secret: *secret, previous, rotate_time: now, ..old.clone() };
                (ResourceKind::ApiKeyRotated, key)
            }
        };
        let key = ApiKey { update_time: now, ..changed };
        api_keys::write(tx, &key).await?;
        let entry = entry(&self.caller, kind, Some(&old), &key, now);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(key))
    }
}

impl ChangeKey {
    fn conflict(&self, state: &'static str) -> Error {
        Error::StateConflict { name: api_key_name(&self.id), state, hint: "make another key" }
    }
}

fn require_future(field: &str, expire_time: Option<Micros>, now: Micros) -> Result<()> {
    match expire_time {
        Some(time) if time <= now => Err(Error::field(field, "must be in the future")),
        _ => Ok(()),
    }
}

fn entry<'a>(caller: &'a Caller, kind: ResourceKind, old: Option<&ApiKey>, new: &ApiKey, now: Micros) -> Entry<'a> {
    Entry::of_resource(kind, api_key_name(&new.id), now, Some(diff(old, new)), caller)
}

/// Old and new values of what differs. Hashes are no values.
fn diff(old: Option<&ApiKey>, new: &ApiKey) -> String {
    // Named one by one, so that a new field is a compile error here.
    let values = |key: &ApiKey| {
        let ApiKey {
            id: _,
            principal,
            settings: KeySettings { display_name, scopes, networks, expire_time },
            secret: _,
            previous,
            rotate_time,
            revoke_time,
            last_used_time: _,
            create_time: _,
            update_time: _,
        } = key;
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        [
            ("principal", json!(principal)),
            ("display_name", json!(display_name)),
            ("scopes", json!(scopes)),
            ("allowed_cidrs", json!(networks)),
            ("expire_time", json!(expire_time)),
            ("rotate_time", json!(rotate_time)),
            ("previous_secret_expire_time", json!(previous.map(|(_, until)| until))),
            ("revoke_time", json!(revoke_time)),
        ]
    };
    let old = old.map(values);
    let before = |at: usize| old.as_ref().map_or(Value::Null, |old| old[at].1.clone());
    let fields = values(new).into_iter().enumerate().map(|(at, (field, new))| (field, before(at), new));
    let changed = fields.filter(|(_, old, new)| old != new);
    let changed: Map<String, Value> = changed.map(|(field, old, new)| (field.to_owned(), json!([old, new]))).collect();
    Value::Object(changed).to_string()
}
