//! stub
use clap::Subcommand;
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Lifecycle,
}
pub(super) async fn run(_c: &super::Context, _b: BenchCommand) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("x")
}
