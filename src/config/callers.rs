//! Who may call: secrets, issuers, administrators. API keys are in the database and need no setting.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::domain::{
    task::SECOND,
    token::{Algorithm, Callers, DEFAULT_LEEWAY, IssuerSettings, KeySource, LOCAL_ISSUER, MIN_SECRET, Secret},
};

/// Clocks that differ by more are to be mended.
const MAX_LEEWAY_SECONDS: u32 = 300;
/// Issuers of one installation.
const MAX_ISSUERS: usize = 16;
/// Characters of the short name of an issuer.
const MAX_NAME: usize = 63;
/// Secrets that are good at the same time.
const MAX_SECRETS: usize = 8;

/// What one source says about it.
#[derive(Clone, Default, Deserialize)]
pub struct CallerSettings {
    /// Secrets of tokens signed with HS256, separated by white space; the first is the newest.
    pub jwt_secret: Option<String>,
    /// A file that holds them.
    pub jwt_secret_file: Option<PathBuf>,
    /// What those tokens must say in `iss`.
    pub jwt_issuer: Option<String>,
    /// What those tokens must say in `aud`.
    pub jwt_audience: Option<String>,
    /// Whose tokens are taken besides.
    pub issuers: Option<Vec<IssuerFile>>,
    /// Principals that are administrators of all projects, whatever memberships say.
    pub admins: Option<Vec<String>>,
}

/// An issuer as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerFile {
    /// The first part of the names of its principals: `user:{name}/{subject}`.
    pub name: String,
    /// What its tokens say in `iss`.
    pub issuer: String,
    /// Its tokens say one of these in `aud`.
    pub audience: Vec<String>,
    /// How its tokens may be signed: RS256, ES256, EdDSA.
    pub algorithms: Vec<String>,
    /// How much clocks may differ. Default 60.
    pub leeway_seconds: Option<u32>,
    /// Files with its public keys: PEM, or JSON (JWK, JWKS).
    pub key_files: Option<Vec<PathBuf>>,
    /// Where its key set (JWKS) is fetched.
    pub jwks_url: Option<String>,
}

impl std::fmt::Debug for CallerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerSettings").field("issuers", &self.issuers).field("admins", &self.admins).finish()
    }
}

impl CallerSettings {
    /// These settings, and those of `next` where these say nothing.
    pub fn or(self, next: Self) -> Self {
        // A secret given here in either form hides both forms of the next source.
        let has_secret = self.jwt_secret.is_some() || self.jwt_secret_file.is_some();
        Self {
            jwt_secret: self.jwt_secret.or(next.jwt_secret.filter(|_| !has_secret)),
            jwt_secret_file: self.jwt_secret_file.or(next.jwt_secret_file.filter(|_| !has_secret)),
            jwt_issuer: self.jwt_issuer.or(next.jwt_issuer),
            jwt_audience: self.jwt_audience.or(next.jwt_audience),
            issuers: self.issuers.or(next.issuers),
            admins: self.admins.or(next.admins),
        }
    }

    /// Checks them.
    pub fn callers(&self) -> anyhow::Result<Callers> {
        let mut issuers = Vec::new();
        issuers.extend(self.local()?);
        for issuer in self.issuers.iter().flatten() {
            issuers.push(issuer.settings().with_context(|| format!("issuer {:?}", issuer.name))?);
        }
        if issuers.len() > MAX_ISSUERS {
            bail!("there may be {MAX_ISSUERS} issuers");
        }
        let mut names = HashSet::new();
        let mut claims = HashSet::new();
        for issuer in &issuers {
            if !names.insert(&issuer.name) || !issuer.issuer.as_ref().is_none_or(|claim| claims.insert(claim)) {
                bail!("issuer {:?}: another one has this name or this `issuer`", issuer.name);
            }
        }
        let admins = self.admins.clone().unwrap_or_default();
        if let Some(admin) = admins.iter().find(|admin| !admin.starts_with("service:") && !admin.starts_with("user:")) {
            bail!("admins: {admin:?} is no principal; write service:ID or user:ISSUER/SUBJECT");
        }
        Ok(Callers::Known { issuers, admins })
    }

    /// The issuer of tokens signed with the secret of this server, if there is one.
    fn local(&self) -> anyhow::Result<Option<IssuerSettings>> {
        let text = match (&self.jwt_secret, &self.jwt_secret_file) {
            (Some(_), Some(_)) => bail!("give the secret of tokens or the file that holds it, not both"),
            (Some(text), None) => text.clone(),
            (None, Some(file)) => read(file)?,
            (None, None) => return Ok(None),
        };
        let secrets: Vec<_> = text.split_whitespace().map(|secret| Secret::new(secret.to_owned())).collect();
        if secrets.is_empty() || secrets.len() > MAX_SECRETS {
            bail!("the secret of tokens must be 1 to {MAX_SECRETS} words; several are for the time of a change");
        }
        if secrets.iter().any(|secret| secret.reveal().len() < MIN_SECRET) {
            bail!("the secret of tokens must have {MIN_SECRET} bytes or more; make one with `openssl rand -base64 32`");
        }
        Ok(Some(IssuerSettings {
            name: LOCAL_ISSUER.to_owned(),
            algorithms: vec![Algorithm::Hs256],
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone().into_iter().collect(),
            leeway: DEFAULT_LEEWAY,
            keys: KeySource::Secrets(secrets),
        }))
    }
}

