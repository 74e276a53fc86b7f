//! `WorkerService.Session`: one stream each way.
//!
//! The answers are a stream that pulls: each step takes what comes first of a finished answer, a message of the worker, or
//! something the server has to say. So there is no queue to bound and no task to stop: a worker that does not read is not
//! read from either, and when the stream is dropped, everything of it is. Reports and heartbeats are carried out side by
//! side, up to [`MAX_AT_WORK`], and answered in the order they came. The lease state is not here: dropping the handle
//! gives unconfirmed grants back, and losing the stream ends no lease.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream, stream::FuturesOrdered};
use pb::{session_request::Message as Said, session_response::Message as Say};
use tonic::{Status, Streaming};

use super::{
    access::{self, Scoped as _},
    call::Answers,
    convert::{fields::Path, page::MAX_ANSWER_BYTES, report, scalar, worker as convert},
    layers::note,
    standing::Standing,
    status::{to_status, unreadable},
};
use crate::{
    app::{
        App, BoxStream,
        session::{SessionHandle, SessionOut},
    },
    context::Caller,
    domain::worker::PRESENCE_LIMIT,
    error::{Error, Result},
    ids::{ProjectId, TaskId, task_name},
    pb,
};

/// A worker says hello within this time.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// Heartbeats a worker may miss before it is taken for gone.
const MISSED_HEARTBEATS: i64 = 3;

/// Messages of one session that are carried out at the same time. More are not read until one is answered.
const MAX_AT_WORK: usize = 32;

/// Most credits in one message.
const MAX_CREDITS: i32 = 10_000;

/// The answers of a session.
pub fn serve(app: App, caller: Caller, said: Streaming<pb::SessionRequest>) -> Answers<pb::SessionResponse> {
    let state = State::New(Box::new(New { app, caller, said }));
    Box::pin(stream::unfold(state, |state| async move {
        match state {
            State::New(new) => Some(new.hello().await),
            State::Open(open) => open.step().await,
            State::Over => None,
        }
    }))
}

enum State {
    New(Box<New>),
    Open(Box<Open>),
    Over,
}

type Step = (Result<pb::SessionResponse, Status>, State);

/// Before hello.
struct New {
    app: App,
    caller: Caller,
    said: Streaming<pb::SessionRequest>,
}

impl New {
    async fn hello(mut self) -> Step {
        match tokio::time::timeout(HELLO_LIMIT, self.open()).await.unwrap_or_else(|_| Err(no_hello())) {
            Ok((project, handle, says)) => {
                let Self { app, caller, said } = self;
                let standing = Standing::in_project(app.clone(), caller.clone(), pb::SessionRequest::NEEDS, &project);
                let open = Open {
                    app,
                    caller,
                    project,
                    handle: Arc::new(handle),
                    said: Some(said),
                    revoked: Box::pin(standing.lost()),
                    says,
                    at_work: FuturesOrdered::new(),
                    ready: VecDeque::new(),
                    ending: None,
                };
                let interval = scalar::duration(PRESENCE_LIMIT / MISSED_HEARTBEATS);
                let welcome = Say::Welcome(pb::SessionWelcome { heartbeat_interval: Some(interval) });
                (Ok(response(welcome)), State::Open(Box::new(open)))
            }
            Err(error) => (Err(ended(&self.app, &self.caller, &error)), State::Over),
        }
    }

    async fn open(&mut self) -> Result<(ProjectId, SessionHandle, BoxStream<Result<SessionOut>>)> {
        let Some(Said::Hello(hello)) = next(&mut self.said).await?.flatten() else { return Err(no_hello()) };
        let parent = hello.parent.clone();
        access::admit_in_project(&self.caller, &pb::SessionRequest::NEEDS, &parent)?;
        let (project, identity) = convert::hello(hello)?;
        let (handle, says) = self.app.open_session(&self.caller, &project, identity).await?;
        Ok((project, handle, says))
    }
}

