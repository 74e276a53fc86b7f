//! What the lease commands of a batch may have: due tasks of the queues and types they ask for, within the limits of the
//! queues, which are locked so that they are exact over all replicas. And for leasers that stand by: what the batch itself
//! submits, unless its queue has a limit.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    command::{Command, Pending, Reply},
    lane::BATCH_TASKS,
    workset::{Due, Workset},
};
use crate::{
    domain::{
        queue::{DEFAULT_LEASE_DURATION, QueueSettings},
        task::{Micros, Task},
        transition::EventKind,
    },
    error::Result,
    ids::{ProjectId, TaskId},
    live::wakeups::Want,
    store::{
        StoreError, StoreResult, Tx,
        queues::{self, SeenQueue},
        tasks::{self, Claimed, Lane},
    },
};

/// Inputs granted by one lease command, in bytes of JSON or blob, beyond the first task's: as messages they may be several
/// times as large, and clients take 4 MiB unless they say otherwise.
const LEASE_BYTES: usize = 1024 * 1024;
/// A rate that allows the next lease sooner than this rings for it; the polling loop is too slow for it.
const RATE_WAKEUP_LIMIT: Micros = 250_000;

/// A task that may be leased.
struct Claim {
    task: TaskId,
    queue: String,
    input_bytes: usize,
}

/// What the lease commands of a batch may have.
#[derive(Default)]
pub(super) struct Claims {
    found: Vec<(Want, VecDeque<Claim>)>,
    without_input: HashSet<TaskId>,
    pub(super) settings: HashMap<String, QueueSettings>,
    /// How many more leases each limited queue allows.
    pub(super) allowed: HashMap<String, i64>,
    /// The theoretical arrival time of each queue with a rate, as read.
    arrival: HashMap<String, Micros>,
    taken: HashMap<String, i64>,
    /// Queues without a limit that were seen without a lock.
    pub(super) seen: HashMap<String, SeenQueue>,
    now: Micros,
    /// How many tasks of each queue and type were marked due.
    pub(super) promoted: BTreeMap<Due, usize>,
}

impl Claims {
    pub(super) fn new(now: Micros) -> Self {
        Self { now, ..Self::default() }
    }

    /// Finds what the lease commands may have: due tasks of each group of equal wants, within the limits of the queues. An
    /// optimistic transaction cannot if there is a limit, or with `promotes` something to be marked due: that is a conflict.
    pub(super) async fn find(
        &mut self,
        tx: &mut Tx,
        project: &ProjectId,
        pending: &[Pending],
        replies: &[Option<Result<Reply>>],
        promotes: bool,
        set: &mut Workset,
    ) -> StoreResult<()> {
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
        if !tx.is_optimistic() {
            let names: HashSet<&String> = wanted.iter().flat_map(|(want, _)| want.queues.iter()).collect();
            self.read_limits(tx, project, names.into_iter().cloned().collect()).await?;
        }
        let mut claimed: HashSet<TaskId> = HashSet::new();
        for (want, limit) in wanted {
            // What an equal part of another want found is locked by ourselves and comes again: ask for more, drop those.
            let limit = (limit + claimed.len()).min(BATCH_TASKS);
            let lanes = self.lanes(want, limit);
            let mut queue: VecDeque<Claim> = VecDeque::new();
            let found = if tx.is_optimistic() {
                self.find_unlocked(tx, project, &lanes, limit, promotes).await?
            } else {
                tasks::claim(tx, project, &lanes, limit).await?
            };
            for found in found {
                let id = found.task.id;
                if !claimed.insert(id) {
                    continue;
                }
                // What another command of the batch is about was read without its input.
                if set.get(id).is_some() || (found.input_bytes > 0 && found.task.input.is_none()) {
                    self.without_input.insert(id);
                }
                queue.push_back(Claim {
                    task: id,
                    queue: found.task.spec.queue.clone(),
                    input_bytes: found.input_bytes,
                });
                set.insert(found.task, true);
            }
            self.found.push((want.clone(), queue));
        }
        Ok(())
    }

    async fn find_unlocked(
        &mut self,
        tx: &mut Tx,
        project: &ProjectId,
        lanes: &[Lane],
        limit: usize,
        promotes: bool,
    ) -> StoreResult<Vec<Claimed>> {
        let overdue_at = if promotes { self.now } else { Micros::MIN };
        let due = tasks::find_due(tx, project, lanes, limit, overdue_at).await?;
        for (name, queue) in due.queues {
            if !self.trust(name, queue) {
                return Err(StoreError::Conflict);
            }
        }
        // Another replica's clock may be a moment ahead of what this one was told.
        let is_early = due.claimed.iter().any(|claimed| !claimed.task.is_due(self.now));
        if due.is_overdue || is_early { Err(StoreError::Conflict) } else { Ok(due.claimed) }
    }

