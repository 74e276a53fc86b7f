//! Who is told of a batch besides its callers: watchers and sessions of what happened, waiting leasers of what they may
//! take. And who of these stands by to be given it in the same transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    COMMAND_LIMIT,
    command::{AnswerTo, Command, Pending},
    hints::Hints,
    workset::{Due, Workset},
};
use crate::{
    domain::{
        event::Event,
        transition::{Change, EventKind},
    },
    ids::ProjectId,
    live::{
        hub::Hub,
        sessions::{Sessions, Signal},
        wakeups::{StandBy, Wakeups},
    },
    shutdown,
};

/// The way to those who listen in this process.
#[derive(Debug)]
pub(super) struct Announcer {
    pub(super) hub: Arc<Hub>,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) sessions: Arc<Sessions>,
}

impl Announcer {
    /// Leasers for what a batch submits, out of the line of those who stand by. With `seen_only` for queues that an
    /// optimistic batch has seen.
    pub(super) fn standing_by(
        &self,
        project: &ProjectId,
        pending: &[Pending],
        hints: &Hints,
        seen_only: bool,
    ) -> Vec<Pending> {
        if self.wakeups.standing(project) == 0 {
            return Vec::new();
        }
        let mut due: HashMap<(&str, &str), usize> = HashMap::new();
        for p in pending {
            let Command::Submit { tasks, .. } = &p.command else { continue };
            for task in tasks.iter().filter(|task| task.new.run_time.is_none()) {
                *due.entry((&task.new.spec.queue, &task.new.spec.task_type)).or_default() += 1;
            }
        }
        due.retain(|(queue, _), _| !seen_only || hints.seen(project, queue).is_some());
        let deadline = Instant::now() + COMMAND_LIMIT;
        let pending = |StandBy { want, room, caller, holder, bell }| Pending {
            caller,
            command: Command::StandBy { want, limit: room, holder },
            deadline,
            answer: AnswerTo::StandBy(bell),
            _budget: None,
        };
        self.wakeups.take_standing(project, due).into_iter().map(pending).collect()
    }

    /// Tells watchers and sessions; `callers` are the principals behind the commands.
    pub(super) fn publish(&self, project: &ProjectId, set: &Workset, first: Option<i64>, callers: &[Arc<str>]) {
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

    /// Wakes leasers: for what became due, for room in queues with a limit, and once a rate allows the next lease.
    pub(super) fn wake(
        &self,
        project: &ProjectId,
        hints: &Hints,
        set: &Workset,
        promoted: &BTreeMap<Due, usize>,
        used_up: Vec<(String, Duration)>,
    ) {
        for (due, count) in set.due().iter().chain(promoted) {
            self.wakeups.ready(project, &due.queue, &due.task_type, *count);
        }
        let stats = set.stats();
        for queue in hints.limited(project, stats.keys().copied()) {
            let ended = stats.get(queue).map_or(0, |stat| -stat.running);
            self.wakeups.freed(project, queue, usize::try_from(ended).unwrap_or(0));
        }
        for (queue, wait) in used_up {
            let (wakeups, project) = (self.wakeups.clone(), project.clone());
            shutdown::spawn("rate-wakeup", async move {
                tokio::time::sleep(wait).await;
                wakeups.freed(&project, &queue, 1);
            });
        }
    }
}
