//! `tasktower dead-letter …`, for short `tasktower dlq …`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{
    Context, failure, help, names,
    task::{confirmed, follow_bulk_job, read_payload},
    time::{parse_duration, to_duration},
};
use crate::pb::{
    AnalyzeDeadLettersRequest, BulkRetryDeadLettersRequest, BulkRetryDeadLettersResponse, DeadLetter,
    GetDeadLetterRequest, ListDeadLettersRequest, MarkDeadLetterProcessedRequest, ReopenDeadLetterRequest,
    RetryDeadLetterRequest,
};

/// Names shown before one is asked to confirm.
const SHOWN_SAMPLE: usize = 5;

/// What to do with tasks that failed for good. An ENTRY is the name of a dead letter or of its task, the task's UUID, or
/// the first digits of it.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List OPEN and PROCESSED entries, those that failed last first
    List(ListArgs),
    /// Show an entry with its replays
    Get(GetArgs),
    /// Count entries by kind of error
    Analyze(AnalyzeArgs),
    /// Retry entries one by one
    Retry(RetryArgs),
    /// Retry many entries at a pace
    BulkRetry(BulkRetryArgs),
    /// Say that entries were dealt with in another way
    MarkProcessed(MarkArgs),
    /// Make PROCESSED entries OPEN again
    Reopen(EntriesArgs),
}

/// Which entries.
#[derive(Args, Debug)]
#[command(before_help = help::DEAD_LETTER_LIST)]
pub struct ListArgs {
    /// Only entries this filter matches
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// Stop after this many; 0 means all
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

/// One entry.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The entry
    entry: String,
}

/// Several entries.
#[derive(Args, Debug)]
pub struct EntriesArgs {
    /// The entries
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
}

/// Which entries to count.
#[derive(Args, Debug)]
pub struct AnalyzeArgs {
    /// Only entries this filter matches
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// Show so many kinds, the most frequent ones
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=100), value_name = "N")]
    groups: i32,
}

/// Which entries to retry, and with what.
#[derive(Args, Debug)]
#[command(before_help = help::DEAD_LETTER_RETRY)]
pub struct RetryArgs {
    #[command(flatten)]
    which: EntriesArgs,
    /// Another input from now on: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// The input is bytes of this media type, not JSON
    #[arg(long, requires = "input", value_name = "TYPE")]
    content_type: Option<String>,
    /// Refuse unless this is the etag of the entry
    #[arg(long, default_value = "", value_name = "ETAG")]
    etag: String,
    /// Only show the entries
    #[arg(long)]
    dry_run: bool,
}

/// Which entries to retry, and how.
#[derive(Args, Debug)]
#[command(before_help = help::DEAD_LETTER_BULK_RETRY)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["entries", "filter"]))]
pub struct BulkRetryArgs {
    /// These entries, of which the OPEN ones are retried
    #[arg(value_name = "ENTRY")]
    entries: Vec<String>,
    /// Every OPEN entry this filter matches; `*` means all
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// So many a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000), value_name = "N")]
    rate: i32,
    /// Stop when more than this share of those that ended failed again; 0 means never
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=99), value_name = "PERCENT")]
    max_failures: i32,
    /// Look at what was retried within this time
    #[arg(long, default_value = "1m", value_parser = parse_duration, value_name = "DURATION")]
    window: Duration,
    /// Why, for the journal
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(long, visible_alias = "force", conflicts_with = "dry_run")]
    yes: bool,
}

