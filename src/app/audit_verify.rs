//! Verification: the seals of a project computed again from its rows, in pages, oldest first.
//!
//! `domain::audit::check` decides; this reads. Retention may cut off the old end meanwhile: rows that are gone are looked for
//! a second time against where the journal begins by then.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use tokio::sync::{Semaphore, mpsc};

use super::{
    App, BoxStream,
    audit::send,
    sealer::{PAGE, hashes},
    watch::End,
};
use crate::{
    domain::audit::{
        Fault,
        check::{Bad, Checker, RowHash, Standing},
        head::Head,
        seal::MOST_ROWS,
    },
    error::{Error, Result},
    ids::{ProjectId, project_name},
    store::{
        audit::{self, Stretch},
        seals,
    },
};

/// Seals read at a time: 2 MB if all are as large as they can be.
const SEALS: i64 = 24;
/// Beginnings of one verification: again when retention was faster.
const RUNS: usize = 5;

/// How far a verification is.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Rows compared.
    pub count: i64,
    /// The last revision compared.
    pub revision: i64,
    /// Where it ends.
    pub sealed_revision: i64,
    /// At the end, what came of it.
    pub verdict: Option<Verdict>,
}

/// What came of a verification.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The first bad row, if there is one.
    pub bad: Option<Bad>,
    /// The first revision that is kept.
    pub oldest: i64,
    /// Rows after the last seal.
    pub unsealed: i64,
    /// Whether the seals were compared with the head that was given.
    pub head_compared: bool,
}

/// One verification at a time on this server: it reads as fast as it can.
#[derive(Debug)]
pub(super) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl App {
    /// Verifies a project's journal. `head` is a signed head of it that was kept elsewhere, with its signature checked.
    pub async fn verify_audit(
        &self,
        project: &ProjectId,
        head: Option<Head>,
    ) -> Result<BoxStream<Result<Verification>>> {
        let turn = self.0.verifying.0.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
        self.position(project).await?;
        let (app, project) = (self.clone(), project.clone());
        Ok(self.stream("verify-audit", None, async move |out| {
            let _turn = turn;
            for _ in 0..RUNS {
                let mut run = Run::new(&app, &project, head.clone()).await?;
                let told = run.judge(&out).await?;
                // What retention took away meanwhile is not missing.
                let oldest = app.position(&project).await?.oldest;
                let is_cut = |bad: &Bad| run.standing.oldest < oldest && bad.revision < oldest;
                if !told.verdict.as_ref().and_then(|verdict| verdict.bad.as_ref()).is_some_and(is_cut) {
                    return send(&out, told).await;
                }
            }
            Err(Error::Overloaded.into())
        }))
    }
}

struct Run {
    app: App,
    project: ProjectId,
    checker: Checker,
    standing: Standing,
    /// The first row that is there.
    first: Option<i64>,
    count: i64,
    revision: i64,
    sealed_revision: i64,
    /// Rows that were read and not fed yet.
    rows: VecDeque<RowHash>,
    /// There are no more.
    is_read: bool,
}

/// What stops a verification: a bad row, or something else.
enum Halt {
    Bad(Bad),
    End(End),
}

impl From<Bad> for Halt {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

impl<E: Into<End>> From<E> for Halt {
    fn from(end: E) -> Self {
        Self::End(end.into())
    }
}

impl Run {
    async fn new(app: &App, project: &ProjectId, head: Option<Head>) -> Result<Self> {
        let newest = seals::newest(app.store(), project).await?;
        let found = audit::standing(app.store(), project).await?;
        let name = || project_name(project);
        let (standing, first) = found.ok_or_else(|| Error::NotFound { kind: "project", name: name() })?;
        Ok(Self {
            app: app.clone(),
            project: project.clone(),
            checker: Checker::new(project.clone(), standing, head),
            standing,
            first,
            count: 0,
            revision: 0,
            sealed_revision: newest.map_or(0, |head| head.link.last),
            rows: VecDeque::new(),
            is_read: false,
        })
    }

