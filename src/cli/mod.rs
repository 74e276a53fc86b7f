//! The command line: `tasktower …`.
//!
//! Cast: `Cli` is what clap reads; `Context` is what every command gets (server, project, output); each noun has a file
//! of its own; `failure` turns what went wrong into words and an exit code. Data goes to stdout, talk to stderr.

mod audit;
mod bench;
mod bulk_job;
mod connect;
mod dead_letter;
pub mod demo;
pub mod dev;
mod exec;
mod failure;
mod help;
mod key;
pub mod migrate;
mod names;
mod output;
mod pages;
mod project;
mod queue;
mod retention;
mod retry_policy;
mod schedule;
pub mod serve;
mod signals;
mod task;
mod time;
mod views;
mod worker;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    connect::{Api, Credentials, DEFAULT_ENDPOINT},
    output::{ColorChoice, Format, Output, Painter},
};

/// The control tower for background tasks: submit them, run them, watch them.
#[derive(Debug, Parser)]
#[command(name = "tasktower", version, before_help = help::ROOT, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The server: host:port, http://host:port or https://host:port
    #[arg(long, global = true, env = "TASKTOWER_ADDRESS", default_value = DEFAULT_ENDPOINT, value_name = "ADDRESS")]
    endpoint: String,
    /// The project
    #[arg(long, global = true, env = "TASKTOWER_PROJECT", default_value = "default", value_name = "PROJECT")]
    project: String,
    /// An API key; prefer the environment, command lines are visible to others
    #[arg(long, global = true, env = "TASKTOWER_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// A token (JWT); prefer the environment
    #[arg(long, global = true, env = "TASKTOWER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// A file of certificates (PEM) whose servers are trusted with https://, besides those this machine trusts
    #[arg(long, global = true, env = "TASKTOWER_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The longest one call may take
    #[arg(long, global = true, default_value = "10s", value_parser = time::parse_duration, value_name = "DURATION")]
    rpc_timeout: Duration,
    /// How data is printed: table by default, jsonl for streams into a pipe
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Colours; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server on this machine, with no set-up
    Dev(dev::DevArgs),
    /// Run a server in production
    Serve(serve::ServeArgs),
    /// Create or change the database schema
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Submit, look at, change and follow tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Submit a task (short for `task submit`)
    Submit(task::SubmitArgs),
    /// Show a task (short for `task get`)
    Get(task::GetArgs),
    /// List tasks (short for `task list`)
    List(task::ListArgs),
    /// Follow tasks live (short for `task watch`)
    Watch(task::WatchArgs),
    /// Cancel tasks (short for `task cancel`)
    Cancel(task::CancelArgs),
    /// Look at queues, pause them, bound them
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Rules for failed attempts
    #[command(subcommand)]
    RetryPolicy(retry_policy::RetryPolicyCommand),
    /// Tasks by the clock: create schedules, pause them, see what became of their ticks
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Run a program as a worker; look at workers, drain them
    Worker(worker::WorkerArgs),
    /// Projects
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// API keys: how programs say who they are
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// How long final tasks are kept; delete what is too old
    #[command(subcommand)]
    Retention(retention::RetentionCommand),
    /// Who did what, and whether the record is as it was
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Work on many tasks that is under way
    #[command(subcommand)]
    BulkJob(bulk_job::BulkJobCommand),
    /// Tasks that failed for good: look at them, count, retry, put aside
    #[command(subcommand, visible_alias = "dlq")]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Measure a server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// What every command that talks to a server gets.
#[derive(Clone)]
pub(crate) struct Context {
    /// The server.
    pub api: Api,
    /// `projects/{project}`.
    pub project: String,
    /// Where data goes.
    pub output: Output,
    /// Colours of talk on stderr.
    pub talk: Painter,
}

impl Context {
    fn new(globals: &Globals) -> anyhow::Result<Self> {
        let credentials = Credentials::new(globals.api_key.as_deref(), globals.token.as_deref())?;
        Ok(Self {
            api: Api::new(&globals.endpoint, credentials, globals.rpc_timeout, globals.ca_file.as_deref())?,
            project: names::project(&globals.project)?,
            output: Output::new(globals.output, globals.color),
            talk: Painter::for_stream(globals.color, std::io::stderr().is_terminal()),
        })
    }
}

