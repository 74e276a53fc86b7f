//! What a test does when something is not installed: leave itself out and say so, or fail where everything is required.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Mutex, PoisonError},
};

/// Set by `make test`: then nothing may be left out.
const REQUIRE_ALL: &str = "TASKTOWER_TEST_REQUIRE_ALL";

static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Panics if everything is required; else says once for each `what` that its tests are left out.
pub fn report(what: &'static str, remedy: &str) {
    if std::env::var(REQUIRE_ALL).is_ok_and(|value| value == "1") {
        panic!("{what} is missing, and {REQUIRE_ALL}=1 lets no test be left out: {remedy}");
    }
    let first = SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    if first {
        // Not eprintln: the test runner would swallow it, because the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SKIPPED: every test that needs {what}. {remedy}, or run `make test`, which brings it. ***\n"
        );
    }
}
