//! The honest client beside every attack: it submits a task and reads it again, at a steady pace, on a connection of its
//! own. Now and then another one comes new: it connects, does the same once and goes. They run on a thread of their own,
//! so that what they measure is the server and not the attacker in this process.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tasktower::pb;

use crate::support::{
    client::Clients,
    wait::{eventually, pause},
};

/// Between two calls: enough of them for a p99 in a few seconds, and no load to speak of.
const PACE: Duration = Duration::from_millis(4);

/// Between two that come new.
const NEXT_COMES: Duration = Duration::from_millis(500);
/// One that comes new waits no longer for its connection.
const LET_IN: Duration = Duration::from_secs(15);

/// No call takes longer: the server's own limit is 5 s, and a round has two.
const CALL_ENDS: Duration = Duration::from_secs(15);

/// What the client met.
#[derive(Default)]
pub struct Met {
    pub errors: Vec<String>,
    /// Submits and reads of them, whether they went well or not.
    rounds: usize,
    times: Vec<Duration>,
    /// From the first packet of one that came new to its last answer.
    visits: Vec<Duration>,
}

impl Met {
    /// Adds what was met later, but for its times: those that were waiting when this was taken are among it.
    pub fn add_late(&mut self, late: Met) {
        self.errors.extend(late.errors);
        self.visits.extend(late.visits);
    }

    /// The longest visit of one that came new.
    pub fn longest_visit(&self) -> Duration {
        self.visits.iter().copied().max().unwrap_or_default()
    }

    /// The time that this share of the calls stayed below, of 0 to 1.
    pub fn quantile(&mut self, share: f64) -> Duration {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        self.times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, visits, errors) = (self.times.len(), self.visits.len(), self.errors.len());
        write!(f, "{calls} calls, {visits} visits of at most {:.0?}, {errors} errors", self.longest_visit())
    }
}

/// A client at work.
pub struct GoodClient {
    stop: Arc<AtomicBool>,
    met: Arc<Mutex<Met>>,
    thread: JoinHandle<()>,
}

impl GoodClient {
    /// Connects and begins.
    pub fn start(endpoint: String) -> GoodClient {
        let (stop, met) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Met::default())));
        let (stopped, meets) = (stop.clone(), met.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::join!(work(&endpoint, &stopped, &meets), visit(&endpoint, &stopped, &meets))
            });
        });
        GoodClient { stop, met, thread }
    }

    /// What it met since it was asked last.
    pub fn since_last(&self) -> Met {
        std::mem::take(&mut *self.met.lock().expect("nobody panics while it is held"))
    }

    /// What it met since it was asked last, and the next call to its end: a call that outlasts everything counts most.
    pub async fn with_the_next(&self) -> Met {
        let count = || self.met.lock().expect("nobody panics while it is held").rounds;
        let so_far = count();
        eventually("the honest client's call ends", CALL_ENDS, async || {
            if count() > so_far { Ok(()) } else { Err("it is under way") }
        })
        .await;
        self.since_last()
    }

    /// Ends, after the call that is under way.
    pub fn end(self) -> Met {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it notes errors and does not panic");
        std::mem::take(&mut *self.met.lock().expect("nobody panics while it is held"))
    }
}

async fn work(endpoint: &str, stop: &AtomicBool, met: &Mutex<Met>) {
    let clients = Clients::connect_to(endpoint).await;
    while !stop.load(Ordering::Relaxed) {
        let mut now = Met::default();
        if let Err(status) = submit_and_get(&clients, &mut now).await {
            now.errors.push(format!("{:?}: {}", status.code(), status.message()));
        }
        {
            let mut met = met.lock().expect("nobody panics while it is held");
            met.errors.append(&mut now.errors);
            met.times.append(&mut now.times);
            met.rounds += 1;
        }
        pause("the pace", PACE).await;
    }
}

/// Those that come new, one after the other.
async fn visit(endpoint: &str, stop: &AtomicBool, met: &Mutex<Met>) {
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let came = tokio::time::timeout(LET_IN, async {
            let clients = Clients::try_connect_to(endpoint).await.map_err(|error| error.to_string())?;
            let calls = submit_and_get(&clients, &mut Met::default()).await;
            calls.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
        });
        let came = came.await.unwrap_or_else(|_| Err(format!("no answer within {LET_IN:?}")));
        {
            let mut met = met.lock().expect("nobody panics while it is held");
            met.visits.push(started.elapsed());
            met.errors.extend(came.err().map(|error| format!("as it came new: {error}")));
        }
        pause("the next one comes", NEXT_COMES).await;
    }
}

async fn submit_and_get(clients: &Clients, met: &mut Met) -> Result<(), tonic::Status> {
    let task = pb::Task { r#type: "good".into(), queue: "good".into(), ..pb::Task::default() };
    let submit = pb::SubmitTaskRequest { task: Some(task), ..pb::SubmitTaskRequest::default() };
    let started = Instant::now();
    let name = clients.tasks().submit_task(submit).await?.into_inner().name;
    met.times.push(started.elapsed());
    let started = Instant::now();
    clients.tasks().get_task(pb::GetTaskRequest { name, ..pb::GetTaskRequest::default() }).await?;
    met.times.push(started.elapsed());
    Ok(())
}
