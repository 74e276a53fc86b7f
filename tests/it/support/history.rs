//! What clients know: which calls were acknowledged and with what, which broke, what watchers were shown.
//!
//! The clients of a load write it; `invariants` compares it with the database afterwards. A call that broke is neither
//! done nor undone, so only acknowledged ones are kept; broken ones are counted, and answers that a well server never
//! gives, whatever is killed around it, are kept as surprises.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tasktower::{
    client::Refusal,
    pb::{ErrorReason, Task},
    worker::Tally,
};
use tonic::{Code, Response, Status};

use super::{load::task_id, sockets};

/// The server answers a unary call within 5 s, whatever happens to its database …
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// … and this is for the way there and back on a loaded machine.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// Nobody waits for an answer that is late any longer than this.
const HANG_LIMIT: Duration = Duration::from_secs(30);

/// Everything the clients of one load know. Shared by all of them.
#[derive(Default)]
pub struct History {
    known: Mutex<Known>,
    /// Refusals that the faults of this load explain, besides those that any kill explains.
    explained: Vec<ErrorReason>,
}

#[derive(Clone, Default)]
pub struct Known {
    /// The task of each acknowledged submit, by request id. The task carries the request id as label `REQUEST_LABEL`.
    pub submits: BTreeMap<String, String>,
    /// The acknowledged completions of each task.
    pub completions: BTreeMap<String, Vec<Completion>>,
    /// The acknowledged submits, oldest first.
    pub order: Vec<String>,
    /// Tasks that a handler of the worker runtime ran, or that were seen final: not part of the backlog.
    pub handled: BTreeSet<String>,
    /// Tasks as they were in answers: task, version, state.
    pub answers: BTreeSet<(String, i64, i64)>,
    /// What workers of the runtime count as reported, and acknowledged.
    pub reported_by_runtime: u64,
    /// What each watcher was shown.
    pub watches: BTreeMap<String, Watched>,
    /// What nobody should have been told.
    pub surprises: Vec<String>,
    /// Unary calls under way.
    pub in_flight: usize,
    /// Unary calls with an OK answer.
    pub acknowledged: usize,
    /// Unary calls and streams without an answer, or with a refusal that a kill explains.
    pub broken: usize,
    /// How often each kind of outcome was seen.
    pub outcomes: BTreeMap<String, usize>,
    /// One line a unary call, in the order in which they began.
    pub lines: Vec<Line>,
}

/// A unary call: written before it, completed after it.
#[derive(Clone, Debug)]
pub struct Line {
    pub what: &'static str,
    pub began: Instant,
    /// None while it is under way, and for ever if its caller dropped it.
    pub end: Option<(Duration, End)>,
}

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    /// The server said no: it has no effect.
    Refused,
    /// No answer, or one that leaves open whether there is an effect.
    Unknown,
}

/// The name of calls by operators.
pub const OPERATE: &str = "operate";

/// The label under which a task says which request submitted it.
pub const REQUEST_LABEL: &str = "request";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub epoch: i64,
    pub result: Vec<u8>,
}

/// The events of one watcher, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The revision of the project when the watch was first opened; nothing happened in between.
    pub start: i64,
    /// The token of the first message.
    pub first_token: String,
    pub seen: Vec<Seen>,
    /// How often the stream was opened.
    pub opened: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub revision: i64,
    /// The id of the task.
    pub task: String,
    pub kind: i32,
    pub version: i64,
}

