//! Runs the program: input on stdin, result from stdout, the end of stderr kept.
//!
//! The program and all it starts share a process group, so that stopping it stops everything: SIGTERM, and SIGKILL after
//! `TERM_TIME`. What is left in the group when the program has ended is killed too, else it could write into pipes
//! nobody reads, or go on with a task that is done.

use std::{
    io::{self, Write},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use super::leases::Stop;

/// The server takes results up to this size.
pub const MAX_RESULT_BYTES: usize = 256 << 10;
/// So much of the end of stderr goes into the details of an error, whose bound is 16 KiB.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// Time between SIGTERM and SIGKILL.
const TERM_TIME: Duration = Duration::from_secs(5);
const GROUP_POLL: Duration = Duration::from_millis(50);
/// After the group is dead its pipes are at their end; a process that left the group may still hold one open.
const PIPE_TIME: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 16 << 10;

/// How the program ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited {
        /// Its exit code or signal.
        status: ExitStatus,
        /// What it wrote; none when that was more than `MAX_RESULT_BYTES`.
        stdout: Option<Vec<u8>>,
        /// The end of what it said.
        stderr: Vec<u8>,
    },
    /// We stopped it.
    Stopped(Stop),
    /// It did not start.
    NotStarted(io::Error),
}

/// Runs `command` until it ends or is told to stop.
pub async fn run(
    command: &str,
    environment: Vec<(&'static str, String)>,
    input: Vec<u8>,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Ended {
    let spawned = Command::new("sh")
        .arg("-c")
        .arg(command)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, led by the shell.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let feeder = feed(&mut child, input);
    let stdout = child.stdout.take().map(|pipe| tokio::spawn(capture(pipe)));
    let stderr = child.stderr.take().map(|pipe| tokio::spawn(keep_tail(pipe)));

    let ended = tokio::select! {
        status = child.wait() => status,
        why = stop_asked(&mut stop) => {
            terminate(&mut child, group).await;
            return Ended::Stopped(why);
        }
    };
    kill(group);
    feeder.abort();
    match ended {
        Ok(status) => {
            let stdout = finish(stdout).await.unwrap_or_else(|| Some(Vec::new()));
            let stderr = finish(stderr).await.unwrap_or_default();
            Ended::Exited { status, stdout, stderr }
        }
        Err(error) => Ended::NotStarted(error),
    }
}

/// Waits until a stop is asked for; a sender that went away asks for none.
async fn stop_asked(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(why)) => why,
        _ => std::future::pending().await,
    }
}

fn feed(child: &mut Child, input: Vec<u8>) -> JoinHandle<()> {
    let pipe = child.stdin.take();
    tokio::spawn(async move {
        if let Some(mut pipe) = pipe {
            // A program that does not read its input is free to.
            let _ = pipe.write_all(&input).await;
        }
    })
}

/// All that is written, or none if it is too much. It is read to the end all the same, or the program would hang.
async fn capture(mut pipe: impl AsyncRead + Unpin) -> Option<Vec<u8>> {
    let mut kept = Some(Vec::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => return kept,
            Ok(count) => {
                if let Some(bytes) = &mut kept {
                    bytes.extend_from_slice(&chunk[..count]);
                    if bytes.len() > MAX_RESULT_BYTES {
                        kept = None;
                    }
                }
            }
        }
    }
}

/// Passes what is written on to our stderr and keeps the end of it.
async fn keep_tail(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => return tail,
            Ok(count) => {
                // Our stderr may be closed; the task goes on.
                let _ = io::stderr().write_all(&chunk[..count]);
                tail.extend_from_slice(&chunk[..count]);
                if tail.len() > STDERR_TAIL_BYTES {
                    tail.drain(..tail.len() - STDERR_TAIL_BYTES);
                }
            }
        }
    }
}

async fn finish<T>(reader: Option<JoinHandle<T>>) -> Option<T> {
    let mut reader = reader?;
    match tokio::time::timeout(PIPE_TIME, &mut reader).await {
        Ok(read) => read.ok(),
        Err(_) => {
            reader.abort();
            None
        }
    }
}

/// SIGTERM to the group, time to end, SIGKILL to what is left.
async fn terminate(child: &mut Child, group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::TERM);
        let deadline = Instant::now() + TERM_TIME;
        // The leader stays in the group until it is reaped, so it is looked for in each turn.
        while Instant::now() < deadline {
            let _ = child.try_wait();
            if test_kill_process_group(group).is_err() {
                break;
            }
            tokio::time::sleep(GROUP_POLL).await;
        }
    }
    kill(group);
    let _ = child.wait().await;
}

/// A group that is gone already answers with an error, which is what we want.
fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_free(command: &str, input: &[u8]) -> Ended {
        let (_keep, stop) = watch::channel(None);
        run(command, vec![("GREETING", "hello".into())], input.to_vec(), stop).await
    }

    #[tokio::test]
    async fn input_goes_in_and_output_comes_out() {
        let Ended::Exited { status, stdout, stderr } =
            run_free("cat; echo $GREETING; echo oops >&2; exit 3", b"in ").await
        else {
            panic!("it should have exited")
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(stdout.unwrap(), b"in hello\n");
        assert_eq!(stderr, b"oops\n");
    }

    #[tokio::test]
    async fn too_much_output_is_read_but_not_kept() {
        let Ended::Exited { status, stdout, .. } = run_free("head -c 300000 /dev/zero", b"").await else {
            panic!("it should have exited")
        };
        assert!(status.success());
        assert_eq!(stdout, None);
    }

    #[tokio::test]
    async fn only_the_end_of_stderr_is_kept() {
        let Ended::Exited { stderr, .. } =
            run_free("head -c 9000 /dev/zero | tr '\\0' a >&2; printf END >&2", b"").await
        else {
            panic!("it should have exited")
        };
        assert_eq!(stderr.len(), STDERR_TAIL_BYTES);
        assert!(stderr.ends_with(b"aEND"));
    }

    #[tokio::test]
    async fn what_the_program_leaves_behind_does_not_hold_us() {
        let began = Instant::now();
        let Ended::Exited { stdout, .. } = run_free("sleep 60 & echo done", b"").await else {
            panic!("it should have exited")
        };
        assert_eq!(stdout.unwrap(), b"done\n");
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn stopping_kills_the_whole_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        // The grandchild would write after a second.
        let command = format!("(sleep 1; echo late > {path}) & wait");
        let (stop, stopped) = watch::channel(None);
        let running = tokio::spawn(async move { run(&command, Vec::new(), Vec::new(), stopped).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send(Some(Stop::LeaseLost)).unwrap();
        assert!(matches!(running.await.unwrap(), Ended::Stopped(Stop::LeaseLost)));
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(std::fs::read(file.path()).unwrap(), b"");
    }
}
