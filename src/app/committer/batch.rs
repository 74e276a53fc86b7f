//! One batch: one transaction for the commands of one project.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    announce::Announcer,
    claims::Claims,
    command::{Answer, Command, Pending, Reply},
    decide::{self, Facts},
    hints::Hints,
    judging::Judging,
    read,
    recent::Recent,
    repeat, sabotage,
    workset::{Due, Workset},
};
use crate::{
    domain::{retry_policy::Policies, task::Micros, transition::EventKind},
    error::{Error, Result},
    faults::{Mutant, Point},
    ids::{ProjectId, project_name},
    live::{hub::Hub, sessions::Sessions, wakeups::Wakeups},
    store::{
        CommitError, Store, StoreError, Tx,
        idempotency::{self, RequestKey},
        journal::{self, Entry, LastAppend},
        queues, tasks, unique_keys,
    },
};

/// How often a batch that lost against another transaction is run again as a whole, before it is taken apart.
const WHOLE_TRIES: usize = 3;
/// How long a COMMIT without an answer is looked for.
const RESOLVE_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

/// Runs batches. Shared by all lanes.
#[derive(Debug)]
pub(super) struct Batcher {
    store: Store,
    pub(super) announcer: Announcer,
    pub(super) hints: Hints,
    recent: Recent,
    judging: Arc<Judging>,
}

/// What a transaction came to.
struct Done {
    /// One answer a command; none for one whose rows are held elsewhere.
    replies: Vec<Option<Result<Reply>>>,
    set: Workset,
    journal: Journalled,
    /// How many tasks of each queue and type were marked due: somebody may wait for them.
    promoted: BTreeMap<Due, usize>,
    /// Queues whose rate is used up, and how long until the next lease.
    used_up: Vec<(String, Duration)>,
}

/// What became of the journal rows.
struct Journalled {
    /// Queues that got a row with them.
    new_queues: Vec<String>,
    first_revision: Option<i64>,
    /// They go with COMMIT; then there is no first revision before it.
    append: Option<LastAppend>,
}

/// Why a transaction came to nothing.
enum Failed {
    /// It may succeed when run again.
    Again,
    /// The database refused it for what is in it: something in it is bad.
    Bad(StoreError),
    /// All of it failed alike.
    All(Error),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unique | StoreError::Conflict => Self::Again,
            StoreError::Bug(_) => Self::Bad(error),
            StoreError::Unavailable(_) | StoreError::ListTooSlow | StoreError::Full => Self::All(error.into()),
        }
    }
}

impl Batcher {
    pub(super) fn new(
        store: Store,
        hub: Arc<Hub>,
        wakeups: Arc<Wakeups>,
        sessions: Arc<Sessions>,
        judging: Arc<Judging>,
    ) -> Self {
        let announcer = Announcer { hub, wakeups, sessions };
        Self { store, announcer, hints: Hints::default(), recent: Recent::default(), judging }
    }

    /// Runs the commands of one project and answers them. Returns what is to be run later: commands whose rows another
    /// replica holds, and leases to be given back because nobody took them.
    pub(super) async fn run(&self, project: &ProjectId, pending: Vec<Pending>) -> Vec<Pending> {
        let mut again = Vec::new();
        let mut parts = vec![pending];
        let mut tries = 0;
        // What failed is run again step by step, to see why.
        let mut in_steps = false;
        while let Some(part) = parts.pop() {
            let mut part = in_time(part);
            if part.is_empty() {
                continue;
            }
            let asked = part.len();
            if !in_steps {
                let seen_only = self.store.has_row_locks();
                part.extend(self.announcer.standing_by(project, &part, &self.hints, seen_only));
            }
            let outcome = self.transaction(project, &part, in_steps).await;
            if outcome.is_err() {
                in_steps = true;
                // Who stood by looks.
                part.truncate(asked);
            }
            match outcome {
                Ok(done) => again.extend(self.finish(project, part, done).await),
                Err(Failed::Again) if tries < WHOLE_TRIES => {
                    tries += 1;
                    parts.push(part);
                }
                Err(Failed::All(error)) => self.refuse_all(part, &error),
                Err(Failed::Again | Failed::Bad(_)) if part.len() > 1 => {
                    // One of them spoils it: halve until it stands alone.
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    parts.extend([second, first]);
                }
                Err(Failed::Again) => again.extend(part),
                Err(Failed::Bad(cause)) => self.refuse_all(part, &Error::from(cause)),
            }
        }
        again
    }

