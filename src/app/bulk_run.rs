//! Does the work of bulk jobs: one turn of one job at a time, on any replica.
//!
//! A job walks the tasks of its project by create_time, oldest first, in stretches of the index, so that each statement is
//! short however few tasks match. Matching tasks are changed in batches, each through the committer like a call of the
//! job's owner, and after each the job saves its cursor and renews its claim. A replica that dies leaves a claim that
//! runs out; the next one goes on from the cursor. Tasks handled twice do no harm: what is done no longer matches.
//!
//! A turn is short, and then the job goes to the end of the line, so that a large one holds up no small one. What the
//! committer cannot do now (it is busy, the database is away) ends the turn in front of that task.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    App,
    bulk_job::journal_end,
    committer::ReplayWish,
    named_write::{Done, NamedWrite, Stop},
    task::TaskChange,
};
use crate::{
    context::{Caller, CallerInfo},
    domain::{
        authority::Share,
        bulk_job::{BulkAction, BulkJob, BulkState},
        filter::{Filter, Node, Relation, Test, TimeField},
        task::{Micros, Task},
        task_list::{ListQuery, Position},
    },
    error::{Error, Result},
    ids::{TaskId, bulk_job_name},
    store::{
        Tx,
        bulk_jobs::{self, Claimed, Kind},
        tasks,
    },
};

/// Tasks changed in one go.
pub(super) const BATCH: usize = 200;
/// Tasks looked at in one statement: a few tens of milliseconds when none of them matches.
pub(super) const STRETCH: i64 = 5_000;
/// How long a job is worked on before the next one has its turn.
pub(super) const TURN: Duration = Duration::from_secs(5);

impl App {
    /// Works a turn on the job that made no progress for longest. Answers whether there was one.
    pub async fn work_on_bulk_job(&self) -> Result<bool> {
        let Some(claimed) = self.write(ClaimNext(Kind::Swift)).await? else { return Ok(false) };
        let job = &claimed.job;
        match Filter::parse(&job.filter) {
            Ok(filter) => {
                let filter = filter.and(Node::Or(job.action.targets()));
                let caller = caller_of(job);
                Turn { app: self, claimed, filter, caller, stretch: None }.work().await?;
            }
            // It was parsed when the job was started; only another version of the server may see it differently.
            Err(cause) => self.end_bulk_job(claimed, BulkState::Failed, format!("filter: {cause}")).await?,
        }
        Ok(true)
    }

    pub(super) async fn end_bulk_job(&self, claimed: Claimed, end: BulkState, error_message: String) -> Result<()> {
        let project = claimed.job.project.clone();
        self.write(EndJob { claimed, end, error_message }).await?;
        self.hub().journal_moved(&project);
        Ok(())
    }
}

/// The changes a job makes are its owner's, and say which job made them.
pub(super) fn caller_of(job: &BulkJob) -> Caller {
    Caller::new(CallerInfo {
        agent: Some(bulk_job_name(&job.project, job.id)),
        ..CallerInfo::of_server(Arc::from(job.owner.as_str()))
    })
}

struct Turn<'a> {
    app: &'a App,
    claimed: Claimed,
    filter: Filter,
    caller: Caller,
    /// What is being looked at; none when the next one is to be chosen.
    stretch: Option<Stretch>,
}

#[derive(Clone, Copy)]
struct Stretch {
    /// create_time of its last task.
    end: Micros,
    /// Nothing the job concerns comes after it.
    is_last: bool,
}

/// What comes after a batch.
enum Next {
    Batch,
    End,
    /// Not now.
    Wait(Error),
    Fail(Error),
}

impl Next {
    fn after(error: Error) -> Self {
        if is_passing(&error) { Self::Wait(error) } else { Self::Fail(error) }
    }
}

