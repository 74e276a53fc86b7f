//! `tasktower migrate`: the schema of the database.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::{
    config::Settings,
    store::{DatabaseUrl, migrate},
    telemetry,
};

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
pub async fn run(command: MigrateCommand) -> anyhow::Result<ExitCode> {
    telemetry::start()?;
    match command {
        MigrateCommand::Up(args) => {
            let applied = migrate::up(&args.database()?).await?;
            for name in &applied {
                println!("applied {name}");
            }
            if applied.is_empty() {
                println!("the schema is up to date");
            }
        }
        MigrateCommand::Status(args) => {
            for migration in migrate::status(&args.database()?).await? {
                println!("{}  {}", if migration.applied { "applied" } else { "missing" }, migration.name);
            }
        }
        MigrateCommand::Plan(args) => {
            let missing: Vec<_> =
                migrate::status(&args.database()?).await?.into_iter().filter(|m| !m.applied).collect();
            for migration in &missing {
                println!("would apply {}", migration.name);
            }
            if missing.is_empty() {
                println!("nothing to do");
            }
        }
        MigrateCommand::Down(args) => {
            if !args.yes {
                bail!("taking migrations back removes the data they hold; say --yes if that is what you want");
            }
            migrate::down(&args.database.database()?, args.steps).await?;
            println!("took back {} migration(s)", args.steps);
        }
        MigrateCommand::NewIncarnation(args) => {
            let incarnation = migrate::new_incarnation(&args.database()?).await?;
            println!("incarnation {incarnation}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl MigrateArgs {
    fn database(&self) -> anyhow::Result<DatabaseUrl> {
        let url = self.database_url.clone().or_else(|| std::env::var("DATABASE_URL").ok());
        Settings { database_url: url, ..Settings::default() }.database()
    }
}
