//! API keys.

use std::ops::RangeInclusive;

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    page,
    scalar::{self, timestamp},
};
use crate::{
    domain::{
        api_key::{ApiKey, KeyPatch, KeySettings, MAX_NETWORKS, is_id, network},
        etag,
        permission::{Permission, PermissionSet},
        task::{DAY, Micros},
    },
    error::{Error, Result},
    ids::api_key_name,
    pb,
};

/// Most characters of the id of a service.
const MAX_SERVICE: usize = 63;
/// How long the secret before may go on.
const OVERLAP: RangeInclusive<Micros> = 0..=30 * DAY;

/// A key to make: its principal and its settings.
pub fn create(request: pb::CreateApiKeyRequest) -> Result<(String, KeySettings)> {
    let mut fields = Fields::new();
    let pb::CreateApiKeyRequest { api_key } = request;
    let Some(key) = api_key else { return Err(Error::field("api_key", "is required")) };
    let pb::ApiKey {
        name: _,
        principal,
        display_name,
        scopes,
        allowed_cidrs,
        expire_time,
        create_time: _,
        update_time: _,
        rotate_time: _,
        previous_secret_expire_time: _,
        revoke_time: _,
        last_used_time: _,
        etag: _,
    } = key;
    let at = Path::Request.field("api_key");
    let principal = self::principal(&mut fields, &at.field("principal"), principal);
    let settings = KeySettings {
        display_name: scalar::chars_bounded(
            &mut fields,
            &at.field("display_name"),
            display_name,
            scalar::MAX_DISPLAY_NAME,
        ),
        scopes: self::scopes(&mut fields, &at.field("scopes"), &scopes),
        networks: networks(&mut fields, &at.field("allowed_cidrs"), &allowed_cidrs),
        expire_time: expire_time.map(|time| scalar::time(&mut fields, &at.field("expire_time"), &time)),
    };
    fields.finish((principal, settings))
}

/// One key.
pub fn get(request: pb::GetApiKeyRequest) -> Result<String> {
    let pb::GetApiKeyRequest { name } = request;
    let mut fields = Fields::new();
    let id = id(&mut fields, &Path::Request.field("name"), &name);
    fields.finish(id)
}

/// A page of keys, before its page token is read: size, page token, whose.
pub fn list(request: pb::ListApiKeysRequest) -> Result<(i64, String, Option<String>)> {
    let mut fields = Fields::new();
    let pb::ListApiKeysRequest { page_size, page_token, principal } = request;
    let limit = page::size(&mut fields, page_size);
    let at = Path::Request.field("principal");
    let principal = (!principal.is_empty()).then(|| self::principal(&mut fields, &at, principal));
    fields.finish((limit, page_token, principal))
}