impl Turn<'_> {
    async fn work(mut self) -> Result<()> {
        let until = Instant::now() + TURN;
        loop {
            let next = self.batch().await.unwrap_or_else(Next::after);
            match next {
                Next::Batch if Instant::now() < until && !self.app.draining().is_cancelled() => {
                    if !self.save().await? {
                        return Ok(());
                    }
                }
                Next::Batch => return self.release().await,
                Next::Wait(cause) => {
                    self.release().await?;
                    return Err(cause);
                }
                Next::End => {
                    if self.save().await? {
                        self.app.end_bulk_job(self.claimed, BulkState::Succeeded, String::new()).await?;
                    }
                    return Ok(());
                }
                Next::Fail(cause) => {
                    if self.save().await? {
                        self.app.end_bulk_job(self.claimed, BulkState::Failed, cause.to_string()).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Changes the next tasks, and moves the cursor behind them.
    async fn batch(&mut self) -> Result<Next> {
        let stretch = self.stretch().await?;
        let tasks = self.matching(stretch.end).await?;
        if !tasks.is_empty() {
            let job = &self.claimed.job;
            let changes = tasks.iter().map(|task| (task.id, change_of(job))).collect();
            let tally = match self.app.change_tasks(&self.caller, &job.project, changes).await {
                Ok(results) => Tally::of(&results),
                Err(error) => Tally { stopped: Some((0, error)), ..Tally::default() },
            };
            self.claimed.job.done_count += tally.done;
            self.claimed.job.skipped_count += tally.skipped;
            if let Some((place, error)) = tally.stopped {
                if let Some(handled) = place.checked_sub(1).and_then(|last| tasks.get(last)) {
                    self.claimed.cursor = Some(position(handled));
                }
                return Ok(Next::after(error));
            }
        }
        if tasks.len() >= BATCH {
            self.claimed.cursor = tasks.last().map(position);
            return Ok(Next::Batch);
        }
        // All of the stretch was seen: go on behind its last task, whatever its id is.
        self.claimed.cursor = Some(Position { create_time: stretch.end, id: TaskId(Uuid::max()) });
        self.stretch = None;
        Ok(if stretch.is_last { Next::End } else { Next::Batch })
    }

    async fn stretch(&mut self) -> Result<Stretch> {
        if let Some(stretch) = self.stretch {
            return Ok(stretch);
        }
        let job = &self.claimed.job;
        let end = bulk_jobs::stretch(self.app.store(), &job.project, self.claimed.cursor, STRETCH).await?;
        let stretch = match end {
            Some(end) if end < job.create_time => Stretch { end, is_last: false },
            // Tasks submitted after the job are none of its business.
            _ => Stretch { end: job.create_time, is_last: true },
        };
        self.stretch = Some(stretch);
        Ok(stretch)
    }

    async fn matching(&self, until: Micros) -> Result<Vec<Task>> {
        let create_time =
            |relation, time| Node::Test { negated: false, test: Test::Time(TimeField::Create, relation, time) };
        let mut filter = self.filter.clone().and(create_time(Relation::LessOrEqual, until));
        if let Some(cursor) = self.claimed.cursor {
            // The list goes on behind the cursor anyway. Said once more without the id, PostgreSQL knows how short the
            // stretch is and uses the index; else it expects a sixth of all tasks and reads the whole table.
            filter = filter.and(create_time(Relation::GreaterOrEqual, cursor.create_time));
        }
        let after = self.claimed.cursor;
        let query = ListQuery { filter, share: Share::All, ascending: true, after, limit: BATCH as u64, full: false };
        let (tasks, _) = tasks::list(self.app.store(), &self.claimed.job.project, &query).await?;
        Ok(tasks)
    }

    /// Answers whether the job is still ours and runs.
    async fn save(&mut self) -> Result<bool> {
        let (state, claimed) = self.app.write(SaveJob { claimed: self.claimed.clone() }).await?;
        self.claimed = claimed;
        Ok(state == Some(BulkState::Running))
    }

    async fn release(self) -> Result<()> {
        self.app.write(ReleaseJob { claimed: self.claimed }).await
    }
}

fn position(task: &Task) -> Position {
    Position { create_time: task.spec.create_time, id: task.id }
}

pub(super) fn change_of(job: &BulkJob) -> TaskChange {
    match job.action {
        BulkAction::Cancel => TaskChange::Cancel { reason: job.reason.clone() },
        BulkAction::Purge => TaskChange::Purge,
        // Another loop does that (`bulk_retry`).
        BulkAction::Retry => TaskChange::Replay(ReplayWish { bulk_job: Some(job.id), ..ReplayWish::default() }),
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) done: i64,
    pub(super) skipped: i64,
    /// The place of the first task that could not be handled, and why. Tasks behind it that were changed count as done:
    /// they no longer match when the job comes back.
    pub(super) stopped: Option<(usize, Error)>,
}

impl Tally {
    pub(super) fn of<T>(results: &[Result<T>]) -> Self {
        let mut tally = Self::default();
        for (place, result) in results.iter().enumerate() {
            match result {
                Ok(_) => tally.done += 1,
                // Somebody else changed or deleted it since it was read, or it was retried often enough.
                Err(Error::StateConflict { .. } | Error::NotFound { .. } | Error::ReplayLimit { .. }) => {
                    tally.skipped += 1
                }
                Err(error) if tally.stopped.is_none() => tally.stopped = Some((place, error.clone())),
                Err(_) => {}
            }
        }
        tally
    }
}

/// Whether the same change may well succeed a little later.
pub(super) fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Overloaded
            | Error::StorageFull
            | Error::CommitUnknown
            | Error::DatabaseUnavailable
            | Error::ShuttingDown
            | Error::DeadlineExceeded
            | Error::ListTooSlow
    )
}

pub(super) struct ClaimNext(pub(super) Kind);

impl NamedWrite for ClaimNext {
    const NAME: &'static str = "claim-bulk-job";
    type Answer = Option<Claimed>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        Ok(match bulk_jobs::claim_next(tx, self.0).await? {
            Some(claimed) => Done::Commit(Some(claimed)),
            None => Done::Nothing(None),
        })
    }
}

pub(super) struct SaveJob {
    pub(super) claimed: Claimed,
}

impl NamedWrite for SaveJob {
    const NAME: &'static str = "save-bulk-job";
    type Answer = (Option<BulkState>, Claimed);

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let mut claimed = self.claimed.clone();
        let state = bulk_jobs::save(tx, &mut claimed).await?;
        Ok(Done::Commit((state, claimed)))
    }
}

