//! The heart of a running worker: one task that owns all its state.
//!
//! It wakes for five things: the link, ended handlers, room in the connection, a tick, and the wish to drain. Whatever it
//! wants to say is kept as state (tokens to confirm, heartbeats due, results in the outbox, free slots) and turned into
//! messages when the connection has room. So messages grow under load instead of queueing up, and nothing grows without
//! bound: attempts and credits are bounded by the slots, results by the outbox limit below.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    StopReason,
    attempt::{Attempt, LeaseClock, Time},
    attempts::{Attempts, Ended},
    handler::BoxedHandler,
    link::{Link, LinkEvent},
    outbox::{Outbox, release},
};
use crate::{
    client::{Error, Refusal},
    pb::{
        ErrorReason, HeartbeatResponse, LeaseHeartbeat, LeaseToken, LeasedTask, SessionAccepted, SessionCredits,
        SessionDrain, SessionHeartbeat, session_request, session_response::Message,
    },
};

/// How often clocks are read. Short leases last 5 s, so this is exact enough for their last tenth.
const TICK: Duration = Duration::from_millis(100);

/// Progress is sent at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Heartbeats when the server's welcome does not say how often.
const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(20);

/// A lease is extended at least this many times in its duration, whatever the welcome says: two may be lost.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// Leases in one heartbeat, and tokens in one confirmation: what the server accepts.
const MAX_TOKENS: usize = 1_000;

/// Bounds of how long a heartbeat may stay unanswered before the session counts as dead: early enough for the next
/// session to extend the leases.
const HEARTBEAT_PATIENCE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(15);

/// Results that are not acknowledged hold back new tasks beyond this many for each slot, and this many at least.
const UNACKNOWLEDGED_PER_SLOT: usize = 2;
const UNACKNOWLEDGED_FLOOR: usize = 2_000;

/// Ended handlers taken at a time.
const ENDED_BATCH: usize = 1_024;

/// At the end of the drain grace, how long a handler may take to stop by itself.
const DRAIN_STOP_GRACE: Duration = Duration::from_secs(1);

/// After the last handler, how long to wait for the acknowledgement of results.
const REPORT_GRACE: Duration = Duration::from_secs(5);

/// How long to wait for the server to close its half of the session.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long a task waits that came here by mistake, so that it does not come back at once.
const MISDIRECTED_DELAY: Duration = Duration::from_secs(10);

/// What a worker did, counted by what the server acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Tasks completed.
    pub succeeded: u64,
    /// Attempts reported as failed.
    pub failed: u64,
    /// Tasks given back.
    pub released: u64,
    /// Attempts whose lease was lost, or whose result the server would not take.
    pub lost: u64,
}

/// What an engine needs to know.
pub(super) struct Config {
    pub(super) handlers: HashMap<String, BoxedHandler>,
    pub(super) slots: usize,
    pub(super) drain_grace: Duration,
    pub(super) stop_grace: Duration,
    pub(super) drain: CancellationToken,
}

pub(super) struct Engine {
    config: Config,
    link: Link,
    outgoing: Option<mpsc::Sender<crate::pb::SessionRequest>>,
    /// The connection has no room, and there is something to say.
    is_blocked: bool,
    attempts: Attempts,
    outbox: Outbox,
    /// Grants to confirm.
    accepted: VecDeque<LeaseToken>,
    /// Tasks the server may still send.
    credits_out: usize,
    pulse: Pulse,
    drain: Option<Drain>,
    tally: Tally,
}

/// Heartbeats: when the next is due, and which wait for an answer.
struct Pulse {
    interval: Duration,
    last_full: Option<Instant>,
    last_progress: Instant,
    /// To be sent.
    due: VecDeque<SessionHeartbeat>,
    /// Made at `made_at` and not answered. There is one set at a time, so every answer belongs to that moment.
    unanswered: usize,
    made_at: Instant,
}

struct Drain {
    /// The server has to be told.
    is_news: bool,
    /// Until then handlers may finish.
    until: Instant,
    is_over: bool,
}

enum Wake {
    Link(LinkEvent),
    Ended(Ended),
    Room,
    Tick,
    Drain,
}

