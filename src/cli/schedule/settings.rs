//! What `schedule create` and `schedule update` set, as options.

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        names,
        task::{parse_label, read_payload, usage},
        time::{parse_duration, parse_moment, to_duration},
    },
    pb::{self, RetrySettings, Schedule, Task},
};

/// The settings of a schedule. What is not given stays as it is.
#[derive(Args, Debug)]
pub struct Settings {
    /// The IANA time zone of the expression [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// No tick before this time: RFC 3339, +5m, or none
    #[arg(long, value_name = "TIME|none")]
    start: Option<String>,
    /// No tick after this time: RFC 3339, +5m, or none
    #[arg(long, value_name = "TIME|none")]
    end: Option<String>,
    /// Each tick fires up to this much later, 0s to 1d [default: 0s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    jitter: Option<Duration>,
    /// What happens while the task before is not final [default: allow]
    #[arg(long, value_enum, value_name = "POLICY")]
    overlap: Option<Overlap>,
    /// Which ticks fire late if no server was there [default: last]
    #[arg(long, value_enum, value_name = "POLICY")]
    catch_up: Option<CatchUp>,
    /// With --catch-up all: so many at most [default: 100]
    #[arg(long, requires = "catch_up", value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "N")]
    catch_up_count: Option<i32>,
    /// None that is later than this [default: 1d]
    #[arg(long, requires = "catch_up", value_parser = parse_duration, value_name = "DURATION")]
    catch_up_window: Option<Duration>,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    task: TaskSettings,
}

/// What the tasks are made of.
#[derive(Args, Debug)]
struct TaskSettings {
    /// What the handler is given: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// The input is not JSON but bytes of this media type
    #[arg(long, value_name = "TYPE", requires = "input")]
    content_type: Option<String>,
    /// The queue the tasks wait in [default: default]
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Higher runs first
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    priority: Option<i32>,
    /// The most one attempt may take, 1s to 7d [default: 1h]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Attempts in all; 1 means never repeat [default: 25]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "N")]
    max_attempts: Option<i32>,
    /// The policy for their failed attempts
    #[arg(long, value_name = "POLICY", conflicts_with = "max_attempts")]
    retry_policy: Option<String>,
    /// No tick makes a task while an open task holds this key
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// A label of the tasks; may be given several times
    #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Overlap {
    /// Fires all the same
    Allow,
    /// Is skipped
    Skip,
    /// Fires when that task has ended; one waits at a time
    QueueOne,
    /// Fires, and cancels that task
    CancelPrevious,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CatchUp {
    /// None
    Skip,
    /// The latest
    Last,
    /// All, up to a number
    All,
}

impl Settings {
    /// Sets what is given, and answers the paths of it.
    pub fn apply(&self, schedule: &mut Schedule, project: &str, now: SystemTime) -> anyhow::Result<Vec<&'static str>> {
        let mut paths = Vec::new();
        let moment = |text: &str| match text {
            "none" => Ok(None),
            text => usage(parse_moment(text, now)).map(Some),
        };
        if let Some(zone) = &self.time_zone {
            schedule.time_zone.clone_from(zone);
            paths.push("time_zone");
        }
        if let Some(start) = &self.start {
            schedule.start_time = moment(start)?;
            paths.push("start_time");
        }
        if let Some(end) = &self.end {
            schedule.end_time = moment(end)?;
            paths.push("end_time");
        }
        if let Some(jitter) = self.jitter {
            schedule.jitter = Some(to_duration(jitter));
            paths.push("jitter");
        }
        if let Some(overlap) = self.overlap {
            schedule.overlap_policy = match overlap {
                Overlap::Allow => pb::OverlapPolicy::Allow,
                Overlap::Skip => pb::OverlapPolicy::Skip,
                Overlap::QueueOne => pb::OverlapPolicy::QueueOne,
                Overlap::CancelPrevious => pb::OverlapPolicy::CancelPrevious,
            } as i32;
            paths.push("overlap_policy");
        }
        if let Some(policy) = self.catch_up {
            let policy = match policy {
                CatchUp::Skip => pb::CatchUpPolicy::Skip,
                CatchUp::Last => pb::CatchUpPolicy::Last,
                CatchUp::All => pb::CatchUpPolicy::All,
            } as i32;
            let max_count = self.catch_up_count.unwrap_or(0);
            schedule.catch_up = Some(pb::CatchUp { policy, max_count, window: self.catch_up_window.map(to_duration) });
            paths.push("catch_up");
        }
        if let Some(name) = &self.display_name {
            schedule.display_name.clone_from(name);
            paths.push("display_name");
        }
        if let Some(description) = &self.description {
            schedule.description.clone_from(description);
            paths.push("description");
        }
        if self.changes_task() {
            self.task.apply(schedule.task.get_or_insert_default(), project)?;
            paths.push("task");
        }
        Ok(paths)
    }

    /// Whether it sets anything of the task, which is changed as a whole.
    pub fn changes_task(&self) -> bool {
        let TaskSettings {
            input,
            content_type: _,
            queue,
            priority,
            timeout,
            max_attempts,
            retry_policy,
            unique_key,
            labels,
        } = &self.task;
        input.is_some()
            || queue.is_some()
            || priority.is_some()
            || timeout.is_some()
            || max_attempts.is_some()
            || retry_policy.is_some()
            || unique_key.is_some()
            || !labels.is_empty()
    }
}

impl TaskSettings {
    fn apply(&self, task: &mut Task, project: &str) -> anyhow::Result<()> {
        if let Some(input) = &self.input {
            task.input = Some(read_payload(input, self.content_type.as_deref())?);
        }
        if let Some(queue) = &self.queue {
            task.queue.clone_from(queue);
        }
        task.priority = self.priority.unwrap_or(task.priority);
        if let Some(timeout) = self.timeout {
            task.timeout = Some(to_duration(timeout));
        }
        if let Some(max_attempts) = self.max_attempts {
            task.retry_policy.clear();
            task.retry = Some(RetrySettings { max_attempts, ..task.retry.take().unwrap_or_default() });
        }
        if let Some(policy) = &self.retry_policy {
            task.retry = None;
            task.retry_policy = names::child(project, "retryPolicies", policy)?;
        }
        if let Some(key) = &self.unique_key {
            task.unique_key.clone_from(key);
        }
        task.labels.extend(self.labels.iter().cloned());
        Ok(())
    }
}
