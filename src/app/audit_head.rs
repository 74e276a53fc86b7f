//! Signs the newest seals, so that a copy kept elsewhere proves what the database said.
//!
//! The key is one the configuration names, or else one made with the database and kept in it. The first is worth more: who may
//! write to the database has the second too. Once a minute each replica writes the heads of what it sealed to the log, where
//! no database can change them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};

use super::App;
use crate::{
    domain::{
        audit::head::{Head, Heads, MOST_HEADS},
        task::Micros,
    },
    error::{Error, Result},
    ids::{ProjectId, project_name},
    store::seals,
};

/// What a token begins with.
const PREFIX: &str = "tth1.";
/// What is signed begins with it, so that a signature is of nothing else.
const CONTEXT: &[u8] = b"tasktower.audit-head.v1\n";
/// No token of ours is longer, in base64.
const MAX_TOKEN: usize = 32 * 1024;

/// The key that signs.
#[derive(Debug)]
pub struct AuditKey {
    pair: Ed25519KeyPair,
    /// It comes from the configuration, not from the database.
    is_configured: bool,
}

impl AuditKey {
    /// Reads a key as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pem(text: &str) -> anyhow::Result<Self> {
        const WHAT: &str = "an Ed25519 private key in PEM (openssl genpkey -algorithm ed25519)";
        let mut lines = text.trim().lines();
        if lines.next() != Some("-----BEGIN PRIVATE KEY-----") || lines.next_back() != Some("-----END PRIVATE KEY-----")
        {
            bail!("this is not {WHAT}");
        }
        let body: String = lines.map(str::trim).collect();
        let der = BASE64_STANDARD.decode(body).ok().context(format!("this is not {WHAT}"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok().context(format!("this is not {WHAT}"))?;
        Ok(Self { pair, is_configured: true })
    }

    /// The key made with the database.
    fn from_seed(seed: &[u8]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        let pair = pair.map_err(|_| Error::internal(anyhow::anyhow!("the audit key in the database is damaged")))?;
        Ok(Self { pair, is_configured: false })
    }

    fn token(&self, heads: &Heads) -> String {
        let body = heads.encode();
        let signature = self.pair.sign(&[CONTEXT, &body].concat());
        let [body, signature] = [&body, signature.as_ref()].map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes));
        format!("{PREFIX}{body}.{signature}")
    }

    /// What a token says, if this key signed it.
    fn read(&self, token: &str) -> Option<Heads> {
        let text = token.strip_prefix(PREFIX).filter(|text| text.len() <= MAX_TOKEN)?;
        let (body, signature) = text.split_once('.')?;
        let [body, signature] = [body, signature].map(|part| BASE64_URL_SAFE_NO_PAD.decode(part));
        let body = body.ok()?;
        let key = UnparsedPublicKey::new(&ED25519, self.pair.public_key().as_ref());
        key.verify(&[CONTEXT, &body].concat(), &signature.ok()?).ok()?;
        Heads::decode(&body)
    }
}

/// Heads of what this replica sealed since it last wrote some to the log.
#[derive(Debug, Default)]
pub(super) struct NewHeads(Mutex<BTreeMap<ProjectId, Head>>);

impl NewHeads {
    pub(super) fn add(&self, head: Head) {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(head.project.clone(), head);
    }

    fn take(&self) -> Vec<Head> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

/// A signed head.
#[derive(Clone, Debug)]
pub struct SignedHead {
    /// The head.
    pub head: Head,
    /// When it was signed.
    pub time: Micros,
    /// Both with the signature.
    pub token: String,
    /// The public key, in base64.
    pub public_key: String,
    /// The key comes from the configuration.
    pub is_configured: bool,
}

impl App {
    /// Signs with this key instead of the one in the database. Of two the first counts.
    pub fn sign_heads_with(&self, key: AuditKey) {
        let _ = self.0.audit_key.set(key);
    }

    fn audit_key(&self) -> Result<&AuditKey> {
        if let Some(key) = self.0.audit_key.get() {
            return Ok(key);
        }
        let key = AuditKey::from_seed(&self.store().installation().audit_key)?;
        Ok(self.0.audit_key.get_or_init(|| key))
    }

    /// The newest seal of a project, signed.
    pub async fn get_audit_head(&self, project: &ProjectId) -> Result<SignedHead> {
        self.position(project).await?;
        let name = || format!("{}/auditHead", project_name(project));
        let found = seals::newest(self.store(), project).await?;
        let head = found.ok_or_else(|| Error::NotFound { kind: "audit head", name: name() })?;
        let (key, time) = (self.audit_key()?, self.store().now().await?);
        let token = key.token(&self.heads(time, vec![head.clone()]));
        let public_key = BASE64_STANDARD.encode(key.pair.public_key().as_ref());
        Ok(SignedHead { head, time, token, public_key, is_configured: key.is_configured })
    }

    /// The head of a project in a token that this installation signed.
    pub fn read_audit_head(&self, project: &ProjectId, token: &str) -> Result<Head> {
        let refused = |text: &str| Error::field("head", text);
        let heads = self.audit_key()?.read(token);
        let heads = heads.ok_or_else(|| refused("is damaged, or was not signed with the key of this installation"))?;
        let found = heads.heads.into_iter().find(|head| head.project == *project);
        found.ok_or_else(|| refused("has no head of this project"))
    }

    /// Writes what this replica sealed to the log, signed; called by a loop.
    pub async fn log_audit_heads(&self) -> Result<()> {
        let new = self.0.heads.take();
        if new.is_empty() {
            return Ok(());
        }
        let time = self.store().now().await?;
        for heads in new.chunks(MOST_HEADS) {
            let head = self.audit_key()?.token(&self.heads(time, heads.to_vec()));
            tracing::info!(projects = heads.len(), head, "audit head");
        }
        Ok(())
    }

    fn heads(&self, time: Micros, heads: Vec<Head>) -> Heads {
        Heads { incarnation: self.store().installation().incarnation, time, heads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::seal::Link;

    /// As OpenSSL 3 writes one.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    #[test]
    fn only_what_this_key_signed_is_read() {
        let key = AuditKey::from_pem(PEM).unwrap();
        let link = Link { number: 3, last: 17, hash: [5; 32] };
        let heads = Heads {
            incarnation: uuid::Uuid::from_u128(1),
            time: 9,
            heads: vec![Head { project: ProjectId::new("p"), link }],
        };
        let token = key.token(&heads);
        assert_eq!(key.read(&token), Some(heads.clone()));
        let other = AuditKey::from_seed(&[7; 32]).unwrap();
        assert_eq!((other.read(&token), other.is_configured), (None, false));
        for place in PREFIX.len()..token.len() - 1 {
            let mut damaged = token.clone().into_bytes();
            damaged[place] = if damaged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.read(&String::from_utf8(damaged).unwrap()), None, "{place}");
        }
        for bad in
            ["", "x", "-----BEGIN PRIVATE KEY-----", &PEM.replace("MC4", "AC4"), &PEM.replace("PRIVATE", "PUBLIC")]
        {
            assert!(AuditKey::from_pem(bad).is_err(), "{bad}");
        }
    }
}
