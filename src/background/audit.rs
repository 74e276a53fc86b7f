//! Keeps the record of who did what: seals it, signs it, and writes notes down.

use std::time::Duration;

use super::Tick;
use crate::app::App;

/// Seals new rows of the journal; see `app::sealer`.
pub(super) struct JournalSealer;

impl Tick for JournalSealer {
    const NAME: &'static str = "journal-sealer";
    /// With the 3 s that a seal is left alone, rows are sealed within 5 s.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        while app.seal_journals().await? {}
        Ok(())
    }
}

/// Writes signed heads to the log; see `app::audit_head`.
pub(super) struct HeadSigner;

impl Tick for HeadSigner {
    const NAME: &'static str = "head-signer";
    /// How much of the record somebody who controls the database may rewrite before a copy of it is elsewhere.
    const PERIOD: Duration = Duration::from_secs(60);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.log_audit_heads().await?)
    }
}

/// Writes notes; see `app::audit_note`.
pub(super) struct NoteWriter;

impl Tick for NoteWriter {
    const NAME: &'static str = "note-writer";
    /// How many seconds of notes are lost with a process that is killed.
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tick(&self, app: &App) -> anyhow::Result<()> {
        Ok(app.write_notes().await?)
    }
}
