//! Every variant of the service that is wrong on purpose. `TASKTOWER_MUTANT=no_fence` switches one on for the life of the
//! process.
//!
//! `tests/it/crash/mutants.rs` runs each and names the check that finds it; docs/reference/mutants.md is the list.

macro_rules! mutants {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// One promise broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$variant,)+];

            /// As the environment spells it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// A completion is taken whatever its epoch.
    NoFence = "no_fence",
    /// A lease does not raise the epoch.
    LeaseKeepsEpoch = "lease_keeps_epoch",
    /// The journal rows of a batch are written in a transaction of their own, after the tasks.
    EventOutsideTransaction = "event_outside_transaction",
    /// A release writes no journal row.
    LosesReleases = "loses_releases",
    /// Revisions are taken as from a sequence: for good at once, the rows come later.
    CursorBySequence = "cursor_by_sequence",
    /// Callers are answered, and watchers told, while the COMMIT is still on its way.
    AnswerBeforeCommit = "answer_before_commit",
    /// What was decided on rows that were not locked is written whether or not they are still as they were read.
    WritesUnchecked = "writes_unchecked",
    /// Watchers are told before COMMIT.
    PublishBeforeCommit = "publish_before_commit",
    /// A COMMIT without an answer counts as done.
    AssumesCommitted = "assumes_committed",
    /// An answer under an idempotency key is kept in a transaction of its own, after the effect.
    LateIdempotency = "late_idempotency",
    /// A write runs inside its call, and a transaction that is dropped leaves its connection inside BEGIN.
    CancelledCallDropsTransaction = "cancelled_call_drops_transaction",
    /// A watcher whose queue is full misses events and is not cut off.
    SkipsWhenFull = "skips_when_full",
    /// The sweep ends every lease it looks at, and looks at all of them.
    SweepsEarly = "sweeps_early",
    /// PostgreSQL acknowledges a COMMIT before it is on disk.
    AsynchronousCommit = "asynchronous_commit",
}

/// The variable that names the mutant.
#[cfg(feature = "failpoints")]
const MUTANT: &str = "TASKTOWER_MUTANT";

impl Mutant {
    /// Whether this process is the mutant.
    #[cfg(feature = "failpoints")]
    pub fn is_on(self) -> bool {
        static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
            let name = std::env::var(MUTANT).ok()?;
            let chosen = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
            if chosen.is_none() {
                // A test that names nothing tests nothing.
                eprintln!("{MUTANT}={name} names no mutant");
                std::process::abort();
            }
            tracing::warn!(mutant = name, "this server is wrong on purpose");
            chosen
        });
        *CHOSEN == Some(self)
    }

    /// Never: this program was built without mutants.
    #[cfg(not(feature = "failpoints"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mutant::ALL.len());
    }

    #[test]
    fn none_is_on_unless_it_is_named() {
        assert!(Mutant::ALL.iter().all(|mutant| !mutant.is_on()));
    }
}
