//! `tasktower watch`: tasks as they change.
//!
//! Cast: `Cursor` remembers the last token and revision; `follow` keeps a stream open and hands each message on.
//! A stream that ends with UNAVAILABLE is opened again after the last token, so nothing is lost; revisions at or below
//! the last one are dropped, so nothing comes twice. Every other error ends the watch.

use std::{ops::ControlFlow, process::ExitCode, time::Duration};

use clap::Args;
use tonic::{Code, Status};

use crate::{
    cli::{
        Context, failure, help, names,
        output::{Format, print, to_json, to_yaml},
        views::EventLine,
    },
    pb::{TaskEvent, WatchTasksRequest, WatchTasksResponse},
};

/// Pauses between attempts to reconnect; with jitter, so that watchers do not come back all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const EVENT_PROTO: &str = "tasktower.v1.TaskEvent";

/// What to follow.
#[derive(Args, Debug, Default)]
#[command(before_help = help::WATCH)]
pub struct WatchArgs {
    /// Only this task: its name, its UUID, or the first digits of it
    #[arg(conflicts_with = "filter")]
    task: Option<String>,
    /// Only tasks this filter matches
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Go on after this token of an earlier watch
    #[arg(long, value_name = "TOKEN", conflicts_with = "initial_state")]
    resume_token: Option<String>,
    /// First show what matches now [default: only when one TASK is given]
    #[arg(long, overrides_with = "no_initial_state")]
    initial_state: bool,
    /// Show changes only
    #[arg(long)]
    no_initial_state: bool,
}

