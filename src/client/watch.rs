//! A watch that goes on by itself.
//!
//! [`Watch`] owns the place in the journal: the resume token of the last message all of whose events were handed out, and
//! the last revision. When the stream breaks it waits a little, opens a new one from that token, and drops events it has
//! handed out already. It ends with an error only when going on is impossible (the token is too old or of another
//! database, or the caller may not watch), and without one when a watch on one task has seen its end.
//!
//! With `initial_state`, a stream that breaks before SYNCED starts over: a token from the middle of the initial events
//! could leave some out. So before SYNCED a task may come twice; after it nothing does.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::{Code, Status};

use super::{Backoff, Client, Error, error::Refusal};
use crate::pb::{ErrorReason, TaskEvent, WatchTasksRequest, WatchTasksResponse, task_event};

/// How long the server may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream that is silent for this long is dead: the server sends a bookmark at least every 30 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(90);

/// What to follow.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    filter: String,
    task: String,
    resume_token: String,
    initial_state: bool,
    bookmarks: bool,
}

impl WatchOptions {
    /// Every task of the client's project, from now on.
    pub fn all() -> Self {
        Self::default()
    }

    /// One task, by name or id. The stream ends when the task is final.
    pub fn task(name_or_id: impl Into<String>) -> Self {
        Self { task: name_or_id.into(), ..Self::default() }
    }

    /// The tasks a filter matches, for example `queue = "email" AND state = FAILED`.
    pub fn filter(filter: impl Into<String>) -> Self {
        Self { filter: filter.into(), ..Self::default() }
    }

    /// First what matches now, as INITIAL events, then one SYNCED.
    pub fn with_initial_state(mut self) -> Self {
        self.initial_state = true;
        self
    }

    /// Goes on after a token of [`Watch::resume_token`].
    pub fn resume_after(mut self, token: impl Into<String>) -> Self {
        self.resume_token = token.into();
        self
    }

    /// Hands out BOOKMARK events too: proof that the watch is alive, and a moment to store the token.
    pub fn with_bookmarks(mut self) -> Self {
        self.bookmarks = true;
        self
    }
}

type Messages = BoxStream<'static, Result<WatchTasksResponse, Status>>;
type Opening = BoxFuture<'static, Result<Messages, Status>>;
type Opener = Box<dyn Fn(WatchTasksRequest) -> Opening + Send>;

/// A stream of [`TaskEvent`]s in revision order. Dropping it ends the watch.
pub struct Watch {
    open: Opener,
    request: WatchTasksRequest,
    bookmarks: bool,
    /// INITIAL events are still to come or on their way.
    in_initial_state: bool,
    resume_token: String,
    last_revision: i64,
    /// Events of the last message that were not handed out yet, and the token that counts once they are.
    pending: VecDeque<TaskEvent>,
    pending_token: Option<String>,
    phase: Phase,
    backoff: Backoff,
}

enum Phase {
    Waiting(Pin<Box<Sleep>>),
    Opening(Opening),
    Open { messages: Messages, silence: Pin<Box<Sleep>> },
    Ended,
}

impl Watch {
    pub(super) fn new(client: &Client, options: WatchOptions) -> Self {
        let task = if options.task.is_empty() { String::new() } else { client.task_name(&options.task) };
        let request = WatchTasksRequest {
            parent: client.parent(),
            filter: options.filter,
            task,
            resume_token: options.resume_token,
            initial_state: options.initial_state,
        };
        let stub = client.tasks();
        let open = move |request| -> Opening {
            let mut stub = stub.clone();
            Box::pin(async move {
                let opened = tokio::time::timeout(OPEN_TIMEOUT, stub.watch_tasks(request)).await;
                let opened = opened.unwrap_or_else(|_| Err(Status::unavailable("the watch did not open in time")));
                Ok(opened?.into_inner().boxed())
            })
        };
        Self::with_opener(Box::new(open), request, options.bookmarks)
    }

    fn with_opener(open: Opener, request: WatchTasksRequest, bookmarks: bool) -> Self {
        let phase = Phase::Opening(open(request.clone()));
        Self {
            open,
            bookmarks,
            in_initial_state: request.initial_state,
            resume_token: request.resume_token.clone(),
            request,
            last_revision: 0,
            pending: VecDeque::new(),
            pending_token: None,
            phase,
            backoff: Backoff::default(),
        }
    }

    /// Where to go on later: everything handed out so far lies before it. Empty until the first message, and until
    /// SYNCED with an initial state.
    pub fn resume_token(&self) -> &str {
        &self.resume_token
    }

