//! One batch: one transaction for the commands of one project.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    command::{Action, Answer, Command, IdempotencyKey, Item, Pending, Reply, Submitted},
    decide::{self, Facts, UniqueKeys, unique_key_of},
    workset::{Due, Workset},
};
use crate::{
    domain::{
        event::Event,
        queue::{DEFAULT_LEASE_DURATION, QueueSettings},
        task::{Micros, Task},
        transition::{Change, EventKind},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, project_name},
    live::{
        hub::Hub,
        sessions::{Sessions, Signal},
        wakeups::{Wakeups, Want},
    },
    shutdown,
    store::{
        CommitError, Store, StoreError, StoreResult, Tx,
        idempotency::{self, NewAnswer, RequestKey},
        journal::{self, Entry},
        queues,
        tasks::{self, Lane},
        unique_keys::{self, UniqueKey},
    },
};

/// How often a batch that lost against another transaction is run again as a whole, before it is taken apart.
const WHOLE_TRIES: usize = 3;
/// Tasks whose time has come are marked due at most this often per project; the dispatch loop polls slower than this.
const PROMOTE_INTERVAL: Micros = 50_000;
/// Inputs granted by one lease command, in bytes of JSON or blob, beyond the first task's: as messages they may be several
/// times as large, and clients take 4 MiB unless they say otherwise.
const LEASE_BYTES: usize = 1024 * 1024;
/// A rate that allows the next lease sooner than this rings for it; the polling loop is too slow for it.
const RATE_WAKEUP_LIMIT: Micros = 250_000;
/// How long a COMMIT without an answer is looked for.
const RESOLVE_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

/// Runs batches. Shared by all lanes.
#[derive(Debug)]
pub(super) struct Batcher {
    store: Store,
    hub: Arc<Hub>,
    wakeups: Arc<Wakeups>,
    sessions: Arc<Sessions>,
    /// Queues whose rows are known to exist. Only grows: queues are not deleted.
    known_queues: Mutex<HashSet<(ProjectId, String)>>,
    /// When tasks of each project were last marked, by the database's clock.
    promoted: Mutex<HashMap<ProjectId, Micros>>,
    /// Queues that had a limit when they were last claimed from: when a task of theirs ends, another may begin.
    limited_queues: Mutex<HashSet<(ProjectId, String)>>,
}

/// What a transaction came to.
struct Done {
    /// One answer a command; none for one whose rows are held elsewhere.
    replies: Vec<Option<Result<Reply>>>,
    set: Workset,
    first_revision: Option<i64>,
    /// How many tasks of each queue and type were marked due: somebody may wait for them.
    promoted: BTreeMap<Due, usize>,
    new_queues: Vec<String>,
    /// Queues whose rate is used up, and how long until the next lease.
    used_up: Vec<(String, Duration)>,
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
            StoreError::Unavailable(_) | StoreError::Full => Self::All(error.into()),
        }
    }
}

impl Batcher {
    pub(super) fn new(store: Store, hub: Arc<Hub>, wakeups: Arc<Wakeups>, sessions: Arc<Sessions>) -> Self {
        Self {
            store,
            hub,
            wakeups,
            sessions,
            known_queues: Mutex::default(),
            promoted: Mutex::default(),
            limited_queues: Mutex::default(),
        }
    }