impl IssuerFile {
    fn settings(&self) -> anyhow::Result<IssuerSettings> {
        let is_name = (1..=MAX_NAME).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name || self.name == LOCAL_ISSUER {
            bail!("name must match [a-z0-9-]{{1,{MAX_NAME}}} and not be {LOCAL_ISSUER:?}");
        }
        if self.issuer.is_empty() || self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            bail!("issuer and audience must be given: tokens made for others are not for this server");
        }
        let algorithms = self.algorithms.iter().map(|name| match name.parse() {
            Ok(Algorithm::Hs256) => bail!("HS256 is for jwt_secret: who can check such tokens can make them"),
            Ok(algorithm) => Ok(algorithm),
            Err(()) => bail!("algorithms: {name:?} is none of RS256, ES256, EdDSA"),
        });
        let algorithms: Vec<Algorithm> = algorithms.collect::<anyhow::Result<_>>()?;
        if algorithms.is_empty() {
            bail!("algorithms must be given: RS256, ES256, EdDSA");
        }
        let leeway = match self.leeway_seconds {
            None => DEFAULT_LEEWAY,
            Some(seconds @ 0..=MAX_LEEWAY_SECONDS) => i64::from(seconds) * SECOND,
            Some(_) => bail!("leeway_seconds may be at most {MAX_LEEWAY_SECONDS}"),
        };
        let keys = match (&self.key_files, &self.jwks_url) {
            (Some(files), None) if !files.is_empty() => KeySource::Files(files.clone()),
            (None, Some(url)) => KeySource::Url(url.clone()),
            _ => bail!("give key_files or jwks_url, one of them"),
        };
        Ok(IssuerSettings {
            name: self.name.clone(),
            algorithms,
            issuer: Some(self.issuer.clone()),
            audience: self.audience.clone(),
            leeway,
            keys,
        })
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn callers(text: &str) -> anyhow::Result<(Vec<IssuerSettings>, Vec<String>)> {
        let settings: Settings = toml::from_str(text)?;
        match settings.callers.callers()? {
            Callers::Known { issuers, admins } => Ok((issuers, admins)),
            Callers::Anyone => bail!("anyone"),
        }
    }

    const ISSUER: &str = "[[issuers]]\nname = 'corp'\nissuer = 'https://id.example.org'\naudience = ['tasktower']\n";

    #[test]
    fn secrets_and_issuers_are_read_and_secrets_are_not_shown() {
        let text = format!(
            "admins = ['user:corp/ada']\njwt_secret = '{} {}'\n{ISSUER}algorithms = ['ES256']\nkey_files = ['k.pem']",
            "a".repeat(32),
            "b".repeat(32)
        );
        let (issuers, admins) = callers(&text).unwrap();
        assert_eq!((issuers.len(), admins.len()), (2, 1));
        assert!(matches!(&issuers[0].keys, KeySource::Secrets(secrets) if secrets.len() == 2));
        assert_eq!((issuers[1].algorithms.as_slice(), issuers[1].leeway), (&[Algorithm::Es256][..], DEFAULT_LEEWAY));
        let settings: Settings = toml::from_str(&text).unwrap();
        assert!(!format!("{settings:?} {issuers:?}").contains("aaaa"));
        assert!(callers("").unwrap().0.is_empty());
    }

    #[test]
    fn what_is_weak_or_not_clear_is_refused() {
        for (wrong, word) in [
            ("jwt_secret = 'short'", "32 bytes"),
            ("jwt_secret = ' '", "1 to 8"),
            ("admins = ['ada']", "principal"),
            (&format!("{ISSUER}algorithms = ['none']\njwks_url = 'https://x'"), "RS256"),
            (&format!("{ISSUER}algorithms = ['HS256']\njwks_url = 'https://x'"), "jwt_secret"),
            (&format!("{ISSUER}algorithms = []\njwks_url = 'https://x'"), "algorithms"),
            (&format!("{ISSUER}algorithms = ['RS256']"), "one of them"),
            (&format!("{ISSUER}algorithms = ['RS256']\njwks_url = 'https://x'\nkid = 'x'"), "kid"),
            (&ISSUER.replace("['tasktower']", "[]").replace("corp'", "corp'\nalgorithms = ['RS256']"), "audience"),
            (&ISSUER.replace("corp'", "local'\nalgorithms = ['RS256']"), "local"),
        ] {
            let error = format!("{:#}", callers(wrong).unwrap_err());
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }
}
