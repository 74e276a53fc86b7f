//! Python with stubs generated from our proto files: a client in another language.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{credentials, missing, repository};

pub struct Python {
    program: PathBuf,
    stubs: &'static Path,
}

impl Python {
    /// None, after saying so, when it is not installed.
    pub fn find() -> Option<Python> {
        let program = repository().join("target/venv/bin/python");
        if program.exists() {
            return Some(Python { program, stubs: fresh_stubs() });
        }
        missing::report("Python with grpcio", "Run scripts/setup.sh python");
        None
    }

    /// Runs a script, its path given from the root of the repository, with the stubs to import.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(repository().join(script))
            .env("PYTHONPATH", self.stubs)
            .env("TASKTOWER_API_KEY", credentials::key())
            // Lines arrive when they are printed, and the source tree stays clean.
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// Generated once for each run of the tests, so that they are never older than the proto files.
fn fresh_stubs() -> &'static Path {
    static STUBS: OnceLock<PathBuf> = OnceLock::new();
    STUBS.get_or_init(|| {
        let output = Command::new(repository().join("scripts/python-stubs.sh")).output().expect("the script runs");
        assert!(output.status.success(), "python-stubs.sh failed: {}", String::from_utf8_lossy(&output.stderr));
        repository().join("target/python-stubs")
    })
}

#[test]
fn the_stubs_can_be_imported() {
    let Some(python) = Python::find() else { return };
    let output = python.command("tests/python/import_stubs.py").output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
