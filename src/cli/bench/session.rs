//! A worker's stream with an empty handler: what is granted is completed.
//!
//! The session owns what it was granted until the server acknowledged the report. Reports are gathered while more
//! grants are at hand and sent in batches. When the stream breaks, a new one is opened and what was not acknowledged is
//! reported again; the server answers a repeated success OK.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::runner::{PAUSE, may_pass};
use crate::{
    cli::{connect::Api, time::from_duration},
    pb::{
        LeaseToken, LeasedTask, ReportResult, SessionAccepted, SessionCredits, SessionDrain, SessionHeartbeat,
        SessionHello, SessionReport, SessionRequest, SessionResponse, TaskCompletion, WorkerIdentity,
        session_request::Message as Say, session_response::Message as Hear,
    },
};

/// Messages on their way out. Credits bound what we have to say, so this is never full for long.
const OUTBOX: usize = 1_024;
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(20);

/// What a session tells its benchmark.
pub trait Witness: Send {
    /// Tasks arrived: their handlers start now.
    fn granted(&mut self, tasks: &[LeasedTask], now: Instant) -> anyhow::Result<()>;
    /// Reports were answered.
    fn acknowledged(&mut self, results: &[ReportResult]);
}

/// A worker of a benchmark.
pub struct Session<W> {
    /// The server.
    pub api: Api,
    /// `projects/{project}`.
    pub project: String,
    /// Who works.
    pub identity: WorkerIdentity,
    /// So many tasks are on their way or unreported at most.
    pub credits: usize,
    /// So many reports go into one message at most.
    pub batch: usize,
    /// Who hears of it.
    pub witness: W,
}

/// What is not settled yet.
#[derive(Default)]
struct Unsettled {
    /// Granted, not reported.
    waiting: Vec<LeaseToken>,
    /// Reported, not acknowledged, by sequence.
    reported: BTreeMap<i64, Vec<LeaseToken>>,
    sequence: i64,
}

impl<W: Witness> Session<W> {
    /// Works until `done`; gives back the witness.
    pub async fn run(mut self, done: CancellationToken) -> anyhow::Result<W> {
        let mut unsettled = Unsettled::default();
        loop {
            let ended = tokio::select! {
                () = done.cancelled() => return Ok(self.witness),
                ended = self.one_stream(&mut unsettled) => ended?,
            };
            match ended {
                Ok(()) => (),
                Err(status) if may_pass(&status) => eprintln!("session lost ({}); opening another", status.message()),
                Err(status) => return Err(status.into()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One stream until it ends. The outer error ends the benchmark, the inner one only the stream.
    async fn one_stream(&mut self, unsettled: &mut Unsettled) -> anyhow::Result<Result<(), Status>> {
        let (outbox, queued) = mpsc::channel(OUTBOX);
        let mut stream = match self.open(&outbox, queued).await {
            Ok(stream) => stream,
            Err(status) => return Ok(Err(status)),
        };
        // What the last stream did not settle comes first.
        let again: Vec<LeaseToken> = std::mem::take(&mut unsettled.reported).into_values().flatten().collect();
        unsettled.waiting.extend(again);
        let free = self.credits.saturating_sub(unsettled.waiting.len());
        self.report(&outbox, unsettled).await;
        self.give_credits(&outbox, free).await;

        let mut heartbeat = tokio::time::interval(DEFAULT_HEARTBEAT);
        loop {
            // What is at hand is read first, so that reports go out in batches; only then do we wait.
            let at_hand = if unsettled.waiting.len() < self.batch { stream.message().now_or_never() } else { None };
            let message = match at_hand {
                Some(message) => message,
                None => {
                    self.report(&outbox, unsettled).await;
                    tokio::select! {
                        message = stream.message() => message,
                        _ = heartbeat.tick() => {
                            say(&outbox, Say::Heartbeat(SessionHeartbeat::default())).await;
                            continue;
                        }
                    }
                }
            };
            let heard = match message {
                Ok(Some(message)) => message.message,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            match heard {
                Some(Hear::Grants(grants)) => {
                    self.witness.granted(&grants.tasks, Instant::now())?;
                    let tokens: Vec<LeaseToken> = grants.tasks.into_iter().filter_map(|task| task.token).collect();
                    unsettled.waiting.extend(tokens.iter().cloned());
                    say(&outbox, Say::Accepted(SessionAccepted { tokens })).await;
                }
                Some(Hear::Report(report)) => {
                    unsettled.reported.remove(&report.sequence);
                    self.witness.acknowledged(&report.results);
                    self.give_credits(&outbox, report.results.len()).await;
                }
                Some(Hear::Welcome(welcome)) => {
                    if let Some(interval) = welcome.heartbeat_interval.as_ref().map(from_duration)
                        && !interval.is_zero()
                    {
                        heartbeat = tokio::time::interval(interval);
                    }
                }
                Some(Hear::Drain(SessionDrain {})) => {
                    self.report(&outbox, unsettled).await;
                    say(&outbox, Say::Drain(SessionDrain {})).await;
                }
                // An empty handler is done before anybody could cancel it.
                Some(Hear::Heartbeat(_) | Hear::Cancel(_)) | None => (),
            }
        }
    }

    async fn open(
        &self,
        outbox: &mpsc::Sender<SessionRequest>,
        queued: mpsc::Receiver<SessionRequest>,
    ) -> Result<Streaming<SessionResponse>, Status> {
        // The server answers only once it has heard hello, so it is queued before the call.
        let hello = SessionHello { parent: self.project.clone(), identity: Some(self.identity.clone()) };
        say(outbox, Say::Hello(hello)).await;
        Ok(self.api.workers().session(ReceiverStream::new(queued)).await?.into_inner())
    }

    async fn give_credits(&self, outbox: &mpsc::Sender<SessionRequest>, count: usize) {
        if count > 0 {
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            say(outbox, Say::Credits(SessionCredits { count })).await;
        }
    }

    async fn report(&self, outbox: &mpsc::Sender<SessionRequest>, unsettled: &mut Unsettled) {
        let waiting = std::mem::take(&mut unsettled.waiting);
        for batch in waiting.chunks(self.batch) {
            unsettled.sequence += 1;
            let completions =
                batch.iter().map(|token| TaskCompletion { token: Some(token.clone()), result: None }).collect();
            let report = SessionReport { sequence: unsettled.sequence, completions, ..Default::default() };
            unsettled.reported.insert(unsettled.sequence, batch.to_vec());
            say(outbox, Say::Report(report)).await;
        }
    }
}

/// A stream that is gone says so when we listen; here there is nothing to do about it.
async fn say(outbox: &mpsc::Sender<SessionRequest>, message: Say) {
    let _ = outbox.send(SessionRequest { message: Some(message) }).await;
}
