//! Tokens: whether one is good, and the memory of those that were. A signature costs as much as all the rest of a small
//! call, so it is looked at once for each token, and again when the keys of its issuer changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm as Signed;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::issuers::{Issuer, KeySet, SigningKey};
use crate::domain::{
    api_key::Flaw,
    task::Micros,
    token::{self, Algorithm, Header, MAX_TOKEN},
};

/// Tokens remembered. Each is some hundred bytes.
const MANY: usize = 10_000;
/// Keys tried on a token that names none.
const MAX_TRIES: usize = 8;

/// A token that is good until its time is over.
#[derive(Debug)]
pub struct Good {
    /// Who it is.
    pub principal: Arc<str>,
    /// Its issuer, and the key it is signed with if that has a name.
    pub credential: Arc<str>,
    /// When it is over, leeway included.
    pub expire_time: Micros,
    /// Which of the issuers.
    issuer: usize,
    /// The keys it was found good by.
    keys: std::sync::Weak<KeySet>,
}

/// The issuers, and the tokens of them that were good.
#[derive(Debug, Default)]
pub struct Tokens {
    issuers: Vec<Issuer>,
    good: Mutex<HashMap<[u8; 32], Arc<Good>>>,
}

/// A token taken apart, as far as that can be done with any.
struct Parts<'a> {
    signed: &'a str,
    signature: &'a str,
    header: Header,
    claims: Map<String, Value>,
}

impl Tokens {
    /// Of these issuers.
    pub fn of(issuers: Vec<Issuer>) -> Self {
        Self { issuers, good: Mutex::default() }
    }

