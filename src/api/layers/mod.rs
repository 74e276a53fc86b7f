//! What every call passes before and after its handler, in one place so that the order can be read: request id, who
//! calls (`authentication`), access, deadline, panics, and one log line for each call that failed.
//!
//! [`Layers`] goes around all routes. It answers itself, with details like every error of ours, what does not reach a
//! handler: an unknown method, a caller without the right, a deadline, a panic, a message that cannot be read. The body of
//! a stream is wrapped too (`stream_body`), because a stream fails long after its head. What is held for a client, in
//! either direction, counts on the account of its connection (`held`, `request_body`, `answer_body`). Calls that are much
//! work wait for their turn (`turns`).

pub mod authentication;
pub mod caller;
pub mod held;
pub mod note;
pub mod turns;
pub mod visit;

mod answer_body;
mod deadline;
mod log;
mod request_body;
mod request_id;
mod stream_body;

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use self::{
    answer_body::AnswerBody,
    authentication::Authentication,
    caller::Peer,
    held::{Account, Call},
    request_body::RequestBody,
    stream_body::StreamBody,
    turns::{Turn, Turns, Work},
};
use super::{
    access::{AccessRules, Rule},
    status,
};
use crate::{
    app::{App, audit_note::Notes, authentication::Proof},
    error::Error,
};

/// Puts everything around the routes. Cheap to clone.
#[derive(Clone)]
pub struct Layers {
    rules: Arc<AccessRules>,
    authentication: Authentication,
    turns: Turns,
    notes: Notes,
}

impl Layers {
    /// With the rules of this binary. Refusals are handed to `notes`.
    pub fn load(authentication: Authentication, notes: Notes) -> anyhow::Result<Self> {
        Ok(Self { rules: Arc::new(AccessRules::load()?), authentication, turns: Turns::of_server(), notes })
    }
}

impl<S> Layer<S> for Layers {
    type Service = Layered<S>;

    fn layer(&self, inner: S) -> Layered<S> {
        Layered { inner, layers: self.clone() }
    }
}

/// The routes with everything around them.
#[derive(Clone)]
pub struct Layered<S> {
    inner: S,
    layers: Layers,
}

impl<S> Service<Request<Body>> for Layered<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        // The instance that was polled ready is the one to call; its clone waits for the next call.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let Layers { rules, turns, authentication, notes } = self.layers.clone();
        authentication::conceal(request.headers_mut());
        let id = request_id::of(request.headers());
        let method = request.uri().path().to_owned();
        // Of the highest level, so that the ids are in the lines of every level.
        let span = tracing::error_span!("rpc", method, request.id = id, principal = tracing::field::Empty);
        let (mut head, body) = request.into_parts();
        let call = async move {
            let id = id.as_str();
            let rule = rules.of(&method);
            let (caller, known) = authentication.caller(&head, rule, id).await;
            tracing::Span::current().record("principal", &*caller.principal);
            let mut response = match (known, rule) {
                (Err(error), _) => status::to_status(&error, id).into_http(),
                (Ok(_), None) => status::unimplemented(id, &method).into_http(),
                (Ok(proof), Some(rule)) => match rule.may_begin(&caller.authority) {
                    // Before the request is read: who has no right to such calls in any project.
                    Err(error) => status::to_status(&error, id).into_http(),
                    Ok(()) => {
                        head.extensions.insert(caller.clone());
                        let request = Request::from_parts(head, body);
                        run(inner, request, &turns, rule, &method, id, proof).await?
                    }
                },
            };
            request_id::mark(response.headers_mut(), id);
            let status = Status::from_header_map(response.headers());
            if let Some(status) = &status {
                note::ended(&notes, &caller, status);
            }
            log::failed(&method, started, status.as_ref());
            Ok(response)
        };
        Box::pin(call.instrument(span))
    }
}

/// Runs the handler within its time, and turns what goes wrong around it into a status.
async fn run<S>(
    inner: S,
    request: Request<Body>,
    turns: &Turns,
    rule: &Rule,
    method: &str,
    request_id: &str,
    proof: Option<(App, Proof)>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let peer = request.extensions().get::<Peer>().cloned();
    let call = peer.as_ref().map(|peer| peer.account.call());
    let account = call.as_ref().map(Call::account);
    let limit = deadline::of(request.headers(), rule, method);
    let handled = {
        // Pinned here: it is large, and would be copied into each of those that go around it.
        let handler = pin!(handle(inner, request, peer.as_ref(), account, turns, rule, request_id));
        // Nothing of the handler is used after a panic, so it cannot be seen half done.
        deadline::within(limit, AssertUnwindSafe(handler).catch_unwind()).await
    };
    let handled = match handled {
        None => return Ok(status::to_status(&Error::DeadlineExceeded, request_id).into_http()),
        Some(Err(_)) => {
            tracing::error!(method, request.id = request_id, "the handler panicked");
            return Ok(status::panicked(request_id).into_http());
        }
        Some(Ok(handled)) => handled?.unwrap_or_else(Status::into_http),
    };
    let refused = Status::from_header_map(handled.headers());
    if let Some(error) = refused.as_ref().and_then(status::unreadable) {
        return Ok(status::to_status(&error, request_id).into_http());
    }
    if rule.is_stream && refused.is_none() {
        let lost = proof.map(|(app, proof)| app.credential_lost(proof));
        return Ok(handled.map(|body| Body::new(StreamBody::new(body, limit, call, method, request_id).until(lost))));
    }
    Ok(handled)
}

