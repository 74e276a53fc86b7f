//! All that knows the wire on the side of the server: tonic, prost, conversion, the mapping of errors.
//!
//! A call passes `layers` (request id, caller, access, deadline, panics, log), then a handler: 5 to 15 lines in the file of
//! its service that take the message apart (`convert`), call one use case (`app`) and put the answer together. A handler
//! decides nothing and keeps nothing; it may be dropped at any time, because use cases run what must not be torn apart
//! detached from it. An error leaves through `status`, and nowhere else.

pub mod access;
pub mod convert;
pub mod layers;
pub mod page_token;
pub mod status;

mod api_key;
mod audit;
mod bulk_job;
mod call;
mod dead_letter;
mod project;
mod queue;
mod retention;
mod retry;
mod schedule;
mod services;
mod session;
mod standing;
mod streams;
mod task;
mod worker;

use self::{page_token::PageTokens, streams::Streams};
use crate::app::App;
pub use services::Services;

/// The largest message a client may send. A full batch of large inputs does not fit; it is to be cut.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The largest message we send. Answers are cut before, at what clients accept; this is the net below.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// Our services, as health and reflection name them.
pub const SERVICES: [&str; 10] = [
    "tasktower.v1.TaskService",
    "tasktower.v1.QueueService",
    "tasktower.v1.RetryService",
    "tasktower.v1.WorkerService",
    "tasktower.v1.ProjectService",
    "tasktower.v1.DeadLetterService",
    "tasktower.v1.ApiKeyService",
    "tasktower.v1.ScheduleService",
    "tasktower.v1.RetentionService",
    "tasktower.v1.AuditService",
];

/// What the handlers work with. Each service is an implementation of its trait for it. Cheap to clone.
#[derive(Clone)]
struct Api {
    app: App,
    page_tokens: PageTokens,
    /// The open streams of each caller.
    streams: Streams,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn every_service_of_the_proto_is_served() {
        let pool = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let mut described: Vec<_> = pool.services().map(|service| service.full_name().to_owned()).collect();
        let mut served = SERVICES.map(str::to_owned);
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
