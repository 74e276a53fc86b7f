//! Dead letters: look at them, retry one or many, put one aside.
//!
//! An entry is written, and retried, in the committer's transaction that changes its task. What is changed here is who put
//! it aside; that holds the lock of the task, so that nobody opens or deletes the task meanwhile.

use serde_json::json;

use super::{
    App,
    bulk_job::{BulkPreview, NewJob, SAMPLE},
    bulk_retry::open_only,
    committer::ReplayWish,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
    task::{TaskChange, wrong_reply},
};
use crate::{
    context::Caller,
    domain::{
        authority::Share,
        bulk_job::{BulkAction, BulkRetry},
        dead_letter::{DeadLetter, DeadLetterState, Group, Processed, Replay, Standing},
        event::ResourceKind,
        filter::Filter,
        task::{Micros, Task},
        task_list::Position,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, dead_letter_name},
    store::{
        Tx,
        dead_letters::{self, SCAN_LIMIT, Targets},
        journal::{self, Entry},
    },
};

/// An entry with its replays.
pub type WithReplays = (DeadLetter, Vec<Replay>);

/// What fails, and how often.
#[derive(Debug)]
pub struct Analysis {
    /// The largest groups.
    pub groups: Vec<Group>,
    /// Entries looked at.
    pub scanned_count: i64,
    /// There may be more.
    pub truncated: bool,
}

/// Which entries are to be retried.
#[derive(Debug)]
pub enum Which {
    /// Those that match, with the filter as written.
    Matching(String, Filter),
    /// These.
    Named(Vec<TaskId>),
}

impl App {
    /// One entry with its replays.
    pub async fn get_dead_letter(&self, project: &ProjectId, task: TaskId) -> Result<WithReplays> {
        self.require_project(project).await?;
        dead_letters::get(self.store(), project, task).await?.ok_or_else(|| not_found(project, task))
    }

    /// OPEN and PROCESSED entries, those that failed last first, those before `after`; and the place after which the next
    /// page goes on.
    pub async fn list_dead_letters(
        &self,
        project: &ProjectId,
        filter: &Filter,
        after: Option<Position>,
        limit: i64,
    ) -> Result<(Vec<DeadLetter>, Option<Position>)> {
        self.require_project(project).await?;
        let asked = one_more(limit).unsigned_abs();
        let found = dead_letters::list(self.store(), project, filter, after, asked).await?;
        Ok(cut(found, limit, DeadLetter::position))
    }

    /// The largest groups of entries with the same fingerprint.
    pub async fn analyze_dead_letters(
        &self,
        project: &ProjectId,
        filter: &Filter,
        max_groups: i32,
    ) -> Result<Analysis> {
        self.require_project(project).await?;
        let max_groups = u64::from(max_groups.unsigned_abs());
        let (groups, scanned_count) = dead_letters::analyze(self.store(), project, filter, max_groups).await?;
        Ok(Analysis { groups, scanned_count, truncated: scanned_count >= SCAN_LIMIT })
    }

    /// Retries one entry. Answers its task.
    pub async fn retry_dead_letter(
        &self,
        caller: &Caller,
        project: &ProjectId,
        task: TaskId,
        wish: ReplayWish,
    ) -> Result<(Task, WithReplays)> {
        // Of a task that never failed for good there is nothing to retry, whatever its state is.
        self.get_dead_letter(project, task).await?;
        let task_after = self.change_task(caller, project, task, &Share::All, TaskChange::Replay(wish), None).await?;
        let letter = self.get_dead_letter(project, task).await?;
        Ok((task_after.ok_or_else(wrong_reply)?, letter))
    }

    /// Counts the OPEN entries that would be retried; with `force` starts a job that does.
    pub async fn bulk_retry_dead_letters(
        &self,
        caller: &Caller,
        project: &ProjectId,
        which: Which,
        reason: String,
        retry: BulkRetry,
        force: bool,
    ) -> Result<BulkPreview> {
        self.require_live_project(project).await?;
        let (filter, named, targets) = match which {
            Which::Matching(text, filter) => (text, None, Targets::Matching(open_only(filter))),
            Which::Named(ids) => (String::new(), Some(ids.clone()), Targets::Named(ids)),
        };
        let places = |limit| dead_letters::next(self.store(), project, &targets, None, Micros::MAX, limit);
        let (matched_count, places) = match &targets {
            Targets::Matching(filter) => {
                (dead_letters::count(self.store(), project, filter).await?, places(SAMPLE).await?)
            }
            Targets::Named(ids) => {
                let mut places = places(ids.len()).await?;
                let count = i64::try_from(places.len()).unwrap_or(i64::MAX);
                places.truncate(SAMPLE);
                (count, places)
            }
        };
        let sample = places.into_iter().map(|place| place.id).collect();
        if !force {
            return Ok(BulkPreview { job: None, matched_count, sample });
        }
        let retry = Some(BulkRetry { named, ..retry });
        let new = NewJob { action: BulkAction::Retry, filter, reason, matched_count, retry };
        let job = self.start_job(caller, project, new).await?;
        Ok(BulkPreview { job: Some(job), matched_count, sample })
    }

