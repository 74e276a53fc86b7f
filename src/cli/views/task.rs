//! Tasks.

use super::{labels, length, moment, moment_in_full, or_dash, payload_text, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{SubmitTaskResponse, Task, submit_task_response::Outcome, task::State},
};

/// The state without its prefix.
pub fn state_name(state: State) -> &'static str {
    strip(state.as_str_name(), "STATE_")
}

/// The state in its colour.
pub fn state_of(task: &Task) -> Styled {
    let state = task.state();
    let color = match state {
        State::Running => Color::Cyan,
        State::Retrying => Color::Yellow,
        State::Succeeded => Color::Green,
        State::Failed => Color::Red,
        State::Cancelled => Color::Dim,
        State::Pending | State::Unspecified => Color::Plain,
    };
    let note = if task.cancel_requested && state == State::Running { " (cancelling)" } else { "" };
    Styled::new(format!("{}{note}", state_name(state)), color)
}

impl Resource for Task {
    const PROTO: &'static str = "tasktower.v1.Task";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "TASK", "TYPE", "QUEUE", "STATE", "ATTEMPTS", "CREATED", "RUNS", "FINISHED", "PRIORITY", "WORKER",
                "LABELS",
            ]
        } else {
            &["TASK", "TYPE", "QUEUE", "STATE", "ATTEMPTS", "CREATED"]
        }
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let mut cells = vec![
            names::id(&self.name).into(),
            self.r#type.as_str().into(),
            self.queue.as_str().into(),
            state_of(self),
            self.attempt_count.to_string().into(),
            moment(self.create_time.as_ref(), look),
        ];
        if look.wide {
            cells.extend([
                moment(self.run_time.as_ref(), look),
                moment(self.finish_time.as_ref(), look),
                self.priority.to_string().into(),
                or_dash(names::id(&self.worker)),
                or_dash(labels(&self.labels)),
            ]);
        }
        cells
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let retry = self.retry.as_ref();
        let attempts = match retry.map_or(0, |retry| retry.max_attempts) {
            0 => self.attempt_count.to_string(),
            max => format!("{} of {max}", self.attempt_count),
        };
        let crashes = if self.crash_count == 0 { String::new() } else { self.crash_count.to_string() };
        let progress = self.progress.as_ref().map(|p| format!("{:.0} %  {}", p.percent, p.message)).unwrap_or_default();
        let error = self.error.as_ref().map(|error| format!("{}: {}", error.r#type, error.message)).unwrap_or_default();
        let error_details = self.error.as_ref().map(|error| error.details.trim_end()).unwrap_or_default();
        let backoff = retry
            .map(|r| format!("{} to {}", length(r.initial_backoff.as_ref()), length(r.max_backoff.as_ref())))
            .filter(|text| text.len() > " to ".len())
            .unwrap_or_default();
        vec![
            ("Task", Styled::new(&self.name, Color::Bold)),
            ("Type", self.r#type.as_str().into()),
            ("Queue", self.queue.as_str().into()),
            ("State", state_of(self)),
            ("Priority", self.priority.to_string().into()),
            ("Attempts", attempts.into()),
            ("Crashes", Styled::new(crashes, Color::Yellow)),
            ("Backoff", backoff.into()),
            ("Retry policy", names::id(&self.retry_policy).into()),
            ("Timeout", length(self.timeout.as_ref()).into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Runs", moment_in_full(self.run_time.as_ref(), look)),
            ("Expires", moment_in_full(self.expire_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("Finished", moment_in_full(self.finish_time.as_ref(), look)),
            ("Worker", names::id(&self.worker).into()),
            ("Lease ends", moment_in_full(self.lease_expire_time.as_ref(), look)),
            ("Progress", progress.into()),
            ("Cancel reason", self.cancel_reason.as_str().into()),
            ("Unique key", self.unique_key.as_str().into()),
            ("Labels", labels(&self.labels).into()),
            ("Owner", self.owner.as_str().into()),
            ("Error", Styled::new(error, Color::Red)),
            ("Error details", error_details.into()),
            ("Input", payload_text(self.input.as_ref()).into()),
            ("Result", payload_text(self.result.as_ref()).into()),
        ]
    }
}

impl Resource for SubmitTaskResponse {
    const PROTO: &'static str = "tasktower.v1.SubmitTaskResponse";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["TASK", "OUTCOME"]
    }

    fn cells(&self, _look: &Look) -> Vec<Styled> {
        let outcome = self.outcome();
        let color = if outcome == Outcome::Created { Color::Green } else { Color::Yellow };
        vec![names::id(&self.name).into(), Styled::new(strip(outcome.as_str_name(), "OUTCOME_"), color)]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let mut cells = self.cells(look);
        let outcome = cells.pop().unwrap_or_default();
        vec![
            ("Task", Styled::new(&self.name, Color::Bold)),
            ("Outcome", outcome),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn rows_fit_their_headers() {
        let task = Task { name: "projects/default/tasks/x".into(), ..Default::default() };
        for wide in [false, true] {
            let look = Look { wide, now: SystemTime::UNIX_EPOCH };
            assert_eq!(task.cells(&look).len(), Task::headers(wide).len());
        }
    }

    #[test]
    fn a_task_that_is_told_to_stop_says_so() {
        let mut task = Task { state: State::Running as i32, cancel_requested: true, ..Default::default() };
        assert_eq!(state_of(&task).text, "RUNNING (cancelling)");
        task.state = State::Cancelled as i32;
        assert_eq!(state_of(&task).text, "CANCELLED");
    }
}
