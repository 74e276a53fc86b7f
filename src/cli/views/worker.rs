//! Workers.

use super::{labels, moment, moment_in_full, or_dash, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{Worker, worker::State},
};

fn state(worker: &Worker) -> Styled {
    let state = worker.state();
    let color = match state {
        State::Online => Color::Green,
        State::Draining => Color::Yellow,
        State::Offline | State::Unspecified => Color::Dim,
    };
    Styled::new(strip(state.as_str_name(), "STATE_"), color)
}

/// The words all incarnations say, each once, in order.
fn union<'a>(words: impl Iterator<Item = &'a String>) -> String {
    let words: std::collections::BTreeSet<&str> = words.map(String::as_str).collect();
    words.into_iter().collect::<Vec<_>>().join(",")
}

impl Resource for Worker {
    const PROTO: &'static str = "tasktower.v1.Worker";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &["WORKER", "STATE", "RUNNING", "SLOTS", "PROCESSES", "TYPES", "QUEUES", "SEEN", "CREATED"]
        } else {
            &["WORKER", "STATE", "RUNNING", "SLOTS", "PROCESSES", "TYPES", "SEEN"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let slots: i64 = self.incarnations.iter().map(|incarnation| i64::from(incarnation.slots)).sum();
        let mut cells = vec![
            names::id(&self.name).into(),
            state(self),
            self.running_count.to_string().into(),
            slots.to_string().into(),
            self.incarnations.len().to_string().into(),
            or_dash(union(self.incarnations.iter().flat_map(|incarnation| &incarnation.types))),
        ];
        if look.wide {
            cells.push(or_dash(union(self.incarnations.iter().flat_map(|incarnation| &incarnation.queues))));
        }
        cells.push(moment(self.last_seen_time.as_ref(), look));
        if look.wide {
            cells.push(moment(self.create_time.as_ref(), look));
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let mut lines = vec![
            ("Worker", Styled::new(&self.name, Color::Bold)),
            ("State", state(self)),
            ("Running", self.running_count.to_string().into()),
            ("First seen", moment_in_full(self.create_time.as_ref(), look)),
            ("Last seen", moment_in_full(self.last_seen_time.as_ref(), look)),
        ];
        for process in &self.incarnations {
            let text = format!(
                "{}{}\nslots {}, types {}, queues {}\nseen {}\n{}",
                process.incarnation,
                if process.draining { " (draining)" } else { "" },
                process.slots,
                process.types.join(","),
                process.queues.join(","),
                moment(process.last_seen_time.as_ref(), look).text,
                labels(&process.labels),
            );
            lines.push(("Process", text.trim_end().into()));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::pb::{Queue, WorkerIncarnation};

    #[test]
    fn rows_fit_their_headers() {
        for wide in [false, true] {
            let look = Look { wide, now: SystemTime::UNIX_EPOCH };
            assert_eq!(Worker::default().cells(&look).len(), Worker::headers(wide).len());
            assert_eq!(Queue::default().cells(&look).len(), Queue::headers(wide).len());
        }
    }

    #[test]
    fn a_type_of_two_processes_is_named_once() {
        let process = WorkerIncarnation { types: vec!["b".into(), "a".into()], ..Default::default() };
        let worker = Worker { incarnations: vec![process.clone(), process], ..Default::default() };
        assert_eq!(worker.cells(&Look { wide: false, now: SystemTime::UNIX_EPOCH })[5].text, "a,b");
    }
}
