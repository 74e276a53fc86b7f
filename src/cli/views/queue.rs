//! Queues.

use super::{count, length, moment, moment_in_full, or_dash};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{Queue, Rate},
};

fn paused(queue: &Queue) -> Styled {
    if queue.paused { Styled::new("PAUSED", Color::Yellow) } else { Styled::new("OPEN", Color::Green) }
}

fn max_running(queue: &Queue) -> String {
    if queue.max_running == 0 { String::new() } else { queue.max_running.to_string() }
}

fn rate(rate: Option<&Rate>) -> String {
    rate.map(|rate| {
        let interval = length(rate.interval.as_ref());
        format!("{}/{}", rate.count, if interval.is_empty() { "1s" } else { &interval })
    })
    .unwrap_or_default()
}

impl Resource for Queue {
    const PROTO: &'static str = "tasktower.v1.Queue";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "QUEUE", "STATE", "READY", "DELAYED", "RUNNING", "OLDEST", "MAX", "RATE", "IN/MIN", "OK/MIN",
                "FAIL/MIN", "NOTE",
            ]
        } else {
            &["QUEUE", "STATE", "READY", "DELAYED", "RUNNING", "OLDEST", "MAX", "RATE"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let mut cells = vec![
            names::id(&self.name).into(),
            paused(self),
            count(self.ready_count, Color::Bold),
            self.delayed_count.to_string().into(),
            count(self.running_count, Color::Cyan),
            moment(self.oldest_ready_time.as_ref(), look),
            or_dash(max_running(self)),
            or_dash(rate(self.rate.as_ref())),
        ];
        if look.wide {
            let activity = self.activity.unwrap_or_default();
            cells.extend([
                activity.submitted_count.to_string().into(),
                count(activity.succeeded_count, Color::Green),
                count(activity.failed_count, Color::Red),
                or_dash(self.pause_note.as_str()),
            ]);
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let activity = self.activity.as_ref().map(|a| {
            format!(
                "{} submitted, {} leased, {} succeeded, {} failed in the last minute",
                a.submitted_count, a.leased_count, a.succeeded_count, a.failed_count
            )
        });
        vec![
            ("Queue", Styled::new(&self.name, Color::Bold)),
            ("State", paused(self)),
            ("Note", self.pause_note.as_str().into()),
            ("Ready", self.ready_count.to_string().into()),
            ("Delayed", self.delayed_count.to_string().into()),
            ("Running", self.running_count.to_string().into()),
            ("Oldest", moment_in_full(self.oldest_ready_time.as_ref(), look)),
            ("Activity", activity.unwrap_or_default().into()),
            ("Max running", max_running(self).into()),
            ("Rate", rate(self.rate.as_ref()).into()),
            ("Retry policy", names::id(&self.retry_policy).into()),
            ("Lease", length(self.lease_duration.as_ref()).into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
        ]
    }
}
