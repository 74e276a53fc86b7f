//! Schedules as callers see them: create, look, change, pause, delete, preview. What changes write is in `schedule_change`,
//! firing in `schedule_run`, what is made by hand in `schedule_by_hand`.
//!
//! A change locks the schedule's row, so it waits for a firing under way and holds from its commit on, on every replica.

use uuid::Uuid;

pub use super::schedule_change::SchedulePatch;
use super::{
    App,
    named_write::Stop,
    page::{cut, one_more},
    schedule_change::{Change, ChangeSchedule, CreateSchedule, DeleteSchedule},
};
use crate::{
    context::Caller,
    domain::{
        schedule::{Occurrence, Plan, Schedule, Settings, Timing},
        task::Micros,
    },
    error::{Error, Result},
    ids::{ProjectId, project_name, schedule_name},
    store::{Tx, occurrences, projects, schedules},
};

/// A tick that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    /// The tick.
    pub planned_time: Micros,
    /// With its jitter.
    pub run_time: Micros,
    /// The tick as the clock on the wall shows it.
    pub local_time: String,
}

/// Whose ticks are looked at.
#[derive(Clone, Debug)]
pub enum Previewed {
    /// Those of a stored schedule.
    Stored(String),
    /// Those of a timing that nobody keeps.
    Given(Timing),
}

impl App {
    /// Makes a schedule.
    pub async fn create_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        settings: Settings,
    ) -> Result<Schedule> {
        self.require_named_policy(project, &settings.template.spec.retry).await?;
        let write = CreateSchedule { caller: caller.clone(), project: project.clone(), id: id.to_owned(), settings };
        let schedule = self.write(write).await?;
        self.schedule_changed(project);
        Ok(schedule)
    }

    /// One schedule.
    pub async fn get_schedule(&self, project: &ProjectId, id: &str) -> Result<Schedule> {
        self.require_project(project).await?;
        schedules::get(self.store(), project, id).await?.ok_or_else(|| not_found(project, id))
    }

    /// Schedules by id, those after `after`; and the id after which the next page goes on.
    pub async fn list_schedules(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Schedule>, Option<String>)> {
        self.require_project(project).await?;
        let found = schedules::list(self.store(), project, after.as_deref(), one_more(limit)).await?;
        Ok(cut(found, limit, |schedule| schedule.id.clone()))
    }

    /// Changes settings.
    pub async fn update_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        patch: SchedulePatch,
        etag: Option<String>,
    ) -> Result<Schedule> {
        if let Some(template) = &patch.template {
            self.require_named_policy(project, &template.spec.retry).await?;
        }
        self.change_schedule(caller, project, id, Change::Update { patch: Box::new(patch), etag }).await
    }

    /// Stops it. Of a paused schedule it changes the note.
    pub async fn pause_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        note: String,
    ) -> Result<Schedule> {
        self.change_schedule(caller, project, id, Change::Pause { note }).await
    }

    /// Goes on with its next tick from now.
    pub async fn resume_schedule(&self, caller: &Caller, project: &ProjectId, id: &str) -> Result<Schedule> {
        self.change_schedule(caller, project, id, Change::Resume).await
    }

    async fn change_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        change: Change,
    ) -> Result<Schedule> {
        let write = ChangeSchedule { caller: caller.clone(), project: project.clone(), id: id.to_owned(), change };
        let (schedule, changed) = self.write(write).await?;
        if changed {
            self.schedule_changed(project);
        }
        Ok(schedule)
    }

    /// Takes a schedule away; its tasks stay.
    pub async fn delete_schedule(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: &str,
        etag: Option<String>,
    ) -> Result<()> {
        let write = DeleteSchedule { caller: caller.clone(), project: project.clone(), id: id.to_owned(), etag };
        self.write(write).await?;
        self.schedule_changed(project);
        Ok(())
    }

    /// The ticks after a moment, or after now.
    pub async fn preview_schedule(
        &self,
        project: &ProjectId,
        what: Previewed,
        after: Option<Micros>,
        count: usize,
    ) -> Result<Vec<PlannedRun>> {
        let (timing, uid) = match what {
            Previewed::Stored(id) => {
                let schedule = self.get_schedule(project, &id).await?;
                (schedule.settings.timing, schedule.uid)
            }
            Previewed::Given(timing) => {
                self.require_project(project).await?;
                (timing, Uuid::nil())
            }
        };
        let mut at = match after {
            Some(after) => after,
            None => self.store().now().await?,
        };
        let plan = self::plan(&timing, uid)?;
        let mut runs = Vec::new();
        while let Some(tick) = plan.next_after(at).filter(|_| runs.len() < count) {
            runs.push(PlannedRun { planned_time: tick, run_time: plan.run_time(tick), local_time: plan.local(tick) });
            at = tick;
        }
        Ok(runs)
    }

    /// What became of ticks, latest first, those before `before`; and the tick before which the next page goes on.
    pub async fn list_occurrences(
        &self,
        project: &ProjectId,
        id: &str,
        before: Option<Micros>,
        limit: i64,
    ) -> Result<(Vec<Occurrence>, Option<Micros>)> {
        let schedule = self.get_schedule(project, id).await?;
        let found = occurrences::list(self.store(), schedule.uid, before, one_more(limit)).await?;
        Ok(cut(found, limit, |occurrence| occurrence.planned_time))
    }

    /// What was written is to be heard of: by watchers, and by the loop that fires.
    fn schedule_changed(&self, project: &ProjectId) {
        self.hub().journal_moved(project);
        self.alarm().reset();
    }
}

/// The schedule, locked; what does not exist is told as such.
pub(super) async fn lock(tx: &mut Tx, project: &ProjectId, id: &str) -> std::result::Result<Schedule, Stop> {
    if let Some(schedule) = schedules::lock(tx, project, id).await? {
        return Ok(schedule);
    }
    let name = project_name(project);
    let exists = projects::presence_in(tx, project).await? != projects::Presence::Missing;
    Err(if exists { not_found(project, id) } else { Error::NotFound { kind: "project", name } }.into())
}

/// Callers' timings were checked when they came, so one that cannot be read is a fault of ours.
pub(super) fn plan(timing: &Timing, uid: Uuid) -> Result<Plan> {
    Plan::new(timing, uid).map_err(|cause| Error::internal(anyhow::anyhow!("a timing cannot be read: {cause}")))
}

pub(super) fn not_found(project: &ProjectId, id: &str) -> Error {
    Error::NotFound { kind: "schedule", name: schedule_name(project, id) }
}
