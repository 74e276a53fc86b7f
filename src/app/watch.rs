//! Watches: the journal of a project as a live stream, filtered, resumable, without gap and without repeat.
//!
//! The cast: a *cursor* (everything up to it was sent or did not match), the *subscription* to the hub for what happens
//! from now on, and the journal for what lies between. A watch subscribes first, then reads the journal from its cursor to
//! where the subscription begins, then follows the subscription. A watcher that falls behind is cut off by the hub and
//! simply does the same again from its cursor; only one that cannot keep up for [`SLOW_LIMIT`] is ended, and its token
//! stays good. So there is one way to catch up, for a resume, for a lag and for a gap alike.
//!
//! The snapshot of `initial_state` is read in short pages. Each page carries the revision it was read at; a later event
//! of a task in its range is dropped if the page showed its effect already.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{App, BoxStream};
use crate::{
    domain::{
        authority::Share,
        event::{Event, Subject},
        filter::Filter,
        task::{Micros, Task},
        task_list::{ListQuery, Position},
        transition::EventKind,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    live::hub::{CutOff, Subscription},
    shutdown,
    store::{history, journal, tasks},
};

/// A watcher that cannot keep up for this long is ended.
pub(super) const SLOW_LIMIT: Duration = Duration::from_secs(60);
/// A stream that has nothing to say says where it is this often: under the 30 s that are promised.
pub(super) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(25);
/// Streams end at about this age, so that new replicas get their share; by up to a tenth more or less, so that they do
/// not all come back at once.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// Events or tasks in one message.
const BATCH_LIMIT: usize = 100;
/// Messages that may wait for the client before the watch falls behind.
pub(super) const OUT_LIMIT: usize = 4;
/// Journal rows read at once when catching up.
const PAGE_ROWS: i64 = 500;
/// Tasks read at once for the snapshot.
const SNAPSHOT_PAGE: u64 = 500;

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Only tasks that match.
    pub filter: Filter,
    /// Only tasks the watcher may reach.
    pub share: Share,
    /// Only this task.
    pub task: Option<TaskId>,
    /// Go on after this.
    pub resume_token: Option<String>,
    /// Send what matches now first.
    pub initial_state: bool,
}

/// A message of a watch.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// What happened, in revision order.
    pub items: Vec<WatchItem>,
    /// Resume from here.
    pub resume_token: String,
}

/// One thing a watcher is told.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// A task that matched when the watch began.
    Initial(Arc<Task>),
    /// The snapshot is complete.
    Synced,
    /// Nothing happened.
    Bookmark,
    /// Something happened.
    Change {
        /// What it means to this watcher.
        change: WatchChange,
        /// What it was.
        event: Arc<Event>,
    },
}

/// What an event means to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchChange {
    /// The task matches now and did not before.
    Added,
    /// It matched and still does.
    Modified,
    /// It matched and no longer does, or is deleted.
    Deleted,
}

