//! Bad requests about schedules.

use tasktower::pb;

use super::{Case, bad, missing, span, task};

const SCHEDULES: &str = "tasktower.v1.ScheduleService";

pub(super) fn cases() -> Vec<Case> {
    let name = || "projects/default/schedules/none".to_owned();
    let good = || pb::Schedule { cron: "@daily".into(), task: Some(task("t")), ..Default::default() };
    let create = |schedule: pb::Schedule| pb::CreateScheduleRequest {
        schedule_id: "s".into(),
        schedule: Some(schedule),
        ..Default::default()
    };
    let update = |schedule: pb::Schedule| pb::UpdateScheduleRequest {
        schedule: Some(pb::Schedule { name: name(), ..schedule }),
        update_mask: None,
    };
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let backfill =
        |start_time, end_time| pb::BackfillScheduleRequest { name: name(), start_time, end_time, ..Default::default() };
    vec![
        bad(SCHEDULES, "CreateSchedule", pb::CreateScheduleRequest::default(), &["schedule_id", "schedule"]),
        bad(
            SCHEDULES,
            "CreateSchedule",
            create(pb::Schedule { cron: "* * * * x".into(), time_zone: "X".into(), ..good() }),
            &["schedule.cron", "schedule.time_zone"],
        ),
        bad(
            SCHEDULES,
            "CreateSchedule",
            create(pb::Schedule { jitter: span(86_401, 0), task: None, ..good() }),
            &["schedule.jitter", "schedule.task"],
        ),
        missing(
            SCHEDULES,
            "CreateSchedule",
            pb::CreateScheduleRequest { parent: "projects/none".into(), ..create(good()) },
        ),
        bad(
            SCHEDULES,
            "GetSchedule",
            pb::GetScheduleRequest { name: "projects/default/schedules/S".into() },
            &["name"],
        ),
        missing(SCHEDULES, "GetSchedule", pb::GetScheduleRequest { name: name() }),
        bad(
            SCHEDULES,
            "ListSchedules",
            pb::ListSchedulesRequest { page_size: -1, ..Default::default() },
            &["page_size"],
        ),
        missing(
            SCHEDULES,
            "ListSchedules",
            pb::ListSchedulesRequest { parent: "projects/none".into(), ..Default::default() },
        ),
        bad(SCHEDULES, "UpdateSchedule", pb::UpdateScheduleRequest::default(), &["schedule"]),
        bad(
            SCHEDULES,
            "UpdateSchedule",
            update(pb::Schedule { overlap_policy: 99, ..Default::default() }),
            &["schedule.overlap_policy"],
        ),
        missing(SCHEDULES, "UpdateSchedule", update(good())),
        bad(SCHEDULES, "DeleteSchedule", pb::DeleteScheduleRequest::default(), &["name"]),
        missing(SCHEDULES, "DeleteSchedule", pb::DeleteScheduleRequest { name: name(), ..Default::default() }),
        bad(SCHEDULES, "PauseSchedule", pb::PauseScheduleRequest { name: name(), note: "n".repeat(1_025) }, &["note"]),
        missing(SCHEDULES, "PauseSchedule", pb::PauseScheduleRequest { name: name(), ..Default::default() }),
        bad(SCHEDULES, "ResumeSchedule", pb::ResumeScheduleRequest { name: "s".into() }, &["name"]),
        missing(SCHEDULES, "ResumeSchedule", pb::ResumeScheduleRequest { name: name() }),
        bad(SCHEDULES, "PreviewSchedule", pb::PreviewScheduleRequest::default(), &["cron"]),
        bad(
            SCHEDULES,
            "PreviewSchedule",
            pb::PreviewScheduleRequest { cron: "@daily".into(), count: 1_001, ..Default::default() },
            &["count"],
        ),
        missing(
            SCHEDULES,
            "PreviewSchedule",
            pb::PreviewScheduleRequest { schedule_id: "none".into(), ..Default::default() },
        ),
        bad(SCHEDULES, "RunSchedule", pb::RunScheduleRequest::default(), &["name"]),
        missing(SCHEDULES, "RunSchedule", pb::RunScheduleRequest { name: name() }),
        bad(SCHEDULES, "BackfillSchedule", backfill(None, None), &["start_time", "end_time"]),
        bad(SCHEDULES, "BackfillSchedule", backfill(time(5), time(5)), &["end_time"]),
        missing(SCHEDULES, "BackfillSchedule", backfill(time(5), time(6))),
        bad(SCHEDULES, "ListOccurrences", pb::ListOccurrencesRequest::default(), &["parent"]),
        missing(SCHEDULES, "ListOccurrences", pb::ListOccurrencesRequest { parent: name(), ..Default::default() }),
    ]
}
