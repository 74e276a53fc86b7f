//! Works by single calls: leases, and completes most tasks, fails, gives back and forgets some. Now and then it repeats a
//! completion, as it was and changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tasktower::{
    client::{Refusal, payload},
    pb::{
        CompleteTasksRequest, ErrorReason, FailTasksRequest, HeartbeatRequest, LeaseHeartbeat, LeaseTasksRequest,
        LeaseToken, LeasedTask, Progress, ReleaseTasksRequest, ReportResult, TaskCompletion, TaskError, TaskFailure,
        TaskRelease, WorkerIdentity,
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        client::{Clients, Replicas},
        history::{Completion, History},
    },
    PROJECT, QUEUE, SLOW, TYPE, persist, task_id,
};

/// Tasks a worker takes at a time.
const LEASE_TASKS: i32 = 8;
const LEASE_WAIT: prost_types::Duration = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
/// The bytes of a result of a task.
const RESULT_TYPE: &str = "text/plain";

/// Longer than a lease and a sweep, shorter than two of each: somebody else has the task when it is reported.
const SLOW_TAKES: Duration = Duration::from_secs(8);

/// What a worker does with a task.
enum Plan {
    Complete,
    Fail,
    Release,
    /// Says nothing, as a worker that dies. The lease has to expire.
    Forget,
}

impl Plan {
    fn draw(draining: bool) -> Plan {
        match rand::random_range(0..1000) {
            0..100 => Plan::Fail,
            100..160 => Plan::Release,
            160..163 if !draining => Plan::Forget,
            _ => Plan::Complete,
        }
    }
}

pub(super) struct Worker {
    replicas: Replicas,
    history: Arc<History>,
    number: usize,
    stop: CancellationToken,
    /// Slow tasks, with when they were leased.
    slow: Vec<(Instant, LeaseToken)>,
}

impl Worker {
    pub(super) fn new(replicas: Replicas, history: Arc<History>, number: usize, stop: CancellationToken) -> Worker {
        Worker { replicas, history, number, stop, slow: Vec::new() }
    }

    pub(super) async fn run(mut self) {
        let identity = WorkerIdentity {
            worker: format!("worker-{}", self.number),
            incarnation: Uuid::now_v7().to_string(),
            types: vec![TYPE.to_owned()],
            queues: vec![QUEUE.to_owned()],
            slots: LEASE_TASKS,
            ..WorkerIdentity::default()
        };
        while !self.stop.is_cancelled() {
            let request = LeaseTasksRequest {
                parent: PROJECT.to_owned(),
                identity: Some(identity.clone()),
                max_tasks: LEASE_TASKS,
                wait: Some(LEASE_WAIT),
                // The same id until it is answered: what was leased by a call without an answer is answered again.
                request_id: Uuid::now_v7().to_string(),
            };
            let call = |clients: Clients, request| async move { clients.workers().lease_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "lease", &request, call).await;
            self.work(answer.tasks).await;
            self.report_slow_ones().await;
        }
    }

    /// Completes the slow tasks that took long enough, whoever has them by now.
    async fn report_slow_ones(&mut self) {
        while self.slow.first().is_some_and(|(leased, _)| leased.elapsed() >= SLOW_TAKES) {
            let (_, token) = self.slow.remove(0);
            let text = format!("{} {} {} late", self.number, token.task, token.epoch);
            self.complete(vec![completion(token, text)]).await;
        }
    }

