//! Clients for the peers that speak gRPC, and the bare echo server.
//!
//! Each command measures one thing and prints one JSON object, the last line of stdout. On stderr `measuring` and
//! `measured` enclose what the figures are of, so that the runner beside us can read CPU times at both ends
//! (`tell.rs`). Any error ends the program: figures of a broken run are worse than none.

mod cronoq;
mod echo;
mod tell;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures peers of tasktower; make bench-peers builds it and benches/compare runs it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the echo on a free port and says which
    EchoServe,
    /// Calls the echo
    EchoCall(echo::Call),
    /// Submits to cronoq-server in batches
    CronoqEnqueue(cronoq::Enqueue),
    /// Runs what waits in cronoq-server
    CronoqProcess(cronoq::Process),
    /// Submits to cronoq-server one by one
    CronoqSubmit(cronoq::Submit),
    /// From submit to the start of the handler, at a fixed rate
    CronoqLatency(cronoq::Latency),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::EchoServe => echo::serve().await,
        Command::EchoCall(call) => echo::call(call).await,
        Command::CronoqEnqueue(enqueue) => cronoq::enqueue(enqueue).await,
        Command::CronoqProcess(process) => cronoq::process(process).await,
        Command::CronoqSubmit(submit) => cronoq::submit(submit).await,
        Command::CronoqLatency(latency) => cronoq::latency(latency).await,
    }
}
