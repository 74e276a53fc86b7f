//! Opening the connection, and the stubs that use it.

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use tonic::{
    service::interceptor::InterceptedService,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{CallMetadata, Error};
use crate::pb::{
    project_service_client::ProjectServiceClient, queue_service_client::QueueServiceClient,
    retry_service_client::RetryServiceClient, schedule_service_client::ScheduleServiceClient,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};

/// Where a development server listens.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";

/// The project everybody has.
const DEFAULT_PROJECT: &str = "default";

const ADDRESS_VARIABLE: &str = "TASKTOWER_ADDRESS";
const TOKEN_VARIABLE: &str = "TASKTOWER_TOKEN";
const API_KEY_VARIABLE: &str = "TASKTOWER_API_KEY";
const AUTHORITIES_VARIABLE: &str = "TASKTOWER_CA_FILE";

/// How long a TCP connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The deadline of a unary call; the server's own limit is the same.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// A silent connection is probed this often, also between calls: dead ones are found, proxies keep live ones.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A connection that leaves a probe unanswered this long is dead.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most one answer may hold. A page of 500 tasks in the FULL view can be large, so this is above gRPC's usual 4 MiB.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The most one request may hold: what the server accepts. Checked here, because the error is clearer than the server's.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// HTTP/2 flow-control windows. The default of 64 KiB would stall a stream of grants on every round trip.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// What the stubs send through: the connection with credentials and deadlines put on each call.
pub type Transport = InterceptedService<Channel, CallMetadata>;

/// A connection to tasktower. Cheap to clone; all clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    metadata: CallMetadata,
    project: Arc<str>,
    deadline: Duration,
}

