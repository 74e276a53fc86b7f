//! Bulk jobs.

use super::{length, moment, moment_in_full, strip};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{BulkJob, BulkRetry, bulk_job::State},
};

fn state(job: &BulkJob) -> Styled {
    let state = job.state();
    let color = match state {
        State::Running => Color::Cyan,
        State::Succeeded => Color::Green,
        State::Failed => Color::Red,
        State::Cancelled | State::Unspecified => Color::Dim,
    };
    Styled::new(strip(state.as_str_name(), "STATE_"), color)
}

/// What the job saw when it last looked at the tasks it retried.
fn failed_again(retry: &BulkRetry) -> String {
    let window = length(retry.failure_window.as_ref());
    format!("{} of {} that ended, of those retried within {window}", retry.failed_again_count, retry.ended_count)
}

impl Resource for BulkJob {
    const PROTO: &'static str = "tasktower.v1.BulkJob";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["BULK JOB", "ACTION", "STATE", "MATCHED", "DONE", "SKIPPED", "CREATED", "FILTER"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            names::id(&self.name).into(),
            strip(self.action().as_str_name(), "ACTION_").into(),
            state(self),
            self.matched_count.to_string().into(),
            self.done_count.to_string().into(),
            self.skipped_count.to_string().into(),
            moment(self.create_time.as_ref(), look),
            self.filter.as_str().into(),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Bulk job", Styled::new(&self.name, Color::Bold)),
            ("Action", strip(self.action().as_str_name(), "ACTION_").into()),
            ("Filter", self.filter.as_str().into()),
            ("State", state(self)),
            ("Matched", self.matched_count.to_string().into()),
            ("Done", self.done_count.to_string().into()),
            ("Skipped", self.skipped_count.to_string().into()),
            ("Rate", self.retry.as_ref().map(|retry| format!("{}/s", retry.rate)).unwrap_or_default().into()),
            ("Failed again", self.retry.as_ref().map(failed_again).unwrap_or_default().into()),
            ("Error", Styled::new(&self.error_message, Color::Red)),
            ("Owner", self.owner.as_str().into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
            ("Finished", moment_in_full(self.finish_time.as_ref(), look)),
        ]
    }
}