    /// Answers commands that will not be run.
    pub(super) fn refuse(&self, pending: Vec<(ProjectId, Pending)>, error: &Error) {
        self.refuse_all(pending.into_iter().map(|(_, pending)| pending).collect(), error);
    }

    fn refuse_all(&self, pending: Vec<Pending>, error: &Error) {
        for pending in pending {
            // An error grants nothing that could be left behind.
            pending.answer(Err(error.clone()));
        }
    }

    async fn transaction(&self, project: &ProjectId, pending: &[Pending], in_steps: bool) -> Result<Done, Failed> {
        // Before the transaction: nobody waits for us yet, and it has no second connection to wait for.
        let policies = if pending.iter().any(|p| p.command.may_need_judge()) {
            self.judging.policies(&self.store, project).await?
        } else {
            Arc::default()
        };
        let is_optimistic = !in_steps && self.may_be_optimistic(project, pending);
        let mut tx = if is_optimistic { self.store.begin_optimistic().await? } else { self.store.begin().await? };
        let outcome = self.decide_and_write(&mut tx, project, pending, &policies).await;
        let (mut done, dirty) = match outcome {
            Ok(outcome) => outcome,
            Err(failed) => {
                if is_optimistic {
                    // It may have seen what is to be marked due, and could not.
                    self.hints.did_not_promote(project);
                }
                tx.rollback().await;
                return Err(failed);
            }
        };
        if !dirty {
            tx.rollback().await;
            return Ok(done);
        }
        if Mutant::PublishBeforeCommit.is_on() {
            self.announcer.publish(project, &done.set, done.journal.first_revision, &principals(pending));
        }
        let append = done.journal.append.take();
        let is_one_statement = append.is_some();
        let committed = match append {
            Some(append) => append.commit(tx).await,
            None => tx.commit().await.map(|()| done.journal.first_revision),
        };
        done.journal.first_revision = match committed {
            Ok(first) => first,
            Err(CommitError::RolledBack(cause)) => {
                if is_optimistic && matches!(cause, StoreError::Conflict) {
                    self.hints.lost(project);
                }
                return Err(cause.into());
            }
            Err(CommitError::Unknown(cause)) => self.resolve(project, &done, is_one_statement, cause).await?,
        };
        if is_one_statement {
            fill_revisions(&mut done.replies, &done.set, done.journal.first_revision);
        }
        Ok(done)
    }

    /// Whether a batch may go without locks: the kinds of its commands allow it, nobody else is likely to be at its rows,
    /// and it claims from no queue with a limit.
    fn may_be_optimistic(&self, project: &ProjectId, pending: &[Pending]) -> bool {
        if pending.iter().all(|p| p.command.is_decided_blind()) {
            return true;
        }
        let is_limited = |command: &Command| match command {
            Command::Lease { want, .. } => {
                !self.hints.limited(project, want.queues.iter().map(String::as_str)).is_empty()
            }
            _ => false,
        };
        !self.hints.is_careful(project)
            && pending.iter().all(|p| p.command.may_be_optimistic() && !is_limited(&p.command))
    }

