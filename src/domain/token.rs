//! Tokens (JWT, RFC 7519): who issues them, and what their claims come to. Whether a signature is good is for others; here
//! a token is a header and claims that were read.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    api_key::Flaw,
    task::{Micros, SECOND},
};

/// A token may be so large, in bytes: identity providers write lists of groups into it.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Bytes of the name of a signing key.
const MAX_KEY_ID: usize = 256;
/// Bytes of a subject.
const MAX_SUBJECT: usize = 255;
/// Clocks may differ by so much unless told otherwise.
pub const DEFAULT_LEEWAY: Micros = 60 * SECOND;
/// The least bytes of a secret that tokens are signed with: those of the hash (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;
/// The issuer of tokens signed with the secret of this server.
pub const LOCAL_ISSUER: &str = "local";

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "by their names in RFC 7518 and RFC 8037")]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "HS256" => Ok(Self::Hs256),
            "RS256" => Ok(Self::Rs256),
            "ES256" => Ok(Self::Es256),
            "EdDSA" => Ok(Self::EdDsa),
            _ => Err(()),
        }
    }
}

/// Text that is nobody's to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it from being printed.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Secrets that both sides have; the first is the one to sign with.
    Secrets(Vec<Secret>),
    /// Files: PEM with one public key, or a key or key set as JSON (RFC 7517).
    Files(Vec<PathBuf>),
    /// A key set that is fetched.
    Url(String),
}

/// Who issues tokens, and which of them are meant for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The first part of the names of its principals: `user:{name}/{subject}`.
    pub name: String,
    /// How its tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// What its tokens say in `iss`; none when that does not matter.
    pub issuer: Option<String>,
    /// Its tokens say one of these in `aud`; empty when that does not matter.
    pub audience: Vec<String>,
    /// How much clocks may differ.
    pub leeway: Micros,
    /// Its keys.
    pub keys: KeySource,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Callers {
    /// Anyone, as `system:dev`, who may do everything.
    #[default]
    Anyone,
    /// Who shows an API key or a token.
    Known {
        /// Whose tokens are taken.
        issuers: Vec<IssuerSettings>,
        /// Principals that are administrators everywhere, whatever memberships say.
        admins: Vec<String>,
    },
}

/// What the header of a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// With which key.
    pub key_id: Option<String>,
}

impl Header {
    /// Reads a header. Where keys could be found, and what must be understood besides, is not up to a token.
    pub fn read(json: &[u8]) -> Result<Self, Flaw> {
        #[derive(Deserialize)]
        struct Fields {
            alg: String,
            kid: Option<String>,
            crit: Option<Value>,
        }
        let Fields { alg, kid, crit } = serde_json::from_slice(json).map_err(|_| Flaw::Malformed)?;
        if crit.is_some() || kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(Flaw::Malformed);
        }
        Ok(Self { algorithm: alg.parse().map_err(|()| Flaw::Algorithm)?, key_id: kid })
    }
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub principal: String,
    /// When the token is over, leeway included.
    pub expire_time: Micros,
}

/// What the claims of a token whose signature is good come to.
pub fn judge(settings: &IssuerSettings, claims: &Map<String, Value>, now: Micros) -> Result<Identity, Flaw> {
    let expire_time = time(claims, "exp")?.ok_or(Flaw::Claims)?.saturating_add(settings.leeway);
    if let Some(issuer) = &settings.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(Flaw::Issuer);
    }
    if !settings.audience.is_empty() && !is_meant_for(claims.get("aud"), &settings.audience) {
        return Err(Flaw::Audience);
    }
    let subject = subject(claims).ok_or(Flaw::Claims)?;
    if time(claims, "nbf")?.is_some_and(|begin| begin.saturating_sub(settings.leeway) > now) {
        return Err(Flaw::NotYet);
    }
    if expire_time <= now {
        return Err(Flaw::Expired);
    }
    Ok(Identity { principal: format!("user:{}/{subject}", settings.name), expire_time })
}

/// A claim that is a time: seconds as a number, nothing else.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<Micros>, Flaw> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or(Flaw::Claims)?;
    // Casts to the nearest that there is.
    Ok(Some((seconds as i64).saturating_mul(SECOND)))
}

/// `aud` is a text or a list of texts.
fn is_meant_for(claim: Option<&Value>, audience: &[String]) -> bool {
    let is_ours = |value: &Value| value.as_str().is_some_and(|text| audience.iter().any(|ours| ours == text));
    match claim {
        Some(Value::Array(values)) => values.iter().any(is_ours),
        Some(value) => is_ours(value),
        None => false,
    }
}

