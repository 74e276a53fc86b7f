//! Attempts of a task.

use std::time::Duration;

use super::{
    first_line, moment, moment_in_full, or_dash,
    retry_policy::{by, verdict},
    strip,
};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
        time,
    },
    pb::{Attempt, attempt::Outcome},
};

/// An error message in a column; the details of the task have the whole of it.
const MAX_ERROR_CHARS: usize = 60;

fn outcome(attempt: &Attempt) -> Styled {
    let outcome = attempt.outcome();
    let color = match outcome {
        Outcome::Succeeded => Color::Green,
        Outcome::Failed | Outcome::TimedOut | Outcome::LeaseExpired => Color::Red,
        Outcome::Running => Color::Cyan,
        Outcome::Released | Outcome::Cancelled | Outcome::Unspecified => Color::Dim,
    };
    Styled::new(strip(outcome.as_str_name(), "OUTCOME_"), color)
}

fn took(attempt: &Attempt, look: &Look) -> String {
    let Some(start) = attempt.start_time.as_ref() else { return String::new() };
    let end = attempt.end_time.unwrap_or_else(|| time::to_timestamp(look.now));
    let micros = time::micros(&end).saturating_sub(time::micros(start));
    time::brief(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

fn error(attempt: &Attempt) -> String {
    attempt.error.as_ref().map(|error| format!("{}: {}", error.r#type, error.message)).unwrap_or_default()
}

/// What was decided, and by what.
fn decision(attempt: &Attempt) -> String {
    let decided = attempt.retry_decision.as_ref();
    decided.map(|decision| format!("{}: {}", verdict(Some(decision)).text, by(decision))).unwrap_or_default()
}

impl Resource for Attempt {
    const PROTO: &'static str = "tasktower.v1.Attempt";

    /// Attempts have no names; the worker that ran it is the most useful word.
    fn name(&self) -> &str {
        &self.worker
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &["EPOCH", "OUTCOME", "WORKER", "STARTED", "TOOK", "NEXT", "ERROR", "DECISION"]
        } else {
            &["EPOCH", "OUTCOME", "WORKER", "STARTED", "TOOK", "NEXT", "ERROR"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let mut cells = vec![
            self.epoch.to_string().into(),
            outcome(self),
            or_dash(names::id(&self.worker)),
            moment(self.start_time.as_ref(), look),
            took(self, look).into(),
            moment(self.retry_time.as_ref(), look),
            or_dash(if look.wide { error(self) } else { first_line(&error(self), MAX_ERROR_CHARS) }),
        ];
        if look.wide {
            cells.push(or_dash(decision(self)));
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Epoch", self.epoch.to_string().into()),
            ("Outcome", outcome(self)),
            ("Worker", names::id(&self.worker).into()),
            ("Started", moment_in_full(self.start_time.as_ref(), look)),
            ("Ended", moment_in_full(self.end_time.as_ref(), look)),
            ("Error", Styled::new(error(self), Color::Red)),
            ("Decision", decision(self).into()),
        ]
    }
}
