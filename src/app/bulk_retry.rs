//! Does the work of bulk jobs that retry dead letters: so many a second, until there is none left or too many fail again.
//!
//! It is the walk of `bulk_run`, over entries in the order in which they failed, with three differences. The job keeps a
//! pace by the database's clock (`domain::pace`); it is saved with the job, so whoever goes on with the job keeps it. Once
//! a second it looks at what became of the tasks it retried, and stops by its rule. And a turn mostly waits, so a replica
//! takes several jobs at once, in a loop of their own: neither do they wait for jobs without a pace, nor those for them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use uuid::Uuid;

use super::{
    App,
    bulk_run::{BATCH, ClaimNext, ReleaseJob, STRETCH, SaveJob, TURN, Tally, caller_of, change_of, is_passing},
};
use crate::{
    context::Caller,
    domain::{
        bulk_job::{BulkJob, BulkRetry, BulkState},
        dead_letter::{DeadLetterState, StopRule},
        filter::{ChoiceField, Filter, Node, Test},
        pace::Pace,
        task::{Micros, SECOND},
        task_list::Position,
    },
    error::{Error, Result},
    ids::TaskId,
    store::{
        bulk_jobs::{Claimed, Kind},
        dead_letters::{self, Targets},
    },
};

/// Jobs a replica works on at once. Those beyond wait for a turn to end, and lose their pace.
const AT_ONCE: usize = 8;
/// Between two batches: at a thousand a second each is of a hundred.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at what became of the tasks.
const LOOK: Duration = Duration::from_secs(1);
/// Tasks looked at: a few tens of milliseconds. The first of the window, because those ended first.
const LOOKED_AT: i64 = 10_000;

impl App {
    /// Works a turn on each of some jobs that retry dead letters. Answers whether there was one.
    pub async fn work_on_bulk_retries(&self) -> Result<bool> {
        let mut turns = Vec::new();
        while turns.len() < AT_ONCE
            && let Some(claimed) = self.write(ClaimNext(Kind::Paced)).await?
        {
            turns.push(self.retry_in_turn(claimed));
        }
        let any = !turns.is_empty();
        join_all(turns).await.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(any)
    }

    async fn retry_in_turn(&self, claimed: Claimed) -> Result<()> {
        match targets_of(&claimed.job) {
            Ok((targets, retry)) => Turn::new(self, claimed, targets, &retry).await?.work().await,
            // It was looked at when the job was started; only another version of the server may see it differently.
            Err(cause) => self.end_bulk_job(claimed, BulkState::Failed, cause).await,
        }
    }
}

/// Only OPEN entries.
pub(super) fn open_only(filter: Filter) -> Filter {
    let is_open = Test::Choice(ChoiceField::DeadLetterState, DeadLetterState::Open as i16);
    filter.and(Node::Test { negated: false, test: is_open })
}

fn targets_of(job: &BulkJob) -> Result<(Targets, BulkRetry), String> {
    let retry = job.retry.clone().ok_or("the job has no rate")?;
    let targets = match &retry.named {
        Some(named) => Targets::Named(named.clone()),
        None => {
            let filter = Filter::parse_dead_letters(&job.filter).map_err(|cause| format!("filter: {cause}"))?;
            Targets::Matching(open_only(filter))
        }
    };
    Ok((targets, retry))
}

struct Turn<'a> {
    app: &'a App,
    claimed: Claimed,
    targets: Targets,
    caller: Caller,
    rule: StopRule,
    pace: Pace,
    clock: Clock,
    /// When it looked at what became of the tasks.
    looked: Option<Instant>,
    /// What is being looked at: the time of its last entry, and whether nothing the job concerns comes after it.
    stretch: Option<(Micros, bool)>,
}

/// The database's time, read once a batch and carried on.
#[derive(Clone, Copy)]
struct Clock {
    time: Micros,
    read: Instant,
}

impl Clock {
    fn now(self) -> Micros {
        self.time + Micros::try_from(self.read.elapsed().as_micros()).unwrap_or(0)
    }
}

/// What comes after a batch.
enum Next {
    Batch,
    /// There was nothing to retry in this stretch; the next one may be looked at at once.
    Stretch,
    End,
    /// Not now.
    Wait(Error),
    Fail(String),
}

impl Next {
    fn after(error: Error) -> Self {
        if is_passing(&error) { Self::Wait(error) } else { Self::Fail(error.to_string()) }
    }
}

impl<'a> Turn<'a> {
    async fn new(app: &'a App, claimed: Claimed, targets: Targets, retry: &BulkRetry) -> Result<Self> {
        let clock = Clock { time: app.store().now().await?, read: Instant::now() };
        let pace = Pace::new(retry.rate, claimed.next_time.unwrap_or(clock.time));
        let caller = caller_of(&claimed.job);
        Ok(Self { app, claimed, targets, caller, rule: retry.stop, pace, clock, looked: None, stretch: None })
    }

