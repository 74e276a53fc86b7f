//! How much is done, and with which seed.
//!
//! `TASKTOWER_CRASH=full` is `make crash`, anything else the short form; `TASKTOWER_CRASH_SEED` repeats a schedule. What a schedule meets is not
//! repeated by its seed: the clients, the network and the database have a will of their own.

use std::{fs::File, io::Write as _};

use rand::{SeedableRng as _, rngs::StdRng};

use crate::support::{
    backend::{Backend, Database, for_each_backend},
    history::{End, Known},
    missing,
};

const CRASH: &str = "TASKTOWER_CRASH";
const SEED: &str = "TASKTOWER_CRASH_SEED";
/// A file to which every part appends what it did.
const REPORT: &str = "TASKTOWER_CRASH_REPORT";

/// How many of something: a few in `make test`, all in `make crash`.
pub fn many<T>(short: T, full: T) -> T {
    if std::env::var(CRASH).is_ok_and(|value| value == "full") { full } else { short }
}

/// Runs a part on each kind of database: one after the other, or both at once in the short form, which mostly waits.
pub async fn on_each_backend(part: impl AsyncFn(&Database)) {
    if many(false, true) {
        return for_each_backend(part).await;
    }
    let on = async |backend| {
        if let Some(database) = Database::fresh(backend).await {
            part(&database).await;
        }
    };
    tokio::join!(on(Backend::Sqlite), on(Backend::Postgres));
}

/// The seed of this run.
pub fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().unwrap_or_else(|error| panic!("{SEED}={seed}: {error}")),
        Err(_) => 1,
    }
}

/// The randomness of one part of the run.
pub fn random(part: u64) -> StdRng {
    StdRng::seed_from_u64(seed().wrapping_mul(1_000).wrapping_add(part))
}

/// Whether the server under test has failpoints; if not, says so.
pub fn has_failpoints() -> bool {
    let built = cfg!(feature = "failpoints");
    if !built {
        missing::report("failpoints", "Build with `--features failpoints`");
    }
    built
}

/// Says what a part did, on stdout and in the report.
pub fn report(line: &str) {
    println!("{line}");
    if let Ok(path) = std::env::var(REPORT) {
        let file = File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.unwrap_or_else(|error| panic!("{REPORT}={path}: {error}"));
    }
}

/// The figures of a load, for a report.
pub fn figures(known: &Known) -> String {
    format!(
        "{} calls (OK {}, refused {}, unknown {}), {} submits and {} completions acknowledged, longest call {} ms",
        known.lines.len(),
        known.ended(End::Ok),
        known.ended(End::Refused),
        known.ended(End::Unknown),
        known.submits.len(),
        known.completions.len(),
        known.longest().as_millis(),
    )
}
