//! The checker of invariants is itself checked: a healthy database passes, and damage to each of its rules is found.

use std::{collections::BTreeSet, time::Duration};

use tasktower::pb::{CreateScheduleRequest, RetryTaskRequest, RunScheduleRequest, Schedule, Task};

use crate::support::{
    backend::{Backend, Database, for_each_backend},
    calls::{cancel, complete, fail, lease, submit, task, token},
    client::Clients,
    history::{Known, REQUEST_LABEL},
    invariants::{Facts, Inspector, Rule, When, assert_holds, check},
    load::{Load, Shape, task_id},
    server::Server,
    wait::SOON,
};

const CALLS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_every_rule_is_found() {
    for_each_backend(async |database| {
        let (known, mut inspector) = healthy(database).await;
        let facts = inspector.facts("default").await;
        assert_holds(&facts, &known, When::Busy);

        let mut found = BTreeSet::new();
        for (rule, damage) in damages(database.backend(), &known) {
            let facts = inspector.facts_after("default", std::slice::from_ref(&damage)).await;
            assert!(finds(&facts, &known, When::Busy, rule), "{rule:?} is blind to {damage}");
            found.insert(rule);
        }
        for (rule, known) in lies(&known) {
            assert!(finds(&facts, &known, When::Busy, rule), "{rule:?} believes clients that know otherwise");
            found.insert(rule);
        }
        let mut facts = facts;
        facts.idle_in_transaction.push("SELECT 1".to_owned());
        assert!(finds(&facts, &known, When::Busy, Rule::NoIdleTransaction));
        found.insert(Rule::NoIdleTransaction);
        // Three tasks still wait or run.
        assert!(finds(&facts, &known, When::Quiet, Rule::NothingStuck));
        found.insert(Rule::NothingStuck);
        assert_eq!(found, Rule::ALL.into_iter().collect(), "every rule was broken once");
        inspector.close().await;
    })
    .await;
}

fn finds(facts: &Facts, known: &Known, when: When, rule: Rule) -> bool {
    check(facts, known, when).iter().any(|violation| violation.rule == rule)
}

/// A database that has seen everything: a finished load, and tasks that wait, run, failed and were cancelled.
async fn healthy(database: &Database) -> (Known, Inspector) {
    let mut server = Server::start(database).await;
    let mut inspector = Inspector::open(database).await;
    let load = Load::start(Shape::on(&[server.endpoint()])).await;
    load.advance(CALLS, SOON).await;
    let mut known = load.finish(&mut inspector, Duration::from_secs(40)).await;

    let clients = Clients::connect(&server).await;
    let now = async || lease(&clients, "checker", "t", "q", 1, SOON).await.remove(0);
    cancel(&clients, &submit(&clients, task("t", "q")).await, "no need").await;
    let failing = submit(&clients, task("t", "q")).await;
    assert!(fail(&clients, &token(&now().await), true).await.is_none());
    let retry = RetryTaskRequest { name: failing, ..RetryTaskRequest::default() };
    clients.tasks().retry_task(retry).await.expect("a good retry");
    assert!(fail(&clients, &token(&now().await), true).await.is_none());
    submit(&clients, task("t", "q")).await;
    now().await;
    let waiting = Task { unique_key: "held".to_owned(), ..task("unserved", "q") };
    submit(&clients, waiting).await;
    let labels = [(REQUEST_LABEL.to_owned(), "checker".to_owned())].into();
    submit(&clients, Task { labels, ..task("unserved", "q") }).await;
    run_a_schedule(&clients).await;
    server.kill();
    // What was done after the load, no watcher saw.
    known.watches.clear();
    (known, inspector)
}

/// Two tasks of a schedule.
async fn run_a_schedule(clients: &Clients) {
    let schedule = Schedule { cron: "@yearly".to_owned(), task: Some(task("unserved", "q")), ..Default::default() };
    let request = CreateScheduleRequest { schedule_id: "s".to_owned(), schedule: Some(schedule), ..Default::default() };
    let name = clients.schedules().create_schedule(request).await.expect("created").into_inner();
    let name = name.schedule.expect("a schedule").name;
    for _ in 0..2 {
        clients.schedules().run_schedule(RunScheduleRequest { name: name.clone() }).await.expect("it ran");
    }
}

