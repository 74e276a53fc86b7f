//! How long it takes to verify the record of N changes, and how much memory that takes the server.
//!
//! Submits fill the journal; when all of it is sealed, a verification of it is timed. How far the seals are behind when the
//! last submit is answered shows whether sealing keeps up.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use tonic::Code;

use super::{
    Tell,
    load::{Load, connections},
    report::{Audit as Figures, Measuring, per_second, rounded},
    watch::resident_bytes,
};
use crate::{
    cli::{Context, failure::true_code},
    pb::{GetAuditHeadRequest, ListTasksRequest, VerifyAuditRequest},
};

const PAYLOAD_BYTES: usize = 100;
/// How often is looked whether all is sealed, and how much memory the server holds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Of how many.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// So many changes, those that are there already included
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(1..), value_name = "N")]
    rows: i64,
    /// The server's process on this machine, to see its memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    #[command(flatten)]
    pub(super) tell: Tell,
}

/// Fills the journal, waits for the seals, verifies.
pub async fn run(context: &Context, args: &AuditArgs) -> anyhow::Result<Figures> {
    let missing = args.rows - revision(context).await?;
    if missing > 0 {
        let load = Load::new(context, PAYLOAD_BYTES);
        load.fill(&connections(context, 4), u64::try_from(missing)?).await?;
    }
    let last = revision(context).await?;
    let behind = last - sealed(context).await?;
    let waiting = Instant::now();
    while sealed(context).await? < last {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let caught_up = waiting.elapsed();

    let before = args.server_pid.map(resident_bytes).transpose()?;
    let measuring = Measuring::begin();
    let began = Instant::now();
    let mut most = before;
    let request = VerifyAuditRequest { parent: context.project.clone(), ..Default::default() };
    let mut stream = context.api.audit().verify_audit(request).await?.into_inner();
    let mut told = None;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            message = stream.message() => match message? {
                Some(message) => told = Some(message),
                None => break,
            },
            _ = looks.tick() => most = most.max(args.server_pid.map(resident_bytes).transpose()?),
        }
    }
    let took = began.elapsed();
    measuring.end();
    let told = told.context("the server ended without a word")?;
    let verdict = told.verdict.context("the server ended without a verdict")?;
    ensure!(verdict.intact, "the record is damaged: {}", verdict.description);
    let rows = u64::try_from(told.verified_count)?;
    Ok(Figures {
        scenario: "audit",
        rows,
        seconds: rounded(took.as_secs_f64()),
        rows_per_s: per_second(rows, took),
        behind_rows: behind,
        caught_up_s: rounded(caught_up.as_secs_f64()),
        server_rss_growth_bytes: before.zip(most).map(|(before, most)| most.saturating_sub(before)),
    })
}

/// The last revision of the project.
async fn revision(context: &Context) -> anyhow::Result<i64> {
    let request = ListTasksRequest { parent: context.project.clone(), page_size: 1, ..Default::default() };
    Ok(context.api.tasks().list_tasks(context.api.call(request)).await?.into_inner().revision)
}

/// The last revision that is sealed.
async fn sealed(context: &Context) -> anyhow::Result<i64> {
    let request = GetAuditHeadRequest { parent: context.project.clone() };
    match context.api.audit().get_audit_head(context.api.call(request)).await {
        Ok(answer) => Ok(answer.into_inner().audit_head.map_or(0, |head| head.last_revision)),
        Err(status) if true_code(&status) == Code::NotFound => Ok(0),
        Err(status) => Err(status.into()),
    }
}
