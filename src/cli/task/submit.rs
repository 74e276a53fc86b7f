//! `tasktower submit`.

use std::{collections::BTreeMap, process::ExitCode, time::Duration, time::SystemTime};

use clap::Args;
use uuid::Uuid;

use super::{input, wait};
use crate::{
    cli::{
        Context,
        failure::Usage,
        help, names,
        output::{json_line, to_json},
        time::{parse_duration, parse_moment, to_duration},
    },
    pb::{RetrySettings, SubmitTaskRequest, Task},
};

/// What to submit.
#[derive(Args, Debug)]
#[command(before_help = help::SUBMIT)]
pub struct SubmitArgs {
    /// Which handler runs it
    #[arg(value_name = "TYPE")]
    r#type: String,
    /// What the handler is given: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// The input is not JSON but bytes of this media type
    #[arg(long, value_name = "TYPE", requires = "input")]
    content_type: Option<String>,
    /// The queue it waits in [default: default]
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Higher runs first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    priority: i32,
    /// Not before this time: RFC 3339, or +5m
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// The most one attempt may take, 1s to 7d [default: 1h]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Fails if it still waits at this time: RFC 3339, or +1h
    #[arg(long, value_name = "TIME")]
    expire_at: Option<String>,
    /// Submitting again with the same key answers the open task
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Lets go of the key after this long even if the task is open
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", requires = "unique_key")]
    unique_ttl: Option<Duration>,
    /// A label; may be given several times
    #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// Attempts in all; 1 means never repeat [default: 25]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "N")]
    max_attempts: Option<i32>,
    /// The policy for its failed attempts
    #[arg(long, value_name = "POLICY", conflicts_with = "max_attempts")]
    retry_policy: Option<String>,
    /// The id of the task, a UUID [default: the server makes one]
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Makes repeating this command safe for 24 h [default: a new one each time]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Wait until it is final and print it; exit code 3 unless it SUCCEEDED
    #[arg(long)]
    wait: bool,
    /// Print the same call for grpcurl to stderr
    #[arg(long)]
    show_grpcurl: bool,
}

/// `k=v`; the first `=` parts them.
pub fn parse_label(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Usage::new(format!("`{text}` is not a label; write KEY=VALUE")).into()),
    }
}

/// Submits, and waits if asked to.
pub async fn run(context: &Context, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let (wait, show_grpcurl) = (args.wait, args.show_grpcurl);
    let request = request(context, args, crate::cli::time::now())?;
    if show_grpcurl {
        eprintln!("{}", grpcurl(context, &request)?);
    }
    let answer = context.api.tasks().submit_task(context.api.call(request)).await?.into_inner();
    if !wait {
        context.output.one(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("submitted {}", answer.name);
    wait::until_final(context, answer.name, None).await
}

fn request(context: &Context, args: SubmitArgs, now: SystemTime) -> anyhow::Result<SubmitTaskRequest> {
    let moment = |text: Option<String>| text.map(|text| usage(parse_moment(&text, now))).transpose();
    let input = args.input.map(|text| input::read_payload(&text, args.content_type.as_deref())).transpose()?;
    let policy = args.retry_policy.map(|id| names::child(&context.project, "retryPolicies", &id)).transpose()?;
    let task = Task {
        r#type: args.r#type,
        queue: args.queue.unwrap_or_default(),
        input,
        priority: args.priority,
        run_time: moment(args.run_at)?,
        timeout: args.timeout.map(to_duration),
        expire_time: moment(args.expire_at)?,
        retry: args.max_attempts.map(|max_attempts| RetrySettings { max_attempts, ..Default::default() }),
        retry_policy: policy.unwrap_or_default(),
        unique_key: args.unique_key.unwrap_or_default(),
        unique_ttl: args.unique_ttl.map(to_duration),
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        ..Default::default()
    };
    Ok(SubmitTaskRequest {
        parent: context.project.clone(),
        task: Some(task),
        task_id: args.id.map(|id| id.to_string()).unwrap_or_default(),
        request_id: args.request_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
    })
}

/// A bad argument found after clap was done is a usage error all the same.
pub fn usage<T>(result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| Usage::new(format!("{error:#}")).into())
}

/// The same call as a shell command.
fn grpcurl(context: &Context, request: &SubmitTaskRequest) -> anyhow::Result<String> {
    let body = json_line(&to_json("tasktower.v1.SubmitTaskRequest", request)?)?;
    let header = match context.api.credentials().header_hint() {
        Some(header) => format!(" -expand-headers -H '{header}'"),
        None => String::new(),
    };
    Ok(format!(
        "grpcurl -plaintext{header} -d '{}' {} tasktower.v1.TaskService/SubmitTask",
        body.replace('\'', r"'\''"),
        context.api.authority()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_a_key() {
        assert_eq!(parse_label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(parse_label("a=").unwrap(), ("a".into(), String::new()));
        assert!(parse_label("=b").is_err());
        assert!(parse_label("a").is_err());
    }
}