    /// The issuers.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// A token that was good before, and is.
    pub fn known(&self, text: &str, now: Micros) -> Option<Arc<Good>> {
        if text.len() > MAX_TOKEN {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(text).into();
        let good = self.lock().get(&hash).cloned()?;
        self.stands(&good, now).is_ok().then_some(good)
    }

    /// Whether a token that was good still is.
    pub fn stands(&self, good: &Good, now: Micros) -> Result<(), Flaw> {
        let keys = self.issuers.get(good.issuer).map(Issuer::keys);
        if !keys.is_some_and(|keys| std::sync::Weak::ptr_eq(&Arc::downgrade(&keys), &good.keys)) {
            return Err(Flaw::UnknownSigningKey);
        }
        if good.expire_time <= now { Err(Flaw::Expired) } else { Ok(()) }
    }

    /// Looks at a token that is not known.
    pub async fn judge(&self, text: &str, now: Micros) -> Result<Arc<Good>, Flaw> {
        let parts = take_apart(text)?;
        let issuer = self.issuer_of(&parts).ok_or(Flaw::UnknownIssuer)?;
        let settings = &self.issuers[issuer].settings;
        if !settings.algorithms.contains(&parts.header.algorithm) {
            return Err(Flaw::Algorithm);
        }
        let mut keys = self.issuers[issuer].keys();
        let mut verified = verify(&parts, &keys);
        if verified == Err(Flaw::UnknownSigningKey) {
            self.issuers[issuer].look_for_new().await;
            keys = self.issuers[issuer].keys();
            verified = verify(&parts, &keys);
        }
        let place = verified?;
        let identity = token::judge(settings, &parts.claims, now)?;
        let credential = match &keys.keys[place].id {
            Some(id) => format!("{}/{id}", settings.name),
            None => settings.name.clone(),
        };
        let good = Arc::new(Good {
            principal: identity.principal.into(),
            credential: credential.into(),
            expire_time: identity.expire_time,
            issuer,
            keys: Arc::downgrade(&keys),
        });
        self.keep(text, &good, now);
        Ok(good)
    }

    /// By what it says of itself; whether that is true is seen when it is judged by that issuer.
    fn issuer_of(&self, parts: &Parts<'_>) -> Option<usize> {
        let says = parts.claims.get("iss").and_then(Value::as_str);
        let by_name = says
            .and_then(|says| self.issuers.iter().position(|issuer| issuer.settings.issuer.as_deref() == Some(says)));
        let may_be = |issuer: &Issuer| {
            issuer.settings.issuer.is_none() && issuer.settings.algorithms.contains(&parts.header.algorithm)
        };
        by_name.or_else(|| self.issuers.iter().position(may_be)).or({
            // Alone, it is the one to say what is wrong.
            if self.issuers.len() == 1 { Some(0) } else { None }
        })
    }

    fn keep(&self, text: &str, good: &Arc<Good>, now: Micros) {
        let mut all = self.lock();
        if all.len() >= MANY {
            all.retain(|_, good| good.expire_time > now);
        }
        if all.len() >= MANY {
            all.clear();
        }
        all.insert(Sha256::digest(text).into(), good.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Good>>> {
        // A panic while it was held left nothing half-done.
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_apart(text: &str) -> Result<Parts<'_>, Flaw> {
    if text.len() > MAX_TOKEN {
        return Err(Flaw::TooLarge);
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(Flaw::Malformed)?;
    let (header, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(Flaw::Malformed)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Malformed);
    let header = Header::read(&decoded(header)?)?;
    let claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| Flaw::Malformed)?;
    Ok(Parts { signed, signature, header, claims })
}

/// Which of the keys it is signed with.
fn verify(parts: &Parts<'_>, keys: &KeySet) -> Result<usize, Flaw> {
    let Header { algorithm, key_id } = &parts.header;
    // A key signs in its own way only, whatever the header says; one without a name may be meant by any.
    let fits =
        |key: &SigningKey| key.algorithm == *algorithm && (key_id.is_none() || key.id.is_none() || key.id == *key_id);
    let mut tried = 0;
    for (place, key) in keys.keys.iter().enumerate().filter(|(_, key)| fits(key)).take(MAX_TRIES) {
        tried += 1;
        let (message, way) = (parts.signed.as_bytes(), signed(*algorithm));
        if jsonwebtoken::crypto::verify(parts.signature, message, &key.key, way) == Ok(true) {
            return Ok(place);
        }
    }
    Err(if tried == 0 { Flaw::UnknownSigningKey } else { Flaw::Signature })
}

fn signed(algorithm: Algorithm) -> Signed {
    match algorithm {
        Algorithm::Hs256 => Signed::HS256,
        Algorithm::Rs256 => Signed::RS256,
        Algorithm::Es256 => Signed::ES256,
        Algorithm::EdDsa => Signed::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The payload of RFC 7515, appendix A.1 to A.3.
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn key(algorithm: Algorithm, jwk: Value) -> KeySet {
        KeySet::of_texts(vec![jwk.to_string()], &[algorithm]).unwrap()
    }

    fn is_good(keys: &KeySet, algorithm: Algorithm, signed: &str, signature: &str) -> bool {
        let header = Header { algorithm, key_id: None };
        verify(&Parts { signed, signature, header, claims: Map::new() }, keys).is_ok()
    }

    /// The signature is good, and no other is: not with a bit changed, not cut, not of another text.
    fn check(keys: &KeySet, algorithm: Algorithm, signed: &str, signature: &str) {
        assert!(is_good(keys, algorithm, signed, signature));
        assert!(!is_good(keys, algorithm, &signed[1..], signature));
        assert!(!is_good(keys, algorithm, signed, ""));
        assert!(!is_good(keys, algorithm, signed, &signature[..signature.len() - 4]));
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(!is_good(keys, algorithm, signed, &URL_SAFE_NO_PAD.encode(&bytes)), "{at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn rfc_7515_hmac() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = jsonwebtoken::DecodingKey::from_secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
        let keys = KeySet::of_keys(vec![SigningKey { id: None, algorithm: Algorithm::Hs256, key }]);
        let signed = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}");
        check(&keys, Algorithm::Hs256, &signed, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn rfc_7515_rsa() {
        let jwk = json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp\
            -Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaS\
            HSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-D\
            WNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9\
            uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383L\
            cOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtV\
            rBp0igcN_IoypGlUPQGe77Rw";
        check(&key(Algorithm::Rs256, jwk), Algorithm::Rs256, &format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"), signature);
    }

    #[test]
    fn rfc_7515_p256() {
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        check(&key(Algorithm::Es256, jwk), Algorithm::Es256, &format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"), signature);
    }

    #[test]
    fn rfc_8037_ed25519() {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        check(&key(Algorithm::EdDsa, jwk), Algorithm::EdDsa, signed, signature);
    }

    #[test]
    fn keys_for_something_else_are_passed_over() {
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let with = |name: &str, value: &str| {
            let mut key = ed.clone();
            key[name] = value.into();
            key
        };
        let set = json!({"keys": [
            with("use", "enc"), with("alg", "RS256"), with("kty", "XX"), json!(7), with("kid", "good"),
            {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0i", "alg": "HS256"},
        ]});
        let all = [Algorithm::EdDsa, Algorithm::Hs256, Algorithm::Rs256];
        let keys = KeySet::of_texts(vec![set.to_string()], &all).unwrap();
        assert_eq!(keys.keys.iter().map(|key| key.id.as_deref()).collect::<Vec<_>>(), [Some("good")]);
        for wrong in ["", "{}", "[]", "{", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert!(KeySet::of_texts(vec![wrong.to_owned()], &all).is_err(), "{wrong}");
        }
        assert!(KeySet::of_texts(vec![ed.to_string()], &[Algorithm::Rs256]).is_err());
    }
}