/// Prints changes until the task is final, the watch is refused, or Ctrl-C.
pub async fn run(context: &Context, args: WatchArgs) -> anyhow::Result<ExitCode> {
    let task = match &args.task {
        Some(text) => names::task(&context.api, &context.project, text).await?,
        None => String::new(),
    };
    let resume_token = args.resume_token.unwrap_or_default();
    let initial_state = args.initial_state || (!task.is_empty() && !args.no_initial_state && resume_token.is_empty());
    let request = WatchTasksRequest {
        parent: context.project.clone(),
        filter: args.filter.unwrap_or_default(),
        task,
        resume_token,
        initial_state,
    };
    let printer = EventPrinter::new(context);
    if printer.format == Format::Table {
        let what = if request.task.is_empty() { &request.parent } else { &request.task };
        eprintln!("{}", context.talk.dim(&format!("-- watching {what}; Ctrl-C ends it --")));
    }
    let mut cursor = Cursor::new(request);
    let mut print_message = |message: &WatchTasksResponse| printer.print(message);
    tokio::select! {
        outcome = follow(context, &mut cursor, &mut print_message) => outcome?,
        interrupt = tokio::signal::ctrl_c() => interrupt?,
    }
    if printer.format == Format::Table && !cursor.request.resume_token.is_empty() {
        let token = &cursor.request.resume_token;
        eprintln!("{}", context.talk.dim(&format!("-- go on with --resume-token {token} --")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a watch stands.
pub struct Cursor {
    /// What to ask for when a stream is opened.
    request: WatchTasksRequest,
    /// The last revision handed on.
    revision: i64,
    /// Whether the server was ever reached; one that never was is not waited for.
    connected: bool,
}

impl Cursor {
    /// At the start of a watch.
    pub fn new(request: WatchTasksRequest) -> Self {
        Self { request, revision: 0, connected: false }
    }

    /// Moves past a message and leaves in it only what was not seen before.
    fn advance(&mut self, message: &mut WatchTasksResponse) {
        let seen = self.revision;
        message.events.retain(|event| event.revision == 0 || event.revision > seen);
        self.revision = message.events.iter().map(|event| event.revision).max().unwrap_or(0).max(seen);
        if !message.resume_token.is_empty() {
            self.request.resume_token.clone_from(&message.resume_token);
            self.request.initial_state = false;
        }
    }
}

/// Follows until the stream ends by itself, or the watch is refused.
pub async fn follow(
    context: &Context,
    cursor: &mut Cursor,
    hand_on: &mut impl FnMut(&WatchTasksResponse) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let broken = match one_stream(context, cursor, hand_on, &mut pause).await? {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(status) => status,
        };
        if failure::true_code(&broken) != Code::Unavailable || !cursor.connected {
            return Err(broken.into());
        }
        // A stream at its age or too slow is welcome back at once; a server that is away needs time.
        if !matches!(failure::reason(&broken).as_str(), "RECONNECT" | "SLOW_CONSUMER") {
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// One stream to its end: `Break` when it ended OK, `Continue` with what broke it.
async fn one_stream(
    context: &Context,
    cursor: &mut Cursor,
    hand_on: &mut impl FnMut(&WatchTasksResponse) -> anyhow::Result<()>,
    pause: &mut Duration,
) -> anyhow::Result<ControlFlow<(), Status>> {
    let mut stream = match context.api.tasks().watch_tasks(cursor.request.clone()).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(ControlFlow::Continue(status)),
    };
    cursor.connected = true;
    loop {
        match stream.message().await {
            Ok(Some(mut message)) => {
                *pause = FIRST_PAUSE;
                cursor.advance(&mut message);
                hand_on(&message)?;
            }
            Ok(None) => return Ok(ControlFlow::Break(())),
            Err(status) => return Ok(ControlFlow::Continue(status)),
        }
    }
}

/// Prints events in the format of streams.
pub struct EventPrinter {
    format: Format,
    line: EventLine,
}

impl EventPrinter {
    /// As the context says.
    pub fn new(context: &Context) -> Self {
        let format = match context.output.stream_format() {
            Format::Wide => Format::Table,
            // A stream has no end, so a document of many objects becomes one object a line.
            Format::Json => Format::Jsonl,
            other => other,
        };
        Self { format, line: EventLine::new(context.output.painter()) }
    }

    /// Prints a message.
    pub fn print(&self, message: &WatchTasksResponse) -> anyhow::Result<()> {
        for (index, event) in message.events.iter().enumerate() {
            let is_last = index + 1 == message.events.len();
            match self.format {
                Format::Table | Format::Wide => {
                    if let Some(line) = self.line.render(event) {
                        print(&line)?;
                    }
                }
                Format::Name => {
                    if let Some(task) = &event.task {
                        print(&task.name)?;
                    }
                }
                Format::Json | Format::Jsonl => print(&json_line(event, is_last.then_some(&message.resume_token))?)?,
                Format::Yaml => print(&yaml_document(event)?)?,
            }
        }
        Ok(())
    }
}

/// The event, and after the last of a message the token to go on from.
fn json_line(event: &TaskEvent, resume_token: Option<&String>) -> anyhow::Result<String> {
    let mut text = crate::cli::output::json_line(&to_json(EVENT_PROTO, event)?)?;
    if let Some(token) = resume_token.filter(|token| !token.is_empty()) {
        // The event is an object, so its last character is the closing brace.
        text.pop();
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"resumeToken\":{}}}", serde_json::to_string(token)?));
    }
    Ok(text)
}

/// Documents of one stream are parted by `---`.
fn yaml_document(event: &TaskEvent) -> anyhow::Result<String> {
    Ok(format!("---\n{}", to_yaml(&to_json(EVENT_PROTO, event)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::task_event::Type;

    fn message(revisions: &[i64], token: &str) -> WatchTasksResponse {
        let events = revisions.iter().map(|revision| TaskEvent { revision: *revision, ..Default::default() }).collect();
        WatchTasksResponse { events, resume_token: token.into() }
    }

    #[test]
    fn what_was_seen_is_dropped_and_the_token_kept() {
        let mut cursor = Cursor::new(WatchTasksRequest { initial_state: true, ..Default::default() });
        cursor.advance(&mut message(&[0, 0, 7], "a"));
        assert_eq!(cursor.request.resume_token, "a");
        assert!(!cursor.request.initial_state);
        let mut again = message(&[6, 7, 8], "b");
        cursor.advance(&mut again);
        assert_eq!(again.events.iter().map(|e| e.revision).collect::<Vec<_>>(), [8]);
        assert_eq!((cursor.revision, cursor.request.resume_token.as_str()), (8, "b"));
    }

    #[test]
    fn the_last_line_of_a_message_carries_the_token() {
        let event = TaskEvent { r#type: Type::Bookmark as i32, ..Default::default() };
        let token = "t\"1".to_owned();
        assert_eq!(json_line(&event, None).unwrap(), r#"{"type":"TYPE_BOOKMARK"}"#);
        assert_eq!(json_line(&event, Some(&token)).unwrap(), r#"{"type":"TYPE_BOOKMARK","resumeToken":"t\"1"}"#);
        let empty = TaskEvent::default();
        assert_eq!(json_line(&empty, Some(&token)).unwrap(), r#"{"resumeToken":"t\"1"}"#);
    }
}
