//! Schedules, their ticks, and what became of these.

use super::{labels, length, moment, moment_in_full, or_dash, payload_text, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{Occurrence, PlannedRun, Schedule, occurrence::State},
};

fn state(schedule: &Schedule) -> Styled {
    match (schedule.paused, &schedule.next_run_time) {
        (true, _) => Styled::new("PAUSED", Color::Yellow),
        (false, Some(_)) => Styled::new("ACTIVE", Color::Green),
        (false, None) => Styled::new("OVER", Color::Dim),
    }
}

fn catch_up(schedule: &Schedule) -> String {
    schedule
        .catch_up
        .as_ref()
        .map(|catch_up| {
            let policy = strip(catch_up.policy().as_str_name(), "CATCH_UP_POLICY_");
            let window = length(catch_up.window.as_ref());
            format!("{policy}, up to {} within {window}", catch_up.max_count)
        })
        .unwrap_or_default()
}

impl Resource for Schedule {
    const PROTO: &'static str = "tasktower.v1.Schedule";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &["SCHEDULE", "STATE", "CRON", "ZONE", "TYPE", "QUEUE", "OVERLAP", "NEXT", "LAST", "NOTE"]
        } else {
            &["SCHEDULE", "STATE", "CRON", "ZONE", "TYPE", "NEXT", "LAST"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let task = self.task.as_ref();
        let text = |text: Option<&String>| or_dash(text.cloned().unwrap_or_default());
        let mut cells = vec![
            names::id(&self.name).into(),
            state(self),
            self.cron.as_str().into(),
            self.time_zone.as_str().into(),
            text(task.map(|task| &task.r#type)),
        ];
        if look.wide {
            cells.push(text(task.map(|task| &task.queue)));
            cells.push(strip(self.overlap_policy().as_str_name(), "OVERLAP_POLICY_").into());
        }
        cells.push(moment(self.next_run_time.as_ref(), look));
        cells.push(moment(self.last_run_time.as_ref(), look));
        if look.wide {
            cells.push(or_dash(self.pause_note.as_str()));
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let task = self.task.clone().unwrap_or_default();
        vec![
            ("Schedule", Styled::new(&self.name, Color::Bold)),
            ("Display name", self.display_name.as_str().into()),
            ("Description", self.description.as_str().into()),
            ("State", state(self)),
            ("Note", self.pause_note.as_str().into()),
            ("Cron", self.cron.as_str().into()),
            ("Zone", format!("{} (tz data {})", self.time_zone, self.time_zone_version).into()),
            ("Start", moment_in_full(self.start_time.as_ref(), look)),
            ("End", moment_in_full(self.end_time.as_ref(), look)),
            ("Jitter", length(self.jitter.as_ref()).into()),
            ("Type", task.r#type.as_str().into()),
            ("Queue", task.queue.as_str().into()),
            ("Priority", task.priority.to_string().into()),
            ("Unique key", task.unique_key.as_str().into()),
            ("Labels", labels(&task.labels).into()),
            ("Input", payload_text(task.input.as_ref()).into()),
            ("Overlap", strip(self.overlap_policy().as_str_name(), "OVERLAP_POLICY_").into()),
            ("Catch-up", catch_up(self).into()),
            ("Next", moment_in_full(self.next_run_time.as_ref(), look)),
            ("Queued", moment_in_full(self.queued_run_time.as_ref(), look)),
            ("Last", moment_in_full(self.last_run_time.as_ref(), look)),
            ("Last task", self.last_task.as_str().into()),
            ("Owner", self.owner.as_str().into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
        ]
    }
}

fn outcome(occurrence: &Occurrence) -> Styled {
    let state = occurrence.state();
    let color = match state {
        State::Fired | State::Manual | State::Backfilled => Color::Green,
        State::CaughtUp => Color::Cyan,
        State::Skipped => Color::Yellow,
        State::Missed => Color::Red,
        State::Unspecified => Color::Dim,
    };
    Styled::new(strip(state.as_str_name(), "STATE_"), color)
}

impl Resource for Occurrence {
    const PROTO: &'static str = "tasktower.v1.Occurrence";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["PLANNED", "STATE", "TASK", "REASON"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            // Always in full: ticks are told apart by their time.
            moment(self.planned_time.as_ref(), &Look { wide: true, now: look.now }),
            outcome(self),
            or_dash(if self.task.is_empty() { "" } else { names::id(&self.task) }),
            or_dash(self.reason.as_str()),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Occurrence", Styled::new(&self.name, Color::Bold)),
            ("Planned", moment_in_full(self.planned_time.as_ref(), look)),
            ("State", outcome(self)),
            ("Reason", self.reason.as_str().into()),
            ("Task", self.task.as_str().into()),
            ("Decided", moment_in_full(self.decide_time.as_ref(), look)),
        ]
    }
}

impl Resource for PlannedRun {
    const PROTO: &'static str = "tasktower.v1.PlannedRun";

    /// The tick by the clock on the wall.
    fn name(&self) -> &str {
        &self.local_time
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["LOCAL TIME", "UTC", "FIRES"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let in_full = Look { wide: true, now: look.now };
        vec![
            self.local_time.as_str().into(),
            moment(self.planned_time.as_ref(), &in_full),
            moment(self.run_time.as_ref(), look),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Local time", self.local_time.as_str().into()),
            ("Planned", moment_in_full(self.planned_time.as_ref(), look)),
            ("Fires", moment_in_full(self.run_time.as_ref(), look)),
        ]
    }
}
