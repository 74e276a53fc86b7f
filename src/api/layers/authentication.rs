//! Makes known who calls, before anything else is done for them: from `x-api-key`, or `authorization: Bearer`.
//!
//! What probes and reflection need stands in the table of open methods and needs no credential. What a credential is worth
//! is for `app::authentication` to say. Values of credentials are marked, so that nothing prints or compresses them, and go
//! no further than this.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, header::AUTHORIZATION, request::Parts};

use super::caller::{self, Peer};
use crate::{
    api::access::{DEVELOPER, Rule},
    app::{
        App,
        authentication::{Proof, Shown},
    },
    context::{Caller, CallerInfo},
    domain::authority::{Authority, Grants},
    error::{Error, Result},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SCHEME: &str = "bearer";

/// Who may call.
#[derive(Clone)]
pub enum Authentication {
    /// Anyone, as the developer, who may do everything.
    Open(Arc<str>),
    /// Who shows a credential.
    By(App),
}

/// What a caller is known by, if that can end while a stream is open.
pub type Known = Option<(App, Proof)>;

impl Authentication {
    /// Of a server that anyone may call.
    pub fn open() -> Self {
        Self::Open(Arc::from(DEVELOPER))
    }

    /// The caller of a request, by a rule; none when there is no such method. A credential that is refused leaves a caller
    /// who may do nothing, for the record.
    pub async fn caller(&self, request: &Parts, rule: Option<&Rule>, request_id: &str) -> (Caller, Result<Known>) {
        let app = match self {
            Self::Open(developer) => {
                let info = CallerInfo::of_server(Arc::clone(developer));
                return (caller::of(request, info, request_id), Ok(None));
            }
            Self::By(app) => app,
        };
        let unknown = |credential| caller::of(request, nobody(credential), request_id);
        // Who asks for a method that needs nothing, or does not exist, is not asked who it is.
        if rule.is_none_or(|rule| rule.permission.is_none()) {
            return (unknown(None), Ok(None));
        }
        let shown = match shown(&request.headers) {
            Ok(shown) => shown,
            Err(error) => return (unknown(None), Err(error)),
        };
        match app.authenticate(shown, address(request)).await {
            Ok(verified) => {
                let info = CallerInfo {
                    kind: verified.kind,
                    credential: verified.credential,
                    authority: verified.authority,
                    ..CallerInfo::of_server(verified.principal)
                };
                (caller::of(request, info, request_id), Ok(Some((app.clone(), verified.proof))))
            }
            Err(error) => (unknown(shown.claimed()), Err(error)),
        }
    }
}

/// Who is not asked who it is, or was and did not say so well; with the credential it claims to have.
const NOBODY: &str = "system:anonymous";

fn nobody(credential: Option<Arc<str>>) -> CallerInfo {
    CallerInfo {
        credential,
        authority: Authority::Granted(Arc::new(Grants::default())),
        ..CallerInfo::of_server(Arc::from(NOBODY))
    }
}

fn address(request: &Parts) -> Option<IpAddr> {
    let peer = request.extensions.get::<Peer>()?;
    peer.address.remote_addr().map(|address| address.ip())
}

/// Marks credentials, so that no log prints them and they stay out of compression tables.
pub fn conceal(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if *name == API_KEY || *name == AUTHORIZATION {
            value.set_sensitive(true);
        }
    }
}

/// What the headers show.
fn shown(headers: &HeaderMap) -> Result<Shown<'_>> {
    let mut keys = headers.get_all(API_KEY).iter();
    let mut bearers = headers.get_all(AUTHORIZATION).iter();
    let (key, bearer) = (keys.next(), bearers.next());
    if keys.next().or_else(|| bearers.next()).is_some() || (key.is_some() && bearer.is_some()) {
        return Err(Error::field(
            "x-api-key",
            "more than one credential is sent; send x-api-key or authorization, once",
        ));
    }
    Ok(match (key, bearer) {
        (None, None) => Shown::Nothing,
        (Some(value), _) => match value.to_str() {
            Ok(key) if !key.is_empty() => Shown::Key(key),
            _ => Shown::Garbage,
        },
        (None, Some(value)) => value.to_str().ok().and_then(bearer_of).map_or(Shown::Garbage, Shown::Bearer),
    })
}

/// The scheme is read without regard to case (RFC 9110 §11.1).
fn bearer_of(value: &str) -> Option<&str> {
    let (scheme, credential) = value.split_once(' ')?;
    let credential = credential.trim_matches(' ');
    (scheme.eq_ignore_ascii_case(SCHEME) && !credential.is_empty()).then_some(credential)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(headers: &[(HeaderName, &str)]) -> String {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut all = HeaderMap::new();
        headers.for_each(|(name, value)| {
            all.append(name, value);
        });
        match shown(&all) {
            Ok(Shown::Nothing) => "nothing".into(),
            Ok(Shown::Garbage) => "garbage".into(),
            Ok(Shown::Key(key)) => format!("key {key}"),
            Ok(Shown::Bearer(bearer)) => format!("bearer {bearer}"),
            Err(error) => error.to_string().split(':').next().unwrap().to_owned(),
        }
    }

    #[test]
    fn one_credential_is_read_and_two_are_one_too_many() {
        assert_eq!(of(&[]), "nothing");
        assert_eq!(of(&[(API_KEY, "k")]), "key k");
        for value in ["Bearer t", "bearer t", "BEARER  t "] {
            assert_eq!(of(&[(AUTHORIZATION, value)]), "bearer t", "{value}");
        }
        for value in ["Basic t", "Bearer", "Bearer ", "t", ""] {
            assert_eq!(of(&[(AUTHORIZATION, value)]), "garbage", "{value}");
        }
        assert_eq!(of(&[(API_KEY, "")]), "garbage");
        for both in [[(API_KEY, "k"), (AUTHORIZATION, "Bearer t")], [(API_KEY, "k"), (API_KEY, "k")]] {
            assert_eq!(of(&both), "x-api-key");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let mut headers = HeaderMap::new();
        headers.insert(API_KEY, HeaderValue::from_static("hush-1"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer hush-2"));
        conceal(&mut headers);
        assert!(!format!("{headers:?}").contains("hush"));
    }
}
