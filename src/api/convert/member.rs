//! Members.

use super::{
    fields::{Fields, Path},
    name, page,
    scalar::timestamp,
};
use crate::{
    domain::{
        member::{Member, Scope},
        role::Role,
    },
    error::{Error, Result},
    ids::{DEFAULT_PROJECT, ProjectId},
    pb,
};

/// Most bytes of a principal's name: an issuer and a subject, which may have 255 characters, with room.
const MAX_PRINCIPAL: usize = 512;

/// A page of members: where, size, page token.
pub fn list(request: pb::ListMembersRequest) -> Result<(Scope, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListMembersRequest { parent, page_size, page_token } = request;
    let scope = scope(&mut fields, &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((scope, limit, page_token))
}

/// A role to be given: where, to whom, which.
pub fn set(request: pb::SetMemberRequest) -> Result<(Scope, String, Role)> {
    let mut fields = Fields::new();
    let pb::SetMemberRequest { parent, member } = request;
    let scope = scope(&mut fields, &parent);
    let Some(pb::Member { principal, role, create_time: _ }) = member else {
        return Err(Error::field("member", "is required"));
    };
    let at = Path::Request.field("member");
    let principal = self::principal(&mut fields, &at.field("principal"), principal);
    let role = Role::of_number(role.into()).unwrap_or_else(|| {
        fields.refuse(
            &at.field("role"),
            format!("{role} is no role; VIEWER is 1, SUBMITTER 2, WORKER 3, OPERATOR 4, ADMIN 5"),
        );
        Role::Viewer
    });
    fields.finish((scope, principal, role))
}

/// A role to be taken away: where, from whom.
pub fn remove(request: pb::RemoveMemberRequest) -> Result<(Scope, String)> {
    let mut fields = Fields::new();
    let pb::RemoveMemberRequest { parent, principal } = request;
    let scope = scope(&mut fields, &parent);
    let principal = self::principal(&mut fields, &Path::Request.field("principal"), principal);
    fields.finish((scope, principal))
}

fn scope(fields: &mut Fields, parent: &str) -> Scope {
    match parent {
        "" => Scope::Project(ProjectId::new(DEFAULT_PROJECT)),
        parent => name::scope(fields, &Path::Request.field("parent"), parent),
    }
}

/// Whether it is anybody is not known here: a person is a member before its first call.
fn principal(fields: &mut Fields, at: &Path<'_>, principal: String) -> String {
    let is_named = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
    let form = match principal.split_once(':') {
        Some(("service", id)) => is_named(id),
        Some(("user", user)) => {
            user.split_once('/').is_some_and(|(issuer, subject)| is_named(issuer) && is_named(subject))
        }
        _ => false,
    };
    if !form || principal.len() > MAX_PRINCIPAL {
        let text = "must be service:{id} or user:{issuer}/{subject}, of visible ASCII characters, at most 512";
        fields.refuse(at, text);
    }
    principal
}

/// A member for the wire.
pub fn member(member: Member) -> pb::Member {
    let Member { scope: _, principal, role, create_time } = member;
    // The numbers of the domain are those of the wire.
    pb::Member { principal, role: role as i32, create_time: Some(timestamp(create_time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_and_roles_keep_to_their_form() {
        let set_as = |principal: &str, role: i32| {
            let member = pb::Member { principal: principal.into(), role, ..Default::default() };
            set(pb::SetMemberRequest { parent: "projects/*".into(), member: Some(member) })
        };
        let (scope, principal, role) = set_as("user:local/ada@example.org", 5).unwrap();
        assert_eq!((scope, principal.as_str(), role), (Scope::Everywhere, "user:local/ada@example.org", Role::Admin));
        assert!(set_as("service:shop", 1).is_ok());
        let long = format!("service:{}", "x".repeat(MAX_PRINCIPAL));
        for bad in ["", "shop", "service:", "user:ada", "user:/ada", "user:local/", "system:dev", "service:a b", &long]
        {
            assert!(set_as(bad, 1).is_err(), "{bad}");
        }
        assert!(set_as("service:shop", 0).is_err());
        assert!(set_as("service:shop", 6).is_err());
        for number in 1..=5 {
            let name = pb::Role::try_from(number).unwrap().as_str_name();
            assert_eq!(name, format!("ROLE_{}", Role::of_number(number.into()).unwrap().name().to_uppercase()));
        }
    }
}
