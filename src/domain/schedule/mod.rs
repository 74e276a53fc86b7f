//! A schedule: tasks by the clock. `cron.rs` reads expressions, `ticks.rs` turns them into moments, `firing.rs` decides what
//! becomes of those that are due.

pub mod cron;
pub mod firing;
pub mod ticks;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::{
    cron::Cron,
    ticks::{Zone, next_after},
};
use super::{
    snapshot,
    task::{DAY, Micros, Payload, Spec},
    transition::{self, NewTask},
};
use crate::ids::{ProjectId, TaskId};

/// The label of a task that says which schedule made it.
pub const SCHEDULE_LABEL: &str = "tasktower/schedule";
/// The label of a task that says for which tick it was made.
pub const PLANNED_TIME_LABEL: &str = "tasktower/planned-time";

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its project.
    pub project: ProjectId,
    /// Its id in the project.
    pub id: String,
    /// Its own for ever; its occurrences are kept under it.
    pub uid: Uuid,
    /// Who created it, and owns its tasks.
    pub owner: String,
    /// What callers set.
    pub settings: Settings,
    /// Where it stands.
    pub progress: Progress,
    /// When it was created.
    pub create_time: Micros,
    /// When its settings last changed.
    pub update_time: Micros,
}

/// What callers set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A name for people.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// When it ticks.
    pub timing: Timing,
    /// What each task is made of.
    pub template: Template,
    /// When the task before is not final.
    pub overlap: Overlap,
    /// When no server was there.
    pub catch_up: CatchUp,
    /// It does not fire.
    pub paused: bool,
    /// Why.
    pub pause_note: String,
}

/// When a schedule ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The expression as it was written.
    pub cron: String,
    /// An IANA time zone.
    pub time_zone: String,
    /// No tick before.
    pub start_time: Option<Micros>,
    /// No tick after.
    pub end_time: Option<Micros>,
    /// Each tick fires up to this much later.
    pub jitter: Micros,
}

/// What the tasks of a schedule are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Everything but the owner and the time of its creation.
    pub spec: Arc<Spec>,
    /// What the handler is given.
    pub input: Option<Payload>,
}

/// What happens at a tick while the task of the firing before is not final. The numbers are those of the wire and of the
/// database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[repr(u8)]
pub enum Overlap {
    /// It fires all the same.
    Allow = 1,
    /// It is skipped.
    Skip = 2,
    /// It fires when that task has ended; one waits at a time.
    QueueOne = 3,
    /// It fires, and that task is cancelled.
    CancelPrevious = 4,
}

impl TryFrom<i16> for Overlap {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        let all = [Self::Allow, Self::Skip, Self::QueueOne, Self::CancelPrevious];
        all.into_iter().find(|overlap| *overlap as i16 == number).ok_or(number)
    }
}

/// What happens to ticks that are late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CatchUp {
    /// Which of them fire.
    pub policy: CatchUpPolicy,
    /// With ALL at most this many.
    pub max_count: i32,
    /// None that is later than this.
    pub window: Micros,
}

/// Which late ticks fire. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[repr(u8)]
pub enum CatchUpPolicy {
    /// None.
    Skip = 1,
    /// The latest.
    Last = 2,
    /// All, up to a number.
    All = 3,
}

impl TryFrom<i16> for CatchUpPolicy {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Skip, Self::Last, Self::All].into_iter().find(|policy| *policy as i16 == number).ok_or(number)
    }
}

/// Where a schedule stands. Moved by firing, and by changes of its timing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What became of the ticks up to here is decided.
    pub decided: Micros,
    /// The next tick; none when it is paused or over.
    pub next_tick: Option<Micros>,
    /// When there is something to do: the next tick with its jitter, or a look whether the task before has ended.
    pub wake_time: Option<Micros>,
    /// A tick that waits for the task before to end.
    pub queued: Option<Micros>,
    /// The last tick that made a task.
    pub last_tick: Option<Micros>,
    /// That task.
    pub last_task: Option<TaskId>,
    /// The time zone data that `next_tick` was computed with.
    pub zone_version: String,
}

