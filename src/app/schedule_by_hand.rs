//! Tasks of a schedule that somebody asks for: one now, or those of past ticks that made none.

use std::collections::HashMap;

use serde_json::json;

use super::{
    App,
    committer::{TaskNews, TaskWrites},
    named_write::{Done, NamedWrite, Stop},
    schedule::{lock, plan},
    schedule_run::submitted,
};
use crate::{
    context::Caller,
    domain::{
        event::ResourceKind,
        queue::Rate,
        schedule::{Occurrence, OccurrenceState, Plan, Schedule},
        task::{Micros, SECOND},
    },
    error::{Error, Result},
    ids::{ProjectId, schedule_name, task_name},
    store::{Tx, journal::Entry, occurrences, schedules},
};

/// Most ticks of one call: as many tasks as a batch of submits has.
const MAX_TICKS: usize = 1_000;

/// Past ticks to make tasks of.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// From this moment on.
    pub start_time: Micros,
    /// Before this moment.
    pub end_time: Micros,
    /// How fast the tasks become due; none means all at once.
    pub rate: Option<Rate>,
    /// Only count.
    pub dry_run: bool,
}

/// What a backfill made, or would make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// Ticks looked at.
    pub ticks: usize,
    /// Those that had made a task before.
    pub done: usize,
    /// Those whose task was made.
    pub made: usize,
    /// Those whose task was not, because of a unique key.
    pub skipped: usize,
    /// When the last task becomes due.
    pub last_due_time: Option<Micros>,
    /// Where the next call goes on, if there is more.
    pub next_start_time: Option<Micros>,
}

impl App {
    /// Makes a task now.
    pub async fn run_schedule(&self, caller: &Caller, project: &ProjectId, id: &str) -> Result<Occurrence> {
        self.require_live_project(project).await?;
        let write = RunNow { caller: caller.clone(), project: project.clone(), id: id.to_owned() };
        let (occurrence, news) = self.write(write).await?;
        if let Some(news) = news {
            self.committer().tell(&news);
        }
        Ok(occurrence)
    }

    /// Makes the tasks of past ticks.
    pub async fn backfill_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        backfill: Backfill,
    ) -> Result<Backfilled> {
        self.require_live_project(project).await?;
        let write = RunPast { caller: caller.clone(), project: project.clone(), id: id.to_owned(), backfill };
        let (backfilled, news) = self.write(write).await?;
        if let Some(news) = news {
            self.committer().tell(&news);
        }
        Ok(backfilled)
    }
}

struct RunNow {
    caller: Caller,
    project: ProjectId,
    id: String,
}

impl NamedWrite for RunNow {
    const NAME: &'static str = "run-schedule";
    type Answer = (Occurrence, Option<TaskNews>);

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let Self { caller, project, id } = self;
        let mut schedule = lock(tx, project, id).await?;
        let now = tx.now();
        // Ticks are whole seconds, and each has one row.
        let time = if now % SECOND == 0 { now + 1 } else { now };
        let mut tasks = read(tx, &schedule).await?;
        let new = schedule.settings.template.task(&schedule, time, None);
        let occurrence = submitted(&mut tasks, 0, new, time, OccurrenceState::Manual, String::new(), now)?;
        occurrences::insert(tx, &[(schedule.uid, occurrence.clone())]).await?;
        if occurrence.state.made_task() {
            (schedule.progress.last_tick, schedule.progress.last_task) = (Some(time), occurrence.task);
            schedules::write_progress(tx, project, &[(id.clone(), schedule.progress)]).await?;
        }
        let task = occurrence.task.map(|task| task_name(project, task));
        let diff = json!({"occurrences": [null, [[time, occurrence.state.name(), task]]]});
        let entry = entry(ResourceKind::ScheduleRan, project, id, now, &diff, caller);
        let news = tasks.write(tx, std::slice::from_ref(caller), vec![entry]).await?;
        Ok(Done::Commit((occurrence, news)))
    }
}

struct RunPast {
    caller: Caller,
    project: ProjectId,
    id: String,
    backfill: Backfill,
}