/// How a session ends with an error. The layers have seen it begin well.
fn ended(app: &App, caller: &Caller, error: &Error) -> Status {
    let status = to_status(error, &caller.request_id);
    note::ended(app.notes(), caller, &status);
    status
}

fn no_hello() -> Error {
    Error::field("hello", format!("must be the first message, within {} s", HELLO_LIMIT.as_secs()))
}

/// What the worker said next: none at its end; none inside when this server does not know the kind of message.
async fn next(said: &mut Streaming<pb::SessionRequest>) -> Result<Option<Option<Said>>> {
    match said.message().await {
        Ok(message) => Ok(message.map(|pb::SessionRequest { message }| message)),
        // Anything else than a message that cannot be read is a connection that broke; nobody hears the answer.
        Err(status) => Err(unreadable(&status).unwrap_or(Error::Reconnect)),
    }
}

/// After hello.
struct Open {
    app: App,
    caller: Caller,
    project: ProjectId,
    handle: Arc<SessionHandle>,
    /// None once the worker said its last.
    said: Option<Streaming<pb::SessionRequest>>,
    /// Resolves when the caller may no longer work here.
    revoked: BoxFuture<'static, Error>,
    says: BoxStream<Result<SessionOut>>,
    at_work: FuturesOrdered<BoxFuture<'static, Result<pb::SessionResponse>>>,
    /// What is to be sent before anything else.
    ready: VecDeque<pb::SessionResponse>,
    /// Why the session ends, once what is at work is answered.
    ending: Option<Error>,
}

/// What comes first.
enum Event {
    Answered(Result<pb::SessionResponse>),
    Said(Result<Option<Option<Said>>>),
    Says(Option<Result<SessionOut>>),
    Revoked(Error),
}

impl Open {
    async fn step(mut self: Box<Self>) -> Option<(Result<pb::SessionResponse, Status>, State)> {
        match self.next_response().await {
            Ok(Some(response)) => Some((Ok(response), State::Open(self))),
            Ok(None) => None,
            Err(error) => Some((Err(ended(&self.app, &self.caller, &error)), State::Over)),
        }
    }

