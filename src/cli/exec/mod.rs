//! `tasktower worker --exec COMMAND`: any program as a worker.
//!
//! Cast: `leasing` asks for tasks as slots are free; `Leases` holds what we may run and until when; `heartbeat` extends
//! it and hears of cancellation; `child` runs the program in a process group of its own; `report` tells the server how
//! it ended. `Leases` owns the truth about each lease: whoever learns that one is lost says so there, and the child is
//! killed. If the server is away, leases run out on our own clock and the children are stopped before another worker
//! can be given the task.

mod child;
mod heartbeat;
mod leases;
mod leasing;
mod outcome;
mod report;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::leases::{Leases, Stop};
use super::{Context, failure::Usage, task::parse_label, time::parse_duration};
use crate::pb::WorkerIdentity;

/// The name of a worker has these characters and this length.
const MAX_NAME_CHARS: usize = 128;

/// What to run, and for which tasks.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// The program that handles a task, run by `sh -c`
    #[arg(long, value_name = "COMMAND", requires = "types")]
    exec: Option<String>,
    /// A task type it handles; may be given several times
    #[arg(long = "type", value_name = "TYPE", requires = "exec")]
    types: Vec<String>,
    /// A queue it serves; may be given several times [default: default]
    #[arg(long = "queue", value_name = "QUEUE", requires = "exec")]
    queues: Vec<String>,
    /// How many tasks it runs at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N", requires = "exec")]
    slots: Option<u32>,
    /// The name of the worker [default: the name of this machine]
    #[arg(long, value_name = "NAME", requires = "exec")]
    name: Option<String>,
    /// What the worker says about itself; may be given several times
    #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE", requires = "exec")]
    labels: Vec<(String, String)>,
    /// How long what runs may go on after SIGTERM or SIGINT [default: 25s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", requires = "exec")]
    grace: Option<Duration>,
}

/// Kubernetes kills after 30 s; this leaves time to stop the children and to give the tasks back.
const DEFAULT_GRACE: Duration = Duration::from_secs(25);
const DEFAULT_SLOTS: u32 = 1;

impl ExecArgs {
    /// The program, if there is one.
    pub fn command(&self) -> Option<&str> {
        self.exec.as_deref()
    }
}

/// What all parts of a running worker share.
pub(super) struct Host {
    context: Context,
    command: String,
    identity: WorkerIdentity,
    slots: usize,
    leases: Leases,
    /// No more leases; what runs goes on.
    draining: CancellationToken,
}

impl Host {
    /// A line about what happens, for the operator.
    fn say(&self, text: &str) {
        eprintln!("{}", self.context.talk.dim(text));
    }
}

/// Works until it is told to stop.
pub async fn run(context: &Context, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let grace = args.grace.unwrap_or(DEFAULT_GRACE);
    let slots = args.slots.unwrap_or(DEFAULT_SLOTS);
    let identity = WorkerIdentity {
        worker: args.name.unwrap_or_else(machine_name),
        incarnation: Uuid::now_v7().to_string(),
        types: args.types,
        queues: args.queues,
        // At most 10,000, as clap made sure.
        slots: i32::try_from(slots).unwrap_or(i32::MAX),
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let host = Arc::new(Host {
        context: context.clone(),
        command: args.exec.ok_or_else(|| Usage::new("--exec is missing"))?,
        slots: usize::try_from(slots)?,
        identity,
        leases: Leases::default(),
        draining: CancellationToken::new(),
    });
    host.say(&format!(
        "worker {} serves {} at {}; Ctrl-C ends it",
        host.identity.worker,
        host.identity.types.join(", "),
        context.api.authority()
    ));
    let signals = tokio::spawn(obey_signals(host.clone(), grace));
    let heartbeat = tokio::spawn(heartbeat::run(host.clone()));
    let expiry = tokio::spawn(heartbeat::run_expiry(host.clone()));
    let outcome = leasing::run(&host).await;
    heartbeat.abort();
    expiry.abort();
    signals.abort();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// First signal: drain, and stop what runs after the grace. Second signal: stop what runs at once.
async fn obey_signals(host: Arc<Host>, grace: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    host.say("draining: no more tasks; another signal stops what runs");
    host.draining.cancel();
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
        () = tokio::time::sleep(grace) => (),
    }
    host.leases.stop_all(&Stop::Drained);
    Ok(())
}

/// The name of this machine with only the characters a worker's name may have.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let name: String = name.unwrap_or_default().trim().chars().map(|c| if is_name_char(c) { c } else { '-' }).collect();
    let name: String = name.chars().take(MAX_NAME_CHARS).collect();
    if name.is_empty() { "worker".to_owned() } else { name }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name_a_worker_can_have() {
        let name = machine_name();
        assert!(!name.is_empty() && name.chars().all(is_name_char), "{name}");
    }
}
