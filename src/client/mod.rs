//! The typed client of tasktower: one connection, safe retries, watches that go on by themselves.
//!
//! The cast: [`Client`] owns the HTTP/2 connection and the credentials; it is cheap to clone and all clones share the
//! connection. [`NewTask`] says what to submit. [`Watch`] is a stream of events that survives a restart of the server.
//! The generated stubs stay reachable ([`Client::tasks`], [`Client::queues`], [`Client::workers`],
//! [`Client::projects`]) and carry the same credentials and deadlines, but do not retry.
//!
//! On failure every call answers an [`Error`]; branch on [`Error::reason`], show its text to people. The helpers repeat
//! a call only where that is safe: reads, and changes that carry a `request_id` (they always set one).
//!
//! ```no_run
//! use std::time::Duration;
//! use tasktower::client::{Client, NewTask};
//!
//! # async fn example() -> Result<(), tasktower::client::Error> {
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let submitted = client
//!     .submit(NewTask::new("email.send").queue("email").input(serde_json::json!({ "to": "ada@example.com" })))
//!     .await?;
//! let task = client.wait(&submitted.name, Duration::from_secs(60)).await?;
//! println!("{} is {:?}", task.name, task.state());
//! # Ok(())
//! # }
//! ```

mod connection;
mod error;
mod metadata;
mod new_task;
pub mod payload;
mod retry;
mod tasks;
pub mod value;
mod watch;

pub use connection::{Client, ClientBuilder, DEFAULT_ENDPOINT, Transport};
pub use error::{Error, FieldViolation, Refusal, code_name};
pub use metadata::CallMetadata;
pub use new_task::NewTask;
pub use retry::Backoff;
pub use watch::{Watch, WatchOptions};
