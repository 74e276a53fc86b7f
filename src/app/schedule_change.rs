//! Changes of schedules: what they ask for, what they write.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    named_write::{Done, NamedWrite, Stop},
    project::require_live,
    schedule::{lock, plan},
};
use crate::{
    context::Caller,
    domain::{
        etag,
        event::ResourceKind,
        schedule::{
            CatchUp, Occurrence, OccurrenceState, Overlap, Progress, Schedule, Settings, Template, Timing,
            firing::{self, Step},
        },
        task::Micros,
    },
    error::{Error, Result},
    ids::{ProjectId, schedule_name},
    store::{
        Tx,
        journal::{self, Entry},
        occurrences, schedules,
    },
};

/// New values for settings. None leaves one as it is; an inner none clears it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulePatch {
    /// A name for people.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The cron expression.
    pub cron: Option<String>,
    /// The time zone.
    pub time_zone: Option<String>,
    /// No tick before.
    pub start_time: Option<Option<Micros>>,
    /// No tick after.
    pub end_time: Option<Option<Micros>>,
    /// Each tick fires up to this much later.
    pub jitter: Option<Micros>,
    /// What each task is made of.
    pub template: Option<Template>,
    /// When the task before is not final.
    pub overlap: Option<Overlap>,
    /// When no server was there.
    pub catch_up: Option<CatchUp>,
}

impl SchedulePatch {
    fn apply(&self, settings: &Settings) -> Settings {
        let patch = self.clone();
        let Settings { display_name, description, timing, template, overlap, catch_up, paused, pause_note } =
            settings.clone();
        let timing = Timing {
            cron: patch.cron.unwrap_or(timing.cron),
            time_zone: patch.time_zone.unwrap_or(timing.time_zone),
            start_time: patch.start_time.unwrap_or(timing.start_time),
            end_time: patch.end_time.unwrap_or(timing.end_time),
            jitter: patch.jitter.unwrap_or(timing.jitter),
        };
        Settings {
            display_name: patch.display_name.unwrap_or(display_name),
            description: patch.description.unwrap_or(description),
            timing,
            template: patch.template.unwrap_or(template),
            overlap: patch.overlap.unwrap_or(overlap),
            catch_up: patch.catch_up.unwrap_or(catch_up),
            paused,
            pause_note,
        }
    }
}

/// What an operator does to a schedule.
#[derive(Debug)]
pub(super) enum Change {
    Update { patch: Box<SchedulePatch>, etag: Option<String> },
    Pause { note: String },
    Resume,
}

impl Change {
    fn kind(&self) -> ResourceKind {
        match self {
            Self::Update { .. } => ResourceKind::ScheduleUpdated,
            Self::Pause { .. } => ResourceKind::SchedulePaused,
            Self::Resume => ResourceKind::ScheduleResumed,
        }
    }

    fn apply(&self, settings: &Settings) -> Settings {
        match self {
            Self::Update { patch, .. } => patch.apply(settings),
            Self::Pause { note } => Settings { paused: true, pause_note: note.clone(), ..settings.clone() },
            Self::Resume => Settings { paused: false, pause_note: String::new(), ..settings.clone() },
        }
    }
}

pub(super) struct CreateSchedule {
    pub(super) caller: Caller,
    pub(super) project: ProjectId,
    pub(super) id: String,
    pub(super) settings: Settings,
}

impl NamedWrite for CreateSchedule {
    const NAME: &'static str = "create-schedule";
    type Answer = Schedule;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Schedule>, Stop> {
        let Self { caller, project, id, settings } = self;
        require_live(tx, project).await?;
        let name = schedule_name(project, id);
        if schedules::lock(tx, project, id).await?.is_some() {
            return Err(Error::Exists { kind: "schedule", name }.into());
        }
        require_order(&settings.timing)?;
        let (now, uid) = (tx.now(), Uuid::now_v7());
        let schedule = Schedule {
            project: project.clone(),
            id: id.clone(),
            uid,
            owner: caller.principal.to_string(),
            settings: settings.clone(),
            progress: plan(&settings.timing, uid)?.moved_to(now, Progress::default()),
            create_time: now,
            update_time: now,
        };
        schedules::write(tx, &schedule).await?;
        let diff = diff(None, settings);
        let entry = Entry::of_resource(ResourceKind::ScheduleCreated, name, now, diff, caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(schedule))
    }
}

pub(super) struct ChangeSchedule {
    pub(super) caller: Caller,
    pub(super) project: ProjectId,
    pub(super) id: String,
    pub(super) change: Change,
}

impl NamedWrite for ChangeSchedule {
    const NAME: &'static str = "change-schedule";
    /// The schedule, and whether it changed.
    type Answer = (Schedule, bool);

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let Self { caller, project, id, change } = self;
        let mut schedule = lock(tx, project, id).await?;
        require_live(tx, project).await?;
        if let Change::Update { etag, .. } = change {
            require_etag(&schedule, etag.as_deref())?;
        }
        let settings = change.apply(&schedule.settings);
        let Some(diff) = diff(Some(&schedule.settings), &settings) else {
            return Ok(Done::Nothing((schedule, false)));
        };
        require_order(&settings.timing)?;
        let now = tx.now();
        let is_retimed = settings.timing != schedule.settings.timing;
        if is_retimed || settings.paused != schedule.settings.paused {
            let settled = settle(&mut schedule, &settings, now)?;
            occurrences::insert(tx, &settled).await?;
        }
        schedule.settings = settings;
        schedule.update_time = now;
        schedules::write(tx, &schedule).await?;
        let name = schedule_name(project, id);
        let entry = Entry::of_resource(change.kind(), name, now, Some(diff), caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit((schedule, true)))
    }
}

