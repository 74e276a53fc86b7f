//! Plain generated clients of one server, without the retries and conveniences of `tasktower::client`: a test sees
//! what the wire says.

use std::sync::atomic::{AtomicUsize, Ordering};

use tasktower::pb::{
    audit_service_client::AuditServiceClient, dead_letter_service_client::DeadLetterServiceClient,
    project_service_client::ProjectServiceClient, queue_service_client::QueueServiceClient,
    retention_service_client::RetentionServiceClient, retry_service_client::RetryServiceClient,
    schedule_service_client::ScheduleServiceClient, task_service_client::TaskServiceClient,
    worker_service_client::WorkerServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use super::server::Server;

/// One connection, shared by all clients taken from it.
#[derive(Clone)]
pub struct Clients {
    channel: Channel,
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
        Ok(Clients { channel })
    }

    /// Connects with the first call, and again whenever the connection broke.
    pub fn connect_later(endpoint: &str) -> Clients {
        Clients { channel: Endpoint::from_shared(endpoint.to_owned()).expect("a URL").connect_lazy() }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel())
    }

    pub fn queues(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel())
    }

    pub fn retries(&self) -> RetryServiceClient<Channel> {
        RetryServiceClient::new(self.channel())
    }

    pub fn schedules(&self) -> ScheduleServiceClient<Channel> {
        ScheduleServiceClient::new(self.channel())
    }

    pub fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
    }

    pub fn dead_letters(&self) -> DeadLetterServiceClient<Channel> {
        DeadLetterServiceClient::new(self.channel())
    }

    pub fn retention(&self) -> RetentionServiceClient<Channel> {
        RetentionServiceClient::new(self.channel())
    }

    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel())
    }

    pub fn projects(&self) -> ProjectServiceClient<Channel> {
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