/// Reads the command line. Ends the process with help or a usage error (exit code 2) when it makes no sense.
pub fn parse() -> Cli {
    let matches = help::with_template(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Runs a command to its end and answers the exit code.
pub async fn run(cli: Cli) -> ExitCode {
    let talk = Painter::for_stream(cli.globals.color, std::io::stderr().is_terminal());
    let address = cli.globals.endpoint.clone();
    match Box::pin(dispatch(cli)).await {
        Ok(code) => code,
        Err(error) => failure::report(&failure::name_server(error, &address), talk),
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let context = || Context::new(&cli.globals);
    match cli.command {
        Command::Dev(args) => Box::pin(dev::run(args)).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Migrate(command) => migrate::run(command).await,
        Command::Task(command) => task::run(&context()?, command).await,
        Command::Submit(args) => task::run(&context()?, task::TaskCommand::Submit(args)).await,
        Command::Get(args) => task::run(&context()?, task::TaskCommand::Get(args)).await,
        Command::List(args) => task::run(&context()?, task::TaskCommand::List(args)).await,
        Command::Watch(args) => task::run(&context()?, task::TaskCommand::Watch(args)).await,
        Command::Cancel(args) => task::run(&context()?, task::TaskCommand::Cancel(args)).await,
        Command::Queue(command) => queue::run(&context()?, command).await,
        Command::RetryPolicy(command) => retry_policy::run(&context()?, command).await,
        Command::Schedule(command) => schedule::run(&context()?, command).await,
        Command::Worker(args) => worker::run(&context()?, args).await,
        Command::Project(command) => project::run(&context()?, command).await,
        Command::Key(command) => Box::pin(key::run(&context()?, command)).await,
        Command::Retention(command) => retention::run(&context()?, command).await,
        Command::Audit(command) => audit::run(&context()?, command).await,
        Command::BulkJob(command) => bulk_job::run(&context()?, command).await,
        Command::DeadLetter(command) => dead_letter::run(&context()?, command).await,
        Command::Bench(command) => bench::run(&context()?, command).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Cli, clap::Error> {
        let matches = help::with_template(Cli::command()).try_get_matches_from(line.split(' '))?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line_is_consistent() {
        help::with_template(Cli::command()).debug_assert();
    }

    #[test]
    fn aliases_and_nouns_are_read_alike() {
        for line in [
            "tasktower dev --demo --db tasks.db",
            "tasktower task submit email.send --input {} --timeout 30s --label a=b --wait",
            "tasktower submit email.send -o json",
            "tasktower task cancel --filter type=x --yes",
            "tasktower worker --exec cat --type echo --type echo2 --slots 4",
            "tasktower worker list -o name",
            "tasktower --project p worker get w",
            "tasktower worker --project p list",
            "tasktower queue set email --max-running 5 --rate 10/s",
            "tasktower retention set --rule state=SUCCEEDED,type=mail.*,age=7d --rule age=90d --dry-run",
            "tasktower retention run --yes",
            "tasktower audit list --filter action=queue.* --limit 1000",
            "tasktower audit --project system watch -o jsonl",
            "tasktower audit export --after 17",
            "tasktower audit verify --head-file heads.txt",
            "tasktower retry-policy create flaky --settings {} --task-type email.send",
            "tasktower retry-policy evaluate flaky --error-type SmtpTimeout --attempt 3",
            "tasktower retry-policy stats --since -2h",
            "tasktower dead-letter list --filter state=OPEN -o wide",
            "tasktower dlq retry abcd --input {} --dry-run",
            "tasktower dlq bulk-retry --filter * --rate 50 --max-failures 20 --window 2m --force",
            "tasktower dlq mark-processed abcd ef01 --reason fixed",
            "tasktower schedule create nightly --cron @daily --type report --overlap skip --label a=b",
            "tasktower schedule preview --cron @daily --time-zone Europe/Berlin",
            "tasktower schedule backfill nightly --start 2026-01-01T00:00:00Z --rate 10/s --dry-run",
            "tasktower key create service:shop --role submitter --in shop --scope tasks-submit --expires-in 90d",
            "tasktower key create service:admin --role admin --database-url sqlite://x.db",
            "tasktower key rotate abcDEF12 --overlap 1h",
            "tasktower key revoke apiKeys/abcDEF12",
            "tasktower migrate up",
            "tasktower bench lifecycle --tasks 10 --workers 2 --batch 5 --endpoint localhost:1 --json",
        ] {
            assert!(parse_line(line).is_ok(), "{line}: {:?}", parse_line(line).err());
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "tasktower",
            "tasktower frobnicate",
            "tasktower task submit",
            "tasktower task submit a --timeout 30",
            "tasktower task cancel",
            "tasktower task cancel abcd --filter x=1",
            "tasktower dlq bulk-retry",
            "tasktower dlq bulk-retry abcd --filter *",
            "tasktower dlq mark-processed abcd",
            "tasktower list -o xml",
            "tasktower key create",
            "tasktower key create service:shop --in shop",
            "tasktower schedule create nightly --type report",
            "tasktower schedule preview",
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
