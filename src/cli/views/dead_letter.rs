//! Dead letters, and groups of them.

use super::{first_line, moment, moment_in_full, or_dash, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{DeadLetter, DeadLetterGroup, Replay, TaskError, dead_letter::State},
};

/// An error message in a column; the details of the entry have the whole of it.
const MAX_ERROR_CHARS: usize = 60;

fn state(entry: &DeadLetter) -> Styled {
    let state = entry.state();
    let color = match state {
        State::Open => Color::Red,
        State::Processed | State::Unspecified => Color::Dim,
        State::Replayed => Color::Cyan,
    };
    Styled::new(strip(state.as_str_name(), "STATE_"), color)
}

fn reason(entry: &DeadLetter) -> &'static str {
    strip(entry.reason().as_str_name(), "REASON_")
}

fn error(error: Option<&TaskError>) -> String {
    error.map(|error| format!("{}: {}", error.r#type, error.message)).unwrap_or_default()
}

fn replays(entry: &DeadLetter) -> String {
    let count = format!("{} of {}", entry.replay_count, entry.replay_limit);
    std::iter::once(count).chain(entry.replays.iter().map(replay)).collect::<Vec<_>>().join("\n")
}

fn replay(replay: &Replay) -> String {
    let job = names::id(&replay.bulk_job);
    let by = if job.is_empty() { replay.owner.clone() } else { format!("{}, bulk job {job}", replay.owner) };
    let input = if replay.input_changed { ", with another input" } else { "" };
    let when = replay.create_time.map(|time| time.to_string()).unwrap_or_default();
    let message = first_line(&error(replay.error.as_ref()), MAX_ERROR_CHARS);
    format!("{}. {when} by {by}{input}, after {message}", replay.number)
}

impl Resource for DeadLetter {
    const PROTO: &'static str = "tasktower.v1.DeadLetter";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &["DEAD LETTER", "TYPE", "QUEUE", "STATE", "REASON", "FAILED", "REPLAYS", "FINGERPRINT", "ERROR"]
        } else {
            &["DEAD LETTER", "TYPE", "QUEUE", "STATE", "REASON", "FAILED", "REPLAYS", "ERROR"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let message = error(self.error.as_ref());
        let mut cells = vec![
            names::id(&self.name).into(),
            self.r#type.as_str().into(),
            self.queue.as_str().into(),
            state(self),
            reason(self).into(),
            moment(self.create_time.as_ref(), look),
            self.replay_count.to_string().into(),
        ];
        if look.wide {
            cells.extend([self.fingerprint.as_str().into(), or_dash(message)]);
        } else {
            cells.push(or_dash(first_line(&message, MAX_ERROR_CHARS)));
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let count = |count: Option<i32>| count.map(|count| count.to_string()).unwrap_or_default();
        vec![
            ("Dead letter", Styled::new(&self.name, Color::Bold)),
            ("Type", self.r#type.as_str().into()),
            ("Queue", self.queue.as_str().into()),
            ("State", state(self)),
            ("Reason", reason(self).into()),
            ("Error", Styled::new(error(self.error.as_ref()), Color::Red)),
            ("Fingerprint", self.fingerprint.as_str().into()),
            ("Attempts", count(self.attempt_count).into()),
            ("Crashes", count(self.crash_count).into()),
            ("Failed", moment_in_full(self.create_time.as_ref(), look)),
            ("Failed first", moment_in_full(self.first_create_time.as_ref(), look)),
            ("Processed", moment_in_full(self.process_time.as_ref(), look)),
            ("By", self.processed_by.as_str().into()),
            ("Because", self.process_reason.as_str().into()),
            ("Replays", replays(self).into()),
            ("Etag", self.etag.as_str().into()),
        ]
    }
}

impl Resource for DeadLetterGroup {
    const PROTO: &'static str = "tasktower.v1.DeadLetterGroup";

    /// What a filter names it by.
    fn name(&self) -> &str {
        &self.fingerprint
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["FINGERPRINT", "COUNT", "FIRST", "LAST", "SAMPLE", "ERROR"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let sample = self.sample.as_ref();
        let message = error(sample.and_then(|sample| sample.error.as_ref()));
        vec![
            self.fingerprint.as_str().into(),
            self.count.to_string().into(),
            moment(self.first_create_time.as_ref(), look),
            moment(self.last_create_time.as_ref(), look),
            or_dash(sample.map(|sample| names::id(&sample.name)).unwrap_or_default()),
            or_dash(if look.wide { message } else { first_line(&message, MAX_ERROR_CHARS) }),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let sample = self.sample.as_ref();
        vec![
            ("Fingerprint", Styled::new(&self.fingerprint, Color::Bold)),
            ("Count", self.count.to_string().into()),
            ("First", moment_in_full(self.first_create_time.as_ref(), look)),
            ("Last", moment_in_full(self.last_create_time.as_ref(), look)),
            ("Sample", sample.map(|sample| sample.name.as_str()).unwrap_or_default().into()),
            ("Error", Styled::new(error(sample.and_then(|sample| sample.error.as_ref())), Color::Red)),
        ]
    }
}