/// Which entries were dealt with, and how.
#[derive(Args, Debug)]
pub struct MarkArgs {
    #[command(flatten)]
    which: EntriesArgs,
    /// What was done instead
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs one of them.
pub async fn run(context: &Context, command: DeadLetterCommand) -> anyhow::Result<ExitCode> {
    match command {
        DeadLetterCommand::List(args) => list(context, args).await,
        DeadLetterCommand::Get(args) => {
            let name = names::dead_letter(&context.api, &context.project, &args.entry).await?;
            context.output.one(&get(context, name).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        DeadLetterCommand::Analyze(args) => analyze(context, args).await,
        DeadLetterCommand::Retry(args) => retry(context, args).await,
        DeadLetterCommand::BulkRetry(args) => bulk_retry(context, args).await,
        DeadLetterCommand::MarkProcessed(args) => {
            each(context, &args.which, async |name| {
                let request =
                    MarkDeadLetterProcessedRequest { name, reason: args.reason.clone(), ..Default::default() };
                let request = context.api.call(request);
                Ok(context.api.dead_letters().mark_dead_letter_processed(request).await?.into_inner().dead_letter)
            })
            .await
        }
        DeadLetterCommand::Reopen(args) => {
            each(context, &args, async |name| {
                let request = context.api.call(ReopenDeadLetterRequest { name, ..Default::default() });
                Ok(context.api.dead_letters().reopen_dead_letter(request).await?.into_inner().dead_letter)
            })
            .await
        }
    }
}

async fn get(context: &Context, name: String) -> anyhow::Result<DeadLetter> {
    let request = context.api.call(GetDeadLetterRequest { name });
    let answer = context.api.dead_letters().get_dead_letter(request).await?.into_inner();
    answer.dead_letter.context("the server answered without a dead letter")
}

async fn list(context: &Context, args: ListArgs) -> anyhow::Result<ExitCode> {
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let missing = i32::try_from(limit - entries.len()).unwrap_or(i32::MAX);
        let request = ListDeadLettersRequest {
            parent: context.project.clone(),
            page_size: missing.min(super::pages::MAX_PAGE),
            page_token,
            filter: args.filter.clone(),
        };
        let page = context.api.dead_letters().list_dead_letters(context.api.call(request)).await?.into_inner();
        entries.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() || entries.len() >= limit {
            break;
        }
    }
    context.output.list(&entries)?;
    if !page_token.is_empty() {
        eprintln!("{}", context.talk.dim("-- there are more; --limit 0 shows all --"));
    } else if entries.is_empty() {
        eprintln!("{}", context.talk.dim("-- no dead letter matches --"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn analyze(context: &Context, args: AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let AnalyzeArgs { filter, groups: max_groups } = args;
    let request = AnalyzeDeadLettersRequest { parent: context.project.clone(), filter, max_groups };
    let answer = context.api.dead_letters().analyze_dead_letters(context.api.call(request)).await?.into_inner();
    context.output.list(&answer.groups)?;
    let mut talk = format!("-- {} entries", answer.scanned_count);
    if answer.other_count > 0 {
        talk = format!("{talk}, {} of them of other kinds", answer.other_count);
    }
    if answer.truncated {
        talk.push_str("; there may be older ones that were not looked at");
    }
    eprintln!("{}", context.talk.dim(&format!("{talk} --")));
    Ok(ExitCode::SUCCESS)
}

async fn retry(context: &Context, args: RetryArgs) -> anyhow::Result<ExitCode> {
    let RetryArgs { which, input, content_type, etag, dry_run } = args;
    let input = input.map(|input| read_payload(&input, content_type.as_deref())).transpose()?;
    each(context, &which, async |name| {
        if dry_run {
            return get(context, name).await.map(Some);
        }
        let request = context.api.call(RetryDeadLetterRequest { name, input: input.clone(), etag: etag.clone() });
        Ok(context.api.dead_letters().retry_dead_letter(request).await?.into_inner().dead_letter)
    })
    .await
}

async fn bulk_retry(context: &Context, args: BulkRetryArgs) -> anyhow::Result<ExitCode> {
    let mut entries = Vec::with_capacity(args.entries.len());
    for text in &args.entries {
        entries.push(names::dead_letter(&context.api, &context.project, text).await?);
    }
    let request = BulkRetryDeadLettersRequest {
        parent: context.project.clone(),
        filter: args.filter.unwrap_or_default(),
        names: entries,
        reason: args.reason,
        force: false,
        rate: args.rate,
        max_failure_percent: args.max_failures,
        failure_window: Some(to_duration(args.window)),
    };
    let preview = send(context, request.clone()).await?;
    eprintln!("{} OPEN entries match", preview.matched_count);
    for name in preview.sample.iter().take(SHOWN_SAMPLE) {
        eprintln!("  {}", names::id(name));
    }
    if preview.sample.len() > SHOWN_SAMPLE {
        eprintln!("  …");
    }
    if args.dry_run || preview.matched_count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed(&format!("retry them, {} a second?", args.rate))? {
        eprintln!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let answer = send(context, BulkRetryDeadLettersRequest { force: true, ..request }).await?;
    follow_bulk_job(context, answer.bulk_job.context("the server answered without a job")?.name).await
}

async fn send(context: &Context, request: BulkRetryDeadLettersRequest) -> anyhow::Result<BulkRetryDeadLettersResponse> {
    Ok(context.api.dead_letters().bulk_retry_dead_letters(context.api.call(request)).await?.into_inner())
}

/// Entries in turn; one that is refused is told about and the others go on. The exit code is that of the first refusal.
async fn each(
    context: &Context,
    which: &EntriesArgs,
    change: impl AsyncFn(String) -> anyhow::Result<Option<DeadLetter>>,
) -> anyhow::Result<ExitCode> {
    let mut changed = Vec::with_capacity(which.entries.len());
    let mut first_refusal = None;
    for text in &which.entries {
        let outcome = match names::dead_letter(&context.api, &context.project, text).await {
            Ok(name) => change(name).await.with_context(|| text.clone()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(entry) => changed.extend(entry),
            Err(error) => {
                let code = failure::report(&error, context.talk);
                first_refusal.get_or_insert(code);
            }
        }
    }
    if !changed.is_empty() {
        context.output.list(&changed)?;
    }
    Ok(first_refusal.unwrap_or(ExitCode::SUCCESS))
}