/// What became of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The tick.
    pub planned_time: Micros,
    /// What became of it.
    pub state: OccurrenceState,
    /// Why, if it did not simply fire.
    pub reason: String,
    /// The task it made, or that stood in its way.
    pub task: Option<TaskId>,
    /// When this was decided.
    pub decide_time: Micros,
}

/// What became of a tick. The numbers are those of the wire and of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OccurrenceState {
    /// It made a task in time.
    Fired = 1,
    /// It made none.
    Skipped = 2,
    /// No server was there.
    Missed = 3,
    /// No server was there; it made a task later.
    CaughtUp = 4,
    /// Asked for by hand.
    Manual = 5,
    /// Made a task afterwards, by hand.
    Backfilled = 6,
}

impl OccurrenceState {
    const ALL: [Self; 6] = [Self::Fired, Self::Skipped, Self::Missed, Self::CaughtUp, Self::Manual, Self::Backfilled];

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fired => "FIRED",
            Self::Skipped => "SKIPPED",
            Self::Missed => "MISSED",
            Self::CaughtUp => "CAUGHT_UP",
            Self::Manual => "MANUAL",
            Self::Backfilled => "BACKFILLED",
        }
    }

    /// Whether the tick made a task.
    pub fn made_task(self) -> bool {
        !matches!(self, Self::Skipped | Self::Missed)
    }
}

impl TryFrom<i16> for OccurrenceState {
    type Error = i16;

    fn try_from(number: i16) -> Result<Self, i16> {
        Self::ALL.into_iter().find(|state| *state as i16 == number).ok_or(number)
    }
}

/// A timing that was read and can be asked for ticks.
#[derive(Clone, Debug)]
pub struct Plan {
    cron: Cron,
    zone: Zone,
    start_time: Option<Micros>,
    end_time: Option<Micros>,
    jitter: Micros,
    /// What jitter is drawn from besides the tick.
    seed: u64,
}

impl Plan {
    /// Reads a timing; `uid` is the schedule's. The fault is for a log: callers' timings were checked when they came.
    pub fn new(timing: &Timing, uid: Uuid) -> Result<Self, String> {
        let Timing { cron, time_zone, start_time, end_time, jitter } = timing;
        let zone = Zone::find(time_zone).ok_or_else(|| format!("the time zone {time_zone} is not known any more"))?;
        Ok(Self {
            cron: Cron::parse(cron).map_err(|cause| cause.to_string())?,
            zone,
            start_time: *start_time,
            end_time: *end_time,
            jitter: *jitter,
            seed: uid.as_u64_pair().1,
        })
    }

    /// The first tick after a moment; none when there is none any more.
    pub fn next_after(&self, moment: Micros) -> Option<Micros> {
        let after = self.start_time.map_or(moment, |start| moment.max(start.saturating_sub(1)));
        self.tick_after(after).filter(|tick| self.end_time.is_none_or(|end| *tick <= end))
    }

    /// The same whatever the bounds of the schedule.
    pub fn tick_after(&self, moment: Micros) -> Option<Micros> {
        next_after(&self.cron, &self.zone, moment)
    }

