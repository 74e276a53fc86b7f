//! A program that runs beside the test: its output goes to a log file, signals go to it, and it dies with its `Process`.
//! The log is printed when the test fails.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::wait::eventually;

/// Enough to hold the story of a failure, little enough to read.
const LOG_TAIL_LINES: usize = 60;

/// More lines than a test leaves unread; beyond it further ones are in the log only.
const STDOUT_LINES_KEPT: usize = 10_000;

/// The `tasktower` binary under test, untouched by the settings of the shell the tests were started from.
pub fn tasktower() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasktower"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let foreign = ["DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY"].contains(&name_text.as_ref());
        if foreign || name_text.starts_with("TASKTOWER_") {
            command.env_remove(name);
        }
    }
    command.env("TASKTOWER_API_KEY", super::credentials::key());
    command
}

pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    stdout: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `command` with a log of its own.
    pub fn spawn(name: &str, command: &mut Command) -> Process {
        Process::spawn_with_log(name, command, Arc::new(Log::new()))
    }

    /// Starts `command`, its output appended to `log`.
    pub fn spawn_with_log(name: &str, command: &mut Command, log: Arc<Log>) -> Process {
        log.line(&format!("--- start: {name} {:?}", command.get_args().collect::<Vec<_>>()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.append())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (lines, stdout) = mpsc::channel(STDOUT_LINES_KEPT);
        let pipe = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let copy = log.clone();
        // Ends with the pipe, so with the process.
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                copy.line(&line);
                // A full or forgotten receiver is no reason to stop logging.
                let _ = lines.try_send(line);
            }
        });
        Process { name: name.to_owned(), child, log, stdout }
    }

    /// The next line of its stdout; None once it closed it.
    pub async fn stdout_line(&mut self) -> Option<String> {
        self.stdout.recv().await
    }

    /// SIGKILL, as a crash or an out-of-memory kill would, and waits until it is gone.
    pub fn kill(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM: a polite stop. `exited` waits for it.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT: Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGSTOP: it stops dead but stays connected, as in a long pause of its machine.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends a signal to another process that this one started.
    pub fn signal_child(child: i32, signal: Signal) {
        // It may be gone already.
        let _ = Pid::from_raw(child).map(|child| kill_process(child, signal));
    }

    /// SIGCONT: it goes on and knows nothing of the pause.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("cannot ask for {}: {error}", self.name))
    }

    /// Waits until it ended by itself.
    pub async fn exited(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("{} exits", self.name);
        eventually(&what, timeout, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Open descriptors: files and sockets.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far, both outputs.
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = self.log.text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- log of {} ---\n{}\n--- end of log ---", self.name, tail.join("\n"));
        }
    }
}

/// A file several processes, or several lives of one, write into one after another.
pub struct Log {
    path: PathBuf,
    _removed_on_drop: TempDir,
}

impl Log {
    pub fn new() -> Log {
        let folder = TempDir::with_prefix("tasktower-log-").expect("a temporary folder");
        let log = Log { path: folder.path().join("log"), _removed_on_drop: folder };
        File::create(&log.path).expect("a log file");
        log
    }

    /// Opened for appending: each write lands whole at the end, whoever else writes.
    pub fn append(&self) -> File {
        File::options().append(true).open(&self.path).expect("the log file is there until the log is dropped")
    }

    fn line(&self, line: &str) {
        // The log only helps; a full disk shows elsewhere.
        let _ = self.append().write_all(format!("{line}\n").as_bytes());
    }

    fn text(&self) -> String {
        fs::read(&self.path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_process_is_read_stopped_and_its_end_seen() {
    let mut process = Process::spawn("sh", Command::new("sh").args(["-c", "echo out; echo err >&2; exec sleep 600"]));
    assert_eq!(process.stdout_line().await.as_deref(), Some("out"));
    process.freeze();
    process.thaw();
    process.terminate();
    let status = process.exited(super::wait::SOON).await;
    assert_eq!(status.code(), None, "ended by the signal");
    let log = process.log();
    assert!(log.contains("out") && log.contains("err"), "{log}");
}
