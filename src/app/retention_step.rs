//! The transactions of a run of retention: take it, delete a batch, cut off a piece of the journal, save how far it is.
//!
//! Each saves the run with what it did, on condition that the run is still ours; else nothing of it is written.

use std::collections::HashSet;

use serde_json::json;

use super::named_write::{Done, NamedWrite, Stop};
use crate::{
    context::Caller,
    domain::{
        event::ResourceKind,
        retention::{Candidate, Counts, Verdict},
    },
    error::Error,
    ids::{retention_run_name, task_name},
    store::{
        Tx, history,
        journal::{self, Entry},
        retention,
        retention_runs::{self, Claimed},
        tasks,
    },
};

/// Journal rows cut off in one transaction.
const JOURNAL_BATCH: i64 = 500;
/// Runs of a project that are kept, however young: years of daily ones.
const MOST_RUNS: i64 = 1_000;
/// Runs forgotten at the end of one: more than can have become too old since the last.
const FORGOTTEN: i64 = 500;

/// Makes the rows of projects that are new.
pub(super) struct MakeMissing;

impl NamedWrite for MakeMissing {
    const NAME: &'static str = "make-retention";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        retention::make_missing(tx).await?;
        Ok(Done::Commit(()))
    }
}

/// Takes a run to work on.
pub(super) struct ClaimRun;

impl NamedWrite for ClaimRun {
    const NAME: &'static str = "claim-retention-run";
    type Answer = Option<Claimed>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        Ok(match retention_runs::claim_next(tx).await? {
            Some(claimed) => Done::Commit(Some(claimed)),
            None => Done::Nothing(None),
        })
    }
}

/// Deletes a batch.
pub(super) struct Purge {
    /// The run once the batch is passed over.
    pub(super) claimed: Claimed,
    pub(super) due: Vec<Candidate>,
    pub(super) caller: Caller,
}

impl NamedWrite for Purge {
    const NAME: &'static str = "purge-by-retention";
    /// The run as it was saved; none when it is no longer ours.
    type Answer = Option<Claimed>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let mut claimed = self.claimed.clone();
        let ids: Vec<_> = self.due.iter().map(|task| task.place.id).collect();
        let project = claimed.run.project.clone();
        let mut locked = tasks::lock_candidates(tx, &project, &ids).await?;
        let held: HashSet<_> = locked.iter().map(|task| task.place.id).collect();
        claimed.run.counts.busy += count(ids.iter().filter(|id| !held.contains(id)).count());
        let mut purged = Counts::of(&claimed.run.policy);
        locked.retain(|task| {
            let verdict = claimed.run.policy.verdict(task, claimed.run.create_time);
            let is_due = matches!(verdict, Verdict::Due { .. });
            claimed.run.counts.add(task, verdict);
            if is_due {
                purged.add(task, verdict);
            }
            is_due
        });
        if !retention_runs::save(tx, &mut claimed).await? {
            return Ok(Done::Nothing(None));
        }
        locked.sort_by_key(|task| (task.place.create_time, task.place.id));
        let (Some(first), Some(last)) = (locked.first(), locked.last()) else {
            return Ok(Done::Commit(Some(claimed)));
        };
        let diff = json!({
            "deleted_count": [0, purged.deleted()],
            "by_rule": [null, purged.tallies.iter().map(|tally| tally.deleted).collect::<Vec<_>>()],
            "first_task": [null, task_name(&project, first.place.id)],
            "last_task": [null, task_name(&project, last.place.id)],
            "first_create_time": [null, first.place.create_time],
            "last_create_time": [null, last.place.create_time],
        });
        tasks::purge(tx, &project, &locked);
        append(tx, ResourceKind::RetentionPurged, &claimed, diff.to_string(), &self.caller).await?;
        Ok(Done::Commit(Some(claimed)))
    }
}

/// Cuts off a piece of the journal.
pub(super) struct CutJournal {
    pub(super) claimed: Claimed,
    pub(super) caller: Caller,
}

/// What became of it.
pub(super) enum Cutting {
    Cut(Box<Claimed>),
    /// The oldest row is young enough.
    Nothing,
    /// The run is no longer ours.
    Lost,
}

impl NamedWrite for CutJournal {
    const NAME: &'static str = "cut-journal";
    type Answer = Cutting;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Cutting>, Stop> {
        let mut claimed = self.claimed.clone();
        let before = claimed.run.create_time.saturating_sub(claimed.run.journal_age);
        let project = claimed.run.project.clone();
        let Some(cut) = history::look(tx, &project, before, JOURNAL_BATCH).await? else {
            return Ok(Done::Nothing(Cutting::Nothing));
        };
        claimed.run.counts.journal_deleted += cut.end - cut.first;
        if !retention_runs::save(tx, &mut claimed).await? {
            return Ok(Done::Nothing(Cutting::Lost));
        }
        history::cut(tx, &project, cut).await?;
        let diff = json!({ "deleted_count": [0, cut.end - cut.first], "oldest": [cut.first, cut.end] });
        append(tx, ResourceKind::RetentionTrimmed, &claimed, diff.to_string(), &self.caller).await?;
        Ok(Done::Commit(Cutting::Cut(Box::new(claimed))))
    }
}

/// What a run is saved for.
pub(super) enum Save {
    /// Any replica may go on with it.
    Release,
    /// It is over.
    Finish,
}

/// Saves what a run did.
pub(super) struct SaveRun {
    pub(super) claimed: Claimed,
    pub(super) caller: Caller,
    pub(super) how: Save,
}

impl NamedWrite for SaveRun {
    const NAME: &'static str = "save-retention-run";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        let mut claimed = self.claimed.clone();
        let is_saved = match self.how {
            Save::Release => retention_runs::release(tx, &mut claimed).await?,
            Save::Finish => retention_runs::finish(tx, &mut claimed).await?,
        };
        if !is_saved {
            return Ok(Done::Nothing(()));
        }
        if let Save::Finish = self.how {
            let run = &claimed.run;
            let before = run.create_time.saturating_sub(run.journal_age);
            retention_runs::forget(tx, &run.project, before, MOST_RUNS, FORGOTTEN).await?;
            let diff = json!({
                "state": ["RUNNING", run.state.name()],
                "deleted_count": [0, run.counts.deleted()],
                "kept_count": [0, run.counts.kept()],
                "journal_deleted_count": [0, run.counts.journal_deleted],
                "error_count": [0, run.counts.errors],
            });
            append(tx, ResourceKind::RetentionRunEnded, &claimed, diff.to_string(), &self.caller).await?;
        }
        Ok(Done::Commit(()))
    }
}

/// Writes the journal row of a step of a run.
async fn append(
    tx: &mut Tx,
    kind: ResourceKind,
    claimed: &Claimed,
    diff: String,
    caller: &Caller,
) -> std::result::Result<(), Stop> {
    let run = &claimed.run;
    let entry = Entry::of_resource(kind, retention_run_name(&run.project, run.id), tx.now(), Some(diff), caller);
    match journal::append(tx, &run.project, &[entry]).await? {
        Some(_) => Ok(()),
        None => Err(Error::internal(anyhow::anyhow!("the project of a retention run has no journal")).into()),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
