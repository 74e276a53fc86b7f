//! `tasktower audit …`: who did what, and whether the record is as it was.

use std::{
    io::Write as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use tonic::{Code, Status};

use super::{
    Context,
    failure::{self, EXIT_TASK_FAILED},
    help, names,
    output::{Format, print, to_json},
    pages::MAX_PAGE,
};
use crate::pb::{
    AuditEntry, AuditVerdict, ExportAuditRequest, GetAuditEntryRequest, GetAuditHeadRequest, ListAuditEntriesRequest,
    VerifyAuditRequest, WatchAuditEntriesRequest,
};

/// How long a stream that broke off is let alone before it is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a verification says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, newest first
    List(ListArgs),
    /// Show an entry with what changed
    Get(GetArgs),
    /// Follow entries live
    Watch(WatchArgs),
    /// Write all entries to stdout, oldest first, as lines of JSON
    Export(ExportArgs),
    /// Compute the seals again, and name the first row that was tampered with
    Verify(VerifyArgs),
    /// Show the newest seal, signed, to be kept elsewhere
    Head,
}

/// Which entries.
#[derive(Args, Debug)]
#[command(before_help = help::AUDIT_LIST)]
pub struct ListArgs {
    /// Only entries this filter matches
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// Stop after this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    limit: u32,
}

/// Which entry.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Its revision, or its name
    entry: String,
}

/// What to follow.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Only entries this filter matches
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// Go on after this token of an earlier watch
    #[arg(long, default_value = "", value_name = "TOKEN")]
    resume_token: String,
}

/// What to write.
#[derive(Args, Debug)]
#[command(before_help = help::AUDIT_EXPORT)]
pub struct ExportArgs {
    /// Only entries this filter matches
    #[arg(long, default_value = "", value_name = "FILTER")]
    filter: String,
    /// Only entries with a larger revision
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..), value_name = "REVISION")]
    after: i64,
}

/// What to compare with.
#[derive(Args, Debug)]
#[command(before_help = help::AUDIT_VERIFY)]
pub struct VerifyArgs {
    /// A head that was kept elsewhere
    #[arg(long, conflicts_with = "head_file", value_name = "TOKEN")]
    head: Option<String>,
    /// A file with it
    #[arg(long, value_name = "FILE")]
    head_file: Option<PathBuf>,
}

/// Runs one of them.
pub async fn run(context: &Context, command: AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::List(args) => list(context, args).await,
        AuditCommand::Get(args) => {
            let name = names::child(&context.project, "auditEntries", &args.entry)?;
            let request = context.api.call(GetAuditEntryRequest { name });
            let entry = context.api.audit().get_audit_entry(request).await?.into_inner().audit_entry;
            context.output.one(&entry.context("the server answered without an entry")?)?;
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Watch(args) => tokio::select! {
            outcome = watch(context, args) => outcome,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                Ok(ExitCode::SUCCESS)
            }
        },
        AuditCommand::Export(args) => export(context, args).await,
        AuditCommand::Verify(args) => verify(context, args).await,
        AuditCommand::Head => {
            let request = context.api.call(GetAuditHeadRequest { parent: context.project.clone() });
            let head = context.api.audit().get_audit_head(request).await?.into_inner().audit_head;
            context.output.one(&head.context("the server answered without a head")?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(context: &Context, args: ListArgs) -> anyhow::Result<ExitCode> {
    let limit = usize::try_from(args.limit)?;
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = i32::try_from(limit - entries.len())?.min(MAX_PAGE);
        let (parent, filter) = (context.project.clone(), args.filter.clone());
        let request = ListAuditEntriesRequest { parent, page_size, page_token, filter };
        let page = context.api.audit().list_audit_entries(context.api.call(request)).await?.into_inner();
        entries.extend(page.audit_entries);
        page_token = page.next_page_token;
        if page_token.is_empty() || entries.len() >= limit {
            break;
        }
    }
    context.output.list(&entries)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a stream that broke off so may be opened again.
fn passes(status: &Status) -> bool {
    failure::true_code(status) == Code::Unavailable
}

async fn watch(context: &Context, args: WatchArgs) -> anyhow::Result<ExitCode> {
    let WatchArgs { filter, mut resume_token } = args;
    loop {
        let request = WatchAuditEntriesRequest {
            parent: context.project.clone(),
            filter: filter.clone(),
            resume_token: resume_token.clone(),
        };
        let broken = match context.api.audit().watch_audit_entries(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            message.audit_entries.iter().try_for_each(|entry| tell(context, entry))?;
                            resume_token = message.resume_token;
                        }
                        Ok(None) => return Ok(ExitCode::SUCCESS),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        if !passes(&broken) || resume_token.is_empty() {
            return Err(broken.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints an entry of a stream.
fn tell(context: &Context, entry: &AuditEntry) -> anyhow::Result<()> {
    match context.output.stream_format() {
        Format::Table | Format::Wide => print(&super::views::audit_line(entry)),
        Format::Name => print(&entry.name),
        Format::Yaml => print(&format!("---\n{}", super::output::to_yaml(&to_json(AUDIT_ENTRY, entry)?)?)),
        Format::Json | Format::Jsonl => print(&super::output::json_line(&to_json(AUDIT_ENTRY, entry)?)?),
    }
}

const AUDIT_ENTRY: &str = "tasktower.v1.AuditEntry";

async fn export(context: &Context, args: ExportArgs) -> anyhow::Result<ExitCode> {
    let ExportArgs { filter, after: mut after_revision } = args;
    loop {
        let (parent, filter) = (context.project.clone(), filter.clone());
        let request = ExportAuditRequest { parent, filter, after_revision };
        let mut stream = context.api.audit().export_audit(request).await?.into_inner();
        let broken = loop {
            match stream.message().await {
                Ok(Some(piece)) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(piece.jsonl.as_bytes())?;
                    out.flush()?;
                    after_revision = piece.last_revision;
                }
                Ok(None) => {
                    let text = format!("-- go on with --after {after_revision} --");
                    eprintln!("{}", context.talk.dim(&text));
                    return Ok(ExitCode::SUCCESS);
                }
                Err(status) => break status,
            }
        };
        if !passes(&broken) {
            return Err(broken.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn verify(context: &Context, args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let head = match (args.head, args.head_file) {
        (Some(head), _) => head,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            text.trim().to_owned()
        }
        (None, None) => String::new(),
    };
    let request = VerifyAuditRequest { parent: context.project.clone(), head };
    let mut stream = context.api.audit().verify_audit(request).await?.into_inner();
    let mut told = Instant::now();
    while let Some(message) = stream.message().await? {
        if let Some(verdict) = message.verdict {
            return judged(context, &verdict, message.verified_count);
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let text = format!("-- row {} of {} --", message.verified_revision, message.sealed_revision);
            eprintln!("{}", context.talk.dim(&text));
        }
    }
    bail!("the server ended without a verdict")
}

fn judged(context: &Context, verdict: &AuditVerdict, rows: i64) -> anyhow::Result<ExitCode> {
    eprintln!("{rows} rows compared");
    context.output.one(verdict)?;
    Ok(if verdict.intact { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TASK_FAILED) })
}