impl NamedWrite for RunPast {
    const NAME: &'static str = "backfill-schedule";
    type Answer = (Backfilled, Option<TaskNews>);

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let Self { caller, project, id, backfill } = self;
        let schedule = lock(tx, project, id).await?;
        let now = tx.now();
        if backfill.end_time > now {
            return Err(Error::field("end_time", "must not lie in the future").into());
        }
        let plan = plan(&schedule.settings.timing, schedule.uid)?;
        let (ticks, next_start_time) = ticks_of(&schedule, &plan, backfill);
        let known = occurrences::of_ticks(tx, schedule.uid, &ticks).await?;
        let is_done = |tick: &Micros| known.get(tick).is_some_and(|state| state.made_task());
        let open: Vec<Micros> = ticks.iter().copied().filter(|tick| !is_done(tick)).collect();
        let mut result =
            Backfilled { ticks: ticks.len(), done: ticks.len() - open.len(), next_start_time, ..Backfilled::default() };
        let due = |place: usize| {
            let place = i64::try_from(place).unwrap_or(i64::MAX);
            backfill.rate.map(|rate| now.saturating_add(rate.cost().saturating_mul(place)))
        };
        if backfill.dry_run || open.is_empty() {
            result.made = open.len();
            result.last_due_time = open.len().checked_sub(1).map(|last| due(last).unwrap_or(now));
            return Ok(Done::Nothing((result, None)));
        }

        let mut tasks = read(tx, &schedule).await?;
        let mut made = Vec::with_capacity(open.len());
        for tick in open {
            let run_time = due(result.made);
            let reason = reason(&known, tick);
            let new = schedule.settings.template.task(&schedule, tick, run_time);
            let occurrence = submitted(&mut tasks, 0, new, tick, OccurrenceState::Backfilled, reason, now)?;
            if occurrence.state.made_task() {
                result.made += 1;
                result.last_due_time = Some(run_time.unwrap_or(now));
            } else {
                result.skipped += 1;
            }
            made.push((schedule.uid, occurrence));
        }
        occurrences::replace(tx, &made).await?;
        let diff = json!({
            "start_time": [null, backfill.start_time],
            "end_time": [null, next_start_time.unwrap_or(backfill.end_time)],
            "backfilled_count": [null, result.made],
            "skipped_count": [null, result.skipped],
        });
        let entry = entry(ResourceKind::ScheduleBackfilled, project, id, now, &diff, caller);
        let news = tasks.write(tx, std::slice::from_ref(caller), vec![entry]).await?;
        Ok(Done::Commit((result, news)))
    }
}

/// What had become of a tick before.
fn reason(known: &HashMap<Micros, OccurrenceState>, tick: Micros) -> String {
    known.get(&tick).map(|state| format!("it was {}", state.name())).unwrap_or_default()
}

/// The ticks of the range that are decided, and where the range goes on if there are more than one call takes.
fn ticks_of(schedule: &Schedule, plan: &Plan, backfill: &Backfill) -> (Vec<Micros>, Option<Micros>) {
    // What is not decided yet is still to fire by itself.
    let end = backfill.end_time.min(schedule.progress.decided.saturating_add(1));
    let mut ticks = Vec::new();
    let mut next = plan.tick_after(backfill.start_time.saturating_sub(1));
    while let Some(tick) = next.filter(|tick| *tick < end) {
        if ticks.len() == MAX_TICKS {
            return (ticks, Some(tick));
        }
        ticks.push(tick);
        next = plan.tick_after(tick);
    }
    (ticks, None)
}

async fn read(tx: &mut Tx, schedule: &Schedule) -> std::result::Result<TaskWrites, Stop> {
    let spec = std::iter::once(&*schedule.settings.template.spec);
    Ok(TaskWrites::read(tx, &schedule.project, Vec::new(), Vec::new(), spec).await?)
}

fn entry<'a>(
    kind: ResourceKind,
    project: &ProjectId,
    id: &str,
    now: Micros,
    diff: &serde_json::Value,
    caller: &'a Caller,
) -> Entry<'a> {
    Entry::of_resource(kind, schedule_name(project, id), now, Some(diff.to_string()), caller)
}