    /// The next message for the worker; none at the end of the session.
    async fn next_response(&mut self) -> Result<Option<pb::SessionResponse>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(Some(response));
            }
            if self.said.is_none() && self.at_work.is_empty() {
                return self.ending.take().map_or(Ok(None), Err);
            }
            match self.next_event().await {
                Event::Answered(response) => return response.map(Some),
                Event::Said(message) => match message? {
                    // It said its last: what is at work is still answered, then the session is over.
                    None => self.said = None,
                    Some(message) => self.take(message)?,
                },
                Event::Says(Some(Ok(out))) => self.say(out),
                // Whatever it is, nothing more is read; what was read is answered first.
                Event::Says(Some(Err(error))) | Event::Revoked(error) => {
                    self.ending = Some(error);
                    self.said = None;
                }
                Event::Says(None) => self.said = None,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let Self { said, says, at_work, revoked, .. } = self;
        let may_take = at_work.len() < MAX_AT_WORK;
        let is_open = said.is_some();
        let message = async {
            match said {
                Some(said) => next(said).await,
                None => Ok(None),
            }
        };
        tokio::select! {
            error = revoked, if is_open => Event::Revoked(error),
            Some(response) = at_work.next(), if !at_work.is_empty() => Event::Answered(response),
            message = message, if is_open && may_take => Event::Said(message),
            out = says.next(), if is_open => Event::Says(out),
        }
    }

    /// Takes a message of the worker.
    fn take(&mut self, message: Option<Said>) -> Result<()> {
        match message {
            None => Err(Error::field("message", "is empty, or of a kind this server does not know")),
            Some(Said::Hello(_)) => Err(Error::field("hello", "was said already")),
            Some(Said::Credits(pb::SessionCredits { count })) => {
                if !(1..=MAX_CREDITS).contains(&count) {
                    return Err(Error::field("credits.count", "must be 1 to 10,000"));
                }
                self.handle.credits(count.unsigned_abs())
            }
            Some(Said::Accepted(accepted)) => {
                self.handle.accepted(&report::accepted(&self.project, accepted)?);
                Ok(())
            }
            Some(Said::Heartbeat(heartbeat)) => self.heartbeat(heartbeat),
            Some(Said::Report(report)) => self.report(report),
            Some(Said::Drain(pb::SessionDrain {})) => {
                self.handle.drain();
                Ok(())
            }
        }
    }

    fn heartbeat(&mut self, heartbeat: pb::SessionHeartbeat) -> Result<()> {
        let pb::SessionHeartbeat { leases } = heartbeat;
        let path = Path::Request.field("heartbeat");
        let (items, answers) = report::heartbeats(&self.project, &path.field("leases"), leases)?.split();
        let (handle, caller) = (self.handle.clone(), self.caller.clone());
        self.at_work.push_back(Box::pin(async move {
            let done = handle.heartbeat(items).await?;
            Ok(response(Say::Heartbeat(report::heartbeat_response(answers, done, &caller.request_id))))
        }));
        Ok(())
    }

    fn report(&mut self, report: pb::SessionReport) -> Result<()> {
        let (sequence, batch) = report::session(&self.project, report)?;
        let (items, answers) = batch.split();
        let (handle, caller) = (self.handle.clone(), self.caller.clone());
        self.at_work.push_back(Box::pin(async move {
            let results = if items.is_empty() { Vec::new() } else { handle.report(items).await? };
            let results = report::results(answers, results, &caller.request_id);
            Ok(response(Say::Report(pb::SessionReportResult { sequence, results })))
        }));
        Ok(())
    }

    /// Makes ready what the server has to say.
    fn say(&mut self, out: SessionOut) {
        match out {
            SessionOut::Grants(tasks) => {
                let tasks = tasks.iter().map(|task| convert::leased(task)).collect();
                let grants =
                    by_bytes(tasks).into_iter().map(|tasks| response(Say::Grants(pb::SessionGrants { tasks })));
                self.ready.extend(grants);
            }
            SessionOut::Cancel(leases) => {
                let leases = leases.into_iter().map(|lease| cancelled(&self.project, lease)).collect();
                self.ready.push_back(response(Say::Cancel(pb::SessionCancel { leases })));
            }
            SessionOut::Drain => self.ready.push_back(response(Say::Drain(pb::SessionDrain {}))),
        }
    }
}

/// Grants in messages that clients accept.
fn by_bytes(tasks: Vec<pb::LeasedTask>) -> Vec<Vec<pb::LeasedTask>> {
    use prost::Message as _;
    let mut messages = Vec::new();
    let mut current = Vec::new();
    let mut bytes = 0;
    for task in tasks {
        let more = task.encoded_len();
        if bytes + more > MAX_ANSWER_BYTES && !current.is_empty() {
            messages.push(std::mem::take(&mut current));
            bytes = 0;
        }
        bytes += more;
        current.push(task);
    }
    messages.push(current);
    messages
}

fn cancelled(project: &ProjectId, (task, epoch, reason): (TaskId, i64, String)) -> pb::CancelledLease {
    pb::CancelledLease { token: Some(pb::LeaseToken { task: task_name(project, task), epoch }), reason }
}

fn response(message: Say) -> pb::SessionResponse {
    pb::SessionResponse { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_cut_into_messages_clients_accept() {
        let task = |bytes: usize| pb::LeasedTask {
            task: Some(pb::Task { cancel_reason: "x".repeat(bytes), ..Default::default() }),
            ..Default::default()
        };
        let sizes = |tasks| by_bytes(tasks).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![task(10), task(10)]), [2]);
        assert_eq!(sizes(vec![task(2 << 20), task(2 << 20), task(1), task(4 << 20), task(1)]), [1, 2, 1, 1]);
    }
}
