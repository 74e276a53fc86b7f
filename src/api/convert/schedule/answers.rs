//! Schedules, ticks and what became of them, for the wire.

use super::super::{
    scalar::{duration, timestamp},
    task,
};
use crate::{
    app::{schedule::PlannedRun, schedule_by_hand::Backfilled},
    domain::{
        etag,
        schedule::{Occurrence, Progress, Schedule, Settings, Template, Timing},
        transition::{self, NewTask},
    },
    ids::{ProjectId, TaskId, schedule_name, task_name},
    pb,
};

/// A schedule for the wire; `full` adds the input of its tasks.
pub fn schedule(schedule: &Schedule, full: bool) -> pb::Schedule {
    let Schedule { project, id, uid, owner, settings, progress, create_time, update_time } = schedule;
    let Settings { display_name, description, timing, template, overlap, catch_up, paused, pause_note } = settings;
    let Timing { cron, time_zone, start_time, end_time, jitter } = timing;
    let Progress { decided: _, next_tick, wake_time: _, queued, last_tick, last_task, zone_version } = progress;
    pb::Schedule {
        name: schedule_name(project, id),
        display_name: display_name.clone(),
        description: description.clone(),
        cron: cron.clone(),
        time_zone: time_zone.clone(),
        start_time: start_time.map(timestamp),
        end_time: end_time.map(timestamp),
        jitter: Some(duration(*jitter)),
        task: Some(template_to_wire(project, template, full)),
        // The numbers of the domain are those of the wire.
        overlap_policy: *overlap as i32,
        catch_up: Some(pb::CatchUp {
            policy: catch_up.policy as i32,
            max_count: catch_up.max_count,
            window: Some(duration(catch_up.window)),
        }),
        paused: *paused,
        pause_note: pause_note.clone(),
        next_run_time: next_tick.map(timestamp),
        last_run_time: last_tick.map(timestamp),
        last_task: last_task.map(|task| task_name(project, task)).unwrap_or_default(),
        queued_run_time: queued.map(timestamp),
        time_zone_version: zone_version.clone(),
        owner: owner.clone(),
        uid: uid.to_string(),
        create_time: Some(timestamp(*create_time)),
        update_time: Some(timestamp(*update_time)),
        etag: etag::schedule_etag(schedule),
    }
}

/// What a task made of it looks like, less what only a task has.
fn template_to_wire(project: &ProjectId, template: &Template, full: bool) -> pb::Task {
    let spec = (*template.spec).clone();
    let new = NewTask { id: TaskId(uuid::Uuid::nil()), spec, input: template.input.clone(), run_time: None };
    pb::Task {
        name: String::new(),
        run_time: None,
        state: 0,
        version: 0,
        owner: String::new(),
        create_time: None,
        update_time: None,
        etag: String::new(),
        ..task::task(&transition::submit(project, new, 0).after, full)
    }
}

/// An occurrence for the wire.
pub fn occurrence(project: &ProjectId, schedule: &str, occurrence: &Occurrence) -> pb::Occurrence {
    let Occurrence { planned_time, state, reason, task, decide_time } = occurrence;
    pb::Occurrence {
        name: format!("{}/occurrences/{planned_time}", schedule_name(project, schedule)),
        planned_time: Some(timestamp(*planned_time)),
        state: *state as i32,
        reason: reason.clone(),
        task: task.map(|task| task_name(project, task)).unwrap_or_default(),
        decide_time: Some(timestamp(*decide_time)),
    }
}

/// A tick that is to come, for the wire.
pub fn planned(run: PlannedRun) -> pb::PlannedRun {
    let PlannedRun { planned_time, run_time, local_time } = run;
    pb::PlannedRun { planned_time: Some(timestamp(planned_time)), run_time: Some(timestamp(run_time)), local_time }
}

/// What a backfill made, for the wire.
pub fn backfilled(backfilled: Backfilled) -> pb::BackfillScheduleResponse {
    let Backfilled { ticks, done, made, skipped, last_due_time, next_start_time } = backfilled;
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    pb::BackfillScheduleResponse {
        tick_count: count(ticks),
        done_count: count(done),
        backfilled_count: count(made),
        skipped_count: count(skipped),
        last_due_time: last_due_time.map(timestamp),
        next_start_time: next_start_time.map(timestamp),
    }
}
