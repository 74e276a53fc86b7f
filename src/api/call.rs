//! What every handler does first and last: take the call apart, and turn its error into a status.

use std::future::Future;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use super::{
    access::{self, ByOwner, ByPermission, Scoped},
    convert::request_id::METADATA_KEY,
    status::to_status,
};
use crate::{
    app::BoxStream,
    context::Caller,
    domain::authority::Share,
    error::{Error, Result},
};

/// Says in the metadata of an answer that it was given before, to the same request id.
const REPLAYED: &str = "idempotency-replayed";

/// A call, taken apart.
pub struct Call<T> {
    /// Who calls.
    pub caller: Caller,
    /// The idempotency key given as metadata.
    pub metadata_key: Option<String>,
    /// What is asked.
    pub message: T,
}

/// What a stream of answers is.
pub type Answers<T> = BoxStream<Result<T, Status>>;

/// Takes a call apart, if the caller may make it. The layers put the caller there; a call that came without them is
/// refused.
pub fn open<T: ByPermission>(request: Request<T>) -> Result<Call<T>, Status> {
    admitted(request).map(|(call, _)| call)
}

/// The same for calls that may reach no more than what the caller owns.
pub fn open_own<T: ByOwner>(request: Request<T>) -> Result<(Call<T>, Share), Status> {
    admitted(request)
}

/// The same for a stream of messages. The first of them says what it is about, and is looked at by who reads it.
pub fn open_stream<T>(request: Request<Streaming<T>>) -> Result<Call<Streaming<T>>, Status> {
    take_apart(request)
}

fn admitted<T: Scoped>(request: Request<T>) -> Result<(Call<T>, Share), Status> {
    let call = take_apart(request)?;
    match access::admit(&call.caller, &call.message) {
        Ok(share) => Ok((call, share)),
        Err(error) => Err(to_status(&error, &call.caller.request_id)),
    }
}

fn take_apart<T>(request: Request<T>) -> Result<Call<T>, Status> {
    let (metadata, mut extensions, message) = request.into_parts();
    let caller = extensions
        .remove::<Caller>()
        .ok_or_else(|| to_status(&Error::internal(anyhow::anyhow!("a call without a caller")), ""))?;
    // Text that is not visible ASCII stays recognisably wrong.
    let metadata_key =
        metadata.get(METADATA_KEY).map(|value| value.to_str().map_or_else(|_| "\u{fffd}".to_owned(), str::to_owned));
    Ok(Call { caller, metadata_key, message })
}

/// Runs the body of a handler.
pub async fn answer<T>(caller: &Caller, body: impl Future<Output = Result<T>>) -> Result<Response<T>, Status> {
    body.await.map(Response::new).map_err(|error| to_status(&error, &caller.request_id))
}

/// Runs the body of a handler that may repeat an earlier answer, and says so.
pub async fn answer_replayable<T>(
    caller: &Caller,
    body: impl Future<Output = Result<(T, bool)>>,
) -> Result<Response<T>, Status> {
    let mut response = answer(caller, body).await?.map(|(value, replayed)| (value, replayed));
    let replayed = response.get_ref().1;
    if replayed {
        response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
    }
    Ok(response.map(|(value, _)| value))
}

/// A stream of answers: each item converted, an error as the status it ends with.
pub fn stream<T, U>(
    caller: Caller,
    items: impl Stream<Item = Result<T>> + Send + 'static,
    convert: impl Fn(T) -> U + Send + 'static,
) -> Answers<U> {
    Box::pin(items.map(move |item| item.map(&convert).map_err(|error| to_status(&error, &caller.request_id))))
}