impl Client {
    /// Connects to `endpoint`, for example `http://127.0.0.1:50051`, with credentials from `TASKTOWER_TOKEN` or
    /// `TASKTOWER_API_KEY` if one of them is set.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder().endpoint(endpoint).connect().await
    }

    /// Sets up a connection. The endpoint is `TASKTOWER_ADDRESS`, or that of a development server, unless given.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same connection, working on another project.
    pub fn with_project(&self, project: impl AsRef<str>) -> Self {
        Self { project: Arc::from(bare_project(project.as_ref())), ..self.clone() }
    }

    /// The resource name of the project this client works on: `projects/{project}`.
    pub fn parent(&self) -> String {
        format!("projects/{}", self.project)
    }

    /// The stub of `TaskService`.
    pub fn tasks(&self) -> TaskServiceClient<Transport> {
        TaskServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The stub of `QueueService`.
    pub fn queues(&self) -> QueueServiceClient<Transport> {
        QueueServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The stub of `RetryService`.
    pub fn retries(&self) -> RetryServiceClient<Transport> {
        RetryServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The stub of `ScheduleService`.
    pub fn schedules(&self) -> ScheduleServiceClient<Transport> {
        ScheduleServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The stub of `WorkerService`.
    pub fn workers(&self) -> WorkerServiceClient<Transport> {
        WorkerServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The stub of `ProjectService`.
    pub fn projects(&self) -> ProjectServiceClient<Transport> {
        ProjectServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// The connection as the stubs use it, for stubs this crate has no method for.
    pub fn transport(&self) -> Transport {
        InterceptedService::new(self.channel.clone(), self.metadata.clone())
    }

    /// The full name of a task, from its full name or its id in this client's project.
    pub(crate) fn task_name(&self, name_or_id: &str) -> String {
        if name_or_id.contains('/') { name_or_id.to_owned() } else { format!("{}/tasks/{name_or_id}", self.parent()) }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Says how to connect.
#[derive(Clone)]
pub struct ClientBuilder {
    endpoint: Option<String>,
    project: String,
    token: Option<String>,
    api_key: Option<String>,
    ca_file: Option<PathBuf>,
    connect_timeout: Duration,
    deadline: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoint: None,
            project: DEFAULT_PROJECT.to_owned(),
            token: None,
            api_key: None,
            ca_file: None,
            connect_timeout: CONNECT_TIMEOUT,
            deadline: CALL_DEADLINE,
        }
    }
}

impl ClientBuilder {
    /// Where the server is: `https://host:port`, `http://host:port`, or `host:port`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// The project to work on, `default` unless given. `projects/{project}` is understood too.
    pub fn project(mut self, project: impl AsRef<str>) -> Self {
        self.project = bare_project(project.as_ref()).to_owned();
        self
    }

    /// A token to send as `authorization: Bearer`. Then the environment is not asked.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// An API key to send as `x-api-key`. Then the environment is not asked.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// A file of certificates (PEM) whose servers are trusted with `https://`, besides those this machine trusts. Unless
    /// given, it is `TASKTOWER_CA_FILE`.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// How long a connection may take to open, 5 s unless given.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// The deadline of each unary call, 5 s unless given. Long polls have it on top of their wait; streams have none.
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects, and says at once if that fails.
    pub async fn connect(self) -> Result<Client, Error> {
        let (endpoint, metadata) = self.prepare()?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| Error::Connect { endpoint: endpoint.uri().to_string(), source })?;
        Ok(self.client(channel, metadata))
    }

    /// Connects when the first call is made. Needs a tokio runtime around it.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let (endpoint, metadata) = self.prepare()?;
        let channel = endpoint.connect_lazy();
        Ok(self.client(channel, metadata))
    }

    fn client(self, channel: Channel, metadata: CallMetadata) -> Client {
        Client { channel, metadata, project: Arc::from(self.project), deadline: self.deadline }
    }

    fn prepare(&self) -> Result<(Endpoint, CallMetadata), Error> {
        let address =
            self.endpoint.clone().or_else(|| variable(ADDRESS_VARIABLE)).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let url = endpoint_url(&address)?;
        let mut endpoint = Endpoint::from_shared(url)
            .map_err(|error| Error::Config(format!("`{address}` is not an endpoint: {error}")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = self.tls()?;
            endpoint = endpoint.tls_config(tls).map_err(|error| Error::Config(format!("TLS: {error}")))?;
        }
        Ok((endpoint, self.metadata()?))
    }

    /// Trusts what this machine trusts, and the file.
    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let tls = ClientTlsConfig::new().with_native_roots();
        let Some(file) = self.ca_file.clone().or_else(|| variable(AUTHORITIES_VARIABLE).map(PathBuf::from)) else {
            return Ok(tls);
        };
        let pem =
            std::fs::read(&file).map_err(|error| Error::Config(format!("cannot read {}: {error}", file.display())))?;
        Ok(tls.ca_certificate(Certificate::from_pem(pem)))
    }

    fn metadata(&self) -> Result<CallMetadata, Error> {
        let given = self.token.is_some() || self.api_key.is_some();
        let (token, api_key) = if given {
            (self.token.clone(), self.api_key.clone())
        } else {
            (variable(TOKEN_VARIABLE), variable(API_KEY_VARIABLE))
        };
        let metadata = CallMetadata::new(self.deadline);
        match (token, api_key) {
            (None, None) => Ok(metadata),
            (Some(token), None) => metadata.with_token(&token),
            (None, Some(key)) => metadata.with_api_key(&key),
            // The server refuses a call with both, so nobody has to guess which one counts.
            (Some(_), Some(_)) => Err(Error::Config(format!(
                "give a token ({TOKEN_VARIABLE}) or an API key ({API_KEY_VARIABLE}), not both"
            ))),
        }
    }
}

/// The variable, unless it is unset or empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// `host:port` means plaintext, as for every other gRPC tool.
fn endpoint_url(address: &str) -> Result<String, Error> {
    let address = address.trim();
    match address.split_once("://") {
        None if address.is_empty() => Err(Error::Config("the endpoint is empty".to_owned())),
        None => Ok(format!("http://{address}")),
        Some(("http" | "https", _)) => Ok(address.to_owned()),
        Some((scheme, _)) => {
            Err(Error::Config(format!("`{address}`: this client speaks `http://` and `https://`, not `{scheme}://`")))
        }
    }
}

fn bare_project(project: &str) -> &str {
    project.strip_prefix("projects/").unwrap_or(project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_scheme_is_plaintext() {
        assert_eq!(endpoint_url("127.0.0.1:50051").unwrap(), "http://127.0.0.1:50051");
        assert_eq!(endpoint_url(" http://tower:1 ").unwrap(), "http://tower:1");
        assert_eq!(endpoint_url("https://tower").unwrap(), "https://tower");
        assert!(endpoint_url("unix:///tmp/tower").is_err());
        assert!(endpoint_url("").is_err());
    }

    #[tokio::test]
    async fn names_are_completed_with_the_project() {
        let client = Client::builder().endpoint("127.0.0.1:1").project("projects/shop").connect_lazy().unwrap();
        assert_eq!(client.parent(), "projects/shop");
        assert_eq!(client.task_name("abc"), "projects/shop/tasks/abc");
        assert_eq!(client.task_name("projects/x/tasks/abc"), "projects/x/tasks/abc");
        assert_eq!(client.with_project("other").task_name("abc"), "projects/other/tasks/abc");
    }

    #[test]
    fn two_credentials_are_one_too_many() {
        let builder = Client::builder().token("t").api_key("k");
        assert!(matches!(builder.metadata(), Err(Error::Config(_))));
    }
}