    async fn work(&mut self, leased: Vec<LeasedTask>) {
        let (mut completions, mut failures, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        let is_slow = |leased: &LeasedTask| leased.task.as_ref().is_some_and(|task| task.labels.contains_key(SLOW));
        let (slow, leased): (Vec<_>, Vec<_>) = leased.into_iter().partition(is_slow);
        self.slow.extend(slow.into_iter().filter_map(|leased| Some((Instant::now(), leased.token?))));
        self.beat(&leased).await;
        for LeasedTask { task, token, .. } in leased {
            self.history.answered(&task.expect("a lease is of a task"));
            let token = token.expect("a leased task has a token");
            match Plan::draw(self.stop.is_cancelled()) {
                Plan::Complete => {
                    // The bytes are of this attempt alone, so that whose result is stored can be told.
                    let text = format!("{} {} {}", self.number, token.task, token.epoch);
                    completions.push(completion(token, text));
                }
                Plan::Fail => {
                    let error = TaskError { r#type: "Planned".to_owned(), ..TaskError::default() };
                    let token = Some(token);
                    failures.push(TaskFailure { token, error: Some(error), r#final: false, retry_after: None });
                }
                Plan::Release => releases.push(TaskRelease { token: Some(token), delay: None }),
                Plan::Forget => {}
            }
        }
        if !completions.is_empty() {
            self.complete(completions).await;
        }
        if !failures.is_empty() {
            let request = FailTasksRequest { parent: PROJECT.to_owned(), failures };
            let call = |clients: Clients, request| async move { clients.workers().fail_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "fail", &request, call).await;
            answer.results.iter().for_each(|result| self.expect_report("fail", result));
        }
        if !releases.is_empty() {
            let request = ReleaseTasksRequest { parent: PROJECT.to_owned(), releases };
            let call = |clients: Clients, request| async move { clients.workers().release_tasks(request).await };
            let answer = persist(&self.history, &self.replicas, "release", &request, call).await;
            answer.results.iter().for_each(|result| self.expect_report("release", result));
        }
    }

    /// Now and then says how far it is.
    async fn beat(&self, leased: &[LeasedTask]) {
        if leased.is_empty() || !rand::random_bool(0.2) {
            return;
        }
        let progress = || Some(Progress { percent: 50.0, message: "half".to_owned() });
        let leases = leased.iter().map(|task| LeaseHeartbeat { token: task.token.clone(), progress: progress() });
        let request =
            HeartbeatRequest { parent: PROJECT.to_owned(), leases: leases.collect(), ..HeartbeatRequest::default() };
        let call = |clients: Clients, request| async move { clients.workers().heartbeat(request).await };
        let answer = persist(&self.history, &self.replicas, "heartbeat", &request, call).await;
        for result in answer.results {
            self.expect("heartbeat", result.status.as_ref().and_then(Refusal::of_item));
        }
    }

    async fn complete(&self, completions: Vec<TaskCompletion>) {
        let done = self.send(completions.clone()).await;
        for (completion, result) in completions.iter().zip(&done) {
            let token = completion.token.clone().unwrap_or_default();
            self.expect_report("complete", result);
            if refusal(result).is_none() {
                let result = bytes(completion);
                self.history.completed(task_id(&token.task), Completion { epoch: token.epoch, result });
            }
        }
        if !rand::random_bool(0.1) {
            return;
        }
        // Again as it was: the same answer. Again with another result: refused.
        let again = self.send(completions.clone()).await;
        let changed = completions.iter().map(|c| completion(c.token.clone().unwrap_or_default(), "changed".to_owned()));
        let changed = self.send(changed.collect()).await;
        for ((first, again), changed) in done.iter().zip(&again).zip(&changed) {
            if refusal(first).is_none() && refusal(again).is_some() {
                self.history.surprise(format!("a repeated completion is refused: {:?}", refusal(again)));
            }
            if refusal(changed).is_none() {
                self.history.surprise(format!("a changed completion is accepted: {changed:?}"));
            }
        }
    }

    async fn send(&self, completions: Vec<TaskCompletion>) -> Vec<ReportResult> {
        let request = CompleteTasksRequest { parent: PROJECT.to_owned(), completions };
        let call = |clients: Clients, request| async move { clients.workers().complete_tasks(request).await };
        persist(&self.history, &self.replicas, "complete", &request, call).await.results
    }

    /// A lease may be lost while the server is away; any other refusal of a good report is wrong.
    fn expect_report(&self, what: &str, result: &ReportResult) {
        self.expect(what, refusal(result));
    }

    fn expect(&self, what: &str, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal.filter(|refusal| refusal.reason != ErrorReason::LeaseLost) {
            self.history.surprise(format!("{what}: {refusal}"));
        }
    }
}

fn completion(token: LeaseToken, text: String) -> TaskCompletion {
    TaskCompletion { token: Some(token), result: Some(payload::bytes(RESULT_TYPE, text.into_bytes())) }
}

fn bytes(completion: &TaskCompletion) -> Vec<u8> {
    match completion.result.as_ref().and_then(|result| result.kind.as_ref()) {
        Some(tasktower::pb::payload::Kind::Blob(blob)) => blob.data.to_vec(),
        _ => Vec::new(),
    }
}

fn refusal(result: &ReportResult) -> Option<Refusal> {
    result.status.as_ref().and_then(Refusal::of_item)
}
