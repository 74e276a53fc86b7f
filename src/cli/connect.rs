//! The way to the server: address, credentials, deadlines.
//!
//! Cast: `Api` owns one lazy HTTP/2 channel and hands out the generated clients; `Credentials` adds the key or token to
//! every call. Nothing connects before the first call, so a server that is down shows as UNAVAILABLE of that call.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::failure::Usage;
use crate::pb::{
    api_key_service_client::ApiKeyServiceClient, audit_service_client::AuditServiceClient,
    dead_letter_service_client::DeadLetterServiceClient, project_service_client::ProjectServiceClient,
    queue_service_client::QueueServiceClient, retention_service_client::RetentionServiceClient,
    retry_service_client::RetryServiceClient, schedule_service_client::ScheduleServiceClient,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};

/// Where `tasktower dev` listens.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";
/// A server that does not accept within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings find a dead connection under a quiet stream; servers allow one every 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A full lease of 1,000 tasks or a page of 500 may be far above tonic's 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// HTTP/2 windows that do not stall batches of small tasks.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A channel that authenticates.
pub type Transport = InterceptedService<Channel, Credentials>;

/// Adds the credentials to each call.
#[derive(Clone, Default)]
pub struct Credentials {
    api_key: Option<MetadataValue<Ascii>>,
    bearer: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    /// Takes an API key or a token, not both: the server could not tell who is meant.
    pub fn new(api_key: Option<&str>, token: Option<&str>) -> anyhow::Result<Self> {
        let (api_key, token) = (api_key.filter(|key| !key.is_empty()), token.filter(|token| !token.is_empty()));
        if api_key.is_some() && token.is_some() {
            bail!(Usage::new(
                "both an API key and a token are given; set one of TASKTOWER_API_KEY and TASKTOWER_TOKEN"
            ));
        }
        let secret = |text: String, what: &str| -> anyhow::Result<MetadataValue<Ascii>> {
            let mut value: MetadataValue<Ascii> =
                text.parse().map_err(|_| Usage::new(format!("the {what} holds characters that no {what} has")))?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            api_key: api_key.map(|key| secret(key.to_owned(), "API key")).transpose()?,
            bearer: token.map(|token| secret(format!("Bearer {token}"), "token")).transpose()?,
        })
    }

    /// Whether calls carry an API key, a token, or nothing; for printing the same call for other tools.
    pub fn header_hint(&self) -> Option<&'static str> {
        match (&self.api_key, &self.bearer) {
            (Some(_), _) => Some("x-api-key: ${TASKTOWER_API_KEY}"),
            (None, Some(_)) => Some("authorization: Bearer ${TASKTOWER_TOKEN}"),
            (None, None) => None,
        }
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.api_key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// The server, as commands see it.
#[derive(Clone)]
pub struct Api {
    endpoint: Endpoint,
    credentials: Credentials,
    transport: Transport,
    deadline: Duration,
}

impl Api {
    /// Prepares the way to `address`; `deadline` bounds each ordinary call. A server with `https://` is trusted if its
    /// certificate is signed by one this machine trusts, or by one in the file. Must be called inside a runtime.
    pub fn new(
        address: &str,
        credentials: Credentials,
        deadline: Duration,
        authorities: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let mut endpoint = Endpoint::from_shared(with_scheme(address)?)
            .map_err(|_| {
                Usage::new(format!(
                    "`{address}` is not an address; write host:port, http://host:port or https://host:port"
                ))
            })?
            .user_agent(concat!("tasktower-cli/", env!("CARGO_PKG_VERSION")))
            .context("the user agent is not valid")?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if endpoint.uri().scheme_str() == Some("https") {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(file) = authorities {
                let pem = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).context("TLS")?;
        }
        let transport = InterceptedService::new(endpoint.connect_lazy(), credentials.clone());
        Ok(Self { endpoint, credentials, transport, deadline })
    }

    /// The same server over a connection of its own.
    pub fn another_connection(&self) -> Self {
        let transport = InterceptedService::new(self.endpoint.connect_lazy(), self.credentials.clone());
        Self { transport, ..self.clone() }
    }

    /// `host:port` of the server.
    pub fn authority(&self) -> String {
        self.endpoint.uri().authority().map(ToString::to_string).unwrap_or_default()
    }

    /// The address of the server with its scheme.
    pub fn address(&self) -> String {
        format!("{}://{}", self.endpoint.uri().scheme_str().unwrap_or("http"), self.authority())
    }

    /// What calls authenticate with.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// An ordinary call, with the deadline.
    pub fn call<T>(&self, message: T) -> Request<T> {
        self.call_waiting(message, Duration::ZERO)
    }

    /// A call that the server may hold for `wait` before it answers.
    pub fn call_waiting<T>(&self, message: T, wait: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_add(wait));
        request
    }

    /// Tasks.
    pub fn tasks(&self) -> TaskServiceClient<Transport> {
        TaskServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Queues.
    pub fn queues(&self) -> QueueServiceClient<Transport> {
        QueueServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Retry policies.
    pub fn retries(&self) -> RetryServiceClient<Transport> {
        RetryServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Schedules.
    pub fn schedules(&self) -> ScheduleServiceClient<Transport> {
        ScheduleServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Workers.
    pub fn workers(&self) -> WorkerServiceClient<Transport> {
        WorkerServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Dead letters.
    pub fn dead_letters(&self) -> DeadLetterServiceClient<Transport> {
        DeadLetterServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Retention.
    pub fn retention(&self) -> RetentionServiceClient<Transport> {
        RetentionServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// API keys.
    pub fn api_keys(&self) -> ApiKeyServiceClient<Transport> {
        ApiKeyServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// The audit.
    pub fn audit(&self) -> AuditServiceClient<Transport> {
        AuditServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Projects.
    pub fn projects(&self) -> ProjectServiceClient<Transport> {
        ProjectServiceClient::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// `host:port` means plaintext HTTP/2, as `tasktower dev` speaks it.
fn with_scheme(address: &str) -> anyhow::Result<String> {
    let address = address.trim();
    match address.split_once("://") {
        None if address.is_empty() => {
            bail!(Usage::new("the address is empty; write host:port, http://host:port or https://host:port"))
        }
        None => Ok(format!("http://{address}")),
        Some(("http" | "https", _)) => Ok(address.to_owned()),
        Some((scheme, _)) => {
            bail!(Usage::new(format!(
                "`{scheme}` is not a scheme of tasktower; write http://host:port or https://host:port"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_scheme() {
        assert_eq!(with_scheme("localhost:50051").unwrap(), "http://localhost:50051");
        assert_eq!(with_scheme("http://10.0.0.1:1").unwrap(), "http://10.0.0.1:1");
        assert_eq!(with_scheme("https://x:1").unwrap(), "https://x:1");
        for address in ["", "unix:///tmp/x"] {
            assert!(with_scheme(address).is_err(), "{address}");
        }
    }

    #[test]
    fn one_kind_of_credentials() {
        assert!(Credentials::new(Some("a"), Some("b")).is_err());
        assert!(Credentials::new(Some("line\nbreak"), None).is_err());
        assert!(Credentials::new(Some(""), Some("b")).unwrap().header_hint().unwrap().starts_with("authorization"));
        assert_eq!(Credentials::new(None, None).unwrap().header_hint(), None);
    }

    #[tokio::test]
    async fn an_api_refuses_nonsense() {
        assert!(Api::new("not an address", Credentials::default(), Duration::from_secs(1), None).is_err());
        let api = Api::new("localhost:50051", Credentials::default(), Duration::from_secs(1), None).unwrap();
        assert_eq!(api.address(), "http://localhost:50051");
    }
}