    async fn work(mut self) -> Result<()> {
        let until = Instant::now() + TURN;
        loop {
            let next = self.step().await.unwrap_or_else(Next::after);
            // What was done is saved before anything else, with the pace.
            let is_ours = self.save().await?;
            match next {
                _ if !is_ours => return Ok(()),
                Next::Wait(cause) => {
                    self.release().await?;
                    return Err(cause);
                }
                Next::End => return self.app.end_bulk_job(self.claimed, BulkState::Succeeded, String::new()).await,
                Next::Fail(cause) => return self.app.end_bulk_job(self.claimed, BulkState::Failed, cause).await,
                Next::Stretch if Instant::now() < until && !self.app.draining().is_cancelled() => continue,
                Next::Batch | Next::Stretch => {}
            }
            // A turn that would only wait for the next entry ends at once: the job is not claimed before that is due.
            let wait = Duration::from_micros((self.pace.next() - self.clock.now()).max(0).unsigned_abs()).max(PAUSE);
            if Instant::now() + wait > until {
                return self.release().await;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.app.draining().cancelled() => return self.release().await,
            }
        }
    }

    /// Looks whether the job is to stop, then retries what is due.
    async fn step(&mut self) -> Result<Next> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
            && let Some(cause) = self.look().await?
        {
            return Ok(Next::Fail(cause));
        }
        let due = self.pace.due(self.clock.now()).min(BATCH);
        if due == 0 {
            return Ok(Next::Batch);
        }
        let (end, is_last) = self.stretch().await?;
        let project = self.claimed.job.project.clone();
        let store = self.app.store();
        let entries = dead_letters::next(store, &project, &self.targets, self.claimed.cursor, end, due).await?;
        if let Some(next) = self.retry(&entries).await {
            return Ok(next);
        }
        if entries.len() >= due {
            self.claimed.cursor = entries.last().copied();
            return Ok(Next::Batch);
        }
        // All of the stretch was seen: go on behind its last entry, whatever its id is.
        self.claimed.cursor = Some(Position { create_time: end, id: TaskId(Uuid::max()) });
        self.stretch = None;
        Ok(if is_last { Next::End } else { Next::Stretch })
    }

    /// Retries entries. Answers what comes next if not all of them were handled.
    async fn retry(&mut self, entries: &[Position]) -> Option<Next> {
        if entries.is_empty() {
            return None;
        }
        let job = &self.claimed.job;
        let changes = entries.iter().map(|entry| (entry.id, change_of(job))).collect();
        let tally = match self.app.change_tasks(&self.caller, &job.project, changes).await {
            Ok(results) => Tally::of(&results),
            Err(error) => Tally { stopped: Some((0, error)), ..Tally::default() },
        };
        let handled = tally.stopped.as_ref().map_or(entries.len(), |(place, _)| *place);
        self.pace = self.pace.after(handled, self.clock.now());
        self.claimed.job.done_count += tally.done;
        self.claimed.job.skipped_count += tally.skipped;
        let (place, error) = tally.stopped?;
        if let Some(last) = place.checked_sub(1).and_then(|last| entries.get(last)) {
            self.claimed.cursor = Some(*last);
        }
        Some(Next::after(error))
    }

    async fn stretch(&mut self) -> Result<(Micros, bool)> {
        if let Some(stretch) = self.stretch {
            return Ok(stretch);
        }
        let job = &self.claimed.job;
        let end = match &self.targets {
            Targets::Named(_) => None,
            Targets::Matching(_) => {
                dead_letters::stretch(self.app.store(), &job.project, self.claimed.cursor, STRETCH).await?
            }
        };
        let stretch = match end {
            Some(end) if end < job.create_time => (end, false),
            // Entries that failed after the job began are none of its business, and so none is retried twice.
            _ => (job.create_time, true),
        };
        self.stretch = Some(stretch);
        Ok(stretch)
    }

    /// Looks at what became of the tasks. Answers why the job is to stop, if it is.
    async fn look(&mut self) -> Result<Option<String>> {
        let job = &mut self.claimed.job;
        let Some(retry) = &mut job.retry else { return Ok(None) };
        let since = self.clock.now().saturating_sub(self.rule.window);
        let (ended, failed) = dead_letters::outcomes(self.app.store(), &job.project, job.id, since, LOOKED_AT).await?;
        self.looked = Some(Instant::now());
        (retry.ended_count, retry.failed_again_count) = (ended, failed);
        let StopRule { max_failure_percent, window } = self.rule;
        Ok(self.rule.stops(ended, failed).then(|| {
            let seconds = window / SECOND;
            format!(
                "{failed} of the {ended} tasks that were retried in the last {seconds} s and ended failed again, which is \
                 more than {max_failure_percent} %"
            )
        }))
    }

    /// Answers whether the job is still ours and runs.
    async fn save(&mut self) -> Result<bool> {
        self.claimed.next_time = Some(self.pace.next());
        let (state, claimed) = self.app.write(SaveJob { claimed: self.claimed.clone() }).await?;
        if state.is_some() {
            self.clock = Clock { time: claimed.job.update_time, read: Instant::now() };
        }
        self.claimed = claimed;
        Ok(state == Some(BulkState::Running))
    }

    async fn release(self) -> Result<()> {
        self.app.write(ReleaseJob { claimed: self.claimed }).await
    }
}
