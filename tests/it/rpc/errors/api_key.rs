//! Bad input to what makes, changes and ends API keys.

use tasktower::pb;

use super::{Case, bad, missing};

const API_KEYS: &str = "tasktower.v1.ApiKeyService";
/// A name that no key has.
const NONE: &str = "apiKeys/Nob0dyAt";

/// All of them.
pub fn cases() -> Vec<Case> {
    let create = |key: pb::ApiKey| pb::CreateApiKeyRequest { api_key: Some(key) };
    let update = |name: &str, paths: &[&str]| pb::UpdateApiKeyRequest {
        api_key: Some(pb::ApiKey { name: name.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    };
    let rotate = |name: &str| pb::RotateApiKeyRequest { name: name.into(), ..Default::default() };
    let revoke = |name: &str| pb::RevokeApiKeyRequest { name: name.into(), ..Default::default() };
    let wrong = pb::ApiKey {
        principal: "ada".into(),
        display_name: "n".repeat(64),
        allowed_cidrs: vec!["here".into()],
        ..Default::default()
    };
    vec![
        bad(API_KEYS, "CreateApiKey", pb::CreateApiKeyRequest::default(), &["api_key"]),
        bad(
            API_KEYS,
            "CreateApiKey",
            create(wrong),
            &["api_key.principal", "api_key.display_name", "api_key.allowed_cidrs[0]"],
        ),
        bad(API_KEYS, "GetApiKey", pb::GetApiKeyRequest { name: "apiKeys/x".into() }, &["name"]),
        missing(API_KEYS, "GetApiKey", pb::GetApiKeyRequest { name: NONE.into() }),
        bad(API_KEYS, "ListApiKeys", pb::ListApiKeysRequest { page_size: -1, ..Default::default() }, &["page_size"]),
        bad(API_KEYS, "UpdateApiKey", pb::UpdateApiKeyRequest::default(), &["api_key"]),
        bad(API_KEYS, "UpdateApiKey", update(NONE, &["secret"]), &["update_mask.paths[0]"]),
        missing(API_KEYS, "UpdateApiKey", update(NONE, &["display_name"])),
        bad(API_KEYS, "RotateApiKey", rotate("x"), &["name"]),
        missing(API_KEYS, "RotateApiKey", rotate(NONE)),
        bad(API_KEYS, "RevokeApiKey", revoke("x"), &["name"]),
        missing(API_KEYS, "RevokeApiKey", revoke(NONE)),
    ]
}