impl App {
    /// Follows tasks. The stream ends without an error only when the one watched task is final.
    pub async fn watch_tasks(
        &self,
        project: &ProjectId,
        request: WatchRequest,
    ) -> Result<BoxStream<Result<WatchBatch>>> {
        let position = self.position(project).await?;
        let cursor = match &request.resume_token {
            Some(token) => Some(self.read_token(project, token, position).await?),
            None => None,
        };
        if let Some(task) = request.task {
            self.get_task(project, task, &request.share, false).await?;
        }
        let (out, stream) = mpsc::channel(OUT_LIMIT);
        let watch = Watch {
            app: self.clone(),
            project: project.clone(),
            filter: request.filter,
            share: request.share,
            task: request.task,
            // Read before the caller is told that the watch is open: what it does next is seen.
            cursor: cursor.unwrap_or(position.last),
            snapshot: Snapshot::default(),
            behind_since: None,
            out,
        };
        shutdown::spawn("watch", watch.run(request.initial_state));
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    /// Subscribes to a project or one of its tasks, with a known start.
    pub(super) async fn subscribe(&self, project: &ProjectId, task: Option<TaskId>) -> Result<Subscription> {
        let mut subscription = self.hub().subscribe(project, task);
        if subscription.start().is_none() {
            let position = self.position(project).await?;
            subscription.begin(position.last);
        }
        Ok(subscription)
    }

    pub(super) async fn position(&self, project: &ProjectId) -> Result<journal::Position> {
        match journal::position(self.store(), project).await? {
            Some(position) => Ok(position),
            None => Err(Error::NotFound { kind: "project", name: crate::ids::project_name(project) }),
        }
    }

    pub(super) fn token(&self, project: &ProjectId, revision: i64) -> String {
        Token { incarnation: self.store().installation().incarnation, project: project_hash(project), revision }
            .encode()
    }

    pub(super) async fn read_token(
        &self,
        project: &ProjectId,
        token: &str,
        position: journal::Position,
    ) -> Result<i64> {
        let invalid = |reason| Error::ResumeInvalid { reason };
        let token = Token::decode(token).ok_or_else(|| invalid("is damaged"))?;
        if token.project != project_hash(project) {
            return Err(invalid("is of another project"));
        }
        if token.incarnation != self.store().installation().incarnation {
            return Err(invalid("is of another incarnation of the database"));
        }
        if token.revision > position.last {
            return Err(invalid("is ahead of the journal"));
        }
        if token.revision < position.last && self.is_expired(project, token.revision + 1).await? {
            let since = self.feed_begins().await?;
            let oldest = history::first_since(self.store(), project, since).await?;
            return Err(Error::ResumeExpired { revision: token.revision, oldest });
        }
        Ok(token.revision)
    }

    /// Whether a change is too old for watchers to be told of it. The journal is kept for longer; whether a row is still
    /// there by chance is nothing to rely on.
    async fn is_expired(&self, project: &ProjectId, revision: i64) -> Result<bool> {
        let time = history::time_of(self.store(), project, revision).await?;
        let since = self.feed_begins().await?;
        Ok(time.is_none_or(|time| time < since))
    }

    async fn feed_begins(&self) -> Result<Micros> {
        Ok(self.store().now().await?.saturating_sub(self.retention_settings().feed))
    }
}

/// One running watch.
struct Watch {
    app: App,
    project: ProjectId,
    filter: Filter,
    share: Share,
    task: Option<TaskId>,
    cursor: i64,
    snapshot: Snapshot,
    behind_since: Option<Instant>,
    out: mpsc::Sender<Result<WatchBatch>>,
}

/// Why a watch ends.
pub(super) enum End {
    /// The watched task is final, or the client is gone: nothing more to say.
    Quiet,
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<crate::store::StoreError> for End {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Error(error.into())
    }
}

/// What came next on the subscription.
enum Next {
    Events(Vec<Arc<Event>>),
    CutOff,
    Idle,
}

impl Watch {
    async fn run(mut self, initial_state: bool) {
        let age = MAX_AGE.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        let app = self.app.clone();
        let out = self.out.clone();
        let end = tokio::select! {
            end = self.follow(initial_state) => end,
            () = tokio::time::sleep(age) => Err(End::Error(Error::Reconnect)),
            () = app.draining().cancelled() => Err(End::Error(Error::ShuttingDown)),
            () = out.closed() => Err(End::Quiet),
        };
        if let Err(End::Error(error)) = end {
            // A client that does not read is not waited for; the end of the stream says enough.
            let _ = tokio::time::timeout(BOOKMARK_INTERVAL, out.send(Err(error))).await;
        }
    }

    async fn follow(&mut self, initial_state: bool) -> Result<std::convert::Infallible, End> {
        let mut subscription = self.app.subscribe(&self.project, self.task).await?;
        let start = subscription.start().unwrap_or(self.cursor);
        if initial_state {
            self.send_snapshot().await?;
        } else {
            // The client has a token to resume from before anything happens.
            self.send(vec![WatchItem::Bookmark]).await?;
        }
        self.read_journal(start).await?;
        self.end_if_final().await?;
        loop {
            match self.next(&mut subscription).await {
                Next::Events(events) => self.send_events(events).await?,
                Next::CutOff => {
                    let since = *self.behind_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SLOW_LIMIT {
                        return Err(Error::SlowConsumer(SLOW_LIMIT).into());
                    }
                    // The new place is taken before the old one is given up, so the feed stays.
                    subscription = self.app.subscribe(&self.project, self.task).await?;
                    let start = subscription.start().unwrap_or(self.cursor);
                    self.read_journal(start).await?;
                    self.end_if_final().await?;
                }
                Next::Idle => self.send(vec![WatchItem::Bookmark]).await?,
            }
        }
    }

    /// The next events, all that are there up to a message full; or that nothing came for a while.
    async fn next(&mut self, subscription: &mut Subscription) -> Next {
        // Read before the queue is found empty: every event up to it is in the queue or was taken from it.
        let position = subscription.feed_position();
        let first = match subscription.try_next() {
            Err(CutOff) => None,
            Ok(Some(event)) => Some(event),
            Ok(None) => {
                if let Some(position) = position {
                    self.cursor = self.cursor.max(position);
                }
                self.behind_since = None;
                match tokio::time::timeout(BOOKMARK_INTERVAL, subscription.next()).await {
                    Ok(event) => event,
                    Err(_) => return Next::Idle,
                }
            }
        };
        let Some(first) = first else { return Next::CutOff };
        let mut events = vec![first];
        while events.len() < BATCH_LIMIT
            && let Ok(Some(event)) = subscription.try_next()
        {
            events.push(event);
        }
        Next::Events(events)
    }