/// One statement of damage each; at least one for each rule that the database alone can break.
fn damages(backend: Backend, known: &Known) -> Vec<(Rule, String)> {
    let (task, _) = known.completions.first_key_value().expect("some task was completed");
    let id = match backend {
        Backend::Sqlite => format!("x'{task}'"),
        Backend::Postgres => format!("'{task}'"),
    };
    let bytes = match backend {
        Backend::Sqlite => "x'00'",
        Backend::Postgres => "'\\x00'",
    };
    let one = |table: &str, state: i64| format!("(SELECT id FROM {table} WHERE state = {state} LIMIT 1)");
    let (waiting, succeeded) = (one("ready", 1), one("task", 4));
    let attempt = |epoch: &str| {
        format!(
            "INSERT INTO attempt (project, task_id, epoch, worker, outcome, start_time, end_time) \
             SELECT project, id, {epoch}, 'w', 5, create_time, create_time FROM task WHERE id = {id}"
        )
    };
    let damages = [
        (Rule::DenseRevisions, "DELETE FROM journal WHERE project = 'default' AND revision = 1".to_owned()),
        (Rule::DenseRevisions, "UPDATE counter SET revision = revision + 1 WHERE project = 'default'".to_owned()),
        (Rule::OneRowPerVersion, format!("UPDATE journal SET version = version + 1 WHERE task_id = {id}")),
        (Rule::OneRowPerVersion, format!("DELETE FROM journal WHERE task_id = {id}")),
        (Rule::FoldOfJournal, format!("UPDATE task SET state = 6 WHERE id = {id}")),
        (Rule::FoldOfJournal, format!("UPDATE task SET version = version + 1 WHERE id = {id}")),
        (Rule::FoldOfJournal, format!("UPDATE journal SET to_state = 5 WHERE task_id = {id} AND to_state = 4")),
        (Rule::FoldOfJournal, format!("UPDATE journal SET kind = 6 WHERE task_id = {id} AND kind = 2")),
        (Rule::FoldOfJournal, "UPDATE lease SET epoch = epoch + 1".to_owned()),
        (Rule::FoldOfJournal, format!("UPDATE ready SET attempt_count = 7 WHERE id = {waiting}")),
        (Rule::DenseEpochs, format!("UPDATE task SET success_worker = NULL WHERE id = {id}")),
        (Rule::DenseEpochs, attempt("epoch + 100")),
        (Rule::DenseEpochs, attempt("epoch")),
        (Rule::DecisionsKept, "UPDATE attempt SET verdict = NULL WHERE outcome = 3".to_owned()),
        (Rule::DecisionsKept, "UPDATE attempt SET verdict = 1 WHERE verdict = 3".to_owned()),
        (Rule::OnePlace, "DELETE FROM ready".to_owned()),
        (Rule::OnePlace, "DELETE FROM lease".to_owned()),
        (Rule::OnePlace, format!("UPDATE ready SET id = {succeeded} WHERE id = {waiting}")),
        (Rule::OnePlace, format!("UPDATE lease SET id = {waiting}")),
        (Rule::QueueFigures, "UPDATE queue_stat SET ready = ready + 1".to_owned()),
        (Rule::QueueFigures, "UPDATE queue_stat SET running = running - 1".to_owned()),
        (Rule::QueueFigures, "UPDATE queue_stat SET succeeded = succeeded + 1".to_owned()),
        (Rule::QueueFigures, "DELETE FROM queue_stat".to_owned()),
        (Rule::ClosedLists, "DELETE FROM closed WHERE state = 6".to_owned()),
        (Rule::DeadLetters, "DELETE FROM dead_letter".to_owned()),
        (Rule::DeadLetters, "DELETE FROM replay WHERE number = 1".to_owned()),
        (Rule::DeadLetters, "UPDATE replay SET number = number + 1".to_owned()),
        (Rule::NothingTooSoon, format!("UPDATE journal SET time = 1 WHERE task_id = {id} AND kind = 2")),
        (Rule::UniqueKeys, "DELETE FROM unique_key".to_owned()),
        (Rule::UniqueKeys, format!("UPDATE unique_key SET task_id = {succeeded}")),
        (Rule::OneFiring, "DELETE FROM occurrence".to_owned()),
        (Rule::OneFiring, "UPDATE occurrence SET state = 2".to_owned()),
        (Rule::OneFiring, "UPDATE occurrence SET task_id = (SELECT last_task FROM schedule)".to_owned()),
        (Rule::SealsHold, "UPDATE journal SET address = 'x' WHERE project = 'default' AND revision = 1".to_owned()),
        (Rule::SealsHold, "UPDATE journal_seal SET time = time + 1 WHERE project = 'default'".to_owned()),
        (Rule::SubmitsKept, format!("DELETE FROM task WHERE id = {id}")),
        (Rule::OneEffect, format!("UPDATE task SET labels = '{{\"request\":\"checker\"}}' WHERE id = {id}")),
        (Rule::CompletionsKept, format!("UPDATE task SET result = {bytes} WHERE id = {id}")),
        (Rule::CompletionsKept, format!("UPDATE task SET epoch = epoch + 1 WHERE id = {id}")),
        (Rule::CompletionsKept, format!("UPDATE task SET state = 1, result = NULL WHERE id = {id}")),
    ];
    damages.into()
}