    /// Runs the commands of one project and answers them. Returns what is to be run later: commands whose rows another
    /// replica holds, and leases to be given back because nobody took them.
    pub(super) async fn run(&self, project: &ProjectId, pending: Vec<Pending>) -> Vec<Pending> {
        let mut again = Vec::new();
        let mut parts = vec![pending];
        let mut tries = 0;
        while let Some(part) = parts.pop() {
            let part = in_time(part);
            if part.is_empty() {
                continue;
            }
            match self.transaction(project, &part).await {
                Ok(done) => again.extend(self.finish(project, part, done)),
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
            answer(pending, Err(error.clone()));
        }
    }

    async fn transaction(&self, project: &ProjectId, pending: &[Pending]) -> Result<Done, Failed> {
        let mut tx = self.store.begin().await?;
        let outcome = self.decide_and_write(&mut tx, project, pending).await;
        let (done, dirty) = match outcome {
            Ok(outcome) => outcome,
            Err(failed) => {
                tx.rollback().await;
                return Err(failed);
            }
        };
        if !dirty {
            tx.rollback().await;
            return Ok(done);
        }
        match tx.commit().await {
            Ok(()) => Ok(done),
            Err(CommitError::RolledBack(cause)) => Err(cause.into()),
            Err(CommitError::Unknown(cause)) => self.resolve(project, done, cause).await,
        }
    }

    /// The connection broke during COMMIT: looks whether the first journal row of the batch is there.
    async fn resolve(&self, project: &ProjectId, done: Done, cause: StoreError) -> Result<Done, Failed> {
        tracing::warn!(%project, %cause, "the connection broke during a commit");
        let (Some(revision), Some((_, change))) = (done.first_revision, done.set.changes().first()) else {
            // Nothing but leases extended: repeating does the same.
            return Err(Failed::All(Error::DatabaseUnavailable));
        };
        let until = Instant::now() + RESOLVE_LIMIT;
        while Instant::now() < until {
            match journal::is_committed(&self.store, project, revision, change).await {
                Ok(true) => return Ok(done),
                Ok(false) => return Err(Failed::Again),
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
    ) -> Result<(Done, bool), Failed> {
        let now = tx.now();
        let mut replies: Vec<Option<Result<Reply>>> = pending.iter().map(|_| None).collect();
        let mut busy = vec![false; pending.len()];
        let mut set = Workset::new(now);

        let keys = replay(tx, project, pending, &mut replies).await?;
        // First of all, so that every task is read with the mark it has from here on.
        let mut claims = Claims { now, ..Claims::default() };
        claims.promote(tx, project, self.promotes_now(project, pending, now)).await?;
        let last_attempts = read_tasks(tx, project, pending, &replies, &mut busy, &mut set).await?;
        let mut unique = read_unique_keys(tx, project, pending, &replies, &mut set).await?;
        self.claim(tx, project, pending, &replies, &mut set, &mut claims).await?;

        let facts = Facts { project, now, last_attempts: &last_attempts };
        for (number, p) in pending.iter().enumerate() {
            if replies[number].is_some() || busy[number] {
                continue;
            }
            replies[number] = Some(match &p.command {
                Command::Submit { tasks, .. } => decide::submit(tasks, number, &facts, &mut set, &mut unique)
                    .map(|value| Reply::Submitted(Answer { value, replayed: false })),
                Command::Lease { want, limit, holder, .. } => {
                    let value = claims.take(want, *limit, |task, duration| {
                        decide::lease(task, holder, duration, number, now, &mut set)
                    });
                    Ok(Reply::Leased(Answer { value, replayed: false }))
                }
                Command::Promote => Ok(Reply::Promoted),
                Command::Change(items) => Ok(Reply::Changed(
                    items
                        .iter()
                        .map(|item| decide::change(item, number, rand::random(), &facts, &mut set, &mut unique))
                        .collect(),
                )),
            });
        }

        read_inputs(tx, project, &mut replies).await?;
        let nets = set.nets();
        tasks::write(tx, project, &nets).await?;
        unique_keys::release(tx, project, &unique.released()).await?;
        unique_keys::take(tx, project, &unique.taken()).await?;
        queues::set_arrivals(tx, project, &claims.arrivals()).await?;
        let (new_queues, first_revision) = self.write_journal(tx, project, pending, &set, &claims).await?;
        fill_revisions(&mut replies, &set, first_revision);
        let kept = write_idempotency(tx, project, pending, &keys, &replies, now).await?;
        let used_up = claims.used_up();
        let dirty = !nets.is_empty() || !claims.promoted.is_empty() || kept;
        Ok((Done { replies, set, first_revision, promoted: claims.promoted, new_queues, used_up }, dirty))
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
    ) -> Result<(Vec<String>, Option<i64>), Failed> {
        let mut stats: Vec<queues::StatDelta> =
            set.stats().into_iter().map(|(name, stat)| queues::StatDelta { name: name.to_owned(), ..stat }).collect();
        stats.extend(claims.promoted.iter().map(|(due, count)| {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            queues::StatDelta { name: due.queue.clone(), ready: count, delayed: -count, ..queues::StatDelta::default() }
        }));
        let new_queues: Vec<String> = {
            let known = self.known_queues.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |name: &String| !known.contains(&(project.clone(), name.clone()));
            stats.iter().map(|stat| stat.name.clone()).filter(is_new).collect()
        };
        if !new_queues.is_empty() {
            queues::ensure(tx, project, &new_queues, tx.now()).await?;
        }
        // With no journal row to follow, nothing orders these rows against other commits; the counter does.
        let entries: Vec<Entry<'_>> =
            set.changes().iter().map(|(number, change)| Entry::of_change(change, &pending[*number].caller)).collect();
        let mut first = None;
        if !entries.is_empty() {
            first = journal::append(tx, project, &entries).await?;
            if first.is_none() {
                let name = project_name(project);
                return Err(Failed::All(Error::NotFound { kind: "project", name }));
            }
        }
        queues::add_stats(tx, project, &stats).await?;
        Ok((new_queues, first))
    }

    /// Finds what the lease commands may have: due tasks of each group of equal wants, within the limits of the queues.
    async fn claim(
        &self,
        tx: &mut Tx,
        project: &ProjectId,
        pending: &[Pending],
        replies: &[Option<Result<Reply>>],
        set: &mut Workset,
        claims: &mut Claims,
    ) -> Result<(), Failed> {
        let mut wanted: Vec<(&Want, usize)> = Vec::new();
        for (p, reply) in pending.iter().zip(replies) {
            let Command::Lease { want, limit, .. } = &p.command else { continue };
            if reply.is_some() {
                continue;
            }
            match wanted.iter_mut().find(|(other, _)| *other == want) {
                Some((_, sum)) => *sum += limit,
                None => wanted.push((want, *limit)),
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let names: HashSet<&String> = wanted.iter().flat_map(|(want, _)| want.queues.iter()).collect();
        claims.read_limits(tx, project, names.into_iter().cloned().collect()).await?;
        self.remember_limits(project, claims);
        let mut claimed: HashSet<TaskId> = HashSet::new();
        for (want, limit) in wanted {
            // What an equal part of another want found is locked by ourselves and comes again: ask for more, drop those.
            let limit = (limit + claimed.len()).min(super::BATCH_TASKS);
            let lanes = claims.lanes(want, limit);
            let mut found = tasks::claim(tx, project, &lanes, limit).await?;
            found.retain(|id| claimed.insert(*id));
            let fresh: Vec<TaskId> = found.iter().copied().filter(|id| set.get(*id).is_none()).collect();
            let mut sizes: HashMap<TaskId, usize> = HashMap::new();
            for loaded in tasks::load(tx, project, fresh.into_iter()).await? {
                sizes.insert(loaded.task.id, loaded.input_bytes);
                set.insert(loaded.task, loaded.due);
            }
            let claim = |id: TaskId| {
                let queue = set.get(id)?.spec.queue.clone();
                Some(Claim { task: id, queue, input_bytes: sizes.get(&id).copied().unwrap_or(0) })
            };
            claims.found.push((want.clone(), found.into_iter().filter_map(claim).collect()));
        }
        Ok(())
    }

    fn remember_limits(&self, project: &ProjectId, claims: &Claims) {
        let mut limited = self.limited_queues.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in claims.settings.keys() {
            let key = (project.clone(), queue.clone());
            if claims.allowed.contains_key(queue) {
                limited.insert(key);
            } else {
                limited.remove(&key);
            }
        }
    }

    fn wake_for_room(&self, project: &ProjectId, set: &Workset) {
        let limited = self.limited_queues.lock().unwrap_or_else(PoisonError::into_inner);
        if limited.is_empty() {
            return;
        }
        for (queue, stat) in set.stats() {
            if stat.running < 0 && limited.contains(&(project.clone(), queue.to_owned())) {
                self.wakeups.freed(project, queue, usize::try_from(-stat.running).unwrap_or(1));
            }
        }
    }

    fn promotes_now(&self, project: &ProjectId, pending: &[Pending], now: Micros) -> bool {
        if pending.iter().any(|p| matches!(p.command, Command::Promote)) {
            return true;
        }
        if !pending.iter().any(|p| matches!(p.command, Command::Lease { .. })) {
            return false;
        }
        let mut promoted = self.promoted.lock().unwrap_or_else(PoisonError::into_inner);
        if promoted.get(project).is_some_and(|last| (0..PROMOTE_INTERVAL).contains(&(now - last))) {
            return false;
        }
        promoted.insert(project.clone(), now);
        true
    }

    /// After COMMIT: answers everybody, then tells watchers, leasers and sessions.
    fn finish(&self, project: &ProjectId, pending: Vec<Pending>, done: Done) -> Vec<Pending> {
        if !done.new_queues.is_empty() {
            let mut known = self.known_queues.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(done.new_queues.iter().map(|name| (project.clone(), name.clone())));
        }
        let callers: Vec<Arc<str>> = pending.iter().map(|p| p.caller.principal.clone()).collect();
        let mut again = Vec::new();
        for (pending, reply) in pending.into_iter().zip(done.replies) {
            match reply {
                Some(reply) => again.extend(answer(pending, reply)),
                None => again.push(pending),
            }
        }
        self.publish(project, &done.set, done.first_revision, &callers);
        for (due, count) in done.set.due() {
            self.wakeups.ready(project, &due.queue, &due.task_type, count);
        }
        self.wake_for_room(project, &done.set);
        for (queue, wait) in done.used_up {
            let (wakeups, project) = (self.wakeups.clone(), project.clone());
            shutdown::spawn("rate-wakeup", async move {
                tokio::time::sleep(wait).await;
                wakeups.freed(&project, &queue, 1);
            });
        }
        for (due, count) in &done.promoted {
            self.wakeups.ready(project, &due.queue, &due.task_type, *count);
        }
        again
    }

    fn publish(&self, project: &ProjectId, set: &Workset, first: Option<i64>, callers: &[Arc<str>]) {
        for (_, change) in set.changes() {
            self.tell_session(project, change);
        }
        let Some(first) = first.filter(|_| self.hub.is_watched(project)) else { return };
        let events =
            set.changes().iter().zip(first..).map(|((number, change), revision)| {
                Arc::new(Event::of_change(change, revision, callers[*number].clone()))
            });
        self.hub.publish(project, events);
    }

    fn tell_session(&self, project: &ProjectId, change: &Change) {
        if change.kind != EventKind::CancelRequested {
            return;
        }
        if let Some(lease) = &change.after.lease {
            let reason = lease.cancel_reason.clone().unwrap_or_default();
            let signal = Signal::Cancel { task: change.after.id, epoch: change.after.epoch, reason };
            self.sessions.tell(project, &lease.worker, &lease.incarnation, &signal);
        }
    }
}

/// Those somebody still waits for; who waited too long is told so.
fn in_time(pending: Vec<Pending>) -> Vec<Pending> {
    let now = Instant::now();
    let is_wanted = |p: &Pending| p.answer.as_ref().is_none_or(|answer| !answer.is_closed());
    let (pending, late): (Vec<_>, Vec<_>) =
        pending.into_iter().filter(is_wanted).partition(|pending| pending.deadline > now);
    for pending in late {
        answer(pending, Err(Error::DeadlineExceeded));
    }
    pending
}

/// Answers a command, and returns the leases nobody took: the caller went away before it heard of them.
fn answer(pending: Pending, reply: Result<Reply>) -> Option<Pending> {
    let Err(unheard) = pending.answer?.send(reply) else { return None };
    match (unheard, &pending.command) {
        (Ok(Reply::Leased(Answer { value, replayed: false })), Command::Lease { key: None, .. })
            if !value.is_empty() =>
        {
            let release = |task: &Arc<Task>| Item {
                task: task.id,
                action: Action::Release { epoch: task.epoch, delay: None },
                etag: None,
            };
            Some(Pending {
                caller: pending.caller,
                command: Command::Change(value.iter().map(release).collect()),
                deadline: Instant::now() + super::COMMAND_LIMIT,
                answer: None,
                _budget: None,
            })
        }
        // Any other effect stands, and whoever repeats a keyed lease is answered the same leases.
        _ => None,
    }
}

fn key_of(command: &Command) -> Option<&IdempotencyKey> {
    match command {
        Command::Submit { key, .. } | Command::Lease { key, .. } => key.as_ref(),
        Command::Promote | Command::Change(_) => None,
    }
}

fn request_key(pending: &Pending, key: &IdempotencyKey) -> RequestKey {
    RequestKey { principal: pending.caller.principal.clone(), method: key.method, key: key.key.clone() }
}

/// Answers the commands whose key was seen before. Of two with the same key in one batch the second is told that the first
/// is still running.
async fn replay(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &mut [Option<Result<Reply>>],
) -> Result<Vec<Option<RequestKey>>, Failed> {
    let ids: Vec<Option<RequestKey>> =
        pending.iter().map(|p| key_of(&p.command).map(|key| request_key(p, key))).collect();
    let asked: Vec<RequestKey> = ids.iter().flatten().cloned().collect();
    if asked.is_empty() {
        return Ok(ids);
    }
    let found = idempotency::find(tx, project, &asked).await?;
    let mut first_in_batch: HashMap<&RequestKey, [u8; 32]> = HashMap::new();
    for (number, (p, id)) in pending.iter().zip(&ids).enumerate() {
        let (Some(id), Some(key)) = (id, key_of(&p.command)) else { continue };
        if let Some(answered) = found.get(id) {
            replies[number] = Some(if answered.fingerprint == key.fingerprint {
                replayed(tx, project, &p.command, &answered.response).await?
            } else {
                Err(Error::IdempotencyKeyReused { key: key.key.clone() })
            });
        } else if let Some(fingerprint) = first_in_batch.insert(id, key.fingerprint) {
            replies[number] = Some(Err(if fingerprint == key.fingerprint {
                Error::IdempotencyInProgress { key: key.key.clone() }
            } else {
                Error::IdempotencyKeyReused { key: key.key.clone() }
            }));
        }
    }
    Ok(ids)
}

/// The answer as it was given the first time; of leases, those that are still held.
async fn replayed(
    tx: &mut Tx,
    project: &ProjectId,
    command: &Command,
    response: &[u8],
) -> Result<Result<Reply>, Failed> {
    let damaged = |cause: serde_json::Error| Failed::Bad(StoreError::Bug(cause.into()));
    if let Command::Submit { .. } = command {
        let value: Vec<Submitted> = serde_json::from_slice(response).map_err(damaged)?;
        return Ok(Ok(Reply::Submitted(Answer { value, replayed: true })));
    }
    let tokens: Vec<(uuid::Uuid, i64)> = serde_json::from_slice(response).map_err(damaged)?;
    let mut value = Vec::new();
    for loaded in tasks::load(tx, project, tokens.iter().map(|(id, _)| TaskId(*id))).await? {
        let task = loaded.task;
        if task.lease.is_some() && tokens.contains(&(task.id.0, task.epoch)) {
            value.push(Arc::new(task));
        }
    }
    Ok(Ok(Reply::Leased(Answer { value, replayed: true })))
}

/// Puts the inputs into the leases that are granted: only now is it known which, and they may be large.
async fn read_inputs(tx: &mut Tx, project: &ProjectId, replies: &mut [Option<Result<Reply>>]) -> StoreResult<()> {
    let mut leased: Vec<&mut Arc<Task>> = Vec::new();
    for reply in replies.iter_mut().flatten().flatten() {
        if let Reply::Leased(answer) = reply {
            leased.extend(answer.value.iter_mut());
        }
    }
    let ids: Vec<TaskId> = leased.iter().map(|task| task.id).collect();
    let mut inputs = tasks::inputs(tx, project, ids.into_iter()).await?;
    for task in leased {
        if let Some(input) = inputs.remove(&task.id) {
            Arc::make_mut(task).input = Some(input);
        }
    }
    Ok(())
}

/// Locks and reads the tasks the commands name, and the ended attempts that repeated reports are compared with.
async fn read_tasks(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &[Option<Result<Reply>>],
    busy: &mut [bool],
    set: &mut Workset,
) -> Result<HashMap<(TaskId, i64), crate::domain::task::Attempt>, Failed> {
    let mut ids: Vec<TaskId> = Vec::new();
    let mut deep: HashSet<TaskId> = HashSet::new();
    for (p, reply) in pending.iter().zip(replies) {
        if reply.is_some() {
            continue;
        }
        match &p.command {
            Command::Change(items) => {
                ids.extend(items.iter().map(|item| item.task));
                deep.extend(items.iter().filter(|item| item.action.is_deep()).map(|item| item.task));
            }
            // An id that the server made is not taken.
            Command::Submit { tasks, .. } => ids.extend(tasks.iter().filter(|t| t.id_given).map(|t| t.new.id)),
            Command::Lease { .. } | Command::Promote => {}
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let held = tasks::lock(tx, project, &ids, &deep).await?;
    for loaded in tasks::load(tx, project, ids.iter().copied()).await? {
        set.insert(loaded.task, loaded.due);
    }
    let is_busy = |id: TaskId| set.get(id).is_some_and(|task| !held.holds(task, deep.contains(&id)));
    let mut tokens: Vec<(TaskId, i64)> = Vec::new();
    for (p, busy) in pending.iter().zip(busy) {
        let Command::Change(items) = &p.command else { continue };
        *busy = items.iter().any(|item| is_busy(item.task));
        tokens.extend(items.iter().filter_map(|item| {
            let epoch = item.action.repeated_epoch()?;
            set.get(item.task).filter(|task| task.lease.is_none() && task.epoch == epoch).map(|_| (item.task, epoch))
        }));
    }
    Ok(tasks::last_attempts(tx, project, &tokens).await?)
}

/// Reads who holds the unique keys the batch is about: those of new tasks, and those of tasks that may let go or take
/// theirs back. The holders are read with them.
async fn read_unique_keys(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    replies: &[Option<Result<Reply>>],
    set: &mut Workset,
) -> Result<UniqueKeys, Failed> {
    let mut keys: HashSet<UniqueKey> = HashSet::new();
    for (p, reply) in pending.iter().zip(replies) {
        match &p.command {
            _ if reply.is_some() => {}
            Command::Submit { tasks, .. } => {
                keys.extend(tasks.iter().filter_map(|task| unique_key_of(&task.new.spec)));
            }
            Command::Change(items) => {
                let tasks = items.iter().filter_map(|item| set.get(item.task));
                keys.extend(tasks.filter_map(|task| unique_key_of(&task.spec)));
            }
            Command::Lease { .. } | Command::Promote => {}
        }
    }
    if keys.is_empty() {
        return Ok(UniqueKeys::default());
    }
    let keys: Vec<UniqueKey> = keys.into_iter().collect();
    let found = unique_keys::find(tx, project, &keys).await?;
    let holders: Vec<TaskId> = found.values().map(|holding| holding.task).filter(|id| set.get(*id).is_none()).collect();
    for loaded in tasks::load(tx, project, holders.into_iter()).await? {
        set.insert(loaded.task, loaded.due);
    }
    Ok(UniqueKeys::new(found))
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

/// Keeps the answers of the commands that came with a key, in the transaction of their effect. Refusals are not kept.
async fn write_idempotency(
    tx: &mut Tx,
    project: &ProjectId,
    pending: &[Pending],
    ids: &[Option<RequestKey>],
    replies: &[Option<Result<Reply>>],
    now: Micros,
) -> Result<bool, Failed> {
    let damaged = |cause: serde_json::Error| Failed::Bad(StoreError::Bug(cause.into()));
    let mut rows = Vec::new();
    for ((p, id), reply) in pending.iter().zip(ids).zip(replies) {
        let (Some(id), Some(key), Some(Ok(reply))) = (id, key_of(&p.command), reply) else { continue };
        let response = match reply {
            Reply::Submitted(Answer { value, replayed: false }) => serde_json::to_vec(value).map_err(damaged)?,
            // An empty answer has no effect to protect: asking again may find something.
            Reply::Leased(Answer { value, replayed: false }) if !value.is_empty() => {
                let tokens: Vec<_> = value.iter().map(|task| (task.id.0, task.epoch)).collect();
                serde_json::to_vec(&tokens).map_err(damaged)?
            }
            _ => continue,
        };
        rows.push(NewAnswer { key: id.clone(), fingerprint: key.fingerprint, response: response.into() });
    }
    if rows.is_empty() {
        return Ok(false);
    }
    idempotency::insert(tx, project, &rows, now).await?;
    Ok(true)
}

/// A task that may be leased.
struct Claim {
    task: TaskId,
    queue: String,
    input_bytes: usize,
}

/// What the lease commands of a batch may have.
#[derive(Default)]
struct Claims {
    found: Vec<(Want, VecDeque<Claim>)>,
    settings: HashMap<String, QueueSettings>,
    /// How many more leases each limited queue allows.
    allowed: HashMap<String, i64>,
    /// The theoretical arrival time of each queue with a rate, as read.
    arrival: HashMap<String, Micros>,
    taken: HashMap<String, i64>,
    now: Micros,
    /// How many tasks of each queue and type were marked due.
    promoted: BTreeMap<Due, usize>,
}

impl Claims {
    async fn promote(&mut self, tx: &mut Tx, project: &ProjectId, now: bool) -> StoreResult<()> {
        if now {
            for (queue, task_type) in tasks::promote(tx, project).await? {
                *self.promoted.entry(Due { queue, task_type }).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Reads the settings of the queues. Those with a limit are locked first, so that claims of all replicas on one
    /// queue go one after the other and the limit is exact.
    async fn read_limits(&mut self, tx: &mut Tx, project: &ProjectId, mut names: Vec<String>) -> StoreResult<()> {
        names.sort_unstable();
        self.settings = queues::settings_for(tx, project, &names).await?;
        let limited = |s: &QueueSettings| !s.paused && (s.max_running > 0 || s.rate.is_some());
        let limited: Vec<String> =
            names.into_iter().filter(|name| self.settings.get(name).is_some_and(limited)).collect();
        if limited.is_empty() {
            return Ok(());
        }
        let limits = queues::lock_limits(tx, project, &limited).await?;
        for name in limited {
            let Some(settings) = self.settings.get(&name) else { continue };
            let limit = limits.get(&name).copied().unwrap_or_default();
            let mut allowed = i64::MAX;
            if settings.max_running > 0 {
                allowed = allowed.min(i64::from(settings.max_running) - limit.running);
            }
            if let Some(rate) = settings.rate {
                allowed = allowed.min(rate.allowed(limit.arrival, self.now));
                self.arrival.insert(name.clone(), limit.arrival);
            }
            self.allowed.insert(name, allowed.max(0));
        }
        Ok(())
    }

    /// The lanes of a want from which something may be taken.
    fn lanes(&self, want: &Want, limit: usize) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for queue in want.queues.iter() {
            let paused = self.settings.get(queue).is_some_and(|settings| settings.paused);
            let allowed = self.allowed.get(queue).map_or(limit, |allowed| usize::try_from(*allowed).unwrap_or(0));
            if paused || allowed == 0 {
                continue;
            }
            lanes.extend(want.types.iter().map(|task_type| Lane {
                queue: queue.clone(),
                task_type: task_type.clone(),
                limit: allowed.min(limit),
            }));
        }
        lanes
    }

    /// Leases up to `limit` of the tasks found for a want.
    fn take(
        &mut self,
        want: &Want,
        limit: usize,
        mut lease: impl FnMut(TaskId, Micros) -> Option<Arc<Task>>,
    ) -> Vec<Arc<Task>> {
        let mut leased = Vec::new();
        let Some((_, found)) = self.found.iter_mut().find(|(other, _)| other == want) else { return leased };
        let mut bytes = 0;
        while leased.len() < limit && bytes < LEASE_BYTES {
            let Some(Claim { task, queue, input_bytes }) = found.pop_front() else { break };
            let allowed = self.allowed.get_mut(&queue);
            if allowed.as_ref().is_some_and(|allowed| **allowed == 0) {
                continue;
            }
            let duration = self.settings.get(&queue).and_then(|s| s.lease_duration).unwrap_or(DEFAULT_LEASE_DURATION);
            if let Some(task) = lease(task, duration) {
                bytes += input_bytes;
                leased.push(task);
                if let Some(allowed) = allowed {
                    *allowed -= 1;
                    *self.taken.entry(queue).or_default() += 1;
                }
            }
        }
        leased
    }

    /// Queues whose rate is used up, and how long until the next lease. Longer waits are left to the polling loop.
    fn used_up(&self) -> Vec<(String, Duration)> {
        let used_up = |(name, allowed): (&String, &i64)| {
            let cost = self.settings.get(name)?.rate?.cost();
            (*allowed == 0 && cost < RATE_WAKEUP_LIMIT)
                .then(|| (name.clone(), Duration::from_micros(cost.unsigned_abs())))
        };
        self.allowed.iter().filter_map(used_up).collect()
    }

    /// The new arrival times of queues with a rate.
    fn arrivals(&self) -> Vec<(String, Micros)> {
        let mut arrivals: Vec<_> = self
            .taken
            .iter()
            .filter_map(|(name, taken)| {
                let rate = self.settings.get(name)?.rate?;
                Some((name.clone(), rate.advance(*self.arrival.get(name)?, self.now, *taken)))
            })
            .collect();
        arrivals.sort_unstable();
        arrivals
    }
}