/// `sub`, or else `id`.
fn subject(claims: &Map<String, Value>) -> Option<String> {
    let claim = claims.get("sub").or_else(|| claims.get("id"))?;
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    // As names of members are: a subject of other characters could be given no role.
    let is_well = (1..=MAX_SUBJECT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_well.then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Micros = 1_800_000_000 * SECOND;

    fn judged(claims: Value) -> Result<String, Flaw> {
        let settings = IssuerSettings {
            name: "corp".into(),
            algorithms: vec![Algorithm::Rs256],
            issuer: Some("https://id.example.org".into()),
            audience: vec!["tasktower".into(), "other".into()],
            leeway: DEFAULT_LEEWAY,
            keys: KeySource::Secrets(Vec::new()),
        };
        let mut all = json!({"exp": 1_800_000_100, "iss": "https://id.example.org", "aud": "tasktower", "sub": "ada"});
        for (claim, value) in claims.as_object().unwrap() {
            all[claim] = value.clone();
        }
        let mut all = all.as_object().unwrap().clone();
        all.retain(|_, value| !value.is_null());
        judge(&settings, &all, NOW).map(|identity| identity.principal)
    }

    #[test]
    fn the_subject_is_in_sub_or_else_in_id() {
        let ada = Ok("user:corp/ada".to_owned());
        assert_eq!(judged(json!({})), ada);
        assert_eq!(judged(json!({"sub": null, "id": "ada"})), ada);
        assert_eq!(judged(json!({"sub": "ada", "id": "bob"})), ada);
        assert_eq!(judged(json!({"sub": null, "id": 7})), Ok("user:corp/7".to_owned()));
        for wrong in
            [json!(null), json!(""), json!(["ada"]), json!(true), json!(1.5), json!("a\nb"), json!("x".repeat(256))]
        {
            assert_eq!(judged(json!({"sub": wrong})), Err(Flaw::Claims), "{wrong}");
        }
    }

    #[test]
    fn times_are_numbers_and_hold_with_leeway() {
        for (exp, ends) in [(1_799_999_941, Ok("user:corp/ada".to_owned())), (1_799_999_940, Err(Flaw::Expired))] {
            assert_eq!(judged(json!({"exp": exp})), ends, "{exp}");
        }
        for wrong in [json!(null), json!("1800000100"), json!(true), json!(-1), json!([1_800_000_100])] {
            assert_eq!(judged(json!({"exp": wrong})), Err(Flaw::Claims), "{wrong}");
        }
        assert!(judged(json!({"exp": 1e300})).is_ok());
        assert!(judged(json!({"nbf": 1_800_000_060})).is_ok());
        assert_eq!(judged(json!({"nbf": 1_800_000_061})), Err(Flaw::NotYet));
        assert_eq!(judged(json!({"nbf": "0"})), Err(Flaw::Claims));
    }

    #[test]
    fn a_token_is_of_its_issuer_and_for_us() {
        assert!(judged(json!({"aud": ["x", "other"]})).is_ok());
        for wrong in [json!(null), json!("tasktowe"), json!([]), json!([["tasktower"]]), json!({"tasktower": 1})] {
            assert_eq!(judged(json!({"aud": wrong})), Err(Flaw::Audience), "{wrong}");
        }
        for wrong in [json!(null), json!("https://id.example.org/"), json!(["https://id.example.org"])] {
            assert_eq!(judged(json!({"iss": wrong})), Err(Flaw::Issuer), "{wrong}");
        }
    }

    #[test]
    fn a_header_says_how_and_with_which_key_and_nothing_that_matters_besides() {
        let read = |value: Value| Header::read(value.to_string().as_bytes());
        let header = Header { algorithm: Algorithm::Es256, key_id: Some("k1".into()) };
        assert_eq!(read(json!({"alg": "ES256", "kid": "k1", "jku": "https://evil", "x5u": "x"})), Ok(header));
        for alg in ["none", "None", "HS512", "rs256", "", "PS256"] {
            assert_eq!(read(json!({"alg": alg})), Err(Flaw::Algorithm), "{alg}");
        }
        for wrong in [json!({}), json!([]), json!({"alg": 1}), json!({"alg": "ES256", "crit": ["b64"]})] {
            assert_eq!(read(wrong.clone()), Err(Flaw::Malformed), "{wrong}");
        }
        assert_eq!(read(json!({"alg": "ES256", "kid": "k".repeat(257)})), Err(Flaw::Malformed));
        assert_eq!(format!("{:?}", Secret::new("hush".into())), "Secret");
    }
}
