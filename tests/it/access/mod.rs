//! Who may do what, in process: every method of the descriptors against callers who may not.
//!
//! - `matrix` is generated: each method, and each field of each request that names something.
//! - `roles` is what the five roles see and do, and what becomes of streams.
//! - `projects` is members, and projects that go and come back.
//! - `refusals` is what the audit keeps of who may not, and who may read it.
//!
//! The services are called without the layers around them, so that nothing but the handlers' own check stands in the way.

mod matrix;
mod projects;
mod refusals;
mod roles;

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tasktower::{
    api::Services,
    app::App,
    context::{Caller, CallerInfo},
    domain::{
        authority::{Authority, Grants},
        permission::PermissionSet,
    },
    ids::ProjectId,
    store::{DatabaseUrl, Store, migrate},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::support::backend::Database;

/// A stream that has begun says nothing for longer than this in a test.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The services over an empty database, in this process.
struct InProcess {
    app: App,
    services: Services,
    pool: DescriptorPool,
}

impl InProcess {
    async fn start(database: &Database) -> Self {
        let url: DatabaseUrl = database.url().parse().expect("the harness gives good URLs");
        migrate::up(&url).await.expect("migrations");
        let app = App::new(Store::open(&url).await.expect("a migrated database opens"), CancellationToken::new());
        let (_, health) = tonic_health::server::health_reporter();
        let services = Services::new(app.clone(), health).expect("services");
        let pool = DescriptorPool::decode(tasktower::pb::DESCRIPTORS).expect("our own descriptors");
        Self { app, services, pool }
    }

    /// Every method there is.
    fn methods(&self) -> Vec<MethodDescriptor> {
        self.pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
    }

    fn method(&self, path: &str) -> MethodDescriptor {
        let (service, method) = path.split_once('/').expect("Service/Method");
        let service = self.pool.get_service_by_name(&format!("tasktower.v1.{service}")).expect("a service");
        service.methods().find(|found| found.name() == method).expect("a method")
    }

    /// Calls a method; answers its first message, or how it ends.
    async fn call(
        &self,
        caller: &Caller,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<DynamicMessage, Status> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut request = Request::new(tokio_stream::once(message));
        request.extensions_mut().insert(caller.clone());
        let mut client = tonic::client::Grpc::new(self.services.clone());
        client.ready().await.map_err(|cause| Status::unknown(format!("{cause:?}")))?;
        let answer = async {
            let codec = Dynamic(method.output());
            let mut stream = client.streaming(request, path.parse().expect("a path"), codec).await?.into_inner();
            Ok(stream.message().await?.unwrap_or_else(|| DynamicMessage::new(method.output())))
        };
        tokio::time::timeout(FIRST_ANSWER, answer).await.unwrap_or_else(|_| Ok(DynamicMessage::new(method.output())))
    }

    /// Calls a method with a message of the generated code.
    async fn typed<A: prost::Message + Default>(
        &self,
        caller: &Caller,
        method: &str,
        message: impl prost::Message,
    ) -> Result<A, Status> {
        let method = self.method(method);
        let message = DynamicMessage::decode(method.input(), message.encode_to_vec().as_slice()).expect("its message");
        let answer = self.call(caller, &method, message).await?;
        Ok(A::decode(answer.encode_to_vec().as_slice()).expect("its answer"))
    }

    /// The caller as its memberships make it.
    async fn member(&self, principal: &str) -> Caller {
        let principal = Arc::from(principal);
        let authority = self.app.authority(&principal, PermissionSet::ALL).await.expect("memberships");
        Caller::new(CallerInfo { authority, ..CallerInfo::of_server(principal) })
    }
}

/// Messages of one type, as they are described.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Dynamic;
    type Decoder = Dynamic;

    fn encoder(&mut self) -> Dynamic {
        self.clone()
    }

    fn decoder(&mut self) -> Dynamic {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|cause| Status::internal(cause.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from).map(Some).map_err(|cause| Status::internal(cause.to_string()))
    }
}

/// A caller with these permissions in one project.
fn granted(principal: &str, project: &str, permissions: PermissionSet) -> Caller {
    let grants = Grants {
        everywhere: PermissionSet::default(),
        projects: HashMap::from([(ProjectId::new(project), permissions)]),
        limit: PermissionSet::ALL,
    };
    let authority = Authority::Granted(Arc::new(grants));
    Caller::new(CallerInfo { authority, ..CallerInfo::of_server(Arc::from(principal)) })
}

/// A caller who may do everything everywhere.
fn root() -> Caller {
    Caller::system("system:dev")
}

/// Whether an answer is the refusal of who may not.
fn is_denied<T>(answer: &Result<T, Status>) -> bool {
    answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
}
