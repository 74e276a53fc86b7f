//! Submits ten tasks and works them. Run it beside a development server:
//!
//! ```text
//! tasktower dev
//! cargo run --example worker
//! ```
//!
//! The server is `TASKTOWER_ADDRESS`, or the development server.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tasktower::{
    client::{Client, NewTask, payload},
    worker::{Failure, Job, Worker},
};

/// The task type: producer and worker agree on it.
const GREET: &str = "example.greet";

/// A queue of our own, so that tasks of others are left alone.
const QUEUE: &str = "example";

/// How long a task may take from submit to end before the example gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Greeting {
    name: String,
}

async fn greet(job: Job) -> Result<serde_json::Value, Failure> {
    let greeting: Greeting = job.input()?;
    job.progress(50.0, "thinking of something nice");
    // Stands for real work that can be interrupted: it stops when the task is cancelled or the worker must end.
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
        () = job.cancelled() => return Err(Failure::cancelled()),
    }
    println!("  working  {} attempt with epoch {}", job.name(), job.epoch());
    Ok(json!({ "text": format!("Hello, {}!", greeting.name) }))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().connect().await?;

    let worker = Worker::builder(client.clone())
        .name("example-worker")
        .queues([QUEUE])
        .slots(4)
        .label("version", env!("CARGO_PKG_VERSION"))
        .register(GREET, greet)
        .build()?;
    let handle = worker.handle();

    let producer = async {
        let produced = produce(&client).await;
        handle.drain();
        produced
    };
    let (tally, produced) = tokio::join!(worker.run(), producer);
    produced?;
    let tally = tally?;
    println!("{} succeeded, {} failed, {} given back", tally.succeeded, tally.failed, tally.released);
    Ok(())
}

async fn produce(client: &Client) -> anyhow::Result<()> {
    // All or none, and safe to repeat: the batch carries a request id.
    let tasks = (1..=10).map(|n| {
        NewTask::new(GREET).queue(QUEUE).input(Greeting { name: format!("guest {n}") }).label("example", "worker")
    });
    for submitted in client.submit_batch(tasks).await? {
        let task = client.wait(&submitted.name, PATIENCE).await?;
        let result = payload::to_json(task.result.as_ref())?;
        println!("{:>10} {} {}", task.state().as_str_name().trim_start_matches("STATE_"), task.name, result["text"]);
    }
    Ok(())
}
