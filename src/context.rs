//! Who calls, and from where: made by the outermost layers, kept in every journal row the call causes.

use std::sync::Arc;

/// The caller of an RPC, or the loop of the server that acts by itself. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Arc<CallerInfo>);

/// What is known of a caller.
#[derive(Debug, PartialEq, Eq)]
pub struct CallerInfo {
    /// The principal, for example `system:dev`. Owns what it submits; scopes its idempotency keys.
    pub principal: Arc<str>,
    /// The id of the request, in every log line, error and journal row.
    pub request_id: String,
    /// Where the call came from.
    pub address: Option<String>,
    /// What the caller calls itself.
    pub agent: Option<String>,
}

impl Caller {
    /// A caller from outside.
    pub fn new(info: CallerInfo) -> Self {
        Self(Arc::new(info))
    }

    /// A loop of the server, for example `system:lease-sweep`.
    pub fn system(principal: &str) -> Self {
        Self::new(CallerInfo { principal: Arc::from(principal), request_id: String::new(), address: None, agent: None })
    }
}

impl std::ops::Deref for Caller {
    type Target = CallerInfo;

    fn deref(&self) -> &CallerInfo {
        &self.0
    }
}