pub(super) struct ReleaseJob {
    pub(super) claimed: Claimed,
}

impl NamedWrite for ReleaseJob {
    const NAME: &'static str = "release-bulk-job";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        bulk_jobs::release(tx, &mut self.claimed.clone()).await?;
        Ok(Done::Commit(()))
    }
}

struct EndJob {
    claimed: Claimed,
    end: BulkState,
    error_message: String,
}

impl NamedWrite for EndJob {
    const NAME: &'static str = "end-bulk-job";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        let ended = bulk_jobs::finish(tx, &self.claimed, self.end, &self.error_message).await?;
        // None: it was cancelled meanwhile, or another replica has it; either wrote or will write its end.
        let Some(job) = ended else { return Ok(Done::Nothing(())) };
        journal_end(tx, &job, &caller_of(&job)).await?;
        Ok(Done::Commit(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stops_in_front_of_the_first_task_that_must_wait() {
        let gone = || Err(Error::NotFound { kind: "task", name: String::new() });
        let results = [Ok(()), gone(), Err(Error::Overloaded), Ok(()), Err(Error::DatabaseUnavailable)];
        let tally = Tally::of(&results);
        assert_eq!((tally.done, tally.skipped), (2, 1));
        assert!(matches!(tally.stopped, Some((2, Error::Overloaded))));
        assert!(Tally::of(&[Ok(()), gone()]).stopped.is_none());
    }

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        assert!(is_passing(&Error::DatabaseUnavailable));
        assert!(!is_passing(&Error::field("x", "y")));
    }
}