    /// Takes in a queue as it was seen without a lock. Not if it has a limit.
    fn trust(&mut self, name: String, queue: SeenQueue) -> bool {
        if queue.is_limited {
            return false;
        }
        let settings = QueueSettings { lease_duration: queue.lease_duration, ..QueueSettings::default() };
        self.settings.insert(name.clone(), settings);
        // The first look counts: if another one saw something else, the check finds that.
        self.seen.entry(name).or_insert(queue);
        true
    }

    /// Makes the transaction fail if a queue was paused or got a limit since it was seen.
    pub(super) fn check_queues(&self, tx: &mut Tx, project: &ProjectId) {
        let mut seen: Vec<(&str, Micros)> =
            self.seen.iter().map(|(name, queue)| (name.as_str(), queue.update_time)).collect();
        seen.sort_unstable();
        queues::check(tx, project, &seen);
    }

    /// Reads the queues from which leasers that stand by may have what is submitted. An optimistic transaction takes them
    /// as they were `seen` last.
    pub(super) async fn read_for_stand_by(
        &mut self,
        tx: &mut Tx,
        project: &ProjectId,
        pending: &[Pending],
        seen: impl Fn(&str) -> Option<SeenQueue>,
    ) -> StoreResult<()> {
        if !pending.iter().any(|p| matches!(p.command, Command::StandBy { .. })) {
            return Ok(());
        }
        let mut names: Vec<String> = Vec::new();
        for p in pending {
            if let Command::Submit { tasks, .. } = &p.command {
                names.extend(tasks.iter().map(|task| task.new.spec.queue.clone()));
            }
        }
        names.sort_unstable();
        names.dedup();
        if !tx.is_optimistic() {
            self.settings.extend(queues::settings_for(tx, project, &names).await?);
            return Ok(());
        }
        for name in names {
            if let Some(queue) = seen(&name) {
                self.trust(name, queue);
            }
        }
        Ok(())
    }

    /// Offers what the batch submitted to those who stand by.
    pub(super) fn offer_submitted(&mut self, pending: &[Pending], set: &Workset) {
        let unlimited = |settings: &QueueSettings| !settings.paused && !settings.is_limited();
        let mut submitted: Vec<&Arc<Task>> = set
            .changes()
            .iter()
            .filter(|(_, change)| change.kind == EventKind::Submitted)
            .filter_map(|(_, change)| set.get(change.after.id))
            .filter(|task| task.is_due(self.now) && self.settings.get(&task.spec.queue).is_some_and(unlimited))
            .collect();
        submitted.sort_by_key(|task| std::cmp::Reverse(task.spec.priority));
        let mut offered: Vec<&Want> = Vec::new();
        for p in pending {
            let Command::StandBy { want, .. } = &p.command else { continue };
            if offered.contains(&want) {
                continue;
            }
            offered.push(want);
            let claims =
                submitted.iter().filter(|task| want.includes(&task.spec.queue, &task.spec.task_type)).map(|task| {
                    let input_bytes = task.input.as_ref().map_or(0, |input| input.data.len());
                    Claim { task: task.id, queue: task.spec.queue.clone(), input_bytes }
                });
            match self.found.iter_mut().find(|(other, _)| other == want) {
                Some((_, found)) => found.extend(claims),
                None => self.found.push((want.clone(), claims.collect())),
            }
        }
    }

    /// Whether a claimed task has an input that was not read with it.
    pub(super) fn lacks_input(&self, id: TaskId) -> bool {
        self.without_input.contains(&id)
    }

    pub(super) async fn promote(&mut self, tx: &mut Tx, project: &ProjectId, now: bool) -> StoreResult<()> {
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
        let limited = |s: &QueueSettings| !s.paused && s.is_limited();
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
    pub(super) fn take(
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
    pub(super) fn used_up(&self) -> Vec<(String, Duration)> {
        let used_up = |(name, allowed): (&String, &i64)| {
            let cost = self.settings.get(name)?.rate?.cost();
            (*allowed == 0 && cost < RATE_WAKEUP_LIMIT)
                .then(|| (name.clone(), Duration::from_micros(cost.unsigned_abs())))
        };
        self.allowed.iter().filter_map(used_up).collect()
    }

    /// The new arrival times of queues with a rate.
    pub(super) fn arrivals(&self) -> Vec<(String, Micros)> {
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
