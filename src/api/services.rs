//! Finds the service of a call. Ours are asked for by name and called directly; the rest, health and reflection, goes
//! through tonic's router, which takes a request apart and boxes it several times over.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tonic::{body::Body, codec::CompressionEncoding, server::NamedService, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::{Api, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, PageTokens, Streams};
use crate::{
    app::App,
    pb::{
        self, api_key_service_server::ApiKeyServiceServer, audit_service_server::AuditServiceServer,
        dead_letter_service_server::DeadLetterServiceServer, project_service_server::ProjectServiceServer,
        queue_service_server::QueueServiceServer, retention_service_server::RetentionServiceServer,
        retry_service_server::RetryServiceServer, schedule_service_server::ScheduleServiceServer,
        task_service_server::TaskServiceServer, worker_service_server::WorkerServiceServer,
    },
};

/// Every service there is: ours, health, reflection. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    tasks: TaskServiceServer<Api>,
    queues: QueueServiceServer<Api>,
    retries: RetryServiceServer<Api>,
    workers: WorkerServiceServer<Api>,
    projects: ProjectServiceServer<Api>,
    dead_letters: DeadLetterServiceServer<Api>,
    schedules: ScheduleServiceServer<Api>,
    retention: RetentionServiceServer<Api>,
    audit: AuditServiceServer<Api>,
    api_keys: ApiKeyServiceServer<Api>,
    others: Routes,
}

impl Services {
    /// With ours on top of the use cases.
    pub fn new(app: App, health: HealthServer<impl Health>) -> anyhow::Result<Self> {
        let page_tokens = PageTokens::new(&app.store().installation().page_token_key);
        let api = Api { app, page_tokens, streams: Streams::default() };
        macro_rules! limited {
            ($server:ident) => {
                $server::new(api.clone())
                    .max_decoding_message_size(MAX_REQUEST_BYTES)
                    .max_encoding_message_size(MAX_RESPONSE_BYTES)
                    .accept_compressed(CompressionEncoding::Gzip)
                    .send_compressed(CompressionEncoding::Gzip)
            };
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut others = Routes::builder();
        others.add_service(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
        Ok(Self {
            tasks: limited!(TaskServiceServer),
            queues: limited!(QueueServiceServer),
            retries: limited!(RetryServiceServer),
            workers: limited!(WorkerServiceServer),
            projects: limited!(ProjectServiceServer),
            dead_letters: limited!(DeadLetterServiceServer),
            schedules: limited!(ScheduleServiceServer),
            retention: limited!(RetentionServiceServer),
            audit: limited!(AuditServiceServer),
            api_keys: limited!(ApiKeyServiceServer),
            others: others.routes(),
        })
    }
}

/// The service in a path: `/{service}/{method}`.
fn service(path: &str) -> &str {
    path.strip_prefix('/').and_then(|path| path.split_once('/')).map_or("", |(service, _)| service)
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All of them always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match service(request.uri().path()) {
            TaskServiceServer::<Api>::NAME => self.tasks.call(request),
            QueueServiceServer::<Api>::NAME => self.queues.call(request),
            RetryServiceServer::<Api>::NAME => self.retries.call(request),
            WorkerServiceServer::<Api>::NAME => self.workers.call(request),
            ProjectServiceServer::<Api>::NAME => self.projects.call(request),
            DeadLetterServiceServer::<Api>::NAME => self.dead_letters.call(request),
            ScheduleServiceServer::<Api>::NAME => self.schedules.call(request),
            RetentionServiceServer::<Api>::NAME => self.retention.call(request),
            AuditServiceServer::<Api>::NAME => self.audit.call(request),
            ApiKeyServiceServer::<Api>::NAME => self.api_keys.call(request),
            _ => self.others.call(request).boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::service;

    #[test]
    fn the_service_is_the_first_part_of_the_path() {
        assert_eq!(service("/tasktower.v1.TaskService/GetTask"), "tasktower.v1.TaskService");
        for none in ["", "/", "/tasktower.v1.TaskService", "tasktower.v1.TaskService/GetTask"] {
            assert_eq!(service(none), "", "{none}");
        }
    }
}
