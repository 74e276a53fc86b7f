//! Seals the journal: every few seconds, each project's new rows, on whichever replica comes first.
//!
//! A sealer reads the rows behind the newest seal in pages, hashes them on a thread that may block, and writes one seal for up
//! to [`MOST_ROWS`] of them. It locks nothing that a commit waits for. When two replicas seal the same rows one of them finds
//! the number taken, and what it did is dropped; so that this is seldom, a seal is left alone for [`INTERVAL`]. A replica that
//! is killed leaves nothing half done.
//!
//! What a replica sealed it also signs, once a minute (`audit_head`).

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
};
use crate::{
    domain::{
        audit::{
            JournalRow,
            check::RowHash,
            head::Head,
            seal::{Link, MOST_ROWS, Rows, Seal},
        },
        task::{Micros, SECOND},
    },
    error::{Error, Result},
    ids::ProjectId,
    store::{
        Tx,
        audit::{self, Stretch},
        seals::{self, Behind},
    },
};

/// A seal younger than this is left alone: rows are sealed within 5 s, and there is time for the work itself.
const INTERVAL: Micros = 3 * SECOND;
/// Rows read at a time: a few hundred kilobytes, 20 MB if each were as large as rows can be.
pub(super) const PAGE: i64 = 500;
/// Projects looked at at a time.
const PROJECTS: i64 = 500;
/// Seals of one project in a row, before others have their turn.
const IN_A_ROW: usize = 10;

impl App {
    /// Seals what is not sealed yet; called by a loop, on every replica. Answers whether it is to look again at once.
    pub async fn seal_journals(&self) -> Result<bool> {
        let (mut after, mut fault, mut is_busy) = (None, None, false);
        loop {
            let now = self.store().now().await?;
            let found = seals::behind(self.store(), after.as_ref(), PROJECTS).await?;
            for behind in &found {
                if self.draining().is_cancelled() {
                    return Ok(false);
                }
                if !is_due(behind, now) {
                    continue;
                }
                match self.seal(behind).await {
                    Ok(is_full) => is_busy |= is_full,
                    // A project that is at fault must not keep the others.
                    Err(cause) => fault = Some(cause),
                }
            }
            match found.last() {
                Some(last) if i64::try_from(found.len()).is_ok_and(|found| found >= PROJECTS) => {
                    after = Some(last.project.clone());
                }
                _ => return fault.map_or(Ok(is_busy), Err),
            }
        }
    }

    /// Seals a project. Answers whether a seal was full: then more has come meanwhile.
    async fn seal(&self, behind: &Behind) -> Result<bool> {
        let project = &behind.project;
        // Before the first seal there is nothing to prove anything by, so it begins where the journal does.
        let mut link = behind.newest.map_or(Link { last: behind.oldest - 1, ..Link::default() }, |(link, _)| link);
        let mut is_full = false;
        for _ in 0..IN_A_ROW {
            if link.last >= behind.last {
                break;
            }
            let first = link.last + 1;
            let last = behind.last.min(link.last + MOST_ROWS);
            let seal = self.make_seal(project, link, last).await?;
            link = seal.link();
            if !self.write(AddSeal { project: project.clone(), seal }).await? {
                return Ok(false);
            }
            self.0.heads.add(Head { project: project.clone(), link });
            is_full |= last - first >= MOST_ROWS - 1;
        }
        Ok(is_full)
    }

    /// The seal over the rows up to `last`. A row that is not there is sealed as missing, so that it is found.
    async fn make_seal(&self, project: &ProjectId, after: Link, last: i64) -> Result<Seal> {
        let first = after.last + 1;
        let (mut rows, mut next) = (Rows::default(), first);
        while next <= last {
            let page = audit::rows(self.store(), project, Stretch { from: next, to: last }, PAGE).await?;
            let end = page.get(usize::try_from(PAGE - 1).unwrap_or(0)).map_or(last, |row| row.revision);
            let hashes = hashes(page).await?;
            let mut found = hashes.iter().peekable();
            for revision in next..=end {
                let row = found.next_if(|row| row.revision == revision);
                rows.push(revision, row.map(|row| row.hash));
            }
            next = end + 1;
        }
        let now = self.store().now().await?;
        Ok(rows.seal(project, after, first, now))
    }
}

fn is_due(behind: &Behind, now: Micros) -> bool {
    behind
        .newest
        .is_none_or(|(link, time)| now - time >= INTERVAL || behind.last - link.last >= MOST_ROWS || time > now)
}

/// The hashes of some rows, made where it keeps nobody.
pub(super) async fn hashes(rows: Vec<JournalRow>) -> Result<Vec<RowHash>> {
    tokio::task::spawn_blocking(move || RowHash::all(&rows)).await.map_err(Error::internal)
}

struct AddSeal {
    project: ProjectId,
    seal: Seal,
}

impl NamedWrite for AddSeal {
    const NAME: &'static str = "seal-journal";
    /// Whether it was the first.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        Ok(if seals::add(tx, &self.project, &self.seal).await? { Done::Commit(true) } else { Done::Nothing(false) })
    }
}
