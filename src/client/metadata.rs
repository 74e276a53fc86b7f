//! What travels with every call: credentials and a deadline.
//!
//! A deadline is set unless the caller set one. Streams have none, because it would end them; long polls have one that
//! leaves room for the longest wait.

use std::{fmt, time::Duration};

use tonic::{
    GrpcMethod, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use super::Error;

/// The longest wait `WaitTask` and `LeaseTasks` accept.
pub(super) const LONGEST_POLL: Duration = Duration::from_secs(30);

/// The header that carries a deadline.
const DEADLINE_KEY: &str = "grpc-timeout";

/// Puts credentials and a deadline on every call. It is the interceptor of all stubs.
#[derive(Clone)]
pub struct CallMetadata {
    credential: Option<(&'static str, MetadataValue<Ascii>)>,
    deadline: Duration,
}

impl CallMetadata {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { credential: None, deadline }
    }

    pub(super) fn with_token(self, token: &str) -> Result<Self, Error> {
        self.with_credential("authorization", &format!("Bearer {}", token.trim()))
    }

    pub(super) fn with_api_key(self, key: &str) -> Result<Self, Error> {
        self.with_credential("x-api-key", key.trim())
    }

    fn with_credential(mut self, key: &'static str, value: &str) -> Result<Self, Error> {
        // The value stays out of the error: it is a secret.
        let mut value: MetadataValue<Ascii> =
            value.parse().map_err(|_| Error::Config(format!("the credential for `{key}` is not visible ASCII")))?;
        value.set_sensitive(true);
        self.credential = Some((key, value));
        Ok(self)
    }
}

impl Interceptor for CallMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some((key, value)) = &self.credential {
            request.metadata_mut().insert(*key, value.clone());
        }
        if request.metadata().get(DEADLINE_KEY).is_none() {
            let method = request.extensions().get::<GrpcMethod<'static>>().map_or("", |method| method.method());
            if let Some(deadline) = deadline_of(method, self.deadline) {
                request.set_timeout(deadline);
            }
        }
        Ok(request)
    }
}

fn deadline_of(method: &str, usual: Duration) -> Option<Duration> {
    match method {
        "Session" => None,
        _ if method.starts_with("Watch") => None,
        "WaitTask" | "LeaseTasks" => Some(LONGEST_POLL + usual),
        _ => Some(usual),
    }
}

impl fmt::Debug for CallMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credential = self.credential.as_ref().map(|(key, _)| format!("{key}: REDACTED"));
        f.debug_struct("CallMetadata").field("credential", &credential).field("deadline", &self.deadline).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(method: &'static str, metadata: &CallMetadata) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(GrpcMethod::new("tasktower.v1.TaskService", method));
        metadata.clone().call(request).unwrap()
    }

    #[test]
    fn streams_have_no_deadline_and_polls_a_long_one() {
        let metadata = CallMetadata::new(Duration::from_secs(5));
        let sent = |method| {
            let request = called(method, &metadata);
            request.metadata().get(DEADLINE_KEY).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent("GetTask").as_deref(), Some("5000000u"));
        assert_eq!(sent("WaitTask").as_deref(), Some("35000000u"));
        assert_eq!(sent("WatchTasks"), None);
        assert_eq!(sent("Session"), None);
    }

    #[test]
    fn the_deadline_of_the_caller_stays() {
        let mut request = Request::new(());
        request.set_timeout(Duration::from_secs(1));
        let request = CallMetadata::new(Duration::from_secs(5)).call(request).unwrap();
        assert_eq!(request.metadata().get(DEADLINE_KEY).unwrap(), "1000000u");
    }

    #[test]
    fn secrets_are_sent_but_never_printed() {
        let metadata = CallMetadata::new(Duration::from_secs(5)).with_token("s3cret\n").unwrap();
        let request = called("GetTask", &metadata);
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
        assert!(!format!("{metadata:?}{:?}", request.metadata()).contains("s3cret"));
        let error = CallMetadata::new(Duration::from_secs(5)).with_api_key("s3\ncret").unwrap_err();
        assert!(!error.to_string().contains("cret\""));
    }
}
