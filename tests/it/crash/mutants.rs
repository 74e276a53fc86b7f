//! Is the checker good enough? Servers that break one promise each (`src/faults/mutant.rs`) run under a load and faults
//! that make the damage show; the check that is named here has to find it. The other parts of the lane run the same
//! loads and faults against the server as it is, and find nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use tasktower::{
    faults::Mutant,
    pb::{Queue, UpdateQueueRequest},
};
use tokio::{task::JoinSet, time::timeout};

use super::plan;
use crate::support::{
    backend::{Backend, Database},
    client::Clients,
    cluster::Cluster,
    invariants::{Inspector, Rule, When, check},
    load::{Load, PROJECT, Shape},
    repository,
    server::Server,
    wait::pause,
};

/// What it takes to catch a mutant.
struct Hunt {
    mutant: Mutant,
    /// Any of these finds it.
    rules: &'static [Rule],
    /// What makes the damage show.
    faults: &'static str,
    backends: &'static [Backend],
}

const BOTH: &[Backend] = &[Backend::Sqlite, Backend::Postgres];
const POSTGRES: &[Backend] = &[Backend::Postgres];
/// Dies about to commit, a moment after something else happened.
const CRASH_BEFORE_COMMIT: &str = "before_commit=delay:20@1/1;before_commit=abort@1/40";

const HUNTS: &[Hunt] = &[
    Hunt { mutant: Mutant::NoFence, rules: &[Rule::CompletionsKept], faults: "", backends: BOTH },
    Hunt { mutant: Mutant::LeaseKeepsEpoch, rules: &[Rule::FoldOfJournal], faults: "", backends: BOTH },
    Hunt {
        mutant: Mutant::EventOutsideTransaction,
        rules: &[Rule::FoldOfJournal],
        faults: CRASH_BEFORE_COMMIT,
        backends: BOTH,
    },
    Hunt { mutant: Mutant::LosesReleases, rules: &[Rule::OneRowPerVersion], faults: "", backends: BOTH },
    Hunt {
        mutant: Mutant::CursorBySequence,
        rules: &[Rule::DenseRevisions],
        faults: CRASH_BEFORE_COMMIT,
        backends: BOTH,
    },
    Hunt {
        mutant: Mutant::AnswerBeforeCommit,
        rules: &[Rule::SubmitsKept, Rule::CompletionsKept],
        faults: "before_commit=abort@1/40",
        backends: BOTH,
    },
    Hunt {
        mutant: Mutant::PublishBeforeCommit,
        rules: &[Rule::WatchersSawAll],
        faults: CRASH_BEFORE_COMMIT,
        backends: BOTH,
    },
    Hunt {
        mutant: Mutant::AssumesCommitted,
        rules: &[Rule::SubmitsKept, Rule::CompletionsKept],
        faults: "before_commit=error@1/20",
        backends: BOTH,
    },
    Hunt { mutant: Mutant::LateIdempotency, rules: &[Rule::OneEffect], faults: CRASH_BEFORE_COMMIT, backends: BOTH },
    Hunt {
        mutant: Mutant::CancelledCallDropsTransaction,
        rules: &[Rule::NoIdleTransaction],
        // The caller is gone by then.
        faults: "after_begin=delay:200@1/1",
        backends: POSTGRES,
    },
    Hunt {
        mutant: Mutant::WritesUnchecked,
        rules: &[Rule::OnePlace, Rule::OneRowPerVersion, Rule::FoldOfJournal],
        // Time enough for somebody else between the read and the write.
        faults: "before_commit=delay:20@1/1",
        backends: POSTGRES,
    },
    Hunt {
        mutant: Mutant::SkipsWhenFull,
        rules: &[Rule::WatchersSawAll, Rule::NoSurprise],
        faults: "",
        backends: BOTH,
    },
    Hunt { mutant: Mutant::SweepsEarly, rules: &[Rule::NothingTooSoon], faults: "", backends: BOTH },
];

/// A mutant that lives for so long is not caught.
const HUNT_LIMIT: Duration = Duration::from_secs(150);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Hunted at a time.
const AT_A_TIME: usize = 3;

/// The hunt that needs a database it may stop.
const ASYNCHRONOUS_COMMIT: Hunt = Hunt {
    mutant: Mutant::AsynchronousCommit,
    rules: &[Rule::SubmitsKept, Rule::CompletionsKept],
    faults: "",
    backends: POSTGRES,
};

const PAGE: &str = "docs/reference/mutants.md";