/// Runs the handler once it is its turn; answers what it refuses, or that the request did not come, as a status.
async fn handle<S>(
    mut inner: S,
    request: Request<Body>,
    peer: Option<&Peer>,
    account: Option<&Account>,
    turns: &Turns,
    rule: &Rule,
    request_id: &str,
) -> Result<Result<Response<Body>, Status>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let Some((request, _turn)) = arrived(request, peer, turns, rule).await else {
        return Ok(Err(status::to_status(&Error::DeadlineExceeded, request_id)));
    };
    let handled = inner.call(request).await?;
    if rule.is_stream {
        return Ok(Ok(handled));
    }
    // Whatever it is that makes the message, it does so here.
    let (head, body) = handled.into_parts();
    let body = AnswerBody::take(body, account).await;
    Ok(body.map(|body| Response::from_parts(head, Body::new(body))))
}

/// The request once its message is there and the call has its turn, which is over when it is dropped; none when the
/// message does not come. Until then the handler is not begun: a thousand that wait are megabytes.
async fn arrived(
    request: Request<Body>,
    peer: Option<&Peer>,
    turns: &Turns,
    rule: &Rule,
) -> Option<(Request<Body>, Option<Turn>)> {
    let Some(peer) = peer else { return Some((request, None)) };
    let work = turns::work(rule, request.headers());
    let (head, body) = request.into_parts();
    let mut body = RequestBody::new(body, &peer.account);
    if !rule.takes_stream {
        body = deadline::within(Some(deadline::REQUEST_LIMIT), body.arrived()).await?;
    }
    let turn = match work {
        Some(work) => {
            body.set_apart();
            Some(turns.clone().take(peer, work, body.ready_bytes()).await)
        }
        None => None,
    };
    let (of_request, of_call) = if work == Some(Work::Request) { (turn, None) } else { (None, turn) };
    Some((Request::from_parts(head, Body::new(body.with(of_request))), of_call))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::context::Caller;

    const METHOD: &str = "/tasktower.v1.TaskService/GetTask";

    async fn call<F, R>(request: http::request::Builder, handler: F) -> Response<Body>
    where
        F: Fn(Request<Body>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let inner = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let layers = Layers::load(Authentication::open(), Notes::default()).unwrap();
        layers.layer(inner).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn status_of(response: &Response<Body>) -> Status {
        Status::from_header_map(response.headers()).unwrap()
    }

    fn ok() -> Response<Body> {
        Response::new(Body::empty())
    }

    #[tokio::test]
    async fn the_request_id_of_the_caller_is_kept_and_echoed() {
        let handler = |request: Request<Body>| async move {
            let caller = request.extensions().get::<Caller>().unwrap();
            assert_eq!((caller.request_id.as_str(), &*caller.principal), ("abc-1", "system:dev"));
            assert_eq!(caller.agent.as_deref(), Some("test/1"));
            ok()
        };
        let request = Request::get(METHOD).header("x-request-id", "abc-1").header("user-agent", "test/1");
        let response = call(request, handler).await;
        assert_eq!(response.headers()["x-request-id"], "abc-1");
        assert_eq!(response.headers()["tasktower-version"], env!("CARGO_PKG_VERSION"));
    }

    #[tokio::test]
    async fn a_bad_request_id_is_replaced() {
        for bad in ["", "a b", &"x".repeat(129)] {
            let response = call(Request::get(METHOD).header("x-request-id", bad), |_| async { ok() }).await;
            assert!(uuid::Uuid::parse_str(response.headers()["x-request-id"].to_str().unwrap()).is_ok());
        }
    }

    #[tokio::test]
    async fn a_method_without_a_rule_never_reaches_a_handler() {
        for path in ["/tasktower.v1.TaskService/Nonsense", "/other.Service/Method", "/"] {
            let response = call(Request::get(path), |_| async { panic!("reached") }).await;
            assert_eq!(status_of(&response).code(), Code::Unimplemented, "{path}");
            assert!(response.headers().contains_key("x-request-id"));
        }
    }

    #[tokio::test]
    async fn a_panic_is_internal_with_the_request_id() {
        let request = Request::get(METHOD).header("x-request-id", "r-9");
        let response = call(request, |_| async { panic!("at the disco") }).await;
        let status = status_of(&response);
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal fault"));
        assert_eq!(status.get_error_details().request_info().unwrap().request_id, "r-9");
    }

    #[tokio::test]
    async fn a_handler_past_its_deadline_is_answered_for() {
        let request = Request::get(METHOD).header("grpc-timeout", "20m");
        let started = Instant::now();
        let response = call(request, |_| std::future::pending()).await;
        let status = status_of(&response);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "DEADLINE_EXCEEDED");
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_read_is_invalid() {
        let garbled = || Status::internal("failed to decode Protobuf message: nonsense").into_http();
        let response = call(Request::get(METHOD), move |_| async move { garbled() }).await;
        let status = status_of(&response);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "FIELD_INVALID");
    }
}
