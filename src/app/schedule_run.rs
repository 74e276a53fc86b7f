//! Fires schedules: on every replica, without a leader.
//!
//! One transaction locks schedules of one project that are due (on PostgreSQL passing over those another replica holds),
//! decides what becomes of their ticks, writes the occurrences, submits the tasks, moves the schedules on to their next
//! tick and appends the journal. So a tick and its task are there together or not at all, and whoever comes second finds the
//! schedule moved on. A replica that dies leaves locks that the database lets go of, and the next one goes on.
//!
//! Between two rounds a replica sleeps until the first schedule of all has something to do (`schedule_alarm.rs`), at most
//! the period of its loop: so it hears of schedules that other replicas were told of.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::{
    App,
    committer::{TaskNews, TaskWrites},
    named_write::{Done, NamedWrite, Stop},
    schedule::plan,
};
use crate::{
    context::{Caller, CallerInfo},
    domain::{
        event::ResourceKind,
        schedule::{
            Occurrence, OccurrenceState, Overlap, Plan, Progress, Schedule,
            firing::{self, Decision, Step},
        },
        task::{Micros, SECOND},
        transition::NewTask,
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId, schedule_name, task_name},
    store::{Tx, journal::Entry, occurrences, schedules},
};

/// Schedules fired in one transaction: large enough that a commit is cheap for each, small enough that a project's other
/// commits do not wait for long. With their inputs they take 16 MiB at most.
const BATCH: i64 = 500;
/// Most ticks decided in one transaction; schedules beyond it wait for the next one.
const BATCH_TICKS: usize = 2_000;
/// Projects looked at in one round.
const PROJECTS: i64 = 100;
/// A schedule that cannot be fired keeps no other waiting; it is tried again after this.
const PUT_OFF: Micros = 60 * SECOND;
/// When something is due that another replica holds, or a task is busy: long enough for a commit.
const SHORT_BREAK: Duration = Duration::from_millis(20);
/// Ticks named in a journal row.
const TOLD: usize = 20;

/// The principal of what schedules do.
pub(super) const SCHEDULER: &str = "system:scheduler";

