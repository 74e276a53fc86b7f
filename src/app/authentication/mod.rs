//! Who calls: a credential is looked at, and becomes a principal with what it may do.
//!
//! API keys are in memory (`keyring`), and so are the keys of issuers (`issuers`) and the tokens that were good (`tokens`):
//! a call whose credential is known costs a hash and two look-ups. What is not taken is told to the caller in the same
//! words whatever part of it was good, and to the operator in full, without anything secret; an address that shows many of
//! them is not listened to for a while (`attempts`).
//!
//! Time is the database's, as of the last look at the keys.

mod attempts;
mod issuers;
mod jwks;
pub mod keyring;
mod tokens;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    attempts::Attempts,
    issuers::Issuer,
    keyring::Held,
    tokens::{Good, Tokens},
};
use super::App;
use crate::{
    context::PrincipalKind,
    domain::{
        api_key::{Flaw, ShownKey},
        authority::Authority,
        permission::PermissionSet,
        token::IssuerSettings,
    },
    error::{Error, Refusal, Result},
    ids::api_key_name,
};

/// What every key begins with; no token does.
const KEY_PREFIX: &str = "tt_";

/// Credentials of open streams are looked at again this often.
const RECHECK: Duration = Duration::from_secs(15);

/// What a call shows.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// Nothing.
    Nothing,
    /// Something that is no key and no token, whatever it is.
    Garbage,
    /// What should be a key.
    Key(&'a str),
    /// A key or a token.
    Bearer(&'a str),
}

impl Shown<'_> {
    /// The name of the key it says it is, good or not: that part is no secret.
    pub fn claimed(self) -> Option<Arc<str>> {
        let (Self::Key(text) | Self::Bearer(text)) = self else { return None };
        ShownKey::read(text).map(|shown| Arc::from(api_key_name(shown.id)))
    }
}

/// Who showed something that is good.
#[derive(Debug)]
pub struct Verified {
    /// Who it is.
    pub principal: Arc<str>,
    /// What kind of thing that is.
    pub kind: PrincipalKind,
    /// Its credential, without anything secret.
    pub credential: Option<Arc<str>>,
    /// What it may do where.
    pub authority: Authority,
    /// What to look at again.
    pub proof: Proof,
}

/// What a caller is known by.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A key.
    Key(Arc<Held>),
    /// A token.
    Token(Arc<Good>),
}

/// What there is to know callers by.
#[derive(Debug, Default)]
pub(super) struct Authentication {
    tokens: Tokens,
    admins: Vec<String>,
    attempts: Attempts,
}

impl Authentication {
    /// As configured.
    pub(super) fn load(issuers: Vec<IssuerSettings>, admins: Vec<String>) -> anyhow::Result<Self> {
        let issuers = issuers.into_iter().map(Issuer::load).collect::<anyhow::Result<_>>()?;
        Ok(Self { tokens: Tokens::of(issuers), admins, attempts: Attempts::default() })
    }

    /// Whether a principal is an administrator everywhere by configuration.
    pub(super) fn is_admin(&self, principal: &str) -> bool {
        self.admins.iter().any(|admin| admin == principal)
    }
}

impl App {
    /// Whether there is a credential that a call could come with.
    pub fn has_credentials(&self) -> bool {
        !self.authentication().tokens.issuers().is_empty() || self.keyring().has_standing()
    }

    /// Makes known who calls, or refuses.
    pub async fn authenticate(&self, shown: Shown<'_>, address: Option<IpAddr>) -> Result<Verified> {
        match shown {
            Shown::Nothing => Err(Error::Unauthenticated(Refusal::Missing)),
            Shown::Garbage => Err(self.refuse(Flaw::Malformed, None, address)),
            Shown::Key(text) => self.by_key(text, address).await,
            Shown::Bearer(text) if text.starts_with(KEY_PREFIX) => self.by_key(text, address).await,
            Shown::Bearer(text) => self.by_token(text, address).await,
        }
    }

    async fn by_key(&self, text: &str, address: Option<IpAddr>) -> Result<Verified> {
        let Some(shown) = ShownKey::read(text) else { return Err(self.refuse(Flaw::Malformed, None, address)) };
        let now = self.time_of_credentials().await?;
        let held = match self.keyring().find(shown.id) {
            Some(held) => held,
            None => {
                self.listen_to(address)?;
                let found = self.find_new_key(shown.id).await?;
                found.ok_or_else(|| self.refuse(Flaw::UnknownKey, Some(shown.id), address))?
            }
        };
        held.key.admit(shown, address, now).map_err(|flaw| self.refuse(flaw, Some(shown.id), address))?;
        held.was_used(now);
        let authority = self.authority(&held.principal, held.key.limit()).await?;
        Ok(Verified {
            principal: held.principal.clone(),
            kind: PrincipalKind::Service,
            credential: Some(held.name.clone()),
            authority,
            proof: Proof::Key(held),
        })
    }

    async fn by_token(&self, text: &str, address: Option<IpAddr>) -> Result<Verified> {
        let tokens = &self.authentication().tokens;
        let now = self.time_of_credentials().await?;
        let good = match tokens.known(text, now) {
            Some(good) => good,
            None => {
                self.listen_to(address)?;
                tokens.judge(text, now).await.map_err(|flaw| self.refuse(flaw, None, address))?
            }
        };
        let authority = self.authority(&good.principal, PermissionSet::ALL).await?;
        Ok(Verified {
            principal: good.principal.clone(),
            kind: PrincipalKind::User,
            credential: Some(good.credential.clone()),
            authority,
            proof: Proof::Token(good),
        })
    }

    fn listen_to(&self, address: Option<IpAddr>) -> Result<()> {
        let rest = self.authentication().attempts.rest(address, Instant::now());
        rest.map_or(Ok(()), |rest| Err(Error::TooManyAttempts(rest)))
    }

    /// Tells the operator, who is told no more than the address may try.
    fn refuse(&self, flaw: Flaw, key: Option<&str>, address: Option<IpAddr>) -> Error {
        let now = Instant::now();
        let attempts = &self.authentication().attempts;
        if let Some(rest) = attempts.rest(address, now) {
            return Error::TooManyAttempts(rest);
        }
        attempts.failed(address, now);
        let (cause, address) = (flaw.told(), address.map(tracing::field::display));
        tracing::warn!(cause, key, address, "a credential was not taken");
        Error::Unauthenticated(flaw.refusal())
    }

    /// Waits until a credential that was good is so no longer.
    pub async fn credential_lost(self, proof: Proof) -> Error {
        loop {
            tokio::time::sleep(RECHECK).await;
            // While the database does not answer nothing is known, and nothing is ended.
            let Ok(now) = self.time_of_credentials().await else { continue };
            let stands = match &proof {
                Proof::Key(held) => match self.keyring().find(&held.key.id) {
                    Some(held) => held.key.stands(now),
                    None => Err(Flaw::Expired),
                },
                Proof::Token(good) => self.authentication().tokens.stands(good, now),
            };
            match stands {
                Ok(()) => {}
                // It may be good by the keys that there are now; the client comes back and shows it.
                Err(Flaw::UnknownSigningKey) => return Error::Reconnect,
                Err(flaw) => return Error::Unauthenticated(flaw.refusal()),
            }
        }
    }

    /// Reads the keys of issuers again where that is due.
    pub async fn refresh_issuers(&self) {
        for issuer in self.authentication().tokens.issuers() {
            issuer.refresh().await;
        }
    }
}
