//! Results on their way to the server.
//!
//! The outbox owns a result from the end of its handler until the server answered it. While a few reports are on their
//! way, further results gather for the next one, so that a busy worker sends few large reports and an idle one sends a
//! lone result at once. When the session breaks, what was not answered is sent again in the next one; the lease token
//! makes that harmless.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use prost::Message as _;
use tonic::Code;

use super::{Failure, Tally};
use crate::{
    client::{Backoff, Refusal},
    pb::{
        ErrorReason, LeaseToken, Payload, SessionReport, SessionReportResult, TaskCompletion, TaskFailure, TaskRelease,
    },
};

/// Results in one report: what the server accepts.
const MAX_REPORT_ITEMS: usize = 1_000;

/// Bytes in one report. Together with one more result this stays well below the 4 MiB a server accepts.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// Reports on their way at a time: enough to keep the server's commits fed, few enough to let results gather.
const MAX_REPORTS_IN_FLIGHT: usize = 4;

/// A result the server could not take is sent again this often: for about a minute, which is about one lease.
const MAX_TRIES: u32 = 30;

/// A result, failure or release.
#[derive(Debug, Clone)]
pub(super) struct Item {
    body: Body,
    size: usize,
    tries: u32,
    backoff: Backoff,
    /// Said in place of a report that was refused; if this is refused too, nothing more is said.
    is_last_word: bool,
}

#[derive(Debug, Clone)]
enum Body {
    Completion(TaskCompletion),
    Failure(TaskFailure),
    Release(TaskRelease),
}

pub(super) fn completion(token: LeaseToken, result: Option<Payload>) -> Item {
    Item::new(Body::Completion(TaskCompletion { token: Some(token), result }))
}

pub(super) fn failure(token: LeaseToken, failure: Failure) -> Item {
    let (is_final, retry_after) = (failure.is_final, failure.retry_after);
    Item::new(Body::Failure(TaskFailure {
        token: Some(token),
        r#final: is_final,
        retry_after: retry_after.and_then(|wait| wait.try_into().ok()),
        error: Some(failure.into_error()),
    }))
}

pub(super) fn release(token: LeaseToken, delay: Option<Duration>) -> Item {
    Item::new(Body::Release(TaskRelease { token: Some(token), delay: delay.and_then(|delay| delay.try_into().ok()) }))
}

impl Item {
    fn new(body: Body) -> Self {
        let size = match &body {
            Body::Completion(completion) => completion.encoded_len(),
            Body::Failure(failure) => failure.encoded_len(),
            Body::Release(release) => release.encoded_len(),
        };
        Self { body, size, tries: 0, backoff: Backoff::default(), is_last_word: false }
    }

    /// The place in a report: the server answers completions first, then failures, then releases.
    fn rank(&self) -> u8 {
        match self.body {
            Body::Completion(_) => 0,
            Body::Failure(_) => 1,
            Body::Release(_) => 2,
        }
    }

    fn token(&self) -> Option<&LeaseToken> {
        match &self.body {
            Body::Completion(completion) => completion.token.as_ref(),
            Body::Failure(failure) => failure.token.as_ref(),
            Body::Release(release) => release.token.as_ref(),
        }
    }

    /// What to say instead of a report the server finds invalid; nothing if there is nothing left to say.
    fn replacement(&self, refusal: &Refusal) -> Option<Self> {
        let token = self.token()?.clone();
        let (kind, is_last_word) = match &self.body {
            Body::Completion(_) => ("RESULT_REFUSED", false),
            Body::Failure(_) if !self.is_last_word => ("FAILURE_REFUSED", true),
            Body::Failure(_) | Body::Release(_) => return None,
        };
        Some(Self { is_last_word, ..failure(token, Failure::new(kind, refusal)) })
    }
}

/// What is to be done about an item the server did not take.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The lease belongs to somebody else, or to nobody.
    Lost,
    /// The server may take it later.
    Again,
    /// The server will never take it like this.
    Invalid,
    /// Nothing to be done.
    Refused,
}

fn verdict(refusal: &Refusal) -> Verdict {
    match refusal.code {
        _ if refusal.reason == ErrorReason::LeaseLost => Verdict::Lost,
        Code::InvalidArgument | Code::OutOfRange => Verdict::Invalid,
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => Verdict::Refused,
        _ => Verdict::Again,
    }
}

/// Results that were not answered yet.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Item>,
    /// Sent, and not answered; oldest first.
    in_flight: VecDeque<(i64, Vec<Item>)>,
    /// To be sent again, not before the time beside it.
    deferred: Vec<(Instant, Item)>,
    last_sequence: i64,
}

impl Outbox {
    pub(super) fn push(&mut self, item: Item) {
        self.waiting.push_back(item);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many results were not answered yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.deferred.len() + self.in_flight.iter().map(|(_, items)| items.len()).sum::<usize>()
    }

