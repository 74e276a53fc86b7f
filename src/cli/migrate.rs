//! `tasktower migrate`: the schema of the database.

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// What to do with the schema.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Bring the schema up to this version of tasktower
    Up(MigrateArgs),
    /// Say which migrations are in and which are missing
    Status(MigrateArgs),
    /// Print what `up` would do, and do nothing
    Plan(MigrateArgs),
    /// Take the last migrations back; data in what they made is lost
    Down(DownArgs),
    /// Declare this database a copy with a life of its own: resume tokens of the original end here
    NewIncarnation(MigrateArgs),
}

/// Which database.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// The database: postgres://… or sqlite://…
    #[arg(long, env = "TASKTOWER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

/// How far down.
#[derive(Args, Debug)]
pub struct DownArgs {
    /// Which database.
    #[command(flatten)]
    pub database: MigrateArgs,
    /// How many migrations to take back
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub steps: u32,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
}

/// Does it.
pub async fn run(_command: MigrateCommand) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the database schema is not built into this binary")
}