impl History {
    /// The same with further refusals that are no surprise.
    pub fn that_explains(explained: &[ErrorReason]) -> History {
        History { explained: explained.to_vec(), ..History::default() }
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    /// Looks without copying.
    pub fn with<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.lock())
    }

    /// Where the clients are, for the message of a test that waits in vain.
    pub fn state(&self) -> String {
        let (backlog, known) = (self.backlog(), self.lock());
        let Known { in_flight, surprises, outcomes, .. } = &*known;
        format!("{in_flight} calls in flight, {backlog} tasks not worked on, {surprises:?}, {outcomes:?}")
    }

    /// Makes a unary call and keeps how it ended. None when there was no answer.
    pub async fn call<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<T> {
        let began = Instant::now();
        let number = {
            let mut known = self.lock();
            known.in_flight += 1;
            known.lines.push(Line { what, began, end: None });
            known.lines.len() - 1
        };
        let _end = InFlight(self);
        let mut call = pin!(call);
        let answer = match tokio::time::timeout(ANSWER_LIMIT + ANSWER_MARGIN, &mut call).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let waiting = sockets::with_bytes_waiting();
                let answer = tokio::time::timeout(HANG_LIMIT, call).await;
                let until = answer.as_ref().map(Result::is_ok);
                self.surprise(format!("{what} hangs: {:?} until {until:?}; {waiting:?}", began.elapsed()));
                answer
            }
        };
        let took = began.elapsed();
        let end = |end| self.lock().lines[number].end = Some((took, end));
        match answer {
            Ok(Ok(answer)) => {
                end(End::Ok);
                let mut known = self.lock();
                known.acknowledged += 1;
                known.count(what, "OK");
                Some(answer.into_inner())
            }
            Ok(Err(status)) => {
                end(self.broke(what, status));
                None
            }
            Err(_) => {
                end(End::Unknown);
                None
            }
        }
    }

    /// Keeps how a call or a stream broke.
    pub fn broke(&self, what: &'static str, status: Status) -> End {
        let refusal = Refusal::from(status);
        let outcome = format!("{:?}/{}", refusal.code, refusal.reason.as_str_name());
        {
            let mut known = self.lock();
            // An operator who is refused was answered.
            let is_answer = matches!(refusal.reason, ErrorReason::StateConflict | ErrorReason::ReplayLimitReached);
            known.broken += usize::from(!is_answer);
            known.count(what, &outcome);
        }
        if !is_explained(what, &refusal) && !self.explained.contains(&refusal.reason) {
            self.surprise(format!("{what}: {refusal}"));
        }
        end_of(&refusal)
    }

    pub fn surprise(&self, what: String) {
        self.lock().surprises.push(what);
    }

    /// A submit was acknowledged. The same request always answers the same task.
    pub fn submitted(&self, request: &str, task: String) {
        let before = {
            let mut known = self.lock();
            known.order.push(task.clone());
            known.submits.insert(request.to_owned(), task.clone())
        };
        if let Some(before) = before.filter(|before| *before != task) {
            self.surprise(format!("request {request} made {before}, and repeated {task}"));
        }
    }

    /// A completion was acknowledged.
    pub fn completed(&self, task: String, completion: Completion) {
        self.lock().completions.entry(task).or_default().push(completion);
    }

    /// An answer held a task.
    pub fn answered(&self, task: &Task) {
        self.lock().answers.insert((task_id(&task.name), task.version, task.state.into()));
    }

    /// What a worker of the runtime says at its end.
    pub fn tally(&self, tally: Tally) {
        self.lock().reported_by_runtime += tally.succeeded + tally.failed + tally.released;
    }

    /// The task that was submitted so many before the last one.
    pub fn recent(&self, back: usize) -> Option<String> {
        self.lock().order.iter().rev().nth(back).cloned()
    }

    /// A handler ran a task; whether its report was taken, only the runtime knows. Or an answer showed it final.
    pub fn handled(&self, task: String) {
        self.lock().handled.insert(task);
    }

    /// How many tasks were submitted and not worked on, as far as is known.
    pub fn backlog(&self) -> usize {
        let known = self.lock();
        let completed = known.completions.keys().filter(|task| !known.handled.contains(*task)).count();
        known.submits.len().saturating_sub(completed + known.handled.len())
    }

    /// Changes what a watcher knows.
    pub fn watch(&self, name: &str, change: impl FnOnce(&mut Watched)) {
        change(self.lock().watches.entry(name.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Whoever panicked fails the test by itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// How many calls ended so.
    pub fn ended(&self, end: End) -> usize {
        self.lines.iter().filter(|line| line.end.is_some_and(|(_, e)| e == end)).count()
    }

    /// The longest time a caller waited.
    pub fn longest(&self) -> Duration {
        self.lines.iter().filter_map(|line| Some(line.end?.0)).max().unwrap_or_default()
    }

    fn count(&mut self, what: &str, outcome: &str) {
        *self.outcomes.entry(format!("{what} {outcome}")).or_default() += 1;
    }
}

/// Ends a call also when its future is dropped.
struct InFlight<'a>(&'a History);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

/// What a refusal says about the effect of the call.
fn end_of(refusal: &Refusal) -> End {
    match refusal.reason {
        ErrorReason::Unspecified | ErrorReason::CommitUnknown | ErrorReason::DeadlineExceeded => End::Unknown,
        // Said before anything is begun, and by batches whose connection broke.
        ErrorReason::DependencyUnavailable => End::Unknown,
        _ => End::Refused,
    }
}

/// Whether a server that is killed, stopped or started explains this refusal of a good call.
fn is_explained(what: &str, refusal: &Refusal) -> bool {
    match refusal.reason {
        // The connection broke, or there was none.
        ErrorReason::Unspecified => matches!(refusal.code, Code::Unavailable | Code::DeadlineExceeded),
        ErrorReason::CommitUnknown
        | ErrorReason::DependencyUnavailable
        | ErrorReason::ShuttingDown
        | ErrorReason::DeadlineExceeded
        | ErrorReason::IdempotencyInProgress
        | ErrorReason::Reconnect
        | ErrorReason::SlowConsumer => true,
        // Operators do not look before they act.
        ErrorReason::StateConflict | ErrorReason::ReplayLimitReached => what == OPERATE,
        _ => false,
    }
}
