//! Takes away what nobody asks for any more: answers under idempotency keys after a day, incarnations of workers after an
//! hour, occurrences of schedules after 30 days. And gives their fingerprint to dead letters that an older version wrote.
//! In small batches, each in a transaction of its own, so that nobody waits for it.

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
};
use crate::{
    domain::task::{Micros, SECOND},
    error::Result,
    store::{Tx, dead_letters, idempotency, occurrences, workers},
};

/// How long a repeated request is given the first one's answer. A promise of the API.
const ANSWERS_KEPT: Micros = 24 * 3600 * SECOND;
/// How long what became of a tick can be looked up. A promise of the API.
const OCCURRENCES_KEPT: Micros = 30 * 24 * 3600 * SECOND;
/// Rows a transaction takes away.
const BATCH: i64 = 500;
/// Most batches of a kind at a time; what is left waits for the next minute. It is 2,000 rows a second, so answers go as
/// fast as they come.
const MAX_BATCHES: usize = 240;

impl App {
    /// Takes away what is too old; called by a loop every minute, on every replica.
    pub async fn keep_house(&self) -> Result<()> {
        for _ in 0..MAX_BATCHES {
            if self.draining().is_cancelled() || !self.write(PurgeAnswers).await? {
                break;
            }
        }
        for _ in 0..MAX_BATCHES {
            if self.draining().is_cancelled() || !self.write(PurgeIncarnations).await? {
                break;
            }
        }
        for _ in 0..MAX_BATCHES {
            if self.draining().is_cancelled() || !self.write(FillFingerprints).await? {
                break;
            }
        }
        for _ in 0..MAX_BATCHES {
            if self.draining().is_cancelled() || !self.write(PurgeOccurrences).await? {
                break;
            }
        }
        Ok(())
    }
}

struct PurgeAnswers;

impl NamedWrite for PurgeAnswers {
    const NAME: &'static str = "purge-answers";
    /// Whether there may be more.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let older_than = tx.now() - ANSWERS_KEPT;
        Ok(Done::Commit(is_full(idempotency::purge(tx, older_than, BATCH).await?)))
    }
}

struct PurgeIncarnations;

impl NamedWrite for PurgeIncarnations {
    const NAME: &'static str = "purge-incarnations";
    /// Whether there may be more.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        Ok(Done::Commit(is_full(workers::purge(tx, BATCH).await?)))
    }
}

struct FillFingerprints;

impl NamedWrite for FillFingerprints {
    const NAME: &'static str = "fill-fingerprints";
    /// Whether there may be more.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        Ok(match dead_letters::fill_fingerprints(tx, BATCH).await? {
            0 => Done::Nothing(false),
            filled => Done::Commit(is_full(filled)),
        })
    }
}

struct PurgeOccurrences;

impl NamedWrite for PurgeOccurrences {
    const NAME: &'static str = "purge-occurrences";
    /// Whether there may be more.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let older_than = tx.now() - OCCURRENCES_KEPT;
        Ok(Done::Commit(is_full(occurrences::purge(tx, older_than, BATCH).await?)))
    }
}

fn is_full(purged: usize) -> bool {
    i64::try_from(purged).is_ok_and(|purged| purged >= BATCH)
}
