//! What callers set of a schedule: created as a whole, changed field by field.

use std::ops::RangeInclusive;

use super::super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, scalar, task,
};
use crate::{
    app::schedule::SchedulePatch,
    domain::{
        schedule::{
            CatchUp, CatchUpPolicy, HORIZON, Overlap, PLANNED_TIME_LABEL, SCHEDULE_LABEL, Settings, Template, Timing,
            cron::Cron,
            firing::GRACE,
            ticks::{Zone, zone_version},
        },
        task::{DAY, Micros},
        transition::NewTask,
    },
    error::{Error, Result},
    ids::ProjectId,
    pb,
};

const JITTER: RangeInclusive<Micros> = 0..=DAY;
const CATCH_UP_COUNT: RangeInclusive<i32> = 1..=1_000;
const DEFAULT_CATCH_UP_COUNT: i32 = 100;
const CATCH_UP_WINDOW: RangeInclusive<Micros> = GRACE..=HORIZON;
const DEFAULT_CATCH_UP_WINDOW: Micros = DAY;
/// The largest input of a template, in bytes: hundreds of schedules are fired in one transaction.
const MAX_INPUT: usize = 32 * 1024;
/// Most labels of a template; two more are added to each task.
const MAX_LABELS: usize = 62;
/// The zone of schedules that name none.
const DEFAULT_ZONE: &str = "UTC";

/// A schedule to create: its project, id and settings.
pub fn create(request: pb::CreateScheduleRequest) -> Result<(ProjectId, String, Settings)> {
    let mut fields = Fields::new();
    let pb::CreateScheduleRequest { parent, schedule_id, schedule } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let schedule_id = name::short_id(&mut fields, &Path::Request.field("schedule_id"), schedule_id);
    let at = Path::Request.field("schedule");
    let Some(schedule) = schedule else {
        fields.refuse(&at, "is required");
        fields.finish(())?;
        return Err(Error::field("schedule", "is required"));
    };
    let SchedulePatch {
        display_name,
        description,
        cron,
        time_zone,
        start_time,
        end_time,
        jitter,
        template,
        overlap,
        catch_up,
    } = patch(&mut fields, &at, &project, schedule, &|_, _| true);
    let timing = Timing {
        cron: cron.unwrap_or_default(),
        time_zone: time_zone.unwrap_or_default(),
        start_time: start_time.flatten(),
        end_time: end_time.flatten(),
        jitter: jitter.unwrap_or_default(),
    };
    // It is missing only if it was refused.
    let (Some(template), Some(overlap), Some(catch_up)) = (template, overlap, catch_up) else {
        fields.finish(())?;
        return Err(Error::field("schedule.task", "is required"));
    };
    let settings = Settings {
        display_name: display_name.unwrap_or_default(),
        description: description.unwrap_or_default(),
        timing,
        template,
        overlap,
        catch_up,
        paused: false,
        pause_note: String::new(),
    };
    fields.finish((project, schedule_id, settings))
}