impl Engine {
    pub(super) fn new(config: Config, link: Link) -> Self {
        let now = Instant::now();
        Self {
            config,
            link,
            outgoing: None,
            is_blocked: false,
            attempts: Attempts::default(),
            outbox: Outbox::default(),
            accepted: VecDeque::new(),
            credits_out: 0,
            pulse: Pulse {
                interval: DEFAULT_HEARTBEAT_INTERVAL,
                last_full: None,
                last_progress: now,
                due: VecDeque::new(),
                unanswered: 0,
                made_at: now,
            },
            drain: None,
            tally: Tally::default(),
        }
    }

    /// Works until drained. An error means that the server does not want this worker at all.
    pub(super) async fn run(mut self) -> Result<Tally, Error> {
        let drain = self.config.drain.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.speak();
            if self.is_done(Instant::now()) {
                break;
            }
            // The link comes first: it notes when nothing had arrived, and lease clocks are built on that. It cannot starve
            // the others, because the server only answers, and grants no more than the credits.
            let wake = tokio::select! {
                biased;
                event = self.link.next() => Wake::Link(event),
                ended = self.attempts.next_ended() => Wake::Ended(ended),
                () = room(&self.outgoing), if self.is_blocked => Wake::Room,
                () = drain.cancelled(), if self.drain.is_none() => Wake::Drain,
                _ = tick.tick() => Wake::Tick,
            };
            match wake {
                Wake::Link(LinkEvent::Refused(error)) => return Err(error),
                Wake::Link(LinkEvent::Lost) => self.session_lost(),
                Wake::Link(LinkEvent::Welcome { heartbeat_interval, outgoing }) => {
                    self.welcome(heartbeat_interval, outgoing);
                }
                Wake::Link(LinkEvent::Message { message, before }) => self.hear(message, before),
                Wake::Ended(ended) => {
                    self.ended(ended);
                    for _ in 1..ENDED_BATCH {
                        let Some(ended) = self.attempts.try_ended() else { break };
                        self.ended(ended);
                    }
                }
                Wake::Room => {}
                Wake::Drain => self.start_drain(true),
                Wake::Tick => self.tick(Instant::now()),
            }
        }
        self.close().await;
        Ok(self.tally)
    }

    fn ended(&mut self, Ended { attempt, outcome }: Ended) {
        if let Some(item) = attempt.into_report(outcome) {
            self.outbox.push(item);
        }
    }

    // --- what the server says ---------------------------------------------------------------------------------------

    fn welcome(&mut self, heartbeat_interval: Option<Duration>, outgoing: mpsc::Sender<crate::pb::SessionRequest>) {
        tracing::info!(running = self.attempts.len(), unreported = self.outbox.len(), "session open");
        self.outgoing = Some(outgoing);
        self.pulse.interval = heartbeat_interval.filter(|i| !i.is_zero()).unwrap_or(DEFAULT_HEARTBEAT_INTERVAL);
        // At once: the leases of what runs may not have been extended for a while.
        self.pulse.last_full = None;
        for attempt in self.attempts.iter() {
            attempt.renew_progress();
        }
        if let Some(drain) = &mut self.drain {
            drain.is_news = true;
        }
        self.beat(Instant::now());
    }

    fn session_lost(&mut self) {
        self.outgoing = None;
        self.is_blocked = false;
        self.credits_out = 0;
        // The server releases grants it got no confirmation for; the first heartbeat of the next session tells which.
        self.accepted.clear();
        self.pulse.due.clear();
        self.pulse.unanswered = 0;
        self.outbox.session_lost();
    }

    fn hear(&mut self, message: Message, before: Instant) {
        let now = Instant::now();
        match message {
            // Welcome is the link's business and comes once.
            Message::Welcome(_) => {}
            Message::Grants(grants) => {
                for leased in grants.tasks {
                    self.granted(leased, before, now);
                }
            }
            Message::Heartbeat(answer) => self.heartbeat_answered(answer, now),
            Message::Report(answer) => self.outbox.answered(answer, now, &mut self.tally),
            Message::Cancel(cancel) => {
                for lease in cancel.leases {
                    let attempt = lease.token.as_ref().and_then(|token| self.attempts.get_mut(token));
                    if let Some(attempt) = attempt {
                        attempt.stop(StopReason::Cancelled(lease.reason), now, self.config.stop_grace);
                    }
                }
            }
            Message::Drain(_) => self.start_drain(false),
        }
    }

    fn granted(&mut self, mut leased: LeasedTask, before: Instant, now: Instant) {
        self.credits_out = self.credits_out.saturating_sub(1);
        let (Some(token), Some(task)) = (leased.token.take(), &leased.task) else {
            tracing::error!("grant without task or token");
            return;
        };
        if self.attempts.contains(&token) {
            self.accepted.push_back(token);
            return;
        }
        let lease = leased.lease_duration.and_then(|lease| lease.try_into().ok());
        let limit = leased.attempt_timeout.and_then(|limit| limit.try_into().ok());
        let clock = LeaseClock::new(before, now, lease, limit);
        if matches!(clock.read(now), Time::LeaseRunsOut | Time::LeaseOver) {
            // This process or the network slept. Not confirmed, the task goes back uncounted if it is not gone already.
            tracing::warn!(task.name = token.task, "lease was used up before it arrived");
            return;
        }
        self.accepted.push_back(token.clone());
        if self.drain.is_some() {
            self.outbox.push(release(token, None));
            return;
        }
        let Some(handler) = self.config.handlers.get(&task.r#type) else {
            tracing::error!(
                task.name = token.task,
                task.kind = task.r#type,
                "task of a type this worker does not handle"
            );
            self.outbox.push(release(token, Some(MISDIRECTED_DELAY)));
            return;
        };
        self.attempts.start(handler.clone(), leased, token, clock);
    }

    fn heartbeat_answered(&mut self, answer: HeartbeatResponse, now: Instant) {
        self.pulse.unanswered = self.pulse.unanswered.saturating_sub(1);
        for result in answer.results {
            let Some(attempt) = result.token.as_ref().and_then(|token| self.attempts.get_mut(token)) else { continue };
            match result.status.as_ref().and_then(Refusal::of_item) {
                None => {
                    let lease = result.lease_duration.and_then(|lease| lease.try_into().ok());
                    attempt.clock.extend(self.pulse.made_at, lease);
                    if result.cancel_requested {
                        let reason = StopReason::Cancelled(result.cancel_reason);
                        attempt.stop(reason, now, self.config.stop_grace);
                    }
                }
                Some(refusal) if refusal.reason == ErrorReason::LeaseLost => {
                    if attempt.is_live() {
                        self.tally.lost += 1;
                    }
                    attempt.stop(StopReason::LeaseLost, now, self.config.stop_grace);
                }
                // Not extended this time; the clock goes on and the next heartbeat tries again.
                Some(refusal) => tracing::debug!(%refusal, "lease not extended"),
            }
        }
        if answer.drain {
            self.start_drain(false);
        }
    }

    // --- time -------------------------------------------------------------------------------------------------------

    fn tick(&mut self, now: Instant) {
        for attempt in self.attempts.iter_mut() {
            if let Some(item) = attempt.tick(now, self.config.stop_grace) {
                self.outbox.push(item);
            }
        }
        self.outbox.tick(now);
        if self.outgoing.is_some() {
            self.beat(now);
        }
        self.tick_drain(now);
    }

    /// Makes the heartbeats that are due, unless the last ones are still on their way.
    fn beat(&mut self, now: Instant) {
        if self.pulse.unanswered > 0 {
            let patience = self.pulse.interval * 3 / 4;
            let patience = patience.clamp(*HEARTBEAT_PATIENCE.start(), *HEARTBEAT_PATIENCE.end());
            if now.duration_since(self.pulse.made_at) > patience {
                self.link.give_up("heartbeats are not answered");
                self.session_lost();
            }
            return;
        }
        let shortest_lease = self.attempts.iter().map(|attempt| attempt.clock.lease()).min();
        let interval =
            shortest_lease.map_or(self.pulse.interval, |lease| self.pulse.interval.min(lease / HEARTBEATS_PER_LEASE));
        let leases: Vec<LeaseHeartbeat>;
        if self.pulse.last_full.is_none_or(|last| now.duration_since(last) >= interval) {
            self.pulse.last_full = Some(now);
            leases = self.attempts.iter().filter_map(Attempt::heartbeat).collect();
        } else if now.duration_since(self.pulse.last_progress) >= PROGRESS_INTERVAL {
            leases = self.attempts.iter().filter_map(Attempt::progress_heartbeat).collect();
            if leases.is_empty() {
                return;
            }
        } else {
            return;
        }
        self.pulse.last_progress = now;
        self.pulse.made_at = now;
        // One without leases keeps the session alive and shows that the server is.
        let mut leases = leases.into_iter().peekable();
        loop {
            self.pulse.due.push_back(SessionHeartbeat { leases: leases.by_ref().take(MAX_TOKENS).collect() });
            if leases.peek().is_none() {
                break;
            }
        }
        self.pulse.unanswered = self.pulse.due.len();
    }

    // --- drain ------------------------------------------------------------------------------------------------------

    fn start_drain(&mut self, is_news: bool) {
        if self.drain.is_none() {
            tracing::info!(running = self.attempts.len(), "draining");
            self.drain = Some(Drain { is_news, until: Instant::now() + self.config.drain_grace, is_over: false });
        }
    }

    fn tick_drain(&mut self, now: Instant) {
        if let Some(drain) = &mut self.drain
            && !drain.is_over
            && now >= drain.until
        {
            drain.is_over = true;
            tracing::warn!(running = self.attempts.len(), "drain grace is over, tasks are given back");
            for attempt in self.attempts.iter_mut() {
                attempt.stop(StopReason::Draining, now, DRAIN_STOP_GRACE);
            }
        }
    }

    /// Drained, and everything told; or there was no way to tell it.
    fn is_done(&self, now: Instant) -> bool {
        let Some(drain) = &self.drain else { return false };
        let is_idle = !self.attempts.iter().any(Attempt::is_live) && self.outbox.is_empty();
        let is_too_late = now >= drain.until + self.config.stop_grace.max(DRAIN_STOP_GRACE) + REPORT_GRACE;
        if is_too_late && !is_idle {
            tracing::warn!(unreported = self.outbox.len(), "results could not be reported; their leases will run out");
        }
        is_idle || is_too_late
    }

    /// Closes our half of the session and waits a moment for the other one, so that nothing on its way is cut off.
    async fn close(&mut self) {
        if self.outgoing.take().is_some() {
            let ended = async { while let LinkEvent::Message { .. } = self.link.next().await {} };
            let _ = timeout(CLOSE_GRACE, ended).await;
        }
    }

    // --- what we say ------------------------------------------------------------------------------------------------

    /// Says what there is to say, as far as the connection has room.
    fn speak(&mut self) {
        self.is_blocked = false;
        let Some(outgoing) = self.outgoing.take() else { return };
        loop {
            match outgoing.try_reserve() {
                Ok(place) => match self.next_message() {
                    Some(message) => place.send(message.into()),
                    None => break,
                },
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.is_blocked = true;
                    break;
                }
                // The link tells about the loss.
                Err(mpsc::error::TrySendError::Closed(())) => break,
            }
        }
        self.outgoing = Some(outgoing);
    }

    fn next_message(&mut self) -> Option<session_request::Message> {
        if !self.accepted.is_empty() {
            let count = self.accepted.len().min(MAX_TOKENS);
            let tokens = self.accepted.drain(..count).collect();
            return Some(session_request::Message::Accepted(SessionAccepted { tokens }));
        }
        if let Some(heartbeat) = self.pulse.due.pop_front() {
            return Some(session_request::Message::Heartbeat(heartbeat));
        }
        if let Some(report) = self.outbox.next_report() {
            return Some(session_request::Message::Report(report));
        }
        if let Some(drain) = &mut self.drain {
            return std::mem::take(&mut drain.is_news).then_some(session_request::Message::Drain(SessionDrain {}));
        }
        let count = self.credits_to_give();
        self.credits_out += count;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        (count > 0).then_some(session_request::Message::Credits(SessionCredits { count }))
    }

    fn credits_to_give(&self) -> usize {
        let unacknowledged = self.outbox.len();
        if unacknowledged > UNACKNOWLEDGED_FLOOR.max(self.config.slots * UNACKNOWLEDGED_PER_SLOT) {
            return 0;
        }
        let free = self.config.slots.saturating_sub(self.attempts.len() + self.credits_out);
        // Under load credits go along with the next report, or when a good part of the slots is free.
        if self.outbox.is_gathering() && free < self.config.slots.div_ceil(4) { 0 } else { free }
    }
}

/// Waits until the connection has room; for ever without one.
async fn room(outgoing: &Option<mpsc::Sender<crate::pb::SessionRequest>>) {
    match outgoing {
        // Closed counts as room: the next attempt to speak finds out.
        Some(outgoing) => drop(outgoing.reserve().await),
        None => std::future::pending().await,
    }
}
