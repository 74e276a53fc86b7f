//! API keys: their form, what is kept of them, and whether one that is shown is good.
//!
//! A key reads `tt_{id}_{secret}_{check}`: a prefix that scanners for leaked secrets know, 8 characters that name the key
//! and are no secret, 43 characters that are, and a checksum by which what is damaged or made up is seen without a look
//! at anything. All are letters and digits, so that a double click selects the whole.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{permission::PermissionSet, task::Micros};
use crate::error::Refusal;

/// Characters of the part that is no secret.
pub const ID_LENGTH: usize = 8;
/// Characters of the secret: of 62 kinds, so 256 bits.
pub const SECRET_LENGTH: usize = 43;
/// Characters of the checksum: CRC-32 in base 62.
const CHECK_LENGTH: usize = 6;
/// What every key begins with.
const PREFIX: &str = "tt_";
/// Characters of a whole key.
const KEY_LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + 1 + CHECK_LENGTH;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Keys that are neither revoked nor over, in one installation: every server keeps all of them in memory.
pub const MAX_KEYS: i64 = 10_000;
/// Networks of one key.
pub const MAX_NETWORKS: usize = 32;

/// What is compared in place of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// As the database keeps it.
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // A String takes all that is written to it.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Of what the database has; none when that is no hash.
    pub fn of_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Takes as long whether they differ early, late, or not at all.
    fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// A key as its holder shows it.
#[derive(Clone, Copy)]
pub struct ShownKey<'a> {
    /// The part that is no secret.
    pub id: &'a str,
    secret: &'a str,
}

impl<'a> ShownKey<'a> {
    /// Takes a text apart. None when it is no key, or not as it was given out.
    pub fn read(text: &'a str) -> Option<Self> {
        if text.len() != KEY_LENGTH || !text.is_ascii() {
            return None;
        }
        let (body, check) = text.split_at(KEY_LENGTH - CHECK_LENGTH - 1);
        let (id, secret) = body.strip_prefix(PREFIX)?.split_at_checked(ID_LENGTH)?;
        let secret = secret.strip_prefix('_')?;
        let is_well = is_id(id) && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_well && check.strip_prefix('_')?.as_bytes() == checksum(body)).then_some(Self { id, secret })
    }
}

/// Whether this can be the id of a key.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The key of an id and a secret, both drawn from letters and digits.
pub fn key_text(id: &str, secret: &str) -> String {
    let mut text = [PREFIX, id, "_", secret].concat();
    let check = checksum(&text);
    text.push('_');
    text.extend(check.map(char::from));
    text
}

