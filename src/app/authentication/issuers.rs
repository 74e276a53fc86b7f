//! Who issues tokens, with their keys: read from the configuration and files at the start, fetched from where they are
//! published, and looked at again. A key set that cannot be read leaves the last good one in place.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde_json::Value;

use super::jwks;
use crate::domain::token::{Algorithm, IssuerSettings, KeySource, MIN_SECRET};

/// Key sets are fetched again this often.
const REFRESH: Duration = Duration::from_secs(600);
/// A token that names an unknown key has its key set fetched, so often at most.
const REFETCH: Duration = Duration::from_secs(60);
/// Keys of one issuer that are looked at.
const MAX_KEYS: usize = 64;
/// Bytes of a file of keys.
const MAX_FILE: u64 = 256 * 1024;

/// A key that tokens are checked with.
pub struct SigningKey {
    /// Its name, if it has one.
    pub id: Option<String>,
    /// How it signs; it is never used in another way.
    pub algorithm: Algorithm,
    /// The key.
    pub key: DecodingKey,
}

/// The keys of one issuer.
#[derive(Default)]
pub struct KeySet {
    /// In the order they are tried.
    pub keys: Vec<SigningKey>,
    /// What they were read from, to see whether anything changed.
    text: Vec<String>,
}

/// An issuer with its keys.
pub struct Issuer {
    /// What is configured.
    pub settings: IssuerSettings,
    keys: RwLock<Arc<KeySet>>,
    /// Held by who fetches, with when that was last.
    fetched: tokio::sync::Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Issuer").field(&self.settings.name).finish()
    }
}

impl Issuer {
    /// With the keys of the configuration and of files; what is fetched comes later.
    pub fn load(settings: IssuerSettings) -> anyhow::Result<Self> {
        let keys = match &settings.keys {
            KeySource::Secrets(secrets) => {
                let mut keys = Vec::new();
                for secret in secrets {
                    if secret.reveal().len() < MIN_SECRET {
                        bail!("a secret for tokens has fewer than {MIN_SECRET} bytes");
                    }
                    let key = DecodingKey::from_secret(secret.reveal().as_bytes());
                    keys.push(SigningKey { id: None, algorithm: Algorithm::Hs256, key });
                }
                KeySet::of_keys(keys)
            }
            KeySource::Files(_) => read_files(&settings)?,
            KeySource::Url(url) => {
                jwks::check(url)?;
                KeySet::default()
            }
        };
        Ok(Self { settings, keys: RwLock::new(Arc::new(keys)), fetched: tokio::sync::Mutex::default() })
    }

    /// Its keys as they are now. Another set is another `Arc`.
    pub fn keys(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at files again; fetches what is due.
    pub async fn refresh(&self) {
        match &self.settings.keys {
            KeySource::Secrets(_) => {}
            KeySource::Files(_) => match read_files(&self.settings) {
                Ok(keys) => self.put(keys),
                Err(cause) => self.keeps(&cause),
            },
            KeySource::Url(url) => {
                let every = if self.keys().keys.is_empty() { Duration::ZERO } else { REFRESH };
                self.fetch(url, every).await;
            }
        }
    }

    /// A token names a key that is not there: it may be new.
    pub async fn look_for_new(&self) {
        if let KeySource::Url(url) = &self.settings.keys {
            self.fetch(url, REFETCH).await;
        }
    }

    async fn fetch(&self, url: &str, every: Duration) {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        *fetched = Some(Instant::now());
        let keys = match jwks::fetch(url).await {
            Ok(text) => KeySet::of_texts(vec![text], &self.settings.algorithms),
            Err(cause) => Err(cause),
        };
        match keys {
            Ok(keys) => self.put(keys),
            Err(cause) => self.keeps(&cause),
        }
    }

    fn put(&self, keys: KeySet) {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if held.text != keys.text {
            tracing::info!(issuer = self.settings.name, keys = keys.keys.len(), "the keys of an issuer were read");
            *held = Arc::new(keys);
        }
    }

    fn keeps(&self, cause: &anyhow::Error) {
        let cause = format!("{cause:#}");
        tracing::warn!(
            issuer = self.settings.name,
            cause,
            "the keys of an issuer cannot be read; the last ones are kept"
        );
    }
}

fn read_files(settings: &IssuerSettings) -> anyhow::Result<KeySet> {
    let KeySource::Files(files) = &settings.keys else { return Ok(KeySet::default()) };
    let texts = files.iter().map(|path| read(path).with_context(|| format!("read {}", path.display())));
    let texts = texts.collect::<anyhow::Result<Vec<_>>>()?;
    KeySet::of_texts(texts, &settings.algorithms).with_context(|| format!("keys of issuer {}", settings.name))
}

fn read(path: &Path) -> anyhow::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        bail!("it is larger than {MAX_FILE} bytes");
    }
    Ok(std::fs::read_to_string(path)?)
}

impl KeySet {
    /// Of keys that never change.
    pub fn of_keys(keys: Vec<SigningKey>) -> Self {
        Self { keys, text: Vec::new() }
    }

    /// The keys in some files, of those that tokens may be signed with; what else is in a key set is passed over.
    pub fn of_texts(text: Vec<String>, algorithms: &[Algorithm]) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        for text in &text {
            if text.trim_start().starts_with('{') {
                let json: Value = serde_json::from_str(text).context("it is no JSON")?;
                match json.get("keys").and_then(Value::as_array) {
                    Some(all) => keys.extend(all.iter().filter_map(of_jwk)),
                    None => keys.extend(of_jwk(&json)),
                }
            } else {
                keys.push(of_pem(text.as_bytes())?);
            }
        }
        keys.retain(|key| algorithms.contains(&key.algorithm));
        keys.truncate(MAX_KEYS);
        if keys.is_empty() {
            bail!("it holds no key that tokens of this issuer may be signed with");
        }
        Ok(Self { keys, text })
    }
}

fn of_pem(pem: &[u8]) -> anyhow::Result<SigningKey> {
    let (algorithm, key) = DecodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::Rs256, key))
        .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::Es256, key)))
        .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDsa, key)))
        .map_err(|_| anyhow::anyhow!("it is no PEM with a public key of RSA, P-256 or Ed25519"))?;
    Ok(SigningKey { id: None, algorithm, key })
}

/// None when it is for something else.
fn of_jwk(json: &Value) -> Option<SigningKey> {
    let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::Rs256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::Es256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDsa,
        // A secret is set in the configuration, where its length is looked at; a published one is none.
        _ => return None,
    };
    let says = json.get("alg").and_then(Value::as_str);
    let is_for_this = says.is_none_or(|says| says.parse() == Ok(algorithm));
    let is_for_signing = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !is_for_this || !is_for_signing {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(SigningKey { id: jwk.common.key_id, algorithm, key })
}
