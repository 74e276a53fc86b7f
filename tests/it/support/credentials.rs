//! The credential of the tests: an API key of an administrator, planted into the database of each server before it starts.
//! Clients, the command line, `buf` and Python all come with it.

use std::sync::OnceLock;

use tasktower::domain::api_key::{SecretHash, key_text};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::{backend::Database, sql::Beside};

/// Who the tests are.
pub const PRINCIPAL: &str = "service:tests";

/// The part of the key that is no secret.
pub const ID: &str = "testsKey";
/// The other one: no log, error, journal row or metric may have it.
pub const SECRET: &str = "plantedSecretplantedSecretplantedSecretplan";

/// The key.
pub fn key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| key_text(ID, SECRET))
}

/// Puts the key into a migrated database, and makes its principal an administrator.
pub async fn plant(database: &Database) {
    let hash = SecretHash::of(SECRET).to_hex();
    let statements = format!(
        "INSERT INTO api_key (id, principal, display_name, scopes, networks, secret_hash, rotate_time, create_time, \
         update_time) VALUES ('{ID}', '{PRINCIPAL}', 'tests', 0, '[]', '{hash}', 1, 1, 1) ON CONFLICT DO NOTHING; \
         INSERT INTO member (project, principal, role, create_time) VALUES ('*', '{PRINCIPAL}', 5, 1) \
         ON CONFLICT DO NOTHING"
    );
    Beside::open(database).await.run(&statements).await;
}

/// A connection whose calls come with a key, or with nothing.
pub type Wire = InterceptedService<Channel, Shown>;

/// What calls come with.
#[derive(Clone, Default)]
pub struct Shown(Vec<(&'static str, MetadataValue<Ascii>)>);

impl Shown {
    /// The key of the tests.
    pub fn planted() -> Shown {
        Shown::key(key())
    }

    pub fn key(key: &str) -> Shown {
        Shown::default().with("x-api-key", key)
    }

    pub fn bearer(token: &str) -> Shown {
        Shown::default().with("authorization", &format!("Bearer {token}"))
    }

    pub fn with(mut self, header: &'static str, value: &str) -> Shown {
        self.0.push((header, value.parse().expect("visible ASCII")));
        self
    }
}

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (header, value) in &self.0 {
            request.metadata_mut().append(*header, value.clone());
        }
        Ok(request)
    }
}