fn checksum(body: &str) -> [u8; CHECK_LENGTH] {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [0; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// What an administrator says about a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// A name for people.
    pub display_name: String,
    /// What it lets through; none means all.
    pub scopes: PermissionSet,
    /// Where it may be used from; empty means anywhere.
    pub networks: Vec<IpNet>,
    /// When it ends by itself.
    pub expire_time: Option<Micros>,
}

/// What changes of the settings of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the settings")]
pub struct KeyPatch {
    pub display_name: Option<String>,
    pub scopes: Option<PermissionSet>,
    pub networks: Option<Vec<IpNet>>,
    pub expire_time: Option<Option<Micros>>,
}

impl KeySettings {
    /// These with what changes.
    pub fn patched(&self, patch: KeyPatch) -> Self {
        let KeyPatch { display_name, scopes, networks, expire_time } = patch;
        Self {
            display_name: display_name.unwrap_or_else(|| self.display_name.clone()),
            scopes: scopes.unwrap_or(self.scopes),
            networks: networks.unwrap_or_else(|| self.networks.clone()),
            expire_time: expire_time.unwrap_or(self.expire_time),
        }
    }
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The part that is no secret.
    pub id: String,
    /// Whose credential it is.
    pub principal: String,
    /// What an administrator says about it.
    pub settings: KeySettings,
    /// Of its secret.
    pub secret: SecretHash,
    /// Of the secret before, and until when that goes on.
    pub previous: Option<(SecretHash, Micros)>,
    /// When it got its secret.
    pub rotate_time: Micros,
    /// When it was revoked.
    pub revoke_time: Option<Micros>,
    /// When a call last came with it, or a little earlier.
    pub last_used_time: Option<Micros>,
    /// When it was created.
    pub create_time: Micros,
    /// When it last changed; being used is no change.
    pub update_time: Micros,
}

/// Why a credential is not taken. The caller is told the [kind](Flaw::refusal), the operator all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "`told` says what each is")]
pub enum Flaw {
    Malformed,
    UnknownKey,
    WrongSecret,
    OldSecret,
    Expired,
    Revoked,
    WrongAddress,
    TooLarge,
    Algorithm,
    UnknownIssuer,
    UnknownSigningKey,
    Signature,
    Issuer,
    Audience,
    NotYet,
    Claims,
}

impl Flaw {
    /// What the caller is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Expired | Self::OldSecret => Refusal::Expired,
            Self::Revoked => Refusal::Revoked,
            _ => Refusal::Invalid,
        }
    }

    /// What the operator is told.
    pub fn told(self) -> &'static str {
        match self {
            Self::Malformed => "it is damaged, or neither a key nor a token",
            Self::UnknownKey => "there is no such key",
            Self::WrongSecret => "its secret is not that of the key",
            Self::OldSecret => "its secret was replaced, and the overlap is over",
            Self::Expired => "its time is over",
            Self::Revoked => "it was revoked",
            Self::WrongAddress => "it may not be used from this address",
            Self::TooLarge => "it is larger than tokens may be",
            Self::Algorithm => "it is signed in a way that its issuer is not configured for",
            Self::UnknownIssuer => "its issuer is not configured",
            Self::UnknownSigningKey => "it names a signing key that its issuer does not have",
            Self::Signature => "its signature is wrong",
            Self::Issuer => "its claim `iss` is not that of the issuer",
            Self::Audience => "its claim `aud` is not this server",
            Self::NotYet => "its claim `nbf` is in the future",
            Self::Claims => "its claims are not those of a token: `exp` a number, `sub` or `id` a text",
        }
    }
}

impl ApiKey {
    /// Whether the key that is shown is this one, and may be used from there now. Only who has the secret is told that it
    /// is revoked or over.
    pub fn admit(&self, shown: ShownKey<'_>, address: Option<IpAddr>, now: Micros) -> Result<(), Flaw> {
        let hash = SecretHash::of(shown.secret);
        let is_current = self.secret.is(hash);
        let previous = self.previous.filter(|(previous, _)| previous.is(hash));
        if !is_current && previous.is_none() {
            return Err(Flaw::WrongSecret);
        }
        self.stands(now)?;
        if !is_current && previous.is_some_and(|(_, until)| until <= now) {
            return Err(Flaw::OldSecret);
        }
        let networks = &self.settings.networks;
        // An IPv4 client of a socket that takes both kinds is known by its IPv4 address.
        let address = address.map(|address| address.to_canonical());
        if networks.is_empty() || address.is_some_and(|address| networks.iter().any(|net| net.contains(&address))) {
            return Ok(());
        }
        Err(Flaw::WrongAddress)
    }

    /// Whether it is neither revoked nor over.
    pub fn stands(&self, now: Micros) -> Result<(), Flaw> {
        if self.revoke_time.is_some() {
            return Err(Flaw::Revoked);
        }
        match self.settings.expire_time {
            Some(expire_time) if expire_time <= now => Err(Flaw::Expired),
            _ => Ok(()),
        }
    }

    /// What calls with it may do, of what its principal may.
    pub fn limit(&self) -> PermissionSet {
        if self.settings.scopes == PermissionSet::default() { PermissionSet::ALL } else { self.settings.scopes }
    }
}

