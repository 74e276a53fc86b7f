//! What the transport and the headers say of a caller.

use std::sync::Arc;

use http::{HeaderMap, header::USER_AGENT, request::Parts};
use tonic::transport::server::TcpConnectInfo;

use super::{held::Account, turns::Turns};
use crate::context::{Caller, CallerInfo};

/// The connection a call came on; whoever accepts it puts that into the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where from.
    pub address: TcpConnectInfo,
    /// What we hold for it.
    pub account: Account,
    /// Its turns for calls that are much work.
    pub turns: Turns,
}

/// Most bytes kept of what a caller calls itself; it goes into every journal row.
const MAX_AGENT: usize = 128;

/// The caller of a request, once it is known who that is.
pub fn of(request: &Parts, known: CallerInfo, request_id: &str) -> Caller {
    let address = request.extensions.get::<Peer>().and_then(|peer| peer.address.remote_addr());
    Caller::new(CallerInfo {
        request_id: request_id.to_owned(),
        address: address.map(|address| address.ip().to_string()),
        agent: agent(&request.headers),
        method: Some(method(request.uri.path())),
        ..known
    })
}

/// Most bytes kept of a method; ours are shorter, and what is longer exists nowhere.
const MAX_METHOD: usize = 64;

/// `/tasktower.v1.TaskService/GetTask` as `TaskService/GetTask`: it goes into every journal row.
fn method(path: &str) -> Arc<str> {
    let short = path.strip_prefix("/tasktower.v1.").unwrap_or(path);
    Arc::from(&short[..short.floor_char_boundary(MAX_METHOD)])
}

/// Visible ASCII only: `to_str` refuses the rest.
fn agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(agent[..agent.len().min(MAX_AGENT)].to_owned())
}
