//! The worker runtime: register handlers, run, and leave leases, heartbeats, cancellation and drain to it.
//!
//! The cast:
//! - [`Worker`] is what the application builds and runs; [`Job`] is what a handler is given, [`Output`] and [`Failure`]
//!   are what it answers.
//! - `engine.rs` owns all state of a running worker: which attempts run, which credits are out, which results are not
//!   yet acknowledged. It is one task, so there are no locks; it wakes for server messages, ended handlers and a tick.
//! - `link.rs` owns the connection: it opens a session, opens another when it breaks, and knows nothing of leases.
//! - `attempt.rs` is one handler at work and the clock of its lease, `attempts.rs` all of them; `outbox.rs` holds results
//!   until they are acknowledged.
//!
//! What happens on failure: a session that breaks ends nothing. Handlers run on, results wait, and both go on in the next
//! session, on whichever replica answers. A handler whose lease could not be extended is stopped before the lease ends,
//! so that two workers do not run one attempt. A panic is a failed attempt of type `PANIC`. Delivery is at least once:
//! make the effects of a handler repeatable.
//!
//! ```no_run
//! use tasktower::{client::Client, worker::{Failure, Job, Worker}};
//!
//! #[derive(serde::Deserialize)]
//! struct Mail {
//!     to: String,
//! }
//!
//! async fn send_mail(job: Job) -> Result<serde_json::Value, Failure> {
//!     let mail: Mail = job.input()?;
//!     job.progress(50.0, format!("sending to {}", mail.to));
//!     if !mail.to.contains('@') {
//!         return Err(Failure::new("BadAddress", mail.to).permanent());
//!     }
//!     Ok(serde_json::json!({ "sent": true }))
//! }
//!
//! # async fn example() -> Result<(), tasktower::client::Error> {
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let worker =
//!     Worker::builder(client).name("mailer").queues(["email"]).slots(50).register("email.send", send_mail).build()?;
//! let stop = async {
//!     let _ = tokio::signal::ctrl_c().await;
//! };
//! let tally = worker.run_until(stop).await?;
//! println!("{} tasks succeeded", tally.succeeded);
//! # Ok(())
//! # }
//! ```

mod attempt;
mod attempts;
mod builder;
mod engine;
mod handler;
mod job;
mod link;
mod outbox;
#[cfg(test)]
mod tests;

pub use builder::{Worker, WorkerBuilder, WorkerHandle};
pub use engine::Tally;
pub use handler::{Failure, Output};
pub use job::{Job, StopReason};