    /// When a tick fires: the tick with its jitter, the same whoever draws it.
    pub fn run_time(&self, tick: Micros) -> Micros {
        // SplitMix64: every bit of the tick moves every bit of the draw.
        let mut x = self.seed.wrapping_add(tick.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let spread = self.jitter.unsigned_abs().saturating_add(1);
        tick.saturating_add((x % spread).cast_signed())
    }

    /// A moment as the clock on the wall shows it.
    pub fn local(&self, moment: Micros) -> String {
        self.zone.local(moment)
    }

    /// Where a schedule stands whose ticks up to a moment are decided.
    #[must_use]
    pub fn moved_to(&self, decided: Micros, progress: Progress) -> Progress {
        let next_tick = self.next_after(decided);
        let wake_time = next_tick.map(|tick| self.run_time(tick));
        Progress { decided, next_tick, wake_time, zone_version: ticks::zone_version().to_owned(), ..progress }
    }
}

impl Template {
    /// The task of a tick.
    pub fn task(&self, schedule: &Schedule, tick: Micros, run_time: Option<Micros>) -> NewTask {
        let mut spec = Spec { owner: schedule.owner.clone(), ..(*self.spec).clone() };
        spec.labels.insert(SCHEDULE_LABEL.to_owned(), schedule.id.clone());
        spec.labels.insert(PLANNED_TIME_LABEL.to_owned(), rfc3339(tick));
        NewTask { id: TaskId::generate(), spec, input: self.input.clone(), run_time }
    }

    /// As it is kept: the snapshot of a task made of it, which reads what older versions wrote.
    pub fn encode(&self) -> String {
        let new = NewTask { id: TaskId(Uuid::nil()), spec: (*self.spec).clone(), input: None, run_time: None };
        snapshot::encode(&transition::submit(&ProjectId::new(""), new, 0).after)
    }

    /// What was kept.
    pub fn decode(text: &str, input: Option<Payload>) -> serde_json::Result<Self> {
        let project = ProjectId::new("");
        let row = snapshot::Row { project: &project, id: TaskId(Uuid::nil()), version: 1, time: 0, owner: "" };
        let (task, _) = snapshot::decode(&row, text, None)?;
        Ok(Self { spec: task.spec, input })
    }
}

/// A moment as machines read it, UTC.
fn rfc3339(moment: Micros) -> String {
    jiff::Timestamp::from_microsecond(moment).map(|moment| moment.to_string()).unwrap_or_default()
}

/// No tick is looked for further back: 31 days. What is older is MISSED as a whole.
pub const HORIZON: Micros = 31 * DAY;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::SECOND;

    fn timing(cron: &str) -> Timing {
        let time_zone = "UTC".to_owned();
        Timing { cron: cron.to_owned(), time_zone, start_time: None, end_time: None, jitter: 0 }
    }

    #[test]
    fn ticks_keep_to_start_and_end() {
        let bounded = Timing { start_time: Some(90 * SECOND), end_time: Some(180 * SECOND), ..timing("* * * * *") };
        let plan = Plan::new(&bounded, Uuid::nil()).unwrap();
        assert_eq!(plan.next_after(0), Some(120 * SECOND));
        assert_eq!(plan.next_after(120 * SECOND), Some(180 * SECOND));
        assert_eq!(plan.next_after(180 * SECOND), None);
        let on_the_dot = Timing { start_time: Some(120 * SECOND), ..bounded };
        assert_eq!(Plan::new(&on_the_dot, Uuid::nil()).unwrap().next_after(0), Some(120 * SECOND));
    }

    #[test]
    fn jitter_is_drawn_alike_everywhere_and_spreads() {
        let spread = Timing { jitter: 60 * SECOND, ..timing("@daily") };
        let draw = |n: u64, tick| Plan::new(&spread, Uuid::from_u64_pair(0, n)).unwrap().run_time(tick) - tick;
        assert_eq!(draw(1, 0), draw(1, 0));
        let draws: Vec<Micros> = (0..6_000).map(|n| draw(n, 1_764_028_800 * SECOND)).collect();
        assert!(draws.iter().all(|draw| (0..=60 * SECOND).contains(draw)));
        for second in 0..60 {
            let fired = draws.iter().filter(|draw| **draw / SECOND == second).count();
            assert!((50..200).contains(&fired), "{fired} of 6,000 in second {second}");
        }
        assert_ne!(draw(1, 0), draw(1, 60 * SECOND));
        assert_eq!(Plan::new(&timing("@daily"), Uuid::nil()).unwrap().run_time(7), 7);
    }
}