/// Clients that know something else than the database.
fn lies(known: &Known) -> Vec<(Rule, Known)> {
    let changed = |change: &dyn Fn(&mut Known)| {
        let mut known = known.clone();
        change(&mut known);
        known
    };
    vec![
        (Rule::WatchersSawAll, changed(&|k| k.watches.entry("w".to_owned()).or_default().seen.push(invented()))),
        (Rule::SubmitsKept, changed(&|k| drop(k.submits.insert("lost".to_owned(), task_id("no such task"))))),
        (
            Rule::CompletionsKept,
            changed(&|k| {
                let mut entries = k.completions.values_mut();
                let completions = entries.next().expect("some task was completed");
                let mut second = completions[0].clone();
                second.result.push(0);
                completions.push(second);
            }),
        ),
        (
            Rule::AnswersKept,
            changed(&|k| {
                let (task, version, state) = k.answers.first().expect("some task was answered").clone();
                k.answers.insert((task, version, state + 1));
            }),
        ),
        (Rule::NoSurprise, changed(&|k| k.surprises.push("INTERNAL".to_owned()))),
    ]
}

fn invented() -> crate::support::history::Seen {
    crate::support::history::Seen { revision: 1, task: "none".to_owned(), kind: 1, version: 1 }
}

/// The watch rule by itself: what a watcher may see wrongly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_with_a_gap_or_a_repeat_is_found() {
    for_each_backend(async |database| {
        let mut server = Server::start(database).await;
        let mut inspector = Inspector::open(database).await;
        let load = Load::start(Shape::on(&[server.endpoint()])).await;
        load.advance(CALLS, SOON).await;
        let known = load.finish(&mut inspector, Duration::from_secs(40)).await;
        server.kill();
        let facts = inspector.facts("default").await;
        assert_holds(&facts, &known, When::Quiet);
        type Mistake = fn(&mut Vec<crate::support::history::Seen>);
        let mistakes: [(&str, Mistake); 5] = [
            ("a gap", |seen| drop(seen.remove(3))),
            ("a repeat", |seen| seen.insert(3, seen[3].clone())),
            ("another order", |seen| seen.swap(3, 4)),
            ("another kind", |seen| seen[3].kind += 1),
            ("a missing end", |seen| drop(seen.pop())),
        ];
        for (what, mistake) in mistakes {
            let mut known = known.clone();
            known.watches.values_mut().for_each(|watched| mistake(&mut watched.seen));
            assert!(finds(&facts, &known, When::Quiet, Rule::WatchersSawAll), "{what} is not found");
        }
        inspector.close().await;
    })
    .await;
}

/// A healthy database is found healthy while its server runs.
#[tokio::test]
async fn an_untouched_database_is_healthy() {
    for_each_backend(async |database| {
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        submit(&clients, task("t", "q")).await;
        let leased = lease(&clients, "w", "t", "q", 1, SOON).await;
        assert!(complete(&clients, &token(&leased[0]), "done").await.is_none());
        // The server runs: the checker reads one moment.
        let mut inspector = Inspector::open(database).await;
        assert_holds(&inspector.facts("default").await, &Known::default(), When::Quiet);
        inspector.close().await;
    })
    .await;
}