#[test]
fn every_mutant_is_hunted_and_listed() {
    let page = std::fs::read_to_string(repository().join(PAGE)).expect("the page is there");
    for mutant in Mutant::ALL {
        let hunt = HUNTS.iter().chain([&ASYNCHRONOUS_COMMIT]).find(|hunt| hunt.mutant == *mutant);
        let hunt = hunt.unwrap_or_else(|| panic!("{mutant:?} is hunted by nobody"));
        let rules: Vec<String> = hunt.rules.iter().map(|rule| format!("{rule:?}")).collect();
        let place = if hunt.backends.len() == 2 { "both" } else { "PostgreSQL" };
        let (name, end) = (format!("| `{}` |", mutant.name()), format!("| {} | {place} |", rules.join(", ")));
        let is_listed = page.lines().any(|line| line.starts_with(&name) && line.ends_with(&end));
        assert!(is_listed, "{PAGE} has no row that begins with {name} and ends with {end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_is_caught() {
    if !plan::has_failpoints() {
        return;
    }
    // The short form hunts each on one kind of database, in turn.
    let full = plan::many(false, true);
    let hunts = HUNTS.iter().enumerate().flat_map(|(number, hunt)| {
        let chosen =
            if full { hunt.backends } else { std::slice::from_ref(&hunt.backends[number % hunt.backends.len()]) };
        chosen.iter().map(move |backend| (hunt, *backend))
    });
    let caught = stream::iter(hunts).map(|(hunt, backend)| catch(hunt, backend)).buffered(AT_A_TIME);
    for line in caught.filter_map(|caught| async { caught }).collect::<Vec<_>>().await {
        plan::report(&line);
    }
}

/// None without the database.
async fn catch(hunt: &Hunt, backend: Backend) -> Option<String> {
    let database = Database::fresh(backend).await?;
    let faults = [("TASKTOWER_MUTANT", hunt.mutant.name()), ("TASKTOWER_FAILPOINTS", hunt.faults)];
    let mut server = Server::start(&database).await;
    let mut inspector = Inspector::open(&database).await;
    let mut shape = Shape { slow_tasks: true, bursts: true, ..Shape::on(&[server.endpoint()]) };
    if hunt.mutant == Mutant::CancelledCallDropsTransaction {
        // Work would use the connection again before anybody noticed where it stands.
        (shape.submitters, shape.operators, shape.workers, shape.runtime_workers) = (0, 0, 0, 0);
    }
    if hunt.mutant == Mutant::WritesUnchecked {
        // They are the others that change what a worker has in its hands.
        shape.operators = 12;
    }
    let load = Load::start(shape).await;
    // Set up by a server that is right, broken from here on.
    server.set_faults(&faults);
    server.restart().await;
    let impatient = impatient_operators(&server);
    let began = Instant::now();
    let mut lives = 1;
    let found = loop {
        pause("the damage is done", LOOK_EVERY).await;
        if server.process().ended().is_some() {
            server.restart().await;
            lives += 1;
        }
        // What clients know first: the database may only know more.
        let known = load.history().known();
        let facts = inspector.facts("default").await;
        let mut found: BTreeMap<Rule, usize> = BTreeMap::new();
        for violation in check(&facts, &known, When::Busy) {
            *found.entry(violation.rule).or_default() += 1;
        }
        if found.keys().any(|rule| hunt.rules.contains(rule)) {
            break found;
        }
        let name = hunt.mutant.name();
        assert!(began.elapsed() < HUNT_LIMIT, "{name} on {backend} lives after {lives} lives; found {found:?}");
    };
    drop(impatient);
    load.abandon().await;
    let rules: Vec<_> = found.keys().filter(|rule| hunt.rules.contains(rule)).collect();
    let took = began.elapsed().as_secs();
    inspector.close().await;
    Some(format!(
        "{backend}: {} caught by {rules:?} in {took} s and {lives} lives; all found: {found:?}",
        hunt.mutant.name()
    ))
}

/// How long such an operator waits for an answer.
const PATIENCE: Duration = Duration::from_millis(60);
/// Longer than what counts as idle inside a transaction, shorter than what PostgreSQL lets be.
const BETWEEN_OPERATORS: Duration = Duration::from_millis(1_700);

/// Rare writes that are given up in the middle.
fn impatient_operators(server: &Server) -> JoinSet<()> {
    let clients = Clients::connect_later(&server.endpoint());
    let mut operators = JoinSet::new();
    operators.spawn(async move {
        for number in 0.. {
            let name = format!("{PROJECT}/queues/impatient-{}", number % 4);
            let queue = Queue { name, max_running: 1 + number, ..Queue::default() };
            let mut queues = clients.queues();
            let update = queues.update_queue(UpdateQueueRequest { queue: Some(queue), update_mask: None });
            // Gone or done, what matters is what it leaves.
            let _ = timeout(PATIENCE, update).await;
            pause("what it leaves is noticed", BETWEEN_OPERATORS).await;
        }
    });
    operators
}

/// A commit that is not on disk when it is acknowledged survives the death of the server, not that of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_commit_is_caught_by_an_immediate_stop() {
    if !plan::has_failpoints() {
        return;
    }
    let Some(mut cluster) = Cluster::start().await else { return };
    let database = Database::postgres(cluster.url()).await;
    let Hunt { mutant, rules, .. } = ASYNCHRONOUS_COMMIT;
    let mutant = mutant.name();
    let server = Server::start_with_faults(&database, &[("TASKTOWER_MUTANT", mutant)]).await;
    let load = Load::start(Shape::on(&[server.endpoint()])).await;
    let began = Instant::now();
    let mut stops = 0;
    let found = loop {
        load.advance(100, HUNT_LIMIT).await;
        let known = load.history().known();
        cluster.stop_immediately().await;
        stops += 1;
        cluster.start_again().await;
        let mut inspector = Inspector::open(&database).await;
        let facts = inspector.facts("default").await;
        inspector.close().await;
        let found: Vec<Rule> = check(&facts, &known, When::Busy).into_iter().map(|violation| violation.rule).collect();
        if found.iter().any(|rule| rules.contains(rule)) {
            break found;
        }
        assert!(began.elapsed() < HUNT_LIMIT, "{mutant} lives after {stops} stops; found {found:?}");
    };
    load.abandon().await;
    let caught: Vec<_> = rules.iter().filter(|rule| found.contains(rule)).collect();
    plan::report(&format!("PostgreSQL: {mutant} caught by {caught:?} after {stops} immediate stops"));
}
