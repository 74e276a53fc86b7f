//! Which database this is.
//!
//! The incarnation is part of every resume token. It changes when the database turns out to be a copy or a restore, so
//! that a watcher is never told a comfortable lie about revisions it did not see. PostgreSQL tells by its system
//! identifier, timeline and database oid; a copied SQLite file cannot be told apart, for it there is
//! `tasktower migrate new-incarnation`.

use rand::Rng as _;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, Statement};
use uuid::Uuid;

use super::connect::process_time;

/// The one row of the table `installation`.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Carried by resume tokens.
    pub incarnation: Uuid,
    /// Signs page tokens; made with the database, shared by all replicas.
    pub page_token_key: Vec<u8>,
    /// The seed of the key that signs heads of the journal, unless the configuration names another.
    pub audit_key: Vec<u8>,
}

/// Bytes of the page token key: a full HMAC-SHA256 key.
const KEY_BYTES: usize = 32;

fn new_key() -> Vec<u8> {
    let mut key = vec![0_u8; KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    key
}

pub(super) async fn load(database: &DatabaseConnection) -> anyhow::Result<Installation> {
    let identity = identity(database).await?;
    execute(
        database,
        "INSERT INTO installation (id, incarnation, identity, page_token_key, create_time) VALUES (1, $1, $2, $3, $4)
         ON CONFLICT (id) DO NOTHING",
        vec![Uuid::now_v7().into(), identity.clone().into(), new_key().into(), process_time().into()],
    )
    .await?;
    // Compare and set: of several replicas that start on a restored database one changes the incarnation.
    execute(
        database,
        "UPDATE installation SET incarnation = $1, identity = $2 WHERE id = 1 AND identity <> $2",
        vec![Uuid::now_v7().into(), identity.into()],
    )
    .await?;
    // A database of an earlier version has none yet; of several replicas one makes it.
    execute(
        database,
        "UPDATE installation SET audit_key = $1 WHERE id = 1 AND audit_key IS NULL",
        vec![new_key().into()],
    )
    .await?;
    let statement = Statement::from_string(
        database.get_database_backend(),
        "SELECT incarnation, page_token_key, audit_key FROM installation WHERE id = 1",
    );
    let row =
        database.query_one_raw(statement).await?.ok_or_else(|| anyhow::anyhow!("the installation row is gone"))?;
    Ok(Installation {
        incarnation: row.try_get_by_index(0)?,
        page_token_key: row.try_get_by_index(1)?,
        audit_key: row.try_get_by_index(2)?,
    })
}

/// Gives the database a new incarnation, after a file copy: every resume token made before is refused.
pub(super) async fn renew(database: &DatabaseConnection) -> anyhow::Result<Uuid> {
    let incarnation = Uuid::now_v7();
    execute(database, "UPDATE installation SET incarnation = $1 WHERE id = 1", vec![incarnation.into()]).await?;
    Ok(incarnation)
}

async fn execute(database: &DatabaseConnection, text: &str, values: Vec<sea_orm::Value>) -> anyhow::Result<()> {
    let statement = Statement::from_sql_and_values(database.get_database_backend(), text, values);
    database.execute_raw(statement).await?;
    Ok(())
}

async fn identity(database: &DatabaseConnection) -> anyhow::Result<String> {
    if database.get_database_backend() == DatabaseBackend::Sqlite {
        return Ok(String::new());
    }
    // Managed servers may forbid the control functions; then only the database oid is known, and a restore into a new
    // database is still seen.
    let full = "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' ||
                       (SELECT timeline_id::text FROM pg_control_checkpoint()) || '/' ||
                       (SELECT oid::text FROM pg_database WHERE datname = current_database())";
    let least = "SELECT oid::text FROM pg_database WHERE datname = current_database()";
    for text in [full, least] {
        let statement = Statement::from_string(DatabaseBackend::Postgres, text);
        match database.query_one_raw(statement).await {
            Ok(Some(row)) => return Ok(row.try_get_by_index(0)?),
            Ok(None) => {}
            Err(cause) => tracing::warn!(%cause, "the database does not tell its identity"),
        }
    }
    anyhow::bail!("the database does not tell its identity")
}
