//! Queues.

use std::ops::RangeInclusive;

use super::{
    fields::{Fields, Path},
    mask::{Mask, Rule},
    name, page,
    scalar::{self, duration, timestamp},
};
use crate::{
    domain::{
        etag,
        queue::{Queue, QueuePatch, QueueSettings, Rate},
        retry_budget::RetryBudget,
        task::{DAY, Micros, SECOND},
    },
    error::{Error, Result},
    ids::{ProjectId, queue_name, retry_policy_name},
    pb,
};

const LEASE_DURATION: RangeInclusive<Micros> = 5 * SECOND..=3_600 * SECOND;
const RATE_INTERVAL: RangeInclusive<Micros> = SECOND..=DAY;
const RATE_COUNT: RangeInclusive<i32> = 1..=1_000_000;
const LEASE_RATIO: RangeInclusive<f64> = 0.0..=1.0;

/// One queue.
pub fn get(request: pb::GetQueueRequest) -> Result<(ProjectId, String)> {
    let pb::GetQueueRequest { name } = request;
    named(Fields::new(), &name)
}

/// A queue to be leased from again.
pub fn resume(request: pb::ResumeQueueRequest) -> Result<(ProjectId, String)> {
    let pb::ResumeQueueRequest { name } = request;
    named(Fields::new(), &name)
}

/// A queue to be paused, and why.
pub fn pause(request: pb::PauseQueueRequest) -> Result<(ProjectId, String, String)> {
    let mut fields = Fields::new();
    let pb::PauseQueueRequest { name, note } = request;
    let note = scalar::bytes_bounded(&mut fields, &Path::Request.field("note"), note, scalar::SHORT_TEXT);
    let (project, queue) = named(fields, &name)?;
    Ok((project, queue, note))
}

fn named(mut fields: Fields, name: &str) -> Result<(ProjectId, String)> {
    let (project, queue) = name::queue(&mut fields, &Path::Request.field("name"), name);
    fields.finish((project, queue.to_owned()))
}

/// A page of queues, before its page token is read: project, size, page token.
pub fn list(request: pb::ListQueuesRequest) -> Result<(ProjectId, i64, String)> {
    let mut fields = Fields::new();
    let pb::ListQueuesRequest { parent, page_size, page_token } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let limit = page::size(&mut fields, page_size);
    fields.finish((project, limit, page_token))
}

/// New settings for a queue.
#[derive(Debug)]
pub struct Update {
    /// In this project.
    pub project: ProjectId,
    /// Of this queue.
    pub queue: String,
    /// What changes.
    pub patch: QueuePatch,
    /// Only if this is the current etag.
    pub etag: Option<String>,
}

/// A change of settings.
pub fn update(request: pb::UpdateQueueRequest) -> Result<Update> {
    const RULES: [(&str, Rule); 16] = [
        ("max_running", Rule::Changes),
        ("rate", Rule::Changes),
        ("lease_duration", Rule::Changes),
        ("retry_policy", Rule::Changes),
        ("retry_budget", Rule::Changes),
        ("name", Rule::OutputOnly),
        ("paused", Rule::OutputOnly),
        ("pause_note", Rule::OutputOnly),
        ("ready_count", Rule::OutputOnly),
        ("delayed_count", Rule::OutputOnly),
        ("running_count", Rule::OutputOnly),
        ("oldest_ready_time", Rule::OutputOnly),
        ("activity", Rule::OutputOnly),
        ("create_time", Rule::OutputOnly),
        ("update_time", Rule::OutputOnly),
        ("etag", Rule::OutputOnly),
    ];
    let mut fields = Fields::new();
    let pb::UpdateQueueRequest { queue, update_mask } = request;
    let Some(queue) = queue else { return Err(Error::field("queue", "is required")) };
    let pb::Queue {
        name,
        max_running,
        rate,
        lease_duration,
        retry_policy,
        retry_budget,
        etag,
        paused: _,
        pause_note: _,
        ready_count: _,
        delayed_count: _,
        running_count: _,
        oldest_ready_time: _,
        activity: _,
        create_time: _,
        update_time: _,
    } = queue;
    let at = Path::Request.field("queue");
    let mask = Mask::read(&mut fields, update_mask.as_ref(), &RULES);
    let (project, queue) = name::queue(&mut fields, &at.field("name"), &name);
    let etag = scalar::etag(&mut fields, &at.field("etag"), etag);
    let mut patch = QueuePatch::default();
    if mask.changes("max_running", max_running != 0) {
        if max_running < 0 {
            fields.refuse(&at.field("max_running"), "must not be negative; 0 means no limit");
        }
        patch.max_running = Some(max_running);
    }
    if mask.changes("rate", rate.is_some()) {
        patch.rate = Some(rate.map(|rate| self::rate(&mut fields, &at.field("rate"), rate)));
    }
    if mask.changes("lease_duration", lease_duration.is_some()) {
        let at = at.field("lease_duration");
        patch.lease_duration = Some(lease_duration.map(|span| scalar::span(&mut fields, &at, &span, &LEASE_DURATION)));
    }
    if mask.changes("retry_policy", !retry_policy.is_empty()) {
        let at = at.field("retry_policy");
        let named =
            (!retry_policy.is_empty()).then(|| name::retry_policy_of(&mut fields, &at, &retry_policy, &project));
        patch.retry_policy = Some(named);
    }
    if mask.changes("retry_budget", retry_budget.is_some()) {
        let at = at.field("retry_budget");
        patch.retry_budget = Some(retry_budget.map(|budget| self::retry_budget(&mut fields, &at, &budget)));
    }
    fields.finish(Update { project, queue: queue.to_owned(), patch, etag })
}