    /// Whether results wait because enough reports are on their way.
    pub(super) fn is_gathering(&self) -> bool {
        !self.waiting.is_empty() && self.in_flight.len() >= MAX_REPORTS_IN_FLIGHT
    }

    /// The next report, if there is something to say and few enough reports are on their way.
    pub(super) fn next_report(&mut self) -> Option<SessionReport> {
        if self.waiting.is_empty() || self.in_flight.len() >= MAX_REPORTS_IN_FLIGHT {
            return None;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < MAX_REPORT_ITEMS
            && let Some(item) = self.waiting.front()
            && (items.is_empty() || bytes + item.size <= MAX_REPORT_BYTES)
        {
            bytes += item.size;
            items.extend(self.waiting.pop_front());
        }
        // Stable: results of one kind keep their order.
        items.sort_by_key(Item::rank);

        self.last_sequence += 1;
        let mut report = SessionReport { sequence: self.last_sequence, ..SessionReport::default() };
        for item in &items {
            match &item.body {
                Body::Completion(completion) => report.completions.push(completion.clone()),
                Body::Failure(failure) => report.failures.push(failure.clone()),
                Body::Release(release) => report.releases.push(release.clone()),
            }
        }
        self.in_flight.push_back((self.last_sequence, items));
        Some(report)
    }

    /// Takes an answer: lets go of what is settled, keeps what is to be sent again.
    pub(super) fn answered(&mut self, answer: SessionReportResult, now: Instant, tally: &mut Tally) {
        let Some(place) = self.in_flight.iter().position(|(sequence, _)| *sequence == answer.sequence) else {
            tracing::warn!(sequence = answer.sequence, "answer to a report that was not sent");
            return;
        };
        let Some((_, items)) = self.in_flight.remove(place) else { return };
        if items.len() != answer.results.len() {
            tracing::error!(sent = items.len(), answered = answer.results.len(), "report answered in part");
        }
        let mut results = answer.results.into_iter();
        for item in items {
            // An item without an answer, or without a status, counts as not taken.
            let refusal = match results.next() {
                None => None,
                Some(result) => match result.status.as_ref().map(Refusal::of_item) {
                    None | Some(None) => {
                        tally.count(&item);
                        continue;
                    }
                    Some(Some(refusal)) => Some(refusal),
                },
            };
            self.not_taken(item, refusal, now, tally);
        }
    }

    fn not_taken(&mut self, mut item: Item, refusal: Option<Refusal>, now: Instant, tally: &mut Tally) {
        let task = item.token().map(|token| token.task.clone()).unwrap_or_default();
        let told = refusal.as_ref().and_then(|refusal| refusal.retry_after);
        match (refusal.as_ref().map_or(Verdict::Again, verdict), refusal) {
            (Verdict::Lost, _) => {
                tracing::debug!(task.name = task, "result came after the lease was lost");
                tally.lost += 1;
            }
            (Verdict::Again, _) if item.tries < MAX_TRIES => {
                item.tries += 1;
                let wait = item.backoff.next_wait().max(told.unwrap_or_default());
                self.deferred.push((now + wait, item));
            }
            (Verdict::Invalid, Some(refusal)) => {
                tracing::warn!(task.name = task, %refusal, "result is refused");
                match item.replacement(&refusal) {
                    Some(replacement) => self.waiting.push_back(replacement),
                    None => tally.lost += 1,
                }
            }
            (_, refusal) => {
                let refusal = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
                tracing::error!(task.name = task, refusal, "result is given up");
                tally.lost += 1;
            }
        }
    }

    /// Moves results whose time has come back into the line.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.deferred.is_empty() {
            return;
        }
        for (not_before, item) in std::mem::take(&mut self.deferred) {
            if now >= not_before {
                self.waiting.push_back(item);
            } else {
                self.deferred.push((not_before, item));
            }
        }
    }

    /// The session is gone: what was on its way goes to the front again, in its old order.
    pub(super) fn session_lost(&mut self) {
        for (_, items) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            for item in items.into_iter().rev() {
                self.waiting.push_front(item);
            }
        }
    }
}

