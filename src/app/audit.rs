//! The audit: pages of the journal by filter, a watch of it, an export.
//!
//! A filter has no index to go by, so whoever reads looks at stretches of the journal, one after the other. A page ends when
//! it is full, or when it was looked for long enough; then it is short, and says where to go on.
//!
//! A watch takes the hub's word that something was committed, and reads the rows themselves from the journal: what the hub
//! hands out has no address and no credential, and few people watch the audit.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    App, BoxStream,
    watch::{BOOKMARK_INTERVAL, End, MAX_AGE, OUT_LIMIT, SLOW_LIMIT},
};
use crate::{
    domain::{
        audit::JournalRow,
        filter::Filter,
        task::{Micros, SECOND},
        transition::EventKind,
    },
    error::{Error, Result},
    ids::{ProjectId, audit_entry_name},
    shutdown,
    store::{
        audit::{self, Stretch},
        history,
    },
};

/// Revisions looked at in one statement: a tenth of a second.
const STRETCH: i64 = 20_000;
/// A page that is not full by then is answered as it is.
const PAGE_TIME: Duration = Duration::from_secs(2);
/// Rows in one message of a stream: however large they are, it passes the 4 MiB that clients accept.
const BATCH: usize = 50;
/// Times follow the order of revisions but for this much: no transaction lasts as long.
const DISORDER: Micros = 60 * SECOND;

/// A message of a watch.
#[derive(Clone, Debug)]
pub struct AuditBatch {
    /// What was committed, in order.
    pub rows: Vec<JournalRow>,
    /// Resume from here.
    pub resume_token: String,
}

/// A piece of an export.
#[derive(Clone, Debug)]
pub struct AuditPiece {
    /// Rows, in order.
    pub rows: Vec<JournalRow>,
    /// Everything up to here is in this or an earlier piece, or does not match.
    pub last_revision: i64,
}

impl App {
    /// Rows that match, newest first, those before a revision; and the revision before which the next page goes on.
    pub async fn list_audit_entries(
        &self,
        project: &ProjectId,
        filter: &Filter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<(Vec<JournalRow>, Option<i64>)> {
        let began = Instant::now();
        let limit = usize::try_from(limit).unwrap_or(0);
        let bounds = self.bounds(project, filter).await?;
        let mut to = before.map_or(bounds.to, |before| bounds.to.min(before.saturating_sub(1)));
        let mut rows = Vec::new();
        while to >= bounds.from {
            let stretch = Stretch { from: bounds.from.max(to.saturating_sub(STRETCH - 1)), to };
            let wanted = limit - rows.len();
            let page = audit::matching(self.store(), project, filter, stretch, false, wanted as u64).await?;
            let is_full = page.len() >= wanted;
            rows.extend(page);
            let reached = rows.last().filter(|_| is_full).map_or(stretch.from, |row: &JournalRow| row.revision);
            if is_full || began.elapsed() > PAGE_TIME {
                return Ok((rows, Some(reached).filter(|reached| *reached > bounds.from)));
            }
            to = reached - 1;
        }
        Ok((rows, None))
    }

    /// One row.
    pub async fn get_audit_entry(&self, project: &ProjectId, revision: i64) -> Result<JournalRow> {
        self.position(project).await?;
        let stretch = Stretch { from: revision, to: revision };
        let found = audit::rows(self.store(), project, stretch, 1).await?.pop();
        let is_entry = |row: &JournalRow| row.kind != EventKind::Progressed as i16;
        let name = || audit_entry_name(project, revision);
        found.filter(is_entry).ok_or_else(|| Error::NotFound { kind: "audit entry", name: name() })
    }

    /// Follows rows that match, from a token or from now on.
    pub async fn watch_audit_entries(
        &self,
        project: &ProjectId,
        filter: Filter,
        resume_token: Option<String>,
    ) -> Result<BoxStream<Result<AuditBatch>>> {
        let position = self.position(project).await?;
        let cursor = match &resume_token {
            Some(token) => self.read_token(project, token, position).await?,
            None => position.last,
        };
        let age = MAX_AGE.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        let (app, project) = (self.clone(), project.clone());
        Ok(self.stream("watch-audit", Some(age), async move |out| {
            Watch { app, project, filter, cursor, out }.follow().await
        }))
    }

    /// All rows that match after a revision, oldest first, up to those that are there now.
    pub async fn export_audit(
        &self,
        project: &ProjectId,
        filter: Filter,
        after: i64,
    ) -> Result<BoxStream<Result<AuditPiece>>> {
        let bounds = self.bounds(project, &filter).await?;
        let last = self.position(project).await?.last;
        let (app, project) = (self.clone(), project.clone());
        Ok(self.stream("export-audit", None, async move |out| {
            let mut from = bounds.from.max(after.saturating_add(1));
            while from <= bounds.to {
                let stretch = Stretch { from, to: bounds.to.min(from + STRETCH - 1) };
                let rows = audit::matching(app.store(), &project, &filter, stretch, true, BATCH as u64).await?;
                let last_revision = rows.get(BATCH - 1).map_or(stretch.to, |row| row.revision);
                send(&out, AuditPiece { rows, last_revision }).await?;
                from = last_revision + 1;
            }
            // Where the next export goes on, whatever this one was about.
            send(&out, AuditPiece { rows: Vec::new(), last_revision: last.max(after) }).await
        }))
    }

    /// The revisions outside of which nothing matches.
    async fn bounds(&self, project: &ProjectId, filter: &Filter) -> Result<Stretch> {
        let position = self.position(project).await?;
        let (since, until) = filter.create_span();
        let (mut from, mut to) = (position.oldest, position.last);
        if since > Micros::MIN {
            from = from.max(history::first_since(self.store(), project, since.saturating_sub(DISORDER)).await?);
        }
        if until < Micros::MAX {
            to = to.min(history::first_since(self.store(), project, until.saturating_add(DISORDER)).await?);
        }
        Ok(Stretch { from, to })
    }

    /// Runs what fills a stream, until it is done, the client is gone, or the server stops.
    pub(super) fn stream<T: Send + 'static, W>(
        &self,
        name: &'static str,
        age: Option<Duration>,
        work: impl FnOnce(mpsc::Sender<Result<T>>) -> W,
    ) -> BoxStream<Result<T>>
    where
        W: Future<Output = std::result::Result<(), End>> + Send + 'static,
    {
        let (out, stream) = mpsc::channel(OUT_LIMIT);
        let (work, draining) = (work(out.clone()), self.draining().clone());
        shutdown::spawn(name, async move {
            let aged = async {
                match age {
                    Some(age) => tokio::time::sleep(age).await,
                    None => std::future::pending().await,
                }
            };
            let end = tokio::select! {
                end = work => end,
                () = aged => Err(End::Error(Error::Reconnect)),
                () = draining.cancelled() => Err(End::Error(Error::ShuttingDown)),
                () = out.closed() => Ok(()),
            };
            if let Err(End::Error(error)) = end {
                // A client that does not read is not waited for; the end of the stream says enough.
                let _ = tokio::time::timeout(BOOKMARK_INTERVAL, out.send(Err(error))).await;
            }
        });
        Box::pin(ReceiverStream::new(stream))
    }
}