    async fn judge(&mut self, out: &mpsc::Sender<Result<Verification>>) -> std::result::Result<Verification, End> {
        let bad = match self.compare(out).await {
            Ok(()) => None,
            Err(Halt::End(end)) => return Err(end),
            Err(Halt::Bad(bad)) => Some(bad),
        };
        let Standing { oldest, last, .. } = self.standing;
        let unsealed = (last - self.sealed_revision).max(0);
        let mut verdict = Verdict { bad, oldest, unsealed, head_compared: false };
        if verdict.bad.is_none() {
            // Cuts that are not sealed yet, too.
            let newer = Stretch { from: self.sealed_revision + 1, to: i64::MAX };
            let trimmed = audit::last_trim(self.app.store(), &self.project, newer).await?;
            match self.checker.finish(trimmed.and_then(|row| row.trimmed_to())) {
                Ok(head_compared) => verdict.head_compared = head_compared,
                Err(bad) => verdict.bad = Some(bad),
            }
        }
        if verdict.bad.is_none() {
            verdict.bad = self.tail().await?;
        }
        Ok(Verification { verdict: Some(verdict), ..self.told() })
    }

    fn told(&self) -> Verification {
        let Self { count, revision, sealed_revision, .. } = *self;
        Verification { count, revision, sealed_revision, verdict: None }
    }

    /// Compares all seals with their rows.
    async fn compare(&mut self, out: &mpsc::Sender<Result<Verification>>) -> std::result::Result<(), Halt> {
        if let Some(first) = self.first.filter(|first| *first < self.standing.oldest)
            // Unless it was cut off between the two looks.
            && audit::count(self.app.store(), &self.project, Stretch { from: first, to: first }).await? > 0
        {
            let description = format!("row {first} is before row {}, where the journal begins", self.standing.oldest);
            return Err(Bad { revision: first, fault: Fault::Inserted, description }.into());
        }
        let mut number = 0;
        loop {
            let seals = seals::after(self.app.store(), &self.project, number, SEALS).await?;
            let Some(last) = seals.last() else { return Ok(()) };
            number = last.number;
            for seal in seals {
                let range = self.checker.begin(seal)?;
                self.feed(range).await?;
                self.checker.end()?;
            }
            send(out, self.told()).await?;
        }
    }

    /// Feeds the rows of one seal.
    async fn feed(&mut self, range: RangeInclusive<i64>) -> std::result::Result<(), Halt> {
        // A seal that covers more was tampered with; its hash said so before.
        let end = (*range.end()).min(range.start().saturating_add(MOST_ROWS));
        for revision in *range.start()..=end {
            if self.rows.is_empty() && !self.is_read {
                // Rows of the next seals come along.
                let stretch = Stretch { from: revision, to: self.sealed_revision.max(end) };
                let page = audit::rows(self.app.store(), &self.project, stretch, PAGE).await?;
                self.is_read = page.is_empty();
                self.rows = hashes(page).await?.into();
            }
            let row = self.rows.front().filter(|row| row.revision == revision).copied();
            if row.is_some() {
                self.rows.pop_front();
                self.count += 1;
                self.revision = revision;
            }
            self.checker.row(revision, row.as_ref());
        }
        Ok(())
    }

    /// The rows that are not sealed yet: nothing proves what they say, but there must be no hole and none too many.
    async fn tail(&self) -> Result<Option<Bad>> {
        let Self { app, project, standing, sealed_revision, .. } = self;
        if standing.end > standing.last {
            let revision = standing.last + 1;
            let description = format!("row {} is after row {}, where the journal ends", standing.end, standing.last);
            return Ok(Some(Bad { revision, fault: Fault::Inserted, description }));
        }
        let tail = Stretch { from: (sealed_revision + 1).max(standing.oldest), to: standing.last };
        let rows = (tail.to - tail.from + 1).max(0);
        if audit::count(app.store(), project, tail).await? == rows {
            return Ok(None);
        }
        let mut next = tail.from;
        loop {
            let page = audit::rows(app.store(), project, Stretch { from: next, ..tail }, PAGE).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|rows| rows < PAGE);
            let dense = page.iter().zip(next..).take_while(|(row, expected)| row.revision == *expected).count();
            next += i64::try_from(dense).unwrap_or(0);
            if dense < page.len() || is_last {
                break;
            }
        }
        // The rows came meanwhile, if there is no hole after all.
        Ok((next <= tail.to).then(|| {
            let fault = if standing.end < next { Fault::Truncated } else { Fault::Missing };
            Bad { revision: next, fault, description: format!("row {next} is gone; it was not sealed yet") }
        }))
    }
}