/// An address or a network, as people write it.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

    fn key() -> ApiKey {
        ApiKey {
            id: "abcDEF12".into(),
            principal: "service:shop".into(),
            settings: KeySettings::default(),
            secret: SecretHash::of(SECRET),
            previous: None,
            rotate_time: 0,
            revoke_time: None,
            last_used_time: None,
            create_time: 0,
            update_time: 0,
        }
    }

    fn admit(key: &ApiKey, secret: &str, address: &str, now: Micros) -> Result<(), Flaw> {
        let text = key_text("abcDEF12", secret);
        key.admit(ShownKey::read(&text).unwrap(), Some(address.parse().unwrap()), now)
    }

    #[test]
    fn a_key_has_one_form_and_a_checksum_over_all_of_it() {
        let text = key_text("abcDEF12", SECRET);
        assert_eq!(text.len(), 62);
        assert!(text.starts_with("tt_abcDEF12_0123"));
        let shown = ShownKey::read(&text).unwrap();
        assert_eq!((shown.id, shown.secret), ("abcDEF12", SECRET));
        // Any one character changed, left out or added.
        for at in 0..text.len() {
            let (before, after) = (&text[..at], &text[at + 1..]);
            for other in ["#", "_", "x", "é", ""] {
                let changed = format!("{before}{other}{after}");
                assert!(changed == text || ShownKey::read(&changed).is_none(), "{changed}");
            }
        }
        for wrong in ["", "tt_", &"tt_".repeat(30), &text.to_lowercase(), &format!("{text} ")] {
            assert!(ShownKey::read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_who_has_the_secret_hears_how_the_key_is() {
        let other = "x".repeat(SECRET_LENGTH);
        let mut key = key();
        assert_eq!(admit(&key, SECRET, "10.0.0.1", 5), Ok(()));
        key.settings.expire_time = Some(5);
        assert_eq!(admit(&key, SECRET, "10.0.0.1", 4), Ok(()));
        assert_eq!(admit(&key, SECRET, "10.0.0.1", 5), Err(Flaw::Expired));
        assert_eq!(admit(&key, &other, "10.0.0.1", 5), Err(Flaw::WrongSecret));
        key.revoke_time = Some(3);
        assert_eq!(admit(&key, SECRET, "10.0.0.1", 4), Err(Flaw::Revoked));
        assert_eq!(admit(&key, &other, "10.0.0.1", 4), Err(Flaw::WrongSecret));
        for flaw in [Flaw::WrongSecret, Flaw::UnknownKey, Flaw::WrongAddress, Flaw::Signature, Flaw::Audience] {
            assert_eq!(flaw.refusal(), Refusal::Invalid);
        }
    }

    #[test]
    fn the_secret_before_goes_on_until_the_overlap_is_over() {
        let old = "y".repeat(SECRET_LENGTH);
        let key = ApiKey { previous: Some((SecretHash::of(&old), 100)), ..key() };
        assert_eq!((admit(&key, &old, "::1", 99), admit(&key, SECRET, "::1", 99)), (Ok(()), Ok(())));
        assert_eq!((admit(&key, &old, "::1", 100), admit(&key, SECRET, "::1", 100)), (Err(Flaw::OldSecret), Ok(())));
    }

    #[test]
    fn a_key_is_bound_to_its_networks() {
        let mut key = key();
        key.settings.networks =
            ["10.1.2.3/8", "2001:db8::/32", "192.0.2.7"].map(|text| network(text).unwrap()).to_vec();
        for inside in ["10.200.0.1", "2001:db8:1::1", "192.0.2.7", "::ffff:10.0.0.1"] {
            assert_eq!(admit(&key, SECRET, inside, 0), Ok(()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert_eq!(admit(&key, SECRET, outside, 0), Err(Flaw::WrongAddress), "{outside}");
        }
        let text = key_text("abcDEF12", SECRET);
        assert_eq!(key.admit(ShownKey::read(&text).unwrap(), None, 0), Err(Flaw::WrongAddress));
        for wrong in ["", "10.0.0.0/33", "example.org", "10.0.0", "::1/129"] {
            assert!(network(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_hash_comes_back_from_the_database_and_is_not_shown() {
        let hash = SecretHash::of(SECRET);
        assert_eq!(SecretHash::of_hex(&hash.to_hex()), Some(hash));
        assert_eq!(
            SecretHash::of(""),
            SecretHash::of_hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap()
        );
        assert!(SecretHash::of_hex("é".repeat(32).as_str()).is_none());
        assert!(!format!("{:?}", key()).contains(&hash.to_hex()));
    }
}
