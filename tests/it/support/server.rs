//! The real server in a process of its own.
//!
//! The contract with the binary: `tasktower serve` prints exactly one line
//! `listening grpc=ADDRESS admin=ADDRESS` to stdout once it answers calls; everything else it has to say goes to stderr.

use std::{
    net::SocketAddr,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backend::Database,
    credentials,
    process::{Log, Process, tasktower},
    sockets,
};

/// From the start of the process to the line, on a loaded machine with two cores.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The kernel chooses the port.
const ANY_PORT: &str = "127.0.0.1:0";

/// A server and the database it works on. A killed one can be started again, the database being as it left it.
pub struct Server {
    settings: Settings,
    process: Process,
    addresses: Addresses,
    log: Arc<Log>,
    started_within: Duration,
}

/// What a server is started with.
#[derive(Clone, Default)]
struct Settings {
    database_url: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Migrates the database and starts a server on it.
    pub async fn start(database: &Database) -> Server {
        Server::start_with(database, &[]).await
    }

    /// The same with more arguments to `tasktower serve`.
    pub async fn start_with(database: &Database, arguments: &[&str]) -> Server {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let settings = Settings { database_url: database.url().to_owned(), arguments, environment: Vec::new() };
        Server::start_as(database, settings).await
    }

    /// The same with faults: what `src/faults` reads from the environment.
    pub async fn start_with_faults(database: &Database, faults: &[(&str, &str)]) -> Server {
        let settings =
            Settings { database_url: database.url().to_owned(), arguments: Vec::new(), environment: owned(faults) };
        Server::start_as(database, settings).await
    }

    async fn start_as(database: &Database, settings: Settings) -> Server {
        migrate(&settings.database_url);
        credentials::plant(database).await;
        let log = Arc::new(Log::new());
        let began = Instant::now();
        let (process, addresses) = run(&settings, ANY_PORT, ANY_PORT, log.clone()).await;
        Server { settings, process, addresses, log, started_within: began.elapsed() }
    }

    /// The faults of its next life.
    pub fn set_faults(&mut self, faults: &[(&str, &str)]) {
        self.settings.environment = owned(faults);
    }

    /// How long its last start took, from the process to the line that says that it answers calls.
    pub fn started_within(&self) -> Duration {
        self.started_within
    }

    /// Where gRPC clients connect to: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addresses.grpc)
    }

    /// The plaintext port for probes and metrics.
    pub fn admin_endpoint(&self) -> String {
        format!("http://{}", self.addresses.admin)
    }

    /// Signals, log and exit status.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Connections that clients have to the gRPC port, and those that they closed and the server did not.
    pub fn connections(&self) -> usize {
        sockets::connections(self.addresses.grpc.port())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, then waits for the end.
    pub async fn stop(&mut self, timeout: Duration) -> ExitStatus {
        self.process.terminate();
        self.process.exited(timeout).await
    }

    /// Kills it if it runs and starts it again on the same database and ports, so that clients find it again.
    pub async fn restart(&mut self) {
        let Addresses { grpc, admin } = self.addresses;
        self.start_again(&grpc.to_string(), &admin.to_string()).await;
    }

    /// Kills it if it runs and starts it again on the same database and new ports.
    pub async fn restart_elsewhere(&mut self) {
        self.start_again(ANY_PORT, ANY_PORT).await;
    }

    async fn start_again(&mut self, grpc: &str, admin: &str) {
        self.process.kill();
        let began = Instant::now();
        (self.process, self.addresses) = run(&self.settings, grpc, admin, self.log.clone()).await;
        self.started_within = began.elapsed();
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `tasktower migrate up`; does nothing on a database that is up to date.
pub fn migrate(database_url: &str) {
    let output = tasktower()
        .args(["migrate", "up", "--database-url", database_url])
        .output()
        .expect("the binary under test runs");
    assert!(output.status.success(), "migrate up failed: {output:?}");
}

/// Half a day from now: the daily run must not come into a test, which would find more in the journal than it wrote.
fn half_a_day_away() -> String {
    const HOUR: u64 = 3_600;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("{:02}:00", (now.as_secs() / HOUR + 12) % 24)
}

/// A server with faults may crash before it answers calls; so often is it started again.
const FAULTY_STARTS: usize = 5;

async fn run(settings: &Settings, grpc: &str, admin: &str, log: Arc<Log>) -> (Process, Addresses) {
    let starts = if settings.environment.is_empty() { 1 } else { FAULTY_STARTS };
    for _ in 0..starts {
        let mut command = tasktower();
        command
            .args(["serve", "--listen", grpc, "--admin-listen", admin, "--database-url", &settings.database_url])
            .args(&settings.arguments)
            .env("TASKTOWER_RETENTION_TIME", half_a_day_away())
            .envs(settings.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn_with_log("tasktower serve", &mut command, log.clone());
        // A panic here drops the process, which prints its log.
        let line = tokio::time::timeout(START_TIMEOUT, process.stdout_line()).await;
        if let Some(line) = line.expect("the server says that it listens") {
            let addresses = parse_listening(&line).unwrap_or_else(|| panic!("not the line of the contract: {line:?}"));
            return (process, addresses);
        }
    }
    panic!("the server ended before it listened, {starts} times");
}

fn parse_listening(line: &str) -> Option<Addresses> {
    let (grpc, admin) = line.strip_prefix("listening grpc=")?.split_once(" admin=")?;
    Some(Addresses { grpc: grpc.parse().ok()?, admin: admin.parse().ok()? })
}

#[test]
fn the_listening_line_is_read() {
    let addresses = parse_listening("listening grpc=127.0.0.1:50051 admin=127.0.0.1:9464").expect("a good line");
    assert_eq!((addresses.grpc.port(), addresses.admin.port()), (50051, 9464));
    assert_eq!(parse_listening("listening on 127.0.0.1:50051"), None);
}