    /// The connection broke during COMMIT: looks whether the first journal row of the batch is there, and at which
    /// revision.
    async fn resolve(
        &self,
        project: &ProjectId,
        done: &Done,
        is_one_statement: bool,
        cause: StoreError,
    ) -> Result<Option<i64>, Failed> {
        tracing::warn!(%project, %cause, "the connection broke during a commit");
        let expected = done.journal.first_revision;
        if Mutant::AssumesCommitted.is_on() {
            return Ok(expected);
        }
        let first = done.set.changes().first().filter(|_| expected.is_some() || is_one_statement);
        let Some((_, change)) = first else {
            // Nothing but leases extended: repeating does the same.
            return Err(Failed::All(Error::DatabaseUnavailable));
        };
        let until = Instant::now() + RESOLVE_LIMIT;
        while Instant::now() < until {
            match journal::find_committed(&self.store, project, change, expected).await {
                Ok(Some(revision)) => return Ok(Some(revision)),
                Ok(None) => return Err(Failed::Again),
                Err(cause) => tracing::debug!(%cause, "the outcome of the commit is not known yet"),
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
        Err(Failed::All(Error::CommitUnknown))
    }

    async fn decide_and_write(
        &self,
        tx: &mut Tx,
        project: &ProjectId,
        pending: &[Pending],
        policies: &Policies,
    ) -> Result<(Done, bool), Failed> {
        let now = tx.now();
        let mut replies: Vec<Option<Result<Reply>>> = pending.iter().map(|_| None).collect();
        let mut busy = vec![false; pending.len()];
        let mut set = Workset::new(now);

        let is_blind = tx.is_optimistic() && pending.iter().all(|p| p.command.is_decided_blind());
        let keys = repeat::replay(tx, project, pending, is_blind, &mut replies).await?;
        // First of all, so that every task is read with the mark it has from here on.
        let mut claims = Claims::new(now);
        let promotes = self.promotes(project, pending, now);
        claims.promote(tx, project, promotes && !tx.is_optimistic()).await?;
        let last_attempts = read::read_tasks(tx, project, pending, &replies, &mut busy, &self.recent, &mut set).await?;
        let mut unique = read::read_unique_keys(tx, project, pending, &replies, &mut set).await?;
        claims.find(tx, project, pending, &replies, promotes, &mut set).await?;
        self.hints.claimed(project, &claims);
        claims.read_for_stand_by(tx, project, pending, |queue| self.hints.seen(project, queue)).await?;

        let facts = Facts { project, now, last_attempts: &last_attempts, policies };
        let mut was_offered = false;
        for (number, p) in pending.iter().enumerate() {
            if replies[number].is_some() || busy[number] {
                continue;
            }
            if matches!(p.command, Command::StandBy { .. }) && !was_offered {
                was_offered = true;
                claims.offer_submitted(pending, &set);
            }
            replies[number] = Some(match &p.command {
                Command::Submit { tasks, .. } => decide::submit(tasks, number, &facts, &mut set, &mut unique)
                    .map(|value| Reply::Submitted(Answer { value, replayed: false })),
                Command::Lease { want, limit, holder, .. } | Command::StandBy { want, limit, holder } => {
                    let value = claims.take(want, *limit, |task, duration| {
                        decide::lease(task, holder, duration, number, now, &mut set)
                    });
                    Ok(Reply::Leased(Answer { value, replayed: false }))
                }
                Command::Promote => Ok(Reply::Promoted),
                Command::Change(items) => {
                    let mut bench = self.judging.bench();
                    let change =
                        |item| decide::change(item, number, rand::random(), &facts, &mut bench, &mut set, &mut unique);
                    Ok(Reply::Changed(items.iter().map(change).collect()))
                }
            });
        }

        if is_blind && refuses_a_repeat(&keys, &replies) {
            return Err(Failed::Again);
        }
        read::read_inputs(tx, project, &mut replies, &claims).await?;
        let nets = set.nets();
        claims.check_queues(tx, project);
        tasks::write(tx, project, &nets).await?;
        unique_keys::release(tx, project, &unique.released()).await?;
        unique_keys::take(tx, project, &unique.taken()).await?;
        queues::set_arrivals(tx, project, &claims.arrivals()).await?;
        let mut journal = self.write_journal(tx, project, pending, &set, &claims).await?;
        // Those that are to be taken with COMMIT count from the first.
        fill_revisions(&mut replies, &set, if journal.append.is_some() { Some(1) } else { journal.first_revision });
        let answers = repeat::answers(pending, &keys, &replies)?;
        match &mut journal.append {
            Some(append) => append.keep(project, &answers, now),
            None if answers.is_empty() => {}
            None => {
                if Mutant::LateIdempotency.is_on() {
                    tx.split().await?;
                }
                idempotency::insert(tx, project, &answers, now).await?;
            }
        }
        let kept = !answers.is_empty();
        let used_up = claims.used_up();
        let dirty = !nets.is_empty() || !claims.promoted.is_empty() || kept;
        Ok((Done { replies, set, journal, promoted: claims.promoted, used_up }, dirty))
    }

    /// Figures of the queues, then the journal: the last writes before COMMIT, because from here on other commits of the
    /// project wait for ours.
    async fn write_journal(
        &self,
        tx: &mut Tx,
        project: &ProjectId,
        pending: &[Pending],
        set: &Workset,
        claims: &Claims,
    ) -> Result<Journalled, Failed> {
        let mut stats: Vec<queues::StatDelta> =
            set.stats().into_iter().map(|(name, stat)| queues::StatDelta { name: name.to_owned(), ..stat }).collect();
        stats.extend(claims.promoted.iter().map(|(due, count)| {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            queues::StatDelta { name: due.queue.clone(), ready: count, delayed: -count, ..queues::StatDelta::default() }
        }));
        let new_queues = self.hints.new_queues(project, stats.iter().map(|stat| stat.name.as_str()));
        if !new_queues.is_empty() {
            queues::ensure(tx, project, &new_queues, tx.now()).await?;
        }
        if Mutant::EventOutsideTransaction.is_on() {
            tx.split().await?;
        }
        let told = set.changes().iter().filter(|(_, change)| sabotage::is_told(change));
        let entries: Vec<Entry<'_>> =
            told.map(|(number, change)| Entry::of_change(change, &pending[*number].caller)).collect();
        if entries.is_empty() {
            // With no journal row to follow, nothing orders these rows against other commits but their own lock.
            queues::add_stats(tx, project, &stats).await?;
            return Ok(Journalled { new_queues, first_revision: None, append: None });
        }
        if tx.is_optimistic() {
            let append = Some(LastAppend::new(project, &entries, &stats)?);
            return Ok(Journalled { new_queues, first_revision: None, append });
        }
        let Some(first) = journal::append_batch(tx, project, &entries, &stats).await? else {
            return Err(Failed::All(Error::NotFound { kind: "project", name: project_name(project) }));
        };
        Ok(Journalled { new_queues, first_revision: Some(first), append: None })
    }

    /// Whether the batch marks tasks due whose time has come: one that leases does now and then.
    fn promotes(&self, project: &ProjectId, pending: &[Pending], now: Micros) -> bool {
        let leases = || pending.iter().any(|p| matches!(p.command, Command::Lease { .. }));
        pending.iter().any(|p| matches!(p.command, Command::Promote))
            || leases() && self.hints.promotes_now(project, now)
    }

    /// After COMMIT: answers everybody, then tells watchers, leasers and sessions.
    async fn finish(&self, project: &ProjectId, pending: Vec<Pending>, done: Done) -> Vec<Pending> {
        reached(Point::BeforeReply).await;
        self.hints.made(project, done.journal.new_queues);
        self.judging.granted(project, done.set.changes().iter().map(|(_, change)| change), done.set.now());
        let leased = done.set.changes().iter().filter(|(_, change)| change.kind == EventKind::Leased);
        self.recent.keep(leased.map(|(_, change)| &change.after));
        let callers = principals(&pending);
        let mut again = Vec::new();
        for (pending, reply) in pending.into_iter().zip(done.replies) {
            match reply {
                Some(reply) => again.extend(pending.answer(reply)),
                None => again.push(pending),
            }
        }
        reached(Point::BeforePublish).await;
        self.announcer.publish(project, &done.set, done.journal.first_revision, &callers);
        reached(Point::AfterPublish).await;
        self.announcer.wake(project, &self.hints, &done.set, &done.promoted, done.used_up);
        again
    }
}

fn principals(pending: &[Pending]) -> Vec<Arc<str>> {
    pending.iter().map(|p| p.caller.principal.clone()).collect()
}

/// A failpoint where nothing can fail any more.
async fn reached(point: Point) {
    if let Err(cause) = point.pass().await {
        tracing::error!(%cause, "this step cannot fail");
    }
}

/// Whether a command with a key is refused. It may have been done before, and is then to be answered as it was.
fn refuses_a_repeat(keys: &[Option<RequestKey>], replies: &[Option<Result<Reply>>]) -> bool {
    keys.iter().zip(replies).any(|(key, reply)| key.is_some() && matches!(reply, Some(Err(_))))
}

/// Those somebody still waits for; who waited too long is told so.
fn in_time(pending: Vec<Pending>) -> Vec<Pending> {
    let now = Instant::now();
    let is_wanted = |p: &Pending| !p.answer.is_closed();
    let (pending, late): (Vec<_>, Vec<_>) =
        pending.into_iter().filter(is_wanted).partition(|pending| pending.deadline > now);
    for pending in late {
        pending.answer(Err(Error::DeadlineExceeded));
    }
    pending
}

/// Puts the revision of each submitted task into its answer.
fn fill_revisions(replies: &mut [Option<Result<Reply>>], set: &Workset, first: Option<i64>) {
    let Some(first) = first else { return };
    let revisions: HashMap<uuid::Uuid, i64> = set
        .changes()
        .iter()
        .zip(first..)
        .filter(|((_, change), _)| change.kind == EventKind::Submitted)
        .map(|((_, change), revision)| (change.after.id.0, revision))
        .collect();
    for reply in replies.iter_mut().flatten().flatten() {
        if let Reply::Submitted(Answer { value, replayed: false }) = reply {
            for submitted in value.iter_mut().filter(|submitted| !submitted.existing) {
                submitted.revision = revisions.get(&submitted.id).copied().unwrap_or(0);
            }
        }
    }
}