    /// Reads what lies between the cursor and `until` from the journal.
    async fn read_journal(&mut self, until: i64) -> Result<(), End> {
        while self.cursor < until {
            let events = journal::read(self.app.store(), &self.project, self.cursor, PAGE_ROWS).await?;
            if events.first().is_none_or(|event| event.revision != self.cursor + 1) {
                // Revisions are dense, so what is missing was cleaned up while we were away.
                let position = self.app.position(&self.project).await?;
                return Err(Error::ResumeExpired { revision: self.cursor, oldest: position.oldest }.into());
            }
            let mut events: Vec<_> = events.into_iter().filter(|e| e.revision <= until).map(Arc::new).collect();
            while !events.is_empty() {
                let rest = events.split_off(events.len().min(BATCH_LIMIT));
                self.send_events(events).await?;
                events = rest;
            }
        }
        Ok(())
    }

    /// Sends those that concern this watcher and moves the cursor past all of them.
    async fn send_events(&mut self, events: Vec<Arc<Event>>) -> Result<(), End> {
        let mut items = Vec::with_capacity(events.len());
        let mut is_over = false;
        for event in events {
            if event.revision <= self.cursor {
                continue;
            }
            self.cursor = event.revision;
            if let Some(change) = self.meaning(&event) {
                is_over |= self.task.is_some() && is_end(&event);
                items.push(WatchItem::Change { change, event });
            }
        }
        if !items.is_empty() {
            self.send(items).await?;
        }
        if is_over { Err(End::Quiet) } else { Ok(()) }
    }

    fn meaning(&self, event: &Event) -> Option<WatchChange> {
        let Subject::Task { kind, before, after } = &event.subject else { return None };
        if !self.share.covers(&after.spec.owner)
            || self.task.is_some_and(|task| task != after.id)
            || self.snapshot.covers(after, event.revision)
        {
            return None;
        }
        let matched = before.as_ref().is_some_and(|task| self.filter.matches(&**task));
        let matches = *kind != EventKind::Deleted && self.filter.matches(&**after);
        match (matched, matches) {
            (false, true) => Some(WatchChange::Added),
            (true, true) => Some(WatchChange::Modified),
            (true, false) => Some(WatchChange::Deleted),
            (false, false) => None,
        }
    }

    /// Sends the tasks that match now, then SYNCED. The cursor stays where it was when the subscription began.
    async fn send_snapshot(&mut self) -> Result<(), End> {
        if let Some(id) = self.task {
            let task = self.app.get_task(&self.project, id, &self.share, false).await?;
            self.snapshot.cover_task(&task);
            self.send(vec![WatchItem::Initial(Arc::new(task)), WatchItem::Synced]).await?;
            return Ok(());
        }
        let mut query = ListQuery {
            share: self.share.clone(),
            ascending: true,
            ..ListQuery::newest(self.filter.clone(), SNAPSHOT_PAGE)
        };
        loop {
            let (page, revision) = tasks::list(self.app.store(), &self.project, &query).await?;
            let is_last = page.len() < usize::try_from(SNAPSHOT_PAGE).unwrap_or(usize::MAX);
            let end = page.last().map(|task| Position { create_time: task.spec.create_time, id: task.id });
            // An empty page says nothing that an event since the cursor would repeat.
            let revision = revision.unwrap_or(self.cursor);
            self.snapshot.cover(end.filter(|_| !is_last), revision);
            let mut tasks: Vec<_> = page.into_iter().map(|task| WatchItem::Initial(Arc::new(task))).collect();
            while !tasks.is_empty() {
                let rest = tasks.split_off(tasks.len().min(BATCH_LIMIT));
                self.send(tasks).await?;
                tasks = rest;
            }
            query.after = end;
            if is_last {
                break;
            }
        }
        self.send(vec![WatchItem::Synced]).await
    }

