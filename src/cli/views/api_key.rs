//! API keys.

use super::{moment, moment_in_full, or_dash, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
        time::{micros, to_timestamp},
    },
    pb::{ApiKey, CreateApiKeyResponse, Permission},
};

fn state(key: &ApiKey, look: &Look) -> Styled {
    let is_over = key.expire_time.as_ref().is_some_and(|time| micros(time) <= micros(&to_timestamp(look.now)));
    match () {
        () if key.revoke_time.is_some() => Styled::new("REVOKED", Color::Red),
        () if is_over => Styled::new("EXPIRED", Color::Yellow),
        () => Styled::new("ACTIVE", Color::Green),
    }
}

fn scopes(key: &ApiKey) -> String {
    let names = key.scopes.iter().filter_map(|number| Permission::try_from(*number).ok());
    let names: Vec<_> = names.map(|scope| strip(scope.as_str_name(), "PERMISSION_")).collect();
    if names.is_empty() { "all".to_owned() } else { names.join(", ") }
}

impl Resource for ApiKey {
    const PROTO: &'static str = "tasktower.v1.ApiKey";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &["KEY", "PRINCIPAL", "STATE", "EXPIRES", "USED", "DISPLAY NAME", "SCOPES", "FROM"]
        } else {
            &["KEY", "PRINCIPAL", "STATE", "EXPIRES", "USED", "DISPLAY NAME"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let mut cells = vec![
            names::id(&self.name).into(),
            self.principal.as_str().into(),
            state(self, look),
            moment(self.expire_time.as_ref(), look),
            moment(self.last_used_time.as_ref(), look),
            or_dash(self.display_name.as_str()),
        ];
        if look.wide {
            cells.extend([scopes(self).into(), or_dash(self.allowed_cidrs.join(", "))]);
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Name", Styled::new(&self.name, Color::Bold)),
            ("Principal", self.principal.as_str().into()),
            ("State", state(self, look)),
            ("Display name", self.display_name.as_str().into()),
            ("Scopes", scopes(self).into()),
            ("From", self.allowed_cidrs.join(", ").into()),
            ("Expires", moment_in_full(self.expire_time.as_ref(), look)),
            ("Used", moment_in_full(self.last_used_time.as_ref(), look)),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("Secret since", moment_in_full(self.rotate_time.as_ref(), look)),
            ("Secret before until", moment_in_full(self.previous_secret_expire_time.as_ref(), look)),
            ("Revoked", moment_in_full(self.revoke_time.as_ref(), look)),
        ]
    }
}

/// A key that was just made: its name, for `-o name`, is the key itself.
impl Resource for CreateApiKeyResponse {
    const PROTO: &'static str = "tasktower.v1.CreateApiKeyResponse";

    fn name(&self) -> &str {
        &self.key
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["KEY"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        vec![self.key.as_str().into()]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let mut lines = vec![("Key", Styled::new(format!("{} (shown once)", self.key), Color::Bold))];
        lines.extend(self.api_key.iter().flat_map(|key| key.details(look)).take(3));
        lines
    }
}