    fn reopen(&self) -> Opening {
        let mut request = self.request.clone();
        if !self.in_initial_state {
            request.resume_token.clone_from(&self.resume_token);
            request.initial_state = false;
        }
        (self.open)(request)
    }

    /// Takes over a message; its token counts once its events are handed out.
    fn take(&mut self, message: WatchTasksResponse) {
        self.backoff.reset();
        for event in message.events {
            match event.r#type() {
                task_event::Type::Synced => self.in_initial_state = false,
                task_event::Type::Bookmark if !self.bookmarks => continue,
                task_event::Type::Initial | task_event::Type::Bookmark => {}
                _ if event.revision != 0 => {
                    if event.revision <= self.last_revision {
                        continue;
                    }
                    self.last_revision = event.revision;
                }
                _ => {}
            }
            self.pending.push_back(event);
        }
        self.pending_token = Some(message.resume_token).filter(|token| !token.is_empty());
        self.settle_token();
    }

    fn settle_token(&mut self) {
        if self.pending.is_empty()
            && !self.in_initial_state
            && let Some(token) = self.pending_token.take()
        {
            self.resume_token = token;
        }
    }

    /// Waits before the next stream, or ends with the error if there is no point.
    fn lost(&mut self, status: Status) -> Option<Error> {
        let error = Error::from(status);
        let wait = error.refusal().and_then(|refusal| wait_before_reopen(refusal, &mut self.backoff));
        let Some(wait) = wait else {
            self.phase = Phase::Ended;
            return Some(error);
        };
        tracing::debug!(%error, ?wait, "watch is opened again");
        self.phase = Phase::Waiting(Box::pin(sleep(wait)));
        None
    }
}

/// How long to wait before a new stream; nothing if it would end the same way.
fn wait_before_reopen(refusal: &Refusal, backoff: &mut Backoff) -> Option<Duration> {
    match refusal.code {
        // The server asks for it and is well: only a little spread, so that watchers do not come back all at once.
        Code::Unavailable if refusal.reason == ErrorReason::Reconnect && backoff.waits() == 0 => {
            Some(refusal.retry_after.unwrap_or_default() + backoff.next_wait() / 2)
        }
        Code::Unavailable => Some(refusal.retry_after.unwrap_or_default().max(backoff.next_wait())),
        // An intermediary cut the stream; tasktower itself always gives a reason.
        Code::Internal | Code::Cancelled if refusal.reason == ErrorReason::Unspecified => Some(backoff.next_wait()),
        Code::ResourceExhausted => refusal.retry_after.map(|told| told + backoff.next_wait()),
        _ => None,
    }
}

