//! A worker as applications write it, by the worker runtime and its session.

use std::sync::Arc;

use tasktower::{
    client::Client,
    worker::{Failure, Job, Tally, Worker},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{credentials, history::History},
    QUEUE, TYPE, task_id,
};

const SLOTS: usize = 4;

pub(super) async fn work_until(
    endpoint: String,
    number: usize,
    history: Arc<History>,
    stop: CancellationToken,
) -> Tally {
    let client = Client::builder().endpoint(endpoint).api_key(credentials::key()).connect_lazy().expect("a URL");
    let handler = move |job: Job| {
        let history = history.clone();
        async move {
            history.handled(task_id(job.name()));
            if rand::random_bool(0.1) {
                return Err(Failure::new("Planned", "by the load"));
            }
            Ok(serde_json::json!({ "epoch": job.epoch() }))
        }
    };
    let worker = Worker::builder(client)
        .name(format!("runtime-{number}"))
        .queues([QUEUE])
        .slots(SLOTS)
        .register(TYPE, handler)
        .build()
        .expect("a good worker");
    worker.run_until(stop.cancelled_owned()).await.expect("the server takes the worker")
}