/// New settings of a key.
#[derive(Debug)]
pub struct Update {
    /// Of this key.
    pub id: String,
    /// What changes.
    pub patch: KeyPatch,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// A change of settings.
pub fn update(request: pb::UpdateApiKeyRequest) -> Result<Update> {
    const RULES: [(&str, Rule); 13] = [
        ("display_name", Rule::Changes),
        ("scopes", Rule::Changes),
        ("allowed_cidrs", Rule::Changes),
        ("expire_time", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("principal", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("rotate_time", Rule::OutputOnly),
        ("previous_secret_expire_time", Rule::OutputOnly),
        ("revoke_time", Rule::OutputOnly),
        ("last_used_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateApiKeyRequest { api_key, update_mask } = request;
    let Some(key) = api_key else { return Err(Error::field("api_key", "is required")) };
    let pb::ApiKey {
        name,
        principal: _,
        display_name,
        scopes,
        allowed_cidrs,
        expire_time,
        create_time: _,
        update_time: _,
        rotate_time: _,
        previous_secret_expire_time: _,
        revoke_time: _,
        last_used_time: _,
        etag,
    } = key;
    let at = Path::Request.field("api_key");
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let id = self::id(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let mut patch = KeyPatch::default();
    if mask.changes("display_name", !display_name.is_empty()) {
        let at = at.field("display_name");
        patch.display_name = Some(scalar::chars_bounded(&mut fields, &at, display_name, scalar::MAX_DISPLAY_NAME));
    }
    if mask.changes("scopes", !scopes.is_empty()) {
        patch.scopes = Some(self::scopes(&mut fields, &at.field("scopes"), &scopes));
    }
    if mask.changes("allowed_cidrs", !allowed_cidrs.is_empty()) {
        patch.networks = Some(networks(&mut fields, &at.field("allowed_cidrs"), &allowed_cidrs));
    }
    if mask.changes("expire_time", expire_time.is_some()) {
        let at = at.field("expire_time");
        patch.expire_time = Some(expire_time.map(|time| scalar::time(&mut fields, &at, &time)));
    }
    fields.finish(Update { id, patch, etag })
}

/// A key to get a new secret: how long the one before goes on, and the etag to compare.
pub fn rotate(request: pb::RotateApiKeyRequest) -> Result<(String, Micros, Option<String>)> {
    let mut fields = Fields::new();
    let pb::RotateApiKeyRequest { name, overlap, etag } = request;
    let id = id(&mut fields, &Path::Request.field("name"), &name);
    let at = Path::Request.field("overlap");
    let overlap = overlap.map_or(DAY, |overlap| scalar::span(&mut fields, &at, &overlap, &OVERLAP));
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((id, overlap, etag))
}

/// A key to end, and the etag to compare.
pub fn revoke(request: pb::RevokeApiKeyRequest) -> Result<(String, Option<String>)> {
    let mut fields = Fields::new();
    let pb::RevokeApiKeyRequest { name, etag } = request;
    let id = id(&mut fields, &Path::Request.field("name"), &name);
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    fields.finish((id, etag))
}

fn id(fields: &mut Fields, at: &Path<'_>, name: &str) -> String {
    let id = name.strip_prefix("apiKeys/").filter(|id| is_id(id));
    if id.is_none() {
        fields.refuse(at, "must be apiKeys/{key}, with a key of 8 letters and digits");
    }
    id.unwrap_or_default().to_owned()
}

/// Whether this can be the principal of a key.
fn is_service(principal: &str) -> bool {
    principal.strip_prefix("service:").is_some_and(|id| {
        (1..=MAX_SERVICE).contains(&id.len())
            && id.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    })
}

fn principal(fields: &mut Fields, at: &Path<'_>, principal: String) -> String {
    if !is_service(&principal) {
        fields.refuse(at, "must be service:{id}, with an id of [a-z0-9][a-z0-9._-]{0,62}");
    }
    principal
}

fn scopes(fields: &mut Fields, at: &Path<'_>, numbers: &[i32]) -> PermissionSet {
    if !scalar::length(fields, at, numbers.len(), 0..=Permission::ALL.len()) {
        return PermissionSet::default();
    }
    let scopes = numbers.iter().enumerate().filter_map(|(index, number)| {
        let scope = Permission::of_number(*number);
        if scope.is_none() {
            fields.refuse(&at.index(index), "is no permission");
        }
        scope
    });
    scopes.fold(PermissionSet::default(), |all, scope| all.union(PermissionSet::of(&[scope])))
}

fn networks(fields: &mut Fields, at: &Path<'_>, texts: &[String]) -> Vec<ipnet::IpNet> {
    if !scalar::length(fields, at, texts.len(), 0..=MAX_NETWORKS) {
        return Vec::new();
    }
    let networks = texts.iter().enumerate().filter_map(|(index, text)| {
        let network = network(text);
        if network.is_none() {
            fields.refuse(&at.index(index), "must be an address or a network such as 10.0.0.0/8 or 2001:db8::/32");
        }
        network
    });
    networks.collect()
}

/// A key for the wire, without the key.
pub fn api_key(key: ApiKey) -> pb::ApiKey {
    let etag = etag::api_key_etag(&key);
    let ApiKey {
        id,
        principal,
        settings: KeySettings { display_name, scopes, networks, expire_time },
        secret: _,
        previous,
        rotate_time,
        revoke_time,
        last_used_time,
        create_time,
        update_time,
    } = key;
    pb::ApiKey {
        name: api_key_name(&id),
        principal,
        display_name,
        // The numbers of the domain are those of the wire.
        scopes: scopes.iter().map(|scope| scope as i32).collect(),
        allowed_cidrs: networks.iter().map(ToString::to_string).collect(),
        expire_time: expire_time.map(timestamp),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        rotate_time: Some(timestamp(rotate_time)),
        previous_secret_expire_time: previous.map(|(_, until)| timestamp(until)),
        revoke_time: revoke_time.map(timestamp),
        last_used_time: last_used_time.map(timestamp),
        etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_key_is_said() {
        let key = pb::ApiKey {
            principal: "user:corp/ada".into(),
            display_name: "x".repeat(64),
            scopes: vec![1, 99],
            allowed_cidrs: vec!["10.0.0.0/8".into(), "here".into()],
            ..Default::default()
        };
        let error = create(pb::CreateApiKeyRequest { api_key: Some(key) }).unwrap_err();
        let Error::Invalid(violations) = error else { panic!("{error:?}") };
        let paths: Vec<_> = violations.iter().map(|violation| violation.path.as_str()).collect();
        assert_eq!(
            paths,
            ["api_key.principal", "api_key.display_name", "api_key.scopes[1]", "api_key.allowed_cidrs[1]"]
        );
    }

    #[test]
    fn a_rotation_has_a_day_of_overlap_unless_it_says_otherwise() {
        let rotate = |name: &str, overlap: Option<i64>| {
            let overlap = overlap.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
            rotate(pb::RotateApiKeyRequest { name: name.into(), overlap, etag: String::new() })
        };
        assert_eq!(rotate("apiKeys/abcDEF12", None).unwrap(), ("abcDEF12".into(), DAY, None));
        assert_eq!(rotate("apiKeys/abcDEF12", Some(0)).unwrap().1, 0);
        assert!(rotate("apiKeys/abcDEF12", Some(31 * 86_400)).is_err());
        assert!(rotate("apiKeys/abc", None).is_err());
        assert!(!is_service("service:Shop") && !is_service("service:") && is_service("service:shop-1.api"));
    }
}