impl App {
    /// Fires what is due, and sets the alarm for what comes next. Answers how many schedules were moved on.
    pub async fn fire_schedules(&self) -> Result<usize> {
        // Should this fail, the loop comes again after its period.
        self.alarm().set(None);
        let (mut fired, mut failure) = (0, None);
        let mut wake = schedules::next_wake(self.store()).await?;
        if let Some(first) = wake {
            let now = self.store().now().await?;
            if first <= now {
                for project in schedules::due_projects(self.store(), now, PROJECTS).await? {
                    match self.fire_project(&project).await {
                        Ok(count) => fired += count,
                        // The others are not kept waiting for it.
                        Err(error) => failure = Some(error),
                    }
                }
                wake = schedules::next_wake(self.store()).await?;
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if let Some(wake) = wake {
            let wait = Duration::from_micros(u64::try_from(wake - self.store().now().await?).unwrap_or(0));
            self.alarm().set(Some(Instant::now() + if fired > 0 { wait } else { wait.max(SHORT_BREAK) }));
        }
        Ok(fired)
    }

    async fn fire_project(&self, project: &ProjectId) -> Result<usize> {
        let mut fired = 0;
        while !self.draining().is_cancelled() {
            let count = match self.fire(project, None).await {
                Ok(count) => count,
                Err(error) => {
                    tracing::warn!(%project, %error, "schedules could not be fired together; trying one by one");
                    self.fire_one_by_one(project).await?
                }
            };
            fired += count;
            if count == 0 {
                break;
            }
        }
        Ok(fired)
    }

    async fn fire(&self, project: &ProjectId, only: Option<String>) -> Result<usize> {
        let (count, news) = self.write(FireDue { project: project.clone(), only }).await?;
        if let Some(news) = news {
            self.committer().tell(&news);
        }
        Ok(count)
    }

    /// One that cannot be fired is put off.
    async fn fire_one_by_one(&self, project: &ProjectId) -> Result<usize> {
        let now = self.store().now().await?;
        let mut fired = 0;
        for id in schedules::due_ids(self.store(), project, now, BATCH).await? {
            match self.fire(project, Some(id.clone())).await {
                Ok(count) => fired += count,
                Err(error @ Error::Internal(_)) => {
                    tracing::error!(%project, schedule = id, %error, "a schedule cannot be fired; it is put off");
                    self.write(PutOff { project: project.clone(), id }).await?;
                }
                // Not because of what it is: the database is away, or too busy.
                Err(error) => return Err(error),
            }
        }
        Ok(fired)
    }
}

/// Who acts when a schedule fires.
fn caller_of(schedule: &Schedule) -> Caller {
    Caller::new(CallerInfo {
        agent: Some(schedule_name(&schedule.project, &schedule.id)),
        ..CallerInfo::of_server(SCHEDULER.into())
    })
}

struct FireDue {
    project: ProjectId,
    /// Only this one.
    only: Option<String>,
}

impl NamedWrite for FireDue {
    const NAME: &'static str = "fire-schedules";
    /// How many schedules were moved on, and whom to tell of what.
    type Answer = (usize, Option<TaskNews>);

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let project = &self.project;
        let mut due = Vec::new();
        for schedule in schedules::lock_due(tx, project, self.only.as_deref(), BATCH).await? {
            let plan = plan(&schedule.settings.timing, schedule.uid)?;
            due.push((schedule, plan));
        }
        if due.is_empty() {
            return Ok(Done::Nothing((0, None)));
        }
        let mut firing = Firing::read(tx, project, &due).await?;
        for (schedule, plan) in &due {
            if firing.is_full() {
                break;
            }
            firing.fire(schedule, plan, tx.now())?;
        }
        let count = firing.moved.len();
        if count == 0 {
            return Ok(Done::Nothing((0, None)));
        }
        let news = firing.write(tx, project).await?;
        Ok(Done::Commit((count, news)))
    }
}

/// What a transaction does to schedules.
struct Firing {
    tasks: TaskWrites,
    /// One for each schedule in `moved`.
    callers: Vec<Caller>,
    moved: Vec<(String, Progress)>,
    occurrences: Vec<(Uuid, Occurrence)>,
    /// Name, next tick before and after, and its occurrences, of each schedule with ticks that were decided.
    told: Vec<Told>,
}

struct Told {
    caller: usize,
    name: String,
    next_tick: (Option<Micros>, Option<Micros>),
    occurrences: std::ops::Range<usize>,
}

impl Firing {
    async fn read(tx: &mut Tx, project: &ProjectId, due: &[(Schedule, Plan)]) -> std::result::Result<Self, Stop> {
        let previous = |cancels: bool| {
            due.iter()
                .filter(|(schedule, _)| {
                    schedule.settings.overlap != Overlap::Allow || schedule.progress.queued.is_some()
                })
                .filter(|(schedule, _)| (schedule.settings.overlap == Overlap::CancelPrevious) == cancels)
                .filter_map(|(schedule, _)| schedule.progress.last_task)
                .collect()
        };
        let specs = due.iter().map(|(schedule, _)| &*schedule.settings.template.spec);
        let tasks = TaskWrites::read(tx, project, previous(true), previous(false), specs).await?;
        let (callers, moved, occurrences, told) = Default::default();
        Ok(Self { tasks, callers, moved, occurrences, told })
    }

    fn is_full(&self) -> bool {
        self.occurrences.len() >= BATCH_TICKS
    }