/// Hands a message to the client, which has some time to take it.
pub(super) async fn send<T>(out: &mpsc::Sender<Result<T>>, message: T) -> std::result::Result<(), End> {
    match tokio::time::timeout(SLOW_LIMIT, out.send(Ok(message))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Quiet),
        Err(_) => Err(Error::SlowConsumer(SLOW_LIMIT).into()),
    }
}

/// One running watch. The cursor is the last revision that was sent or does not match.
struct Watch {
    app: App,
    project: ProjectId,
    filter: Filter,
    cursor: i64,
    out: mpsc::Sender<Result<AuditBatch>>,
}

impl Watch {
    async fn follow(mut self) -> std::result::Result<(), End> {
        let mut subscription = self.app.subscribe(&self.project, None).await?;
        // The client has a token to resume from before anything happens.
        self.send(Vec::new()).await?;
        let mut until = subscription.start().unwrap_or(self.cursor);
        loop {
            self.read(until).await?;
            match tokio::time::timeout(BOOKMARK_INTERVAL, subscription.next()).await {
                Err(_) => self.send(Vec::new()).await?,
                Ok(Some(event)) => {
                    until = event.revision;
                    while let Ok(Some(event)) = subscription.try_next() {
                        until = event.revision;
                    }
                }
                // It was cut off. The new place is taken before the old one is given up, so the feed stays.
                Ok(None) => {
                    subscription = self.app.subscribe(&self.project, None).await?;
                    until = subscription.start().unwrap_or(self.cursor);
                }
            }
        }
    }

    /// Sends what matches up to a revision.
    async fn read(&mut self, until: i64) -> std::result::Result<(), End> {
        while self.cursor < until {
            let stretch = Stretch { from: self.cursor + 1, to: until.min(self.cursor + STRETCH) };
            let rows =
                audit::matching(self.app.store(), &self.project, &self.filter, stretch, true, BATCH as u64).await?;
            self.cursor = rows.get(BATCH - 1).map_or(stretch.to, |row| row.revision);
            if !rows.is_empty() {
                self.send(rows).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, rows: Vec<JournalRow>) -> std::result::Result<(), End> {
        let resume_token = self.app.token(&self.project, self.cursor);
        send(&self.out, AuditBatch { rows, resume_token }).await
    }
}
