//! A PostgreSQL of the test's own, which it may stop, freeze and fill.
//!
//! The shared server of `make test` serves other tests at the same time; this one is thrown away with its `Cluster`.
//! Durability is as in production.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr as _,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sqlx::{ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::{
    missing,
    process::Process,
    wait::{SOON, eventually},
};

/// Servers of two replicas, and the test.
const MAX_CONNECTIONS: u32 = 60;
/// Recovery after an immediate stop, on a loaded machine.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(60);

pub struct Cluster {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    postmaster: Process,
    // Last: the server is gone before its files.
    _folder: TempDir,
}

impl Cluster {
    /// None, after saying so, where PostgreSQL is not installed.
    pub async fn start() -> Option<Cluster> {
        Cluster::start_in(&std::env::temp_dir()).await
    }

    /// The same with its files below this folder.
    pub async fn start_in(place: &Path) -> Option<Cluster> {
        let Some(programs) = programs() else {
            missing::report("the programs of PostgreSQL (initdb, pg_ctl)", "Run scripts/setup.sh postgres");
            return None;
        };
        let folder = TempDir::with_prefix_in("tasktower-pg-", place).expect("a temporary folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a folder for the data");
        // PostgreSQL does not run as root; its user must reach its folder.
        set_mode(folder.path(), "711");
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg("postgres").arg(&data));
        }
        // trust: only this machine reaches it. --no-sync: what is thrown away may be lost until it is in use.
        let mut initdb = as_postgres(&programs.join("initdb"));
        initdb.arg("--pgdata").arg(&data).args(["--username", "postgres", "--auth", "trust", "--no-sync"]);
        run(initdb.args(["--encoding", "UTF8", "--locale", "C"]));
        let port = free_port();
        let postmaster = spawn(&programs, &data, port);
        let cluster = Cluster { programs, data, port, postmaster, _folder: folder };
        cluster.accepts().await;
        Some(cluster)
    }

    /// A database on it is made with this.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// `pg_ctl stop -m immediate`: every process of it is gone at once, without a checkpoint.
    pub async fn stop_immediately(&mut self) {
        let mut stop = as_postgres(&self.programs.join("pg_ctl"));
        run(stop.args(["stop", "-m", "immediate", "-D"]).arg(&self.data));
        self.postmaster.exited(SOON).await;
    }

    /// Starts it after a stop, and answers when it accepted connections.
    pub async fn start_again(&mut self) -> Instant {
        self.postmaster = spawn(&self.programs, &self.data, self.port);
        self.accepts().await;
        Instant::now()
    }

    /// Whether the server itself is there. A disk that is full may end it.
    pub fn is_running(&mut self) -> bool {
        self.postmaster.ended().is_none()
    }

    /// SIGSTOP to every process of it: connections stay, and nobody answers.
    pub fn freeze(&self) -> Frozen<'_> {
        self.postmaster.freeze();
        self.children().into_iter().for_each(|child| Process::signal_child(child, Signal::STOP));
        Frozen(self)
    }

    /// They go on and know nothing of the pause.
    fn thaw(&self) {
        self.children().into_iter().for_each(|child| Process::signal_child(child, Signal::CONT));
        self.postmaster.thaw();
    }

    fn children(&self) -> Vec<i32> {
        let parent = self.postmaster.id();
        let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    async fn accepts(&self) {
        let options = PgConnectOptions::from_str(&self.url()).expect("a URL");
        eventually("PostgreSQL accepts connections", ACCEPTS_WITHIN, async || {
            options.connect().await.map_err(|error| error.to_string())?.close().await.map_err(|error| error.to_string())
        })
        .await;
    }
}

/// A cluster that is frozen for as long as this is there, also when the test fails: whoever cleans up needs it.
pub struct Frozen<'a>(&'a Cluster);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

fn spawn(programs: &Path, data: &Path, port: u16) -> Process {
    let mut postgres = as_postgres(&programs.join("postgres"));
    postgres.arg("-D").arg(data).args(["-p", &port.to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories="] {
        postgres.args(["-c", setting]);
    }
    postgres.args(["-c", &format!("max_connections={MAX_CONNECTIONS}")]);
    Process::spawn("postgres", &mut postgres)
}

/// setpriv rather than runuser: it leaves no process between us and the server.
fn as_postgres(program: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn set_mode(path: &Path, mode: &str) {
    run(Command::new("chmod").arg(mode).arg(path));
}

/// The folder of the newest PostgreSQL that is installed: where Debian keeps them, or where the shell finds them.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut folders: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = folders.into_iter().rev().chain(std::env::split_paths(&path));
    found.into_iter().find(|folder| folder.join("pg_ctl").exists() && folder.join("initdb").exists())
}

/// A port that was free a moment ago, below the range the kernel hands out to clients: it is taken again after a stop.
fn free_port() -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..100).map(|_| rand::random_range(20_000..32_000)).find(is_free).expect("one of a hundred ports is free")
}