    fn fire(&mut self, schedule: &Schedule, plan: &Plan, now: Micros) -> Result<()> {
        let previous = schedule.progress.last_task;
        if previous.is_some_and(|task| self.tasks.is_busy(task)) {
            // In the next round.
            return Ok(());
        }
        let is_open = previous.is_some_and(|task| self.tasks.is_open(task));
        let Decision { steps, mut progress } = firing::decide(schedule, plan, is_open, now);
        let caller = self.callers.len();
        let first = self.occurrences.len();
        for step in steps {
            let occurrence = self.step(schedule, step, &mut progress, caller, now)?;
            self.occurrences.push((schedule.uid, occurrence));
        }
        if self.occurrences.len() > first {
            self.told.push(Told {
                caller,
                name: schedule_name(&schedule.project, &schedule.id),
                next_tick: (schedule.progress.next_tick, progress.next_tick),
                occurrences: first..self.occurrences.len(),
            });
        }
        self.callers.push(caller_of(schedule));
        self.moved.push((schedule.id.clone(), progress));
        Ok(())
    }

    fn step(
        &mut self,
        schedule: &Schedule,
        step: Step,
        progress: &mut Progress,
        caller: usize,
        now: Micros,
    ) -> Result<Occurrence> {
        let Step { tick, state, reason, cancels_previous } = step;
        if !state.made_task() {
            return Ok(Occurrence { planned_time: tick, state, reason, task: None, decide_time: now });
        }
        if let Some(task) = progress.last_task.filter(|task| cancels_previous && self.tasks.is_open(*task)) {
            let name = schedule_name(&schedule.project, &schedule.id);
            self.tasks.cancel(caller, task, &format!("{name} fired again"))?;
        }
        let new = schedule.settings.template.task(schedule, tick, None);
        let occurrence = submitted(&mut self.tasks, caller, new, tick, state, reason, now)?;
        if occurrence.state.made_task() {
            (progress.last_tick, progress.last_task) = (Some(tick), occurrence.task);
        }
        Ok(occurrence)
    }

    async fn write(self, tx: &mut Tx, project: &ProjectId) -> std::result::Result<Option<TaskNews>, Stop> {
        let Self { tasks, callers, moved, occurrences, told } = self;
        occurrences::insert(tx, &occurrences).await?;
        schedules::write_progress(tx, project, &moved).await?;
        if told.is_empty() {
            // Nothing was decided but when to look again.
            return Ok(None);
        }
        let now = tx.now();
        let entries = told.into_iter().map(|told| {
            let decided = &occurrences[told.occurrences];
            let named: Vec<_> = decided
                .iter()
                .take(TOLD)
                .map(|(_, o)| json!([o.planned_time, o.state.name(), o.task.map(|task| task_name(project, task))]))
                .collect();
            let (before, after) = told.next_tick;
            let diff = json!({
                "next_run_time": [before, after],
                "occurrence_count": [null, decided.len()],
                "occurrences": [null, named],
            });
            let caller = &callers[told.caller];
            Entry::of_resource(ResourceKind::ScheduleRan, told.name, now, Some(diff.to_string()), caller)
        });
        Ok(tasks.write(tx, &callers, entries.collect()).await?)
    }
}

/// Submits the task of a tick. If an open task holds its unique key there is none, and the tick is SKIPPED.
pub(super) fn submitted(
    tasks: &mut TaskWrites,
    caller: usize,
    new: NewTask,
    tick: Micros,
    state: OccurrenceState,
    reason: String,
    now: Micros,
) -> Result<Occurrence> {
    let submitted = tasks.submit(caller, new)?;
    let (state, reason) = if submitted.existing {
        (OccurrenceState::Skipped, "an open task holds the unique_key".to_owned())
    } else {
        (state, reason)
    };
    let task = Some(TaskId(submitted.id));
    Ok(Occurrence { planned_time: tick, state, reason, task, decide_time: now })
}

struct PutOff {
    project: ProjectId,
    id: String,
}

impl NamedWrite for PutOff {
    const NAME: &'static str = "put-off-schedule";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        let until = tx.now() + PUT_OFF;
        schedules::put_off(tx, &self.project, &self.id, until).await?;
        Ok(Done::Commit(()))
    }
}