/// Lets a paused schedule go on from now. What is to be noted of its ticks.
pub(super) fn resume(schedule: &mut Schedule, now: Micros) -> Result<Vec<(Uuid, Occurrence)>> {
    let settings = Change::Resume.apply(&schedule.settings);
    let settled = settle(schedule, &settings, now)?;
    schedule.settings = settings;
    schedule.update_time = now;
    Ok(settled)
}

/// Ends what was planned by the old settings, and plans by the new ones.
fn settle(schedule: &mut Schedule, new: &Settings, now: Micros) -> Result<Vec<(Uuid, Occurrence)>> {
    let uid = schedule.uid;
    let mut steps = Vec::new();
    if !schedule.settings.paused {
        let reason = if new.paused { "the schedule was paused" } else { "the schedule was changed" };
        steps = firing::settle(schedule, &plan(&schedule.settings.timing, uid)?, now, reason);
    }
    let progress = &mut schedule.progress;
    if new.paused {
        let waited = progress.queued.take().map(|tick| {
            let reason = "the schedule was paused while it waited for the task before to end".to_owned();
            Step { tick, state: OccurrenceState::Skipped, reason, cancels_previous: false }
        });
        steps.extend(waited);
        (progress.next_tick, progress.wake_time) = (None, None);
    }
    let last = steps.iter().map(|step| step.tick).max().unwrap_or(now);
    // Never back: what was decided stays decided, even if the database's clock was put back.
    progress.decided = progress.decided.max(now).max(last);
    if !new.paused {
        *progress = plan(&new.timing, uid)?.moved_to(progress.decided, progress.clone());
    }
    let settled = |step: Step| {
        let Step { tick, state, reason, cancels_previous: _ } = step;
        (uid, Occurrence { planned_time: tick, state, reason, task: None, decide_time: now })
    };
    Ok(steps.into_iter().map(settled).collect())
}

pub(super) struct DeleteSchedule {
    pub(super) caller: Caller,
    pub(super) project: ProjectId,
    pub(super) id: String,
    pub(super) etag: Option<String>,
}

impl NamedWrite for DeleteSchedule {
    const NAME: &'static str = "delete-schedule";
    type Answer = ();

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<()>, Stop> {
        let Self { caller, project, id, etag } = self;
        let schedule = lock(tx, project, id).await?;
        require_etag(&schedule, etag.as_deref())?;
        schedules::delete(tx, project, id).await?;
        let name = schedule_name(project, id);
        let entry = Entry::of_resource(ResourceKind::ScheduleDeleted, name, tx.now(), None, caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(()))
    }
}

fn require_etag(schedule: &Schedule, asked: Option<&str>) -> Result<()> {
    let current = etag::schedule_etag(schedule);
    if asked.is_some_and(|asked| asked != current) {
        return Err(Error::EtagMismatch { name: schedule_name(&schedule.project, &schedule.id), current });
    }
    Ok(())
}

/// An update may change one of the two only, so this is known when they are together.
fn require_order(timing: &Timing) -> Result<()> {
    match (timing.start_time, timing.end_time) {
        (Some(start), Some(end)) if end <= start => {
            Err(Error::field("schedule.end_time", "must be later than start_time"))
        }
        _ => Ok(()),
    }
}

/// The settings that differ, as JSON: `{"cron": ["@daily", "@hourly"]}`. None when none does. Of an input, which may be
/// large or secret, only that it is another one.
fn diff(old: Option<&Settings>, new: &Settings) -> Option<String> {
    // Named one by one, so that a new setting is a compile error here.
    let values = |settings: &Settings| {
        let Settings { display_name, description, timing, template, overlap, catch_up, paused, pause_note } = settings;
        let Timing { cron, time_zone, start_time, end_time, jitter } = timing;
        let input = template.input.as_ref().map(|input| etag::of(&(&input.media_type, input.data.as_ref())));
        [
            ("display_name", json!(display_name)),
            ("description", json!(description)),
            ("cron", json!(cron)),
            ("time_zone", json!(time_zone)),
            ("start_time", json!(start_time)),
            ("end_time", json!(end_time)),
            ("jitter", json!(jitter)),
            ("task", template.encode().parse().unwrap_or_default()),
            ("task.input", json!(input)),
            ("overlap_policy", json!(overlap)),
            ("catch_up", json!(catch_up)),
            ("paused", json!(paused)),
            ("pause_note", json!(pause_note)),
        ]
    };
    let before = old.map(values).map_or_else(|| values(new).map(|_| Value::Null), |old| old.map(|(_, value)| value));
    let changed: Map<String, Value> = before
        .into_iter()
        .zip(values(new))
        .filter(|(before, (_, after))| before != after)
        .map(|(before, (field, after))| (field.to_owned(), json!([before, after])))
        .collect();
    (!changed.is_empty()).then(|| Value::Object(changed).to_string())
}