/// New settings for a schedule.
#[derive(Debug)]
pub struct Update {
    /// In this project.
    pub project: ProjectId,
    /// Of this schedule.
    pub id: String,
    /// What changes.
    pub patch: SchedulePatch,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// A change of settings.
pub fn update(request: pb::UpdateScheduleRequest) -> Result<Update> {
    const RULES: [(&str, Rule); 23] = [
        ("display_name", Rule::Changes),
        ("description", Rule::Changes),
        ("cron", Rule::Changes),
        ("time_zone", Rule::Changes),
        ("start_time", Rule::Changes),
        ("end_time", Rule::Changes),
        ("jitter", Rule::Changes),
        ("task", Rule::Changes),
        ("overlap_policy", Rule::Changes),
        ("catch_up", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("paused", Rule::OutputOnly),
        ("pause_note", Rule::OutputOnly),
        ("next_run_time", Rule::OutputOnly),
        ("last_run_time", Rule::OutputOnly),
        ("last_task", Rule::OutputOnly),
        ("queued_run_time", Rule::OutputOnly),
        ("time_zone_version", Rule::OutputOnly),
        ("owner", Rule::OutputOnly),
        ("uid", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateScheduleRequest { schedule, update_mask } = request;
    let Some(mut schedule) = schedule else { return Err(Error::field("schedule", "is required")) };
    let at = Path::Request.field("schedule");
    let (project, id) = name::schedule(&mut fields, &at.field("name"), &schedule.name);
    let id = id.to_owned();
    let etag = scalar::etag(&mut fields, &at.field("etag"), std::mem::take(&mut schedule.etag));
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let patch = patch(&mut fields, &at, &project, schedule, &|field, is_set| mask.changes(field, is_set));
    fields.finish(Update { project, id, patch, etag })
}

/// The settings of a message that `changes` names.
fn patch(
    fields: &mut Fields,
    at: &Path<'_>,
    project: &ProjectId,
    schedule: pb::Schedule,
    changes: &dyn Fn(&str, bool) -> bool,
) -> SchedulePatch {
    let pb::Schedule {
        display_name,
        description,
        cron,
        time_zone,
        start_time,
        end_time,
        jitter,
        task,
        overlap_policy,
        catch_up,
        // What the server says about a schedule is ignored in what a client says.
        name: _,
        paused: _,
        pause_note: _,
        next_run_time: _,
        last_run_time: _,
        last_task: _,
        queued_run_time: _,
        time_zone_version: _,
        owner: _,
        uid: _,
        create_time: _,
        update_time: _,
        etag: _,
    } = schedule;
    let mut patch = SchedulePatch::default();
    if changes("display_name", !display_name.is_empty()) {
        let at = at.field("display_name");
        patch.display_name = Some(scalar::chars_bounded(fields, &at, display_name, scalar::MAX_DISPLAY_NAME));
    }
    if changes("description", !description.is_empty()) {
        let at = at.field("description");
        patch.description = Some(scalar::bytes_bounded(fields, &at, description, scalar::SHORT_TEXT));
    }
    if changes("cron", !cron.is_empty()) {
        patch.cron = Some(self::cron(fields, &at.field("cron"), cron));
    }
    if changes("time_zone", !time_zone.is_empty()) {
        patch.time_zone = Some(zone(fields, &at.field("time_zone"), &time_zone));
    }
    if changes("start_time", start_time.is_some()) {
        patch.start_time = Some(start_time.map(|time| scalar::time(fields, &at.field("start_time"), &time)));
    }
    if changes("end_time", end_time.is_some()) {
        patch.end_time = Some(end_time.map(|time| scalar::time(fields, &at.field("end_time"), &time)));
    }
    if changes("jitter", jitter.is_some()) {
        patch.jitter = Some(jitter.map_or(0, |span| scalar::span(fields, &at.field("jitter"), &span, &JITTER)));
    }
    if changes("task", task.is_some()) {
        patch.template = template(fields, at, project, task);
    }
    if changes("overlap_policy", overlap_policy != 0) {
        patch.overlap = Some(overlap(fields, &at.field("overlap_policy"), overlap_policy));
    }
    if changes("catch_up", catch_up.is_some()) {
        patch.catch_up = Some(self::catch_up(fields, &at.field("catch_up"), catch_up.unwrap_or_default()));
    }
    patch
}

pub(super) fn cron(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    if let Err(fault) = Cron::parse(&text) {
        fields.refuse(at, fault.to_string());
    }
    // A text that was read holds nothing that cannot be stored.
    text
}

pub(super) fn zone(fields: &mut Fields, at: &Path<'_>, name: &str) -> String {
    if name.is_empty() {
        return DEFAULT_ZONE.to_owned();
    }
    match Zone::find(name) {
        Some(zone) => zone.name().to_owned(),
        None => {
            let version = zone_version();
            fields.refuse(at, format!("is no time zone of tz data {version}; write one such as Europe/Berlin"));
            String::new()
        }
    }
}

/// `at` is the path of the schedule.
fn template(fields: &mut Fields, at: &Path<'_>, project: &ProjectId, task: Option<pb::Task>) -> Option<Template> {
    if let Some(task) = &task {
        let at = at.field("task");
        if task.run_time.is_some() {
            fields.refuse(&at.field("run_time"), "must be empty: the schedule says when");
        }
        if task.expire_time.is_some() {
            fields.refuse(&at.field("expire_time"), "must be empty: it would be the same for every task");
        }
        let labels = at.field("labels");
        if task.labels.len() > MAX_LABELS {
            fields.refuse(&labels, format!("has {} labels; at most {MAX_LABELS} are allowed", task.labels.len()));
        }
        for key in [SCHEDULE_LABEL, PLANNED_TIME_LABEL] {
            if task.labels.contains_key(key) {
                fields.refuse(&Path::Key(&labels, key), "is set by the schedule");
            }
        }
    }
    // The owner comes with the schedule.
    let NewTask { id: _, spec, input, run_time: _ } = task::new_task(fields, at, project, task, "", "")?.new;
    if input.as_ref().is_some_and(|input| input.data.len() > MAX_INPUT) {
        fields.refuse(&at.field("task").field("input"), format!("is longer than {MAX_INPUT} bytes"));
    }
    Some(Template { spec: spec.into(), input })
}

fn overlap(fields: &mut Fields, at: &Path<'_>, policy: i32) -> Overlap {
    match pb::OverlapPolicy::try_from(policy) {
        Ok(pb::OverlapPolicy::Unspecified | pb::OverlapPolicy::Allow) => Overlap::Allow,
        Ok(pb::OverlapPolicy::Skip) => Overlap::Skip,
        Ok(pb::OverlapPolicy::QueueOne) => Overlap::QueueOne,
        Ok(pb::OverlapPolicy::CancelPrevious) => Overlap::CancelPrevious,
        Err(_) => {
            fields.refuse(at, format!("{policy} is none; ALLOW is 1, SKIP 2, QUEUE_ONE 3, CANCEL_PREVIOUS 4"));
            Overlap::Allow
        }
    }
}

fn catch_up(fields: &mut Fields, at: &Path<'_>, catch_up: pb::CatchUp) -> CatchUp {
    let pb::CatchUp { policy, max_count, window } = catch_up;
    let policy = match pb::CatchUpPolicy::try_from(policy) {
        Ok(pb::CatchUpPolicy::Unspecified | pb::CatchUpPolicy::Last) => CatchUpPolicy::Last,
        Ok(pb::CatchUpPolicy::Skip) => CatchUpPolicy::Skip,
        Ok(pb::CatchUpPolicy::All) => CatchUpPolicy::All,
        Err(_) => {
            fields.refuse(&at.field("policy"), format!("{policy} is none; SKIP is 1, LAST 2, ALL 3"));
            CatchUpPolicy::Last
        }
    };
    let at_count = at.field("max_count");
    CatchUp {
        policy,
        max_count: scalar::number_or(fields, &at_count, max_count, CATCH_UP_COUNT, DEFAULT_CATCH_UP_COUNT),
        window: window
            .map_or(DEFAULT_CATCH_UP_WINDOW, |span| scalar::span(fields, &at.field("window"), &span, &CATCH_UP_WINDOW)),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::scalar::{duration, timestamp},
        *,
    };
    use crate::{
        api::convert::schedule::schedule,
        domain::{
            schedule::{Progress, Schedule},
            task::SECOND,
        },
    };

    fn faults<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
        match result {
            Err(Error::Invalid(violations)) => violations.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn nightly() -> pb::Schedule {
        let task = pb::Task { r#type: "report".into(), ..Default::default() };
        pb::Schedule { cron: "30 2 * * *".into(), task: Some(task), ..Default::default() }
    }

    fn create_of(schedule: pb::Schedule) -> Result<Settings> {
        let (parent, schedule_id) = (String::new(), "nightly".to_owned());
        Ok(create(pb::CreateScheduleRequest { parent, schedule_id, schedule: Some(schedule) })?.2)
    }

    #[test]
    fn a_schedule_takes_its_defaults() {
        let settings = create_of(pb::Schedule { time_zone: "europe/berlin".into(), ..nightly() }).unwrap();
        assert_eq!((&*settings.timing.time_zone, settings.timing.jitter), ("Europe/Berlin", 0));
        assert_eq!((settings.overlap, settings.paused), (Overlap::Allow, false));
        let catch_up = CatchUp { policy: CatchUpPolicy::Last, max_count: 100, window: DAY };
        assert_eq!((settings.catch_up, &*settings.template.spec.queue), (catch_up, "default"));
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let task = pb::Task {
            run_time: Some(timestamp(0)),
            expire_time: Some(timestamp(0)),
            labels: [(SCHEDULE_LABEL.to_owned(), String::new())].into(),
            input: Some(pb::Payload {
                kind: Some(pb::payload::Kind::Blob(pb::Blob {
                    data: vec![0; MAX_INPUT + 1].into(),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        };
        let bad = pb::Schedule {
            cron: "61 * * * *".into(),
            time_zone: "Mars/Olympus".into(),
            jitter: Some(duration(2 * DAY)),
            task: Some(task),
            overlap_policy: 9,
            catch_up: Some(pb::CatchUp { policy: 9, max_count: -1, window: Some(duration(SECOND)) }),
            display_name: "x".repeat(64),
            ..Default::default()
        };
        let request = pb::CreateScheduleRequest { schedule_id: "9".into(), schedule: Some(bad), ..Default::default() };
        let faults = faults(create(request));
        let paths: Vec<&str> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        let expected = [
            "schedule_id",
            "schedule.display_name",
            "schedule.cron",
            "schedule.time_zone",
            "schedule.jitter",
            "schedule.task.run_time",
            "schedule.task.expire_time",
            "schedule.task.labels[\"tasktower/schedule\"]",
            "schedule.task.type",
            "schedule.task.input",
            "schedule.overlap_policy",
            "schedule.catch_up.policy",
            "schedule.catch_up.max_count",
            "schedule.catch_up.window",
        ];
        assert_eq!(paths, expected);
        assert!(faults[2].contains("minute, column 1"), "{}", faults[2]);
    }

    #[test]
    fn a_schedule_comes_back_as_it_went() {
        let settings = create_of(nightly()).unwrap();
        let there = Schedule {
            project: ProjectId::new("p"),
            id: "s".into(),
            uid: uuid::Uuid::nil(),
            owner: "o".into(),
            settings,
            progress: Progress::default(),
            create_time: 0,
            update_time: 0,
        };
        let wire = schedule(&there, true);
        assert_eq!(create_of(wire.clone()).unwrap(), there.settings);
        let mask = prost_types::FieldMask { paths: vec!["cron".into(), "owner".into()] };
        let changed = pb::Schedule { cron: "@daily".into(), ..wire };
        let update = update(pb::UpdateScheduleRequest { schedule: Some(changed), update_mask: Some(mask) }).unwrap();
        assert_eq!(update.patch, SchedulePatch { cron: Some("@daily".into()), ..Default::default() });
    }
}