impl Tally {
    fn count(&mut self, item: &Item) {
        match item.body {
            Body::Completion(_) => self.succeeded += 1,
            Body::Failure(_) => self.failed += 1,
            Body::Release(_) => self.released += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, Status, StatusExt as _};

    use super::*;
    use crate::pb::ReportResult;

    fn token(n: i64) -> LeaseToken {
        LeaseToken { task: format!("projects/default/tasks/{n}"), epoch: n }
    }

    fn answer(sequence: i64, statuses: Vec<Status>) -> SessionReportResult {
        let results =
            statuses.into_iter().map(|status| ReportResult { status: Some(status), ..Default::default() }).collect();
        SessionReportResult { sequence, results }
    }

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "tasktower", []);
        Status::decode(tonic::Status::with_error_details(code, "no", details).details()).unwrap()
    }

    #[test]
    fn results_gather_while_reports_are_on_their_way() {
        let mut outbox = Outbox::default();
        let (now, mut tally) = (Instant::now(), Tally::default());
        for n in 0..4 {
            outbox.push(completion(token(n), None));
            assert_eq!(outbox.next_report().unwrap().completions.len(), 1);
        }
        for n in 4..1_504 {
            outbox.push(completion(token(n), None));
        }
        assert!(outbox.is_gathering());
        assert_eq!(outbox.next_report(), None);
        outbox.answered(answer(1, vec![Status::default()]), now, &mut tally);
        assert_eq!(outbox.next_report().unwrap().completions.len(), MAX_REPORT_ITEMS);
        assert_eq!((tally.succeeded, outbox.len()), (1, 1_503));
    }

    #[test]
    fn large_results_travel_apart() {
        let mut outbox = Outbox::default();
        for n in 0..6 {
            let payload = crate::client::payload::bytes("", vec![0; 250 * 1024]);
            outbox.push(completion(token(n), Some(payload)));
        }
        let sizes: Vec<_> =
            std::iter::from_fn(|| outbox.next_report()).map(|report| report.completions.len()).collect();
        assert_eq!(sizes, [4, 2]);
    }

    #[test]
    fn a_lost_session_repeats_what_was_not_answered() {
        let mut outbox = Outbox::default();
        outbox.push(completion(token(1), None));
        outbox.push(release(token(2), None));
        outbox.push(failure(token(3), Failure::new("E", "")));
        let sent = outbox.next_report().unwrap();
        outbox.session_lost();
        outbox.push(completion(token(4), None));
        let again = outbox.next_report().unwrap();
        assert_eq!(again.completions[0], sent.completions[0]);
        assert_eq!((again.completions.len(), again.failures.len(), again.releases.len()), (2, 1, 1));
        assert!(again.sequence > sent.sequence);
    }

    #[test]
    fn each_item_is_settled_by_its_own_answer() {
        let mut outbox = Outbox::default();
        let (now, mut tally) = (Instant::now(), Tally::default());
        outbox.push(release(token(5), None));
        outbox.push(failure(token(4), Failure::new("E", "")));
        for n in 0..4 {
            outbox.push(completion(token(n), None));
        }
        let report = outbox.next_report().unwrap();
        let statuses = vec![
            Status::default(),
            status(Code::Aborted, "LEASE_LOST"),
            status(Code::Unavailable, "COMMIT_UNKNOWN"),
            status(Code::InvalidArgument, "FIELD_INVALID"),
            Status::default(),
            Status::default(),
        ];
        outbox.answered(answer(report.sequence, statuses), now, &mut tally);
        assert_eq!(tally, Tally { succeeded: 1, failed: 1, released: 1, lost: 1 });

        // The result that was refused is told as a failure at once, the other one waits a little.
        let report = outbox.next_report().unwrap();
        assert_eq!((report.completions.len(), report.failures.len()), (0, 1));
        assert_eq!(report.failures[0].token, Some(token(3)));
        assert_eq!(report.failures[0].error.as_ref().unwrap().r#type, "RESULT_REFUSED");
        outbox.tick(now);
        assert_eq!(outbox.next_report(), None);
        outbox.tick(now + Duration::from_secs(1));
        assert_eq!(outbox.next_report().unwrap().completions[0].token, Some(token(2)));
    }

    #[test]
    fn a_failure_that_is_refused_is_told_plainly_once() {
        let mut outbox = Outbox::default();
        let (now, mut tally) = (Instant::now(), Tally::default());
        outbox.push(failure(token(1), Failure::new("E", "").retry_after(Duration::from_secs(1 << 40))));
        for expected in ["E", "FAILURE_REFUSED"] {
            let report = outbox.next_report().unwrap();
            assert_eq!(report.failures[0].error.as_ref().unwrap().r#type, expected);
            let refused = status(Code::InvalidArgument, "FIELD_INVALID");
            outbox.answered(answer(report.sequence, vec![refused]), now, &mut tally);
        }
        assert!(outbox.is_empty());
        assert_eq!(tally.lost, 1);
    }

    #[test]
    fn an_item_without_an_answer_is_sent_again() {
        let mut outbox = Outbox::default();
        let (now, mut tally) = (Instant::now(), Tally::default());
        outbox.push(completion(token(1), None));
        let report = outbox.next_report().unwrap();
        outbox.answered(answer(report.sequence, vec![]), now, &mut tally);
        assert_eq!((outbox.len(), tally), (1, Tally::default()));
    }
}
