//! Schedules: which, how many, when. What callers set is in `settings`, what they are answered in `answers`.

mod answers;
mod settings;

use std::ops::RangeInclusive;

use self::settings::{cron, zone};
pub use self::{
    answers::{backfilled, occurrence, planned, schedule},
    settings::{Update, create, update},
};
use super::{
    fields::{Fields, Path},
    name, page, queue, scalar,
};
use crate::{
    app::{schedule::Previewed, schedule_by_hand::Backfill},
    domain::{schedule::Timing, task::Micros},
    error::Result,
    ids::ProjectId,
    pb,
};

const PREVIEW_COUNT: RangeInclusive<i32> = 1..=1_000;
const DEFAULT_PREVIEW_COUNT: i32 = 10;
/// Most schedules of a page.
const MAX_PAGE: i64 = 100;

/// One schedule.
pub fn get(request: pb::GetScheduleRequest) -> Result<(ProjectId, String)> {
    let pb::GetScheduleRequest { name } = request;
    named(Fields::new(), "name", &name)
}

/// A schedule to go on with.
pub fn resume(request: pb::ResumeScheduleRequest) -> Result<(ProjectId, String)> {
    let pb::ResumeScheduleRequest { name } = request;
    named(Fields::new(), "name", &name)
}

/// A schedule to make a task of now.
pub fn run(request: pb::RunScheduleRequest) -> Result<(ProjectId, String)> {
    let pb::RunScheduleRequest { name } = request;
    named(Fields::new(), "name", &name)
}

/// A schedule to be paused, and why.
pub fn pause(request: pb::PauseScheduleRequest) -> Result<(ProjectId, String, String)> {
    let mut fields = Fields::new();
    let pb::PauseScheduleRequest { name, note } = request;
    let note = scalar::bytes_bounded(&mut fields, &Path::Request.field("note"), note, scalar::SHORT_TEXT);
    let (project, id) = named(fields, "name", &name)?;
    Ok((project, id, note))
}

/// A schedule to be deleted, and the etag it must have.
pub fn delete(request: pb::DeleteScheduleRequest) -> Result<(ProjectId, String, Option<String>)> {
    let mut fields = Fields::new();
    let pb::DeleteScheduleRequest { name, etag } = request;
    let etag = scalar::etag(&mut fields, &Path::Request.field("etag"), etag);
    let (project, id) = named(fields, "name", &name)?;
    Ok((project, id, etag))
}

fn named(mut fields: Fields, field: &'static str, name: &str) -> Result<(ProjectId, String)> {
    let (project, id) = name::schedule(&mut fields, &Path::Request.field(field), name);
    fields.finish((project, id.to_owned()))
}

/// A page of schedules, before its page token is read: project, size, page token.
pub fn list(request: pb::ListSchedulesRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListSchedulesRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size).min(MAX_PAGE);
    fields.finish((project, limit, page_token))
}

/// A page of occurrences, before its page token is read: project, schedule, size, page token.
pub fn list_occurrences(request: pb::ListOccurrencesRequest) -> Result<(ProjectId, String, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListOccurrencesRequest { parent, page_size, page_token } = request;
    let limit = page::size(&mut fields, page_size);
    let (project, id) = named(fields, "parent", &parent)?;
    Ok((project, id, limit, page_token))
}

/// Ticks to look at.
#[derive(Debug)]
pub struct Preview {
    /// In this project.
    pub project: ProjectId,
    /// Whose.
    pub what: Previewed,
    /// After this moment; none means now.
    pub after: Option<Micros>,
    /// How many.
    pub count: usize,
}

/// What a schedule or an expression does next.
pub fn preview(request: pb::PreviewScheduleRequest) -> Result<Preview> {
    let mut fields = Fields::new();
    let pb::PreviewScheduleRequest { parent, schedule_id, cron, time_zone, after_time, count } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let what = if schedule_id.is_empty() {
        let cron = self::cron(&mut fields, &Path::Request.field("cron"), cron);
        let time_zone = zone(&mut fields, &Path::Request.field("time_zone"), &time_zone);
        Previewed::Given(Timing { cron, time_zone, start_time: None, end_time: None, jitter: 0 })
    } else {
        if !name::is_project_id(&schedule_id) {
            fields.refuse(&Path::Request.field("schedule_id"), "must match [a-z][a-z0-9-]{0,62}");
        }
        for (field, text) in [("cron", cron), ("time_zone", time_zone)] {
            if !text.is_empty() {
                fields.refuse(&Path::Request.field(field), "must be empty beside schedule_id");
            }
        }
        Previewed::Stored(schedule_id)
    };
    let after = after_time.map(|time| scalar::time(&mut fields, &Path::Request.field("after_time"), &time));
    let at = Path::Request.field("count");
    let count = scalar::number_or(&mut fields, &at, count, PREVIEW_COUNT, DEFAULT_PREVIEW_COUNT);
    fields.finish(Preview { project, what, after, count: usize::try_from(count).unwrap_or(0) })
}

/// Past ticks to make tasks of.
pub fn backfill(request: pb::BackfillScheduleRequest) -> Result<(ProjectId, String, Backfill)> {
    let mut fields = Fields::new();
    let pb::BackfillScheduleRequest { name, start_time, end_time, rate, dry_run } = request;
    let mut time = |field: &'static str, time: Option<prost_types::Timestamp>| {
        let at = Path::Request.field(field);
        match time {
            Some(time) => scalar::time(&mut fields, &at, &time),
            None => {
                fields.refuse(&at, "is required");
                0
            }
        }
    };
    let both = start_time.is_some() && end_time.is_some();
    let (start_time, end_time) = (time("start_time", start_time), time("end_time", end_time));
    if both && end_time <= start_time {
        fields.refuse(&Path::Request.field("end_time"), "must be later than start_time");
    }
    let rate = rate.map(|rate| queue::rate(&mut fields, &Path::Request.field("rate"), rate));
    let (project, id) = named(fields, "name", &name)?;
    Ok((project, id, Backfill { start_time, end_time, rate, dry_run }))
}
