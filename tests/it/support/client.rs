//! Plain generated clients of one server, without the retries and conveniences of `tasktower::client`: a test sees
//! what the wire says.

use std::sync::atomic::{AtomicUsize, Ordering};

use tasktower::pb::{
    api_key_service_client::ApiKeyServiceClient, audit_service_client::AuditServiceClient,
    dead_letter_service_client::DeadLetterServiceClient, project_service_client::ProjectServiceClient,
    queue_service_client::QueueServiceClient, retention_service_client::RetentionServiceClient,
    retry_service_client::RetryServiceClient, schedule_service_client::ScheduleServiceClient,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{
    credentials::{Shown, Wire},
    server::Server,
};

/// One connection, shared by all clients taken from it.
#[derive(Clone)]
pub struct Clients {
    channel: Channel,
    shown: Shown,
}

impl Clients {
    pub async fn connect(server: &Server) -> Clients {
        Clients::connect_to(&server.endpoint()).await
    }

    pub async fn connect_to(endpoint: &str) -> Clients {
        Clients::try_connect_to(endpoint).await.unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    pub async fn try_connect_to(endpoint: &str) -> Result<Clients, tonic::transport::Error> {
        let channel = Endpoint::from_shared(endpoint.to_owned()).expect("a URL").connect().await?;
        Ok(Clients { channel, shown: Shown::planted() })
    }

    /// Connects with the first call, and again whenever the connection broke.
    pub fn connect_later(endpoint: &str) -> Clients {
        let channel = Endpoint::from_shared(endpoint.to_owned()).expect("a URL").connect_lazy();
        Clients { channel, shown: Shown::planted() }
    }

    /// The same connection, showing something else.
    pub fn showing(&self, shown: Shown) -> Clients {
        Clients { channel: self.channel.clone(), shown }
    }

    pub fn channel(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), self.shown.clone())
    }

    pub fn api_keys(&self) -> ApiKeyServiceClient<Wire> {
        ApiKeyServiceClient::new(self.channel())
    }

    pub fn tasks(&self) -> TaskServiceClient<Wire> {
        TaskServiceClient::new(self.channel())
    }

    pub fn queues(&self) -> QueueServiceClient<Wire> {
        QueueServiceClient::new(self.channel())
    }

    pub fn retries(&self) -> RetryServiceClient<Wire> {
        RetryServiceClient::new(self.channel())
    }

    pub fn schedules(&self) -> ScheduleServiceClient<Wire> {
        ScheduleServiceClient::new(self.channel())
    }

    pub fn workers(&self) -> WorkerServiceClient<Wire> {
        WorkerServiceClient::new(self.channel())
    }

    pub fn dead_letters(&self) -> DeadLetterServiceClient<Wire> {
        DeadLetterServiceClient::new(self.channel())
    }

    pub fn retention(&self) -> RetentionServiceClient<Wire> {
        RetentionServiceClient::new(self.channel())
    }

    pub fn audit(&self) -> AuditServiceClient<Wire> {
        AuditServiceClient::new(self.channel())
    }

    pub fn projects(&self) -> ProjectServiceClient<Wire> {
        ProjectServiceClient::new(self.channel())
    }
}

/// Clients of several replicas of one service: one is used until it does not answer, then the next one.
pub struct Replicas {
    clients: Vec<Clients>,
    current: AtomicUsize,
}

impl Replicas {
    /// Begins with the one of this number.
    pub fn new(endpoints: &[String], first: usize) -> Replicas {
        let clients = endpoints.iter().map(|endpoint| Clients::connect_later(endpoint)).collect();
        Replicas { clients, current: AtomicUsize::new(first) }
    }

    pub fn current(&self) -> &Clients {
        &self.clients[self.current.load(Ordering::Relaxed) % self.clients.len()]
    }

    /// The current one does not answer.
    pub fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}
