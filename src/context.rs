//! Who calls, from where, and what they may do: made by the outermost layers, kept in every journal row the call causes.

use std::sync::Arc;

use crate::domain::authority::Authority;

/// The caller of an RPC, or the loop of the server that acts by itself. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<CallerInfo>);

/// What is known of a caller.
#[derive(Debug, PartialEq, Eq)]
pub struct CallerInfo {
    /// The principal, for example `system:dev`. Owns what it submits; scopes its idempotency keys.
    pub principal: Arc<str>,
    /// What kind of thing it is.
    pub kind: PrincipalKind,
    /// The credential it came with, without anything secret: the name of its API key, the key id of its token.
    pub credential: Option<Arc<str>>,
    /// What it may do where.
    pub authority: Authority,
    /// The id of the request, in every log line, error and journal row.
    pub request_id: String,
    /// Where the call came from.
    pub address: Option<String>,
    /// What the caller calls itself.
    pub agent: Option<String>,
    /// The RPC, `TaskService/SubmitTask`; none for what the server does by itself.
    pub method: Option<Arc<str>>,
}

/// Who a principal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PrincipalKind {
    /// The server itself, or anyone on a server without credentials: `system:…`.
    #[default]
    System = 1,
    /// A program, known by an API key or a certificate: `service:…`.
    Service = 2,
    /// A person, known by a token: `user:…`.
    User = 3,
}

impl Caller {
    /// A caller from outside.
    pub fn new(info: CallerInfo) -> Self {
        Self(Arc::new(info))
    }

    /// A loop of the server, for example `system:lease-sweep`.
    pub fn system(principal: &str) -> Self {
        Self::new(CallerInfo::of_server(Arc::from(principal)))
    }
}

impl PrincipalKind {
    /// The kind a principal's name says it is.
    pub fn of(principal: &str) -> Self {
        match principal.split_once(':') {
            Some(("service", _)) => Self::Service,
            Some(("user", _)) => Self::User,
            _ => Self::System,
        }
    }
}

impl CallerInfo {
    /// The server itself, acting under its own name or for someone whose call was allowed and is long over.
    pub fn of_server(principal: Arc<str>) -> Self {
        Self {
            kind: PrincipalKind::of(&principal),
            principal,
            credential: None,
            authority: Authority::Unbounded,
            request_id: String::new(),
            address: None,
            agent: None,
            method: None,
        }
    }
}

impl std::ops::Deref for Caller {
    type Target = CallerInfo;

    fn deref(&self) -> &CallerInfo {
        &self.0
    }
}
