//! `tasktower queue …`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::{
    Context,
    failure::Usage,
    help, names, pages,
    time::{parse_duration, to_duration},
};
use crate::pb::{
    GetQueueRequest, ListQueuesRequest, PauseQueueRequest, Queue, Rate, ResumeQueueRequest, UpdateQueueRequest,
};

/// What to do with queues.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues with their figures
    List,
    /// Show a queue
    Get(QueueArgs),
    /// Stop leasing from a queue; tasks that run go on
    Pause(PauseArgs),
    /// Lease from a queue again
    Resume(QueueArgs),
    /// Change the limits of a queue
    Set(SetArgs),
}

/// One queue.
#[derive(Args, Debug)]
pub struct QueueArgs {
    /// The queue
    queue: String,
}

/// What to pause, and why.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// The queue
    queue: String,
    /// Why, for those who wonder
    #[arg(long, default_value = "", value_name = "TEXT")]
    note: String,
}

/// What to change.
#[derive(Args, Debug)]
#[command(before_help = help::QUEUE_SET)]
pub struct SetArgs {
    /// The queue
    queue: String,
    /// So many tasks run at a time, at most; 0 means no limit
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..), value_name = "N")]
    max_running: Option<i32>,
    /// So many leases per time, at most: 10/s, 100/1m, or none
    #[arg(long, value_parser = parse_rate, value_name = "N/TIME|none")]
    rate: Option<RateChoice>,
    /// So many of the rate may start at once after a pause
    #[arg(long, requires = "rate", value_parser = clap::value_parser!(i32).range(1..), value_name = "N")]
    burst: Option<i32>,
    /// The retry policy of tasks that say nothing about retries, or none
    #[arg(long, value_name = "POLICY|none")]
    retry_policy: Option<String>,
    /// How long a lease lasts without a heartbeat, 5s to 1h
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    lease_duration: Option<Duration>,
}

/// A rate, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RateChoice {
    None,
    Some { count: i32, interval: Duration },
}

/// Reads `10/s`, `100/1m`, `none`.
pub(super) fn parse_rate(text: &str) -> anyhow::Result<RateChoice> {
    if text == "none" {
        return Ok(RateChoice::None);
    }
    let (count, interval) = text.split_once('/').context("write a rate as 10/s, 100/1m, or none")?;
    let count = count.parse().ok().filter(|count| *count > 0).context("the number before the `/` must be 1 or more")?;
    // `10/s` is what people write for `10/1s`.
    let counted = interval.starts_with(|c: char| c.is_ascii_digit());
    let interval = if counted { parse_duration(interval)? } else { parse_duration(&format!("1{interval}"))? };
    Ok(RateChoice::Some { count, interval })
}

/// Runs one of them.
pub async fn run(context: &Context, command: QueueCommand) -> anyhow::Result<ExitCode> {
    let name = |queue: &str| names::child(&context.project, "queues", queue);
    let api = &context.api;
    let queue = match command {
        QueueCommand::List => return list(context).await,
        QueueCommand::Get(args) => {
            let request = api.call(GetQueueRequest { name: name(&args.queue)? });
            api.queues().get_queue(request).await?.into_inner().queue
        }
        QueueCommand::Pause(args) => {
            let request = api.call(PauseQueueRequest { name: name(&args.queue)?, note: args.note });
            api.queues().pause_queue(request).await?.into_inner().queue
        }
        QueueCommand::Resume(args) => {
            let request = api.call(ResumeQueueRequest { name: name(&args.queue)? });
            api.queues().resume_queue(request).await?.into_inner().queue
        }
        QueueCommand::Set(args) => {
            let request = api.call(change(&args, &context.project, name(&args.queue)?)?);
            api.queues().update_queue(request).await?.into_inner().queue
        }
    };
    context.output.one(&queue.context("the server answered without a queue")?)?;
    Ok(ExitCode::SUCCESS)
}

fn change(args: &SetArgs, project: &str, name: String) -> anyhow::Result<UpdateQueueRequest> {
    let mut queue = Queue { name, ..Default::default() };
    let mut paths = Vec::new();
    if let Some(max_running) = args.max_running {
        queue.max_running = max_running;
        paths.push("max_running".to_owned());
    }
    if let Some(rate) = args.rate {
        queue.rate = match rate {
            RateChoice::None => None,
            RateChoice::Some { count, interval } => {
                Some(Rate { count, interval: Some(to_duration(interval)), burst: args.burst.unwrap_or(0) })
            }
        };
        paths.push("rate".to_owned());
    }
    if let Some(lease_duration) = args.lease_duration {
        queue.lease_duration = Some(to_duration(lease_duration));
        paths.push("lease_duration".to_owned());
    }
    if let Some(policy) = &args.retry_policy {
        queue.retry_policy =
            if policy == "none" { String::new() } else { names::child(project, "retryPolicies", policy)? };
        paths.push("retry_policy".to_owned());
    }
    if paths.is_empty() {
        bail!(Usage::new("nothing to change is given; see --help"));
    }
    Ok(UpdateQueueRequest { queue: Some(queue), update_mask: Some(FieldMask { paths }) })
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let queues = pages::all(async |page_token| {
        let parent = context.project.clone();
        let request = context.api.call(ListQueuesRequest { parent, page_size: pages::MAX_PAGE, page_token });
        let page = context.api.queues().list_queues(request).await?.into_inner();
        Ok((page.queues, page.next_page_token))
    });
    context.output.list(&queues.await?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let rate = |count, seconds| RateChoice::Some { count, interval: Duration::from_secs(seconds) };
        assert_eq!(parse_rate("10/s").unwrap(), rate(10, 1));
        assert_eq!(parse_rate("100/1m").unwrap(), rate(100, 60));
        assert_eq!(parse_rate("5/h").unwrap(), rate(5, 3_600));
        assert_eq!(parse_rate("none").unwrap(), RateChoice::None);
        for text in ["10", "0/s", "-1/s", "x/s", "10/", "10/fortnight"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