    /// A watch on one task is over when the task is: whether it ended before the watch, or in what was just read.
    async fn end_if_final(&mut self) -> Result<(), End> {
        let Some(id) = self.task else { return Ok(()) };
        match self.app.get_task(&self.project, id, &self.share, false).await {
            // Its last event may lie beyond the cursor; then it comes on the subscription.
            Ok(task) if task.state.is_final() && !self.is_ahead(&task).await? => Err(End::Quiet),
            Ok(_) => Ok(()),
            // It is deleted.
            Err(Error::NotFound { .. } | Error::PermissionDenied { .. }) => Err(End::Quiet),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an event of the task lies beyond the cursor.
    async fn is_ahead(&mut self, task: &Task) -> Result<bool, End> {
        if self.snapshot.shows(task) {
            return Ok(false);
        }
        let position = self.app.position(&self.project).await?;
        let mut after = self.cursor;
        while after < position.last {
            let events = journal::read(self.app.store(), &self.project, after, PAGE_ROWS).await?;
            let Some(last) = events.last() else { break };
            after = last.revision;
            let is_of_task = |e: &Event| matches!(&e.subject, Subject::Task { after, .. } if after.id == task.id);
            if events.iter().any(is_of_task) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn send(&mut self, items: Vec<WatchItem>) -> Result<(), End> {
        let batch = WatchBatch { items, resume_token: self.app.token(&self.project, self.cursor) };
        match tokio::time::timeout(SLOW_LIMIT, self.out.send(Ok(batch))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Quiet),
            Err(_) => Err(Error::SlowConsumer(SLOW_LIMIT).into()),
        }
    }
}

fn is_end(event: &Event) -> bool {
    match &event.subject {
        Subject::Task { kind, after, .. } => *kind == EventKind::Deleted || after.state.is_final(),
        Subject::Resource { .. } => false,
    }
}

/// What the snapshot has shown: for each page the last place in it and the revision it was read at, in list order.
#[derive(Debug, Default)]
struct Snapshot {
    pages: Vec<Page>,
    /// The one watched task and its version as shown.
    task: Option<(TaskId, i64)>,
}

#[derive(Debug)]
struct Page {
    /// None: to the end of the list.
    end: Option<(i64, TaskId)>,
    revision: i64,
}

impl Snapshot {
    fn cover(&mut self, end: Option<Position>, revision: i64) {
        self.pages.push(Page { end: end.map(|end| (end.create_time, end.id)), revision });
    }

    fn cover_task(&mut self, task: &Task) {
        self.task = Some((task.id, task.version));
    }

    /// Whether the task was shown as it is.
    fn shows(&self, task: &Task) -> bool {
        self.task.is_some_and(|(id, version)| id == task.id && version >= task.version)
    }

    /// Whether the snapshot showed the effect of an event at this revision already.
    fn covers(&self, task: &Task, revision: i64) -> bool {
        if self.shows(task) {
            return true;
        }
        let place = (task.spec.create_time, task.id);
        let page = self.pages.partition_point(|page| page.end.is_some_and(|end| end < place));
        self.pages.get(page).is_some_and(|page| revision <= page.revision)
    }
}

/// Where a watcher is; opaque to clients.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    incarnation: Uuid,
    project: [u8; 8],
    revision: i64,
}

/// The first byte of every token, so that its shape can change.
const TOKEN_VERSION: u8 = 1;
/// Version, incarnation, project, revision.
const TOKEN_BODY: usize = 1 + 16 + 8 + 8;
/// A checksum tells a damaged token from a foreign one.
const TOKEN_CHECK: usize = 4;

impl Token {
    fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BODY + TOKEN_CHECK);
        bytes.push(TOKEN_VERSION);
        bytes.extend(self.incarnation.as_bytes());
        bytes.extend(self.project);
        bytes.extend(self.revision.to_be_bytes());
        let check = Sha256::digest(&bytes);
        bytes.extend(&check[..TOKEN_CHECK]);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, check) = bytes.split_at_checked(TOKEN_BODY)?;
        if body[0] != TOKEN_VERSION || check != &Sha256::digest(body)[..TOKEN_CHECK] {
            return None;
        }
        let revision = i64::from_be_bytes(body[25..33].try_into().ok()?);
        Some(Self {
            incarnation: Uuid::from_slice(&body[1..17]).ok()?,
            project: body[17..25].try_into().ok()?,
            revision: (revision >= 0).then_some(revision)?,
        })
    }
}

fn project_hash(project: &ProjectId) -> [u8; 8] {
    let digest = Sha256::digest(project.as_str());
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_a_damaged_one_does_not() {
        let project = project_hash(&ProjectId::new("default"));
        let token = Token { incarnation: Uuid::now_v7(), project, revision: 42 };
        let text = token.encode();
        assert_eq!(Token::decode(&text), Some(token));
        for damaged in ["", "x", &text[1..], &text.replace(&text[5..6], if &text[5..6] == "A" { "B" } else { "A" })] {
            assert_eq!(Token::decode(damaged), None, "{damaged}");
        }
    }
}
