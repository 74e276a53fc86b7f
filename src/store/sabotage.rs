//! What mutants do to transactions (`faults/mutant.rs`). Nothing here runs in a program without the feature `failpoints`.

use std::time::Duration;

use super::{CommitError, StoreResult, Tx, limited};

/// How long the answer is ahead of the COMMIT: enough for it to reach its caller.
const HEAD_START: Duration = Duration::from_millis(30);

impl Tx {
    /// Commits what was written so far and goes on in another transaction on the same connection.
    pub(crate) async fn split(&mut self) -> StoreResult<()> {
        self.flush().await?;
        limited(self.run("COMMIT")).await?;
        limited(self.run(if self.is_postgres() { "BEGIN" } else { "BEGIN IMMEDIATE" })).await
    }

    /// Says that it is committed, and commits a moment later.
    #[allow(clippy::disallowed_methods, reason = "it is wrong on purpose")]
    #[allow(clippy::unnecessary_wraps, reason = "it stands in for the one that is right")]
    pub(super) fn commit_later(mut self) -> Result<(), CommitError> {
        tokio::spawn(async move {
            tokio::time::sleep(HEAD_START).await;
            if let Err(cause) = self.send_commit().await {
                tracing::warn!(%cause, "what was acknowledged is lost");
            }
        });
        Ok(())
    }
}
