//! API keys in the database: hashes of their secrets, never the keys.

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::domain::{
    api_key::{ApiKey, KeySettings, SecretHash, network},
    permission::PermissionSet,
    task::Micros,
};

macro_rules! columns {
    () => {
        "id, principal, display_name, scopes, networks, secret_hash, previous_hash, previous_expire_time, rotate_time, \
         expire_time, revoke_time, last_used_time, create_time, update_time"
    };
}

/// One key.
pub async fn get(store: &Store, id: &str) -> StoreResult<Option<ApiKey>> {
    let statement = Sql::new(concat!("-- api_keys::get\nSELECT ", columns!(), " FROM api_key WHERE id = $1"));
    store.fetch(statement.text(id)).await?.first().map(decode).transpose()
}

/// One key, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, id: &str) -> StoreResult<Option<ApiKey>> {
    let statement = Sql::new(if tx.is_postgres() {
        concat!("-- api_keys::lock\nSELECT ", columns!(), " FROM api_key WHERE id = $1 FOR UPDATE")
    } else {
        concat!("-- api_keys::lock\nSELECT ", columns!(), " FROM api_key WHERE id = $1")
    });
    tx.fetch(statement.text(id)).await?.first().map(decode).transpose()
}

/// Keys after an id, by id; of one principal, if one is given.
pub async fn list(store: &Store, principal: Option<&str>, after: Option<&str>, limit: i64) -> StoreResult<Vec<ApiKey>> {
    let statement = Sql::new(concat!(
        "-- api_keys::list\nSELECT ",
        columns!(),
        " FROM api_key WHERE id > $1 AND ($2 = '' OR principal = $2) ORDER BY id LIMIT $3"
    ));
    let statement = statement.text(after.unwrap_or_default()).text(principal.unwrap_or_default()).int(limit);
    store.fetch(statement).await?.iter().map(decode).collect()
}

/// Keys that changed at or after a time, and are neither revoked nor over since before `ended`.
pub async fn changed(store: &Store, since: Micros, ended: Micros) -> StoreResult<Vec<ApiKey>> {
    let statement = Sql::new(concat!(
        "-- api_keys::changed\nSELECT ",
        columns!(),
        " FROM api_key WHERE update_time >= $1 AND (revoke_time IS NULL OR revoke_time >= $2)
         AND (expire_time IS NULL OR expire_time >= $2)"
    ));
    store.fetch(statement.int(since).int(ended)).await?.iter().map(decode).collect()
}

/// How many keys are neither revoked nor over.
pub async fn count_standing(tx: &mut Tx) -> StoreResult<i64> {
    let statement = Sql::new(
        "-- api_keys::count_standing
         SELECT count(*) FROM api_key WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1)",
    );
    let now = tx.now();
    tx.fetch(statement.int(now)).await?.first().map_or(Ok(0), |row| Reader::new(row).get())
}

/// Makes a key.
pub async fn create(tx: &mut Tx, key: &ApiKey) -> StoreResult<()> {
    let statement = Sql::new(concat!(
        "-- api_keys::create\nINSERT INTO api_key (",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    ));
    tx.execute(bound(statement, key)?).await
}

/// Writes all of a key but when it was used.
pub async fn write(tx: &mut Tx, key: &ApiKey) -> StoreResult<()> {
    let statement = Sql::new(
        "-- api_keys::write
         UPDATE api_key SET principal = $2, display_name = $3, scopes = $4, networks = $5, secret_hash = $6,
            previous_hash = $7, previous_expire_time = $8, rotate_time = $9, expire_time = $10, revoke_time = $11,
            last_used_time = CASE WHEN last_used_time >= $12 THEN last_used_time ELSE $12 END, create_time = $13,
            update_time = $14
         WHERE id = $1",
    );
    tx.execute(bound(statement, key)?).await
}

/// Notes when keys were used.
pub async fn used(tx: &mut Tx, used: &[(String, Micros)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- api_keys::used
         WITH {x} UPDATE api_key SET last_used_time = x.time FROM x
         WHERE api_key.id = x.id AND (api_key.last_used_time IS NULL OR api_key.last_used_time < x.time)",
    );
    let rows = Rows::new(used.len())
        .text("id", used.iter().map(|(id, _)| id.as_str()))
        .int("time", used.iter().map(|(_, time)| *time));
    tx.execute(statement.rows(rows)).await
}

fn bound(statement: Sql, key: &ApiKey) -> StoreResult<Sql> {
    let ApiKey {
        id,
        principal,
        settings: KeySettings { display_name, scopes, networks, expire_time },
        secret,
        previous,
        rotate_time,
        revoke_time,
        last_used_time,
        create_time,
        update_time,
    } = key;
    let scopes = i64::try_from(scopes.bits()).map_err(|cause| StoreError::Bug(cause.into()))?;
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let networks = serde_json::to_string(&networks).map_err(|cause| StoreError::Bug(cause.into()))?;
    let previous_hash = previous.map(|(hash, _)| hash.to_hex());
    Ok(statement
        .text(id)
        .text(principal)
        .text(display_name)
        .int(scopes)
        .text(&networks)
        .text(&secret.to_hex())
        .opt_text(previous_hash.as_deref())
        .opt_int(previous.map(|(_, until)| until))
        .int(*rotate_time)
        .opt_int(*expire_time)
        .opt_int(*revoke_time)
        .opt_int(*last_used_time)
        .int(*create_time)
        .int(*update_time))
}

fn decode(row: &QueryResult) -> StoreResult<ApiKey> {
    let mut r = Reader::new(row);
    let (id, principal, display_name): (String, String, String) = (r.get()?, r.get()?, r.get()?);
    let (scopes, networks): (i64, String) = (r.get()?, r.get()?);
    let (secret, previous): (String, Option<String>) = (r.get()?, r.get()?);
    let previous_expire_time: Option<i64> = r.get()?;
    let rotate_time = r.get()?;
    let settings = KeySettings {
        display_name,
        scopes: PermissionSet::of_bits(scopes.unsigned_abs()),
        networks: networks_of(&networks)?,
        expire_time: r.get()?,
    };
    Ok(ApiKey {
        id,
        principal,
        settings,
        secret: hash(&secret)?,
        previous: previous.as_deref().map(hash).transpose()?.zip(previous_expire_time),
        rotate_time,
        revoke_time: r.get()?,
        last_used_time: r.get()?,
        create_time: r.get()?,
        update_time: r.get()?,
    })
}

fn hash(hex: &str) -> StoreResult<SecretHash> {
    SecretHash::of_hex(hex).ok_or_else(|| StoreError::Bug(anyhow::anyhow!("a hash that is none")))
}

fn networks_of(json: &str) -> StoreResult<Vec<ipnet::IpNet>> {
    let texts: Vec<String> = serde_json::from_str(json).map_err(|cause| StoreError::Bug(cause.into()))?;
    let networks = texts.iter().map(|text| network(text));
    networks.collect::<Option<_>>().ok_or_else(|| StoreError::Bug(anyhow::anyhow!("a network that is none")))
}