/// A number of things per time.
pub(super) fn rate(fields: &mut Fields, at: &Path<'_>, rate: pb::Rate) -> Rate {
    let pb::Rate { count, interval, burst } = rate;
    if !RATE_COUNT.contains(&count) {
        fields.refuse(&at.field("count"), "must be 1 to 1,000,000");
    }
    Rate {
        count,
        interval: interval
            .map_or(*RATE_INTERVAL.start(), |span| scalar::span(fields, &at.field("interval"), &span, &RATE_INTERVAL)),
        burst: scalar::number_or(fields, &at.field("burst"), burst, 1..=count.max(1), count),
    }
}

fn retry_budget(fields: &mut Fields, at: &Path<'_>, budget: &pb::RetryBudget) -> RetryBudget {
    let pb::RetryBudget { lease_ratio, min_per_second } = *budget;
    if !LEASE_RATIO.contains(&lease_ratio) {
        fields.refuse(&at.field("lease_ratio"), "must be 0 to 1");
    }
    if !RATE_COUNT.contains(&min_per_second) {
        fields.refuse(&at.field("min_per_second"), "must be 1 to 1,000,000");
    }
    RetryBudget::new(lease_ratio, min_per_second)
}

/// A queue for the wire.
pub fn queue(queue: Queue) -> pb::Queue {
    let etag = etag::queue_etag(&queue);
    let Queue {
        project,
        name,
        settings: QueueSettings { paused, pause_note, max_running, rate, lease_duration, retry_policy, retry_budget },
        ready,
        delayed,
        running,
        oldest_ready_time,
        activity,
        create_time,
        update_time,
    } = queue;
    pb::Queue {
        name: queue_name(&project, &name),
        paused,
        pause_note,
        max_running,
        rate: rate.map(|rate| pb::Rate {
            count: rate.count,
            interval: Some(duration(rate.interval)),
            burst: rate.burst,
        }),
        lease_duration: lease_duration.map(duration),
        retry_policy: retry_policy.map(|id| retry_policy_name(&project, &id)).unwrap_or_default(),
        retry_budget: retry_budget
            .map(|budget| pb::RetryBudget { lease_ratio: budget.lease_ratio(), min_per_second: budget.min_per_second }),
        ready_count: ready,
        delayed_count: delayed,
        running_count: running,
        oldest_ready_time: oldest_ready_time.map(timestamp),
        activity: Some(pb::QueueActivity {
            submitted_count: activity.submitted,
            leased_count: activity.leased,
            succeeded_count: activity.succeeded,
            failed_count: activity.failed,
        }),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update_of(queue: pb::Queue, paths: &[&str]) -> Result<QueuePatch> {
        let queue = pb::Queue { name: "projects/default/queues/q".into(), ..queue };
        let mask = prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() };
        Ok(update(pb::UpdateQueueRequest { queue: Some(queue), update_mask: Some(mask) })?.patch)
    }

    #[test]
    fn settings_are_taken_with_their_defaults() {
        let rate = pb::Rate { count: 10, interval: None, burst: 0 };
        let queue = pb::Queue { rate: Some(rate), ..Default::default() };
        let patch = update_of(queue.clone(), &[]).unwrap();
        let expected = Rate { count: 10, interval: SECOND, burst: 10 };
        assert_eq!(patch, QueuePatch { rate: Some(Some(expected)), ..Default::default() });
        let patch = update_of(pb::Queue::default(), &["*"]).unwrap();
        let cleared = QueuePatch {
            max_running: Some(0),
            rate: Some(None),
            lease_duration: Some(None),
            retry_policy: Some(None),
            retry_budget: Some(None),
        };
        assert_eq!(patch, cleared);
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        let rate =
            |count, burst| pb::Queue { rate: Some(pb::Rate { count, interval: None, burst }), ..Default::default() };
        for bad in [rate(0, 0), rate(-1, 0), rate(10, 11), pb::Queue { max_running: -1, ..Default::default() }] {
            assert!(update_of(bad.clone(), &[]).is_err(), "{bad:?}");
        }
        assert!(update_of(pb::Queue::default(), &["paused_note"]).is_err());
    }
}