impl Stream for Watch {
    type Item = Result<TaskEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.pending.pop_front() {
                this.settle_token();
                return Poll::Ready(Some(Ok(event)));
            }
            let status = match &mut this.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Waiting(wait) => {
                    ready!(wait.as_mut().poll(context));
                    this.phase = Phase::Opening(this.reopen());
                    continue;
                }
                Phase::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(messages) => {
                        let silence = Box::pin(sleep_until(Instant::now() + SILENCE_LIMIT));
                        this.phase = Phase::Open { messages, silence };
                        continue;
                    }
                    Err(status) => status,
                },
                Phase::Open { messages, silence } => match messages.poll_next_unpin(context) {
                    Poll::Ready(Some(Ok(message))) => {
                        silence.as_mut().reset(Instant::now() + SILENCE_LIMIT);
                        this.take(message);
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => status,
                    // Only a watch on one task ends well: the task is final.
                    Poll::Ready(None) if !this.request.task.is_empty() => {
                        this.phase = Phase::Ended;
                        return Poll::Ready(None);
                    }
                    Poll::Ready(None) => Status::unavailable("the watch ended without a reason"),
                    Poll::Pending => {
                        ready!(silence.as_mut().poll(context));
                        Status::unavailable("the watch fell silent")
                    }
                },
            };
            if let Some(error) = this.lost(status) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::stream;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn event(kind: task_event::Type, revision: i64) -> TaskEvent {
        TaskEvent { r#type: kind.into(), revision, ..TaskEvent::default() }
    }

    fn modified(revision: i64) -> TaskEvent {
        event(task_event::Type::Modified, revision)
    }

    fn message(events: Vec<TaskEvent>, token: &str) -> Result<WatchTasksResponse, Status> {
        Ok(WatchTasksResponse { events, resume_token: token.to_owned() })
    }

    fn ended(code: Code, reason: &str) -> Status {
        Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, "tasktower", []))
    }

    type Script = Vec<Result<WatchTasksResponse, Status>>;

    /// A watch on streams played one after the other, and the requests that opened them.
    fn scripted(request: WatchTasksRequest, streams: Vec<Script>) -> (Watch, Arc<Mutex<Vec<WatchTasksRequest>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let streams = Mutex::new(VecDeque::from(streams));
        let seen = requests.clone();
        let open = move |request| -> Opening {
            seen.lock().unwrap().push(request);
            let script = streams.lock().unwrap().pop_front().expect("one more stream");
            Box::pin(async move { Ok(stream::iter(script).boxed()) })
        };
        (Watch::with_opener(Box::new(open), request, false), requests)
    }

    #[tokio::test]
    async fn a_broken_watch_goes_on_without_gap_or_repeat() {
        let streams = vec![
            vec![message(vec![modified(1), modified(2)], "t2"), Err(ended(Code::Unavailable, "SLOW_CONSUMER"))],
            vec![message(vec![modified(2), modified(3)], "t3"), Err(Status::unknown("connection reset"))],
            vec![
                message(vec![event(task_event::Type::Bookmark, 3)], "t3b"),
                Err(ended(Code::Unavailable, "RECONNECT")),
            ],
            vec![message(vec![modified(4)], "t4"), Err(ended(Code::OutOfRange, "RESUME_TOKEN_EXPIRED"))],
        ];
        let (mut watch, requests) = scripted(WatchTasksRequest::default(), streams);
        let mut revisions = Vec::new();
        let error = loop {
            match watch.next().await.unwrap() {
                Ok(event) => revisions.push(event.revision),
                Err(error) => break error,
            }
        };
        assert_eq!(revisions, [1, 2, 3, 4]);
        assert!(matches!(error, Error::ResumeTokenExpired(_)));
        assert!(watch.next().await.is_none());
        let tokens: Vec<_> = requests.lock().unwrap().iter().map(|request| request.resume_token.clone()).collect();
        assert_eq!(tokens, ["", "t2", "t3", "t3b"]);
    }

    #[tokio::test]
    async fn the_token_counts_once_the_events_before_it_were_taken() {
        let streams = vec![vec![message(vec![modified(1), modified(2)], "t2"), message(vec![modified(3)], "t3")]];
        let (mut watch, _) = scripted(WatchTasksRequest { resume_token: "t0".into(), ..Default::default() }, streams);
        let mut tokens = Vec::new();
        for _ in 0..3 {
            watch.next().await.unwrap().unwrap();
            tokens.push(watch.resume_token().to_owned());
        }
        assert_eq!(tokens, ["t0", "t2", "t3"]);
    }

    #[tokio::test]
    async fn an_initial_state_that_breaks_off_starts_over() {
        let initial = || event(task_event::Type::Initial, 0);
        let streams = vec![
            vec![message(vec![initial()], "middle"), Err(ended(Code::Unavailable, "SHUTTING_DOWN"))],
            vec![
                message(vec![initial()], "middle"),
                message(vec![event(task_event::Type::Synced, 9)], "t9"),
                Err(ended(Code::Unavailable, "RECONNECT")),
            ],
            vec![Err(ended(Code::InvalidArgument, "RESUME_INVALID"))],
        ];
        let (watch, requests) = scripted(WatchTasksRequest { initial_state: true, ..Default::default() }, streams);
        let events: Vec<_> = watch.collect().await;
        assert_eq!(events.len(), 4);
        assert!(matches!(events[3], Err(Error::ResumeInvalid(_))));
        let asked: Vec<_> =
            requests.lock().unwrap().iter().map(|r| (r.initial_state, r.resume_token.clone())).collect();
        assert_eq!(asked, [(true, String::new()), (true, String::new()), (false, "t9".to_owned())]);
    }

    #[tokio::test]
    async fn a_watch_on_one_task_ends_with_it() {
        let request = WatchTasksRequest { task: "projects/p/tasks/t".into(), ..Default::default() };
        let (watch, _) = scripted(request, vec![vec![message(vec![modified(1)], "t1")]]);
        assert_eq!(watch.collect::<Vec<_>>().await.len(), 1);
    }

    #[tokio::test]
    async fn a_refused_watch_says_so_once() {
        let (watch, _) =
            scripted(WatchTasksRequest::default(), vec![vec![Err(ended(Code::PermissionDenied, "PERMISSION_DENIED"))]]);
        let events: Vec<_> = watch.collect().await;
        assert!(matches!(&events[..], [Err(error)] if error.code() == Code::PermissionDenied));
    }
}