    /// Puts an OPEN entry aside.
    pub async fn mark_dead_letter_processed(
        &self,
        caller: &Caller,
        project: &ProjectId,
        task: TaskId,
        reason: String,
        etag: Option<String>,
    ) -> Result<WithReplays> {
        self.change_dead_letter(caller, project, task, Change::Process { reason }, etag).await
    }

    /// Makes a PROCESSED entry OPEN again.
    pub async fn reopen_dead_letter(
        &self,
        caller: &Caller,
        project: &ProjectId,
        task: TaskId,
        etag: Option<String>,
    ) -> Result<WithReplays> {
        self.change_dead_letter(caller, project, task, Change::Reopen, etag).await
    }

    async fn change_dead_letter(
        &self,
        caller: &Caller,
        project: &ProjectId,
        task: TaskId,
        change: Change,
        etag: Option<String>,
    ) -> Result<WithReplays> {
        self.require_project(project).await?;
        let hint = change.hint();
        let write = ChangeDeadLetter { caller: caller.clone(), project: project.clone(), task, change, etag };
        let outcome = self.write(write).await?;
        if outcome == Outcome::Changed {
            self.hub().journal_moved(project);
        }
        let found = self.get_dead_letter(project, task).await?;
        if outcome == Outcome::NoEntry {
            let (name, state) = (dead_letter_name(project, task), DeadLetterState::Replayed.name());
            return Err(Error::StateConflict { name, state, hint });
        }
        Ok(found)
    }
}

fn not_found(project: &ProjectId, task: TaskId) -> Error {
    Error::NotFound { kind: "dead letter", name: dead_letter_name(project, task) }
}

/// What somebody does about an entry.
#[derive(Debug)]
enum Change {
    Process { reason: String },
    Reopen,
}

impl Change {
    fn kind(&self) -> ResourceKind {
        match self {
            Self::Process { .. } => ResourceKind::DeadLetterProcessed,
            Self::Reopen => ResourceKind::DeadLetterReopened,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Process { .. } => "only an OPEN dead letter can be marked processed",
            Self::Reopen => "only a PROCESSED dead letter can be reopened",
        }
    }

    /// Whether there is anything to do.
    fn changes(&self, standing: &Standing) -> bool {
        standing.is_processed() == matches!(self, Self::Reopen)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Changed,
    Unchanged,
    /// Its task is not FAILED.
    NoEntry,
}

struct ChangeDeadLetter {
    caller: Caller,
    project: ProjectId,
    task: TaskId,
    change: Change,
    etag: Option<String>,
}

impl NamedWrite for ChangeDeadLetter {
    const NAME: &'static str = "change-dead-letter";
    type Answer = Outcome;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Outcome>, Stop> {
        let Self { caller, project, task, change, etag } = self;
        let Some(standing) = dead_letters::lock(tx, project, *task).await? else {
            return Ok(Done::Nothing(Outcome::NoEntry));
        };
        standing.require_etag(project, *task, etag.as_deref())?;
        if !change.changes(&standing) {
            return Ok(Done::Nothing(Outcome::Unchanged));
        }
        let now = tx.now();
        let (open, processed) = (DeadLetterState::Open.name(), DeadLetterState::Processed.name());
        let diff = match change {
            Change::Process { reason } => {
                let by = caller.principal.to_string();
                dead_letters::mark(tx, project, *task, &Processed { time: now, by, reason: reason.clone() }).await?;
                json!({ "state": [open, processed], "process_reason": ["", reason] })
            }
            Change::Reopen => {
                dead_letters::unmark(tx, project, *task).await?;
                json!({ "state": [processed, open] })
            }
        };
        let name = dead_letter_name(project, *task);
        let entry = Entry::of_resource(change.kind(), name, now, Some(diff.to_string()), caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(Outcome::Changed))
    }
}
