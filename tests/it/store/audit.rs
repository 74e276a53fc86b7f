//! The record of who did what: sealed, verified, tampered with in every way its owner can, on every kind of database.

use std::time::Duration;

use futures_util::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tasktower::{
    app::{
        App,
        audit_note::NoteKind,
        audit_verify::{Verdict, Verification},
        task::TaskChange,
    },
    context::{Caller, CallerInfo},
    domain::{
        audit::{Fault, JournalRow, head::Head},
        filter::Filter,
        queue::QueuePatch,
        retention::RetentionSettings,
        task::{DAY, Spec},
    },
    ids::ProjectId,
    store::{DatabaseUrl, Store, audit, journal, seals},
};
use tokio_util::sync::CancellationToken;

use super::{
    open, project,
    tasks::{World, spec},
};
use crate::support::{
    backend::{Backend, for_each_backend},
    sql::Beside,
};

/// Longer than a seal is left alone.
const A_WHILE: Duration = Duration::from_secs(5);
/// Ways of tampering tried on each kind of database.
const CASES: usize = 200;

fn person() -> Caller {
    Caller::new(CallerInfo {
        credential: Some("kid-1".into()),
        request_id: "r-1".to_owned(),
        address: Some("192.0.2.1".to_owned()),
        agent: Some("curl/8".to_owned()),
        method: Some("QueueService/UpdateQueue".into()),
        ..CallerInfo::of_server("user:corp/ada".into())
    })
}

/// A journal with all that rows can hold, in several seals.
async fn fill(w: &World, seals: usize) {
    for round in 0..seals {
        w.submit_many(4).await;
        w.submit(Spec { priority: 7, ..spec() }).await;
        let leased = w.lease(4).await;
        w.complete(&leased).await;
        let id = w.submit(spec()).await;
        w.change(id, TaskChange::Cancel { reason: "enough".to_owned() }).await.expect("cancelled");
        let max_running = Some(i32::try_from(round).expect("few") + 1);
        let patch = QueuePatch { max_running, ..QueuePatch::default() };
        w.app.update_queue(&person(), &w.project, "default", patch, None).await.expect("changed");
        seal(&w.app).await;
    }
}

async fn seal(app: &App) {
    app.store().shift_clock(A_WHILE);
    app.seal_journals().await.expect("sealed");
}

async fn verify(app: &App, project: &ProjectId, head: Option<Head>) -> (Verification, Verdict) {
    let mut told = app.verify_audit(project, head).await.expect("begun");
    let mut last = None;
    while let Some(message) = told.next().await {
        last = Some(message.expect("it goes on"));
    }
    let mut last = last.expect("it says something");
    let verdict = last.verdict.take().expect("the last message has the verdict");
    (last, verdict)
}

async fn is_intact(app: &App, project: &ProjectId) -> Verification {
    let (told, verdict) = verify(app, project, None).await;
    assert_eq!(verdict.bad, None);
    told
}

/// One way of tampering, as SQL, and the first row that is bad then.
#[derive(Debug)]
struct Case {
    what: &'static str,
    sql: String,
    bad: i64,
    /// Which it may be called.
    faults: &'static [Fault],
}

/// What is known of the journal that is tampered with.
struct Place {
    backend: Backend,
    last: i64,
    /// The first and the last revision of each seal.
    seals: Vec<(i64, i64)>,
}

impl Place {
    fn case(&self, rng: &mut StdRng) -> Case {
        let row = rng.random_range(1..=self.last);
        let of_row = format!("project = 'default' AND revision = {row}");
        match rng.random_range(0..10) {
            0..=2 => self.change(rng, row, &of_row),
            3 => {
                let truncated = row == self.last;
                let faults: &[Fault] = if truncated { &[Fault::Truncated] } else { &[Fault::Missing] };
                Case { what: "delete", sql: format!("DELETE FROM journal WHERE {of_row}"), bad: row, faults }
            }
            4 => {
                // A hole that is closed again.
                let sql = format!("DELETE FROM journal WHERE {of_row}; {}", moved(row, -1));
                let sql = format!("{sql}; UPDATE counter SET revision = revision - 1 WHERE project = 'default'");
                let faults = &[Fault::Missing, Fault::Changed, Fault::Truncated];
                Case { what: "delete and close up", sql, bad: row, faults }
            }
            5 => {
                let copy = copied(row + 1, row);
                let sql = format!("{}; {copy}; UPDATE journal SET actor = 'user:x' WHERE {of_row}", moved(row - 1, 1));
                let sql = format!("{sql}; UPDATE counter SET revision = revision + 1 WHERE project = 'default'");
                Case { what: "insert", sql, bad: row, faults: &[Fault::Inserted, Fault::Changed] }
            }
            6 => {
                let (to, bad) = *[(0, 0), (-row, -row), (self.last + 1, self.last + 1)].choose(rng).expect("some");
                Case { what: "insert outside", sql: copied(row, to), bad, faults: &[Fault::Inserted] }
            }
            7 => {
                let other = (1..=self.last).filter(|other| *other != row).collect::<Vec<_>>();
                let other = *other.choose(rng).expect("some");
                let set = |from: i64, to: i64| {
                    format!("UPDATE journal SET revision = {to} WHERE project = 'default' AND revision = {from}")
                };
                let sql = [set(row, -1), set(other, row), set(-1, other)].join("; ");
                Case { what: "swap", sql, bad: row.min(other), faults: &[Fault::Swapped, Fault::Changed] }
            }
            8 => {
                let rows = format!("DELETE FROM journal WHERE project = 'default' AND revision >= {row}");
                let counter = format!("; UPDATE counter SET revision = {} WHERE project = 'default'", row - 1);
                let sql = if rng.random_bool(0.5) { rows + &counter } else { rows };
                Case { what: "truncate", sql, bad: row, faults: &[Fault::Truncated] }
            }
            _ => self.tamper_with_seal(rng),
        }
    }

    fn change(&self, rng: &mut StdRng, row: i64, of_row: &str) -> Case {
        const TEXTS: [&str; 9] =
            ["resource", "actor", "owner", "request_id", "address", "agent", "credential", "method", "diff"];
        let set = match rng.random_range(0..16) {
            text @ 0..9 => format!("{0} = COALESCE({0}, '') || 'x'", TEXTS[text]),
            9 => "snapshot = COALESCE(snapshot, '') || ' '".to_owned(),
            10 => "time = time + 1".to_owned(),
            11 => "kind = kind + 1".to_owned(),
            12 => "version = version + 1".to_owned(),
            13 => "from_state = COALESCE(from_state, 0) + 1".to_owned(),
            14 => "to_state = COALESCE(to_state, 0) + 1".to_owned(),
            _ => match self.backend {
                Backend::Sqlite => "task_id = x'0123456789abcdef0123456789abcdef'".to_owned(),
                Backend::Postgres => "task_id = '01234567-89ab-cdef-0123-456789abcdef'".to_owned(),
            },
        };
        Case {
            what: "change",
            sql: format!("UPDATE journal SET {set} WHERE {of_row}"),
            bad: row,
            faults: &[Fault::Changed],
        }
    }

    fn tamper_with_seal(&self, rng: &mut StdRng) -> Case {
        // Without the last: that one cut off needs a head to be missed.
        let number = rng.random_range(0..self.seals.len() - 1);
        let (first, _) = self.seals[number];
        let of_seal = format!("project = 'default' AND number = {}", number + 1);
        let hash = |byte: &str| match self.backend {
            Backend::Sqlite => format!("x'{}'", byte.repeat(32)),
            Backend::Postgres => format!("'\\x{}'::bytea", byte.repeat(32)),
        };
        let sql = match rng.random_range(0..6) {
            0 => format!("DELETE FROM journal_seal WHERE {of_seal}"),
            1 => format!("UPDATE journal_seal SET hash = {} WHERE {of_seal}", hash("00")),
            2 => format!("UPDATE journal_seal SET marks = {} WHERE {of_seal}", hash("ab")),
            3 => format!("UPDATE journal_seal SET digest = {} WHERE {of_seal}", hash("cd")),
            4 => format!("UPDATE journal_seal SET time = time + 1 WHERE {of_seal}"),
            _ => format!("UPDATE journal_seal SET last_revision = last_revision - 1 WHERE {of_seal}"),
        };
        Case { what: "seal", sql, bad: first, faults: &[Fault::Seal] }
    }
}

/// Moves all rows after one.
fn moved(after: i64, by: i64) -> String {
    // In two steps: no two rows may have one number, not even for a moment.
    format!(
        "UPDATE journal SET revision = -(revision + {by}) WHERE project = 'default' AND revision > {after}; \
         UPDATE journal SET revision = -revision WHERE project = 'default' AND revision < 0"
    )
}

/// A copy of a row.
fn copied(from: i64, to: i64) -> String {
    let columns = "time, kind, task_id, resource, version, from_state, to_state, actor, owner, request_id, address, \
                   agent, diff, snapshot, credential, method";
    format!(
        "INSERT INTO journal (project, revision, {columns}) SELECT project, {to}, {columns} FROM journal \
         WHERE project = 'default' AND revision = {from}"
    )
}

const TABLES: [&str; 3] = ["journal", "counter", "journal_seal"];

#[tokio::test]
async fn tampering_by_the_owner_of_the_database_is_found_and_the_first_bad_row_named() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        fill(&w, 6).await;
        let told = is_intact(&w.app, &w.project).await;
        let sealed = seals::after(w.app.store(), &w.project, 0, 100).await.unwrap();
        assert_eq!((told.count, told.revision), (told.sealed_revision, told.sealed_revision));
        let place = Place {
            backend: database.backend(),
            last: told.sealed_revision,
            seals: sealed.iter().map(|seal| (seal.first, seal.last)).collect(),
        };
        assert_eq!(place.seals.len(), 6);

        let mut owner = Beside::open(database).await;
        for table in TABLES {
            owner.run(&format!("CREATE TABLE {table}_kept AS SELECT * FROM {table}")).await;
        }
        let seed = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        for number in 0..CASES {
            let case = place.case(&mut rng);
            owner.run(&case.sql).await;
            let (_, verdict) = verify(&w.app, &w.project, None).await;
            let bad = verdict
                .bad
                .unwrap_or_else(|| panic!("not found: case {number} of seed {seed}, {}: {case:?}", case.what));
            let told = format!("case {number} of seed {seed}, {}: {case:?}: {bad:?}", case.what);
            assert_eq!(bad.revision, case.bad, "{told}");
            assert!(case.faults.contains(&bad.fault), "{told}");
            for table in TABLES {
                owner.run(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {table}_kept")).await;
            }
        }
        is_intact(&w.app, &w.project).await;
    })
    .await;
}

/// Seals and rows cut off together leave a shorter record that is consistent. What was signed before says that it was longer.
#[tokio::test]
async fn a_record_cut_off_with_its_seals_shows_against_a_signed_head() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        fill(&w, 3).await;
        let signed = w.app.get_audit_head(&w.project).await.unwrap();
        let head = w.app.read_audit_head(&w.project, &signed.token).unwrap();
        assert_eq!(head, signed.head);
        let (_, verdict) = verify(&w.app, &w.project, Some(head.clone())).await;
        assert_eq!((verdict.bad, verdict.head_compared), (None, true));

        let kept = seals::after(w.app.store(), &w.project, 0, 100).await.unwrap()[1].last;
        let mut owner = Beside::open(database).await;
        for cut in [
            format!("DELETE FROM journal_seal WHERE project = 'default' AND last_revision > {kept}"),
            format!("DELETE FROM journal WHERE project = 'default' AND revision > {kept}"),
            format!("UPDATE counter SET revision = {kept} WHERE project = 'default'"),
        ] {
            owner.run(&cut).await;
        }
        is_intact(&w.app, &w.project).await;
        let (_, verdict) = verify(&w.app, &w.project, Some(head.clone())).await;
        let bad = verdict.bad.expect("found");
        assert_eq!((bad.revision, bad.fault), (kept + 1, Fault::Truncated));

        // And written on: the seal has the number of the signed one, and is another.
        fill(&w, 1).await;
        is_intact(&w.app, &w.project).await;
        let (_, verdict) = verify(&w.app, &w.project, Some(head)).await;
        assert_eq!(verdict.bad.map(|bad| (bad.revision, bad.fault)), Some((kept + 1, Fault::Seal)));

        let foreign = signed.token.replace("tth1.", "tth1.A");
        assert!(w.app.read_audit_head(&w.project, &foreign).is_err());
        assert!(w.app.read_audit_head(&ProjectId::new("other"), &signed.token).is_err());
    })
    .await;
}

#[tokio::test]
async fn several_sealers_make_one_chain() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        let mut sealers = vec![w.app.clone()];
        if database.backend() == Backend::Postgres {
            let url: DatabaseUrl = database.url().parse().unwrap();
            for _ in 0..2 {
                sealers.push(App::new(Store::open(&url).await.unwrap(), CancellationToken::new()));
            }
        }
        for _ in 0..10 {
            w.submit_many(20).await;
            let sealing = sealers.iter().map(|app| {
                app.store().shift_clock(A_WHILE);
                app.seal_journals()
            });
            for outcome in futures_util::future::join_all(sealing).await {
                outcome.unwrap();
            }
        }
        let told = is_intact(&w.app, &w.project).await;
        assert_eq!(told.count, 200);
        let numbers: Vec<_> = seals::after(w.app.store(), &w.project, 0, 100).await.unwrap();
        assert!(numbers.iter().map(|seal| seal.number).eq(1..=numbers.len() as i64));
        // What was just sealed is left alone for a while.
        w.submit_many(1).await;
        w.app.seal_journals().await.unwrap();
        assert_eq!(verify(&w.app, &w.project, None).await.1.unsealed, 1);
    })
    .await;
}

async fn listed(app: &App, project: &str, filter: &str) -> Vec<JournalRow> {
    let filter = Filter::parse_audit_entries(filter).unwrap_or_else(|fault| panic!("{filter}: {fault:?}"));
    let (mut rows, mut before) = (Vec::new(), None);
    loop {
        let (page, next) = app.list_audit_entries(&ProjectId::new(project), &filter, before, 7).await.expect("a page");
        rows.extend(page);
        before = next;
        if before.is_none() {
            assert!(rows.is_sorted_by(|a, b| a.revision > b.revision), "newest first");
            return rows;
        }
    }
}

#[tokio::test]
async fn entries_are_found_by_what_they_say() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        fill(&w, 3).await;
        let last = is_intact(&w.app, &w.project).await.sealed_revision;
        let all = audit::rows(w.app.store(), &w.project, audit::Stretch { from: 1, to: last }, 1_000).await.unwrap();
        let task = all[0].resource_name();
        let (early, late) = (all[0].time, all[all.len() - 1].time);
        let at = |micros: i64| prost_types::Timestamp { seconds: micros / 1_000_000, nanos: 0 }.to_string();
        type Is<'a> = Box<dyn Fn(&JournalRow) -> bool + 'a>;
        let cases: Vec<(String, Is<'_>)> = vec![
            (String::new(), Box::new(|_| true)),
            ("actor = \"user:corp/ada\"".into(), Box::new(|row| row.actor == "user:corp/ada")),
            ("actor_kind = USER".into(), Box::new(|row| row.actor.starts_with("user:"))),
            ("actor_kind != USER".into(), Box::new(|row| !row.actor.starts_with("user:"))),
            ("actor_kind = SYSTEM".into(), Box::new(|row| row.actor == "system:test")),
            ("NOT actor_kind = SYSTEM".into(), Box::new(|row| row.actor != "system:test")),
            ("credential = \"kid-1\" AND method:UpdateQueue".into(), Box::new(|row| row.credential.is_some())),
            ("NOT credential:*".into(), Box::new(|row| row.credential.is_none())),
            ("action = \"queue.*\"".into(), Box::new(|row| row.kind == 101)),
            ("action = task.submitted OR action = task.leased".into(), Box::new(|row| [1, 2].contains(&row.kind))),
            ("action != task.submitted".into(), Box::new(|row| row.kind != 1)),
            (format!("resource = \"{task}\""), Box::new(|row| row.resource_name() == task)),
            (format!("resource != \"{task}\""), Box::new(|row| row.resource_name() != task)),
            ("resource = \"projects/default/queues/*\"".into(), Box::new(|row| row.kind == 101)),
            ("resource:\"/tasks/\" AND outcome = OK".into(), Box::new(|row| row.task.is_some())),
            ("outcome != OK".into(), Box::new(|_| false)),
            ("outcome = UNAUTHENTICATED".into(), Box::new(|_| false)),
            ("outcome != PERMISSION_DENIED AND user_agent:curl".into(), Box::new(|row| row.agent.is_some())),
            ("address = \"192.0.2.*\" AND request_id = \"r-1\"".into(), Box::new(|row| row.request_id.is_some())),
            (format!("event_time >= \"{}\"", at(early)), Box::new(|_| true)),
            (format!("event_time < \"{}\"", at(early)), Box::new(|_| false)),
            (format!("event_time > \"{}\"", at(late + 120_000_000)), Box::new(|_| false)),
        ];
        for (filter, is) in cases {
            let mut expected: Vec<_> = all.iter().filter(|row| is(row)).map(|row| row.revision).collect();
            expected.reverse();
            let found: Vec<_> = listed(&w.app, "default", &filter).await.iter().map(|row| row.revision).collect();
            assert_eq!(found, expected, "{filter}");
        }
        for bad in ["action = \"task.eaten\"", "outcome = GOOD", "actor_kind = ROBOT", "state = FAILED", "labels.a = b"]
        {
            assert!(Filter::parse_audit_entries(bad).is_err(), "{bad}");
        }
    })
    .await;
}

#[tokio::test]
async fn notes_are_rows_of_the_system() {
    for_each_backend(async |database| {
        let w = World::on(database).await;
        for _ in 0..3 {
            w.app.notes().take(NoteKind::Refused, &person(), "projects/p", "PERMISSION_DENIED");
            w.app.notes().read(&person(), "projects/p/tasks/1");
            // A program at its work is not noted.
            w.app.notes().read(&Caller::system("service:mailer"), "projects/p/tasks/1");
        }
        w.app.write_notes().await.unwrap();
        w.app.write_notes().await.unwrap();
        let refused = listed(&w.app, "system", "outcome = PERMISSION_DENIED").await;
        assert_eq!(refused.len(), 1);
        let expected = "{\"count\":[null,3],\"reason\":[null,\"PERMISSION_DENIED\"]}";
        assert_eq!((refused[0].action(), refused[0].diff.as_deref()), ("call.refused", Some(expected)));
        assert_eq!((refused[0].actor.as_str(), refused[0].resource.as_deref()), ("user:corp/ada", Some("projects/p")));
        assert_eq!(refused[0].method.as_deref(), Some("QueueService/UpdateQueue"));
        let read = listed(&w.app, "system", "action = payload.read").await;
        assert_eq!(read.iter().map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["user:corp/ada"]);
        seal(&w.app).await;
        assert_eq!(is_intact(&w.app, &ProjectId::new("system")).await.count, 2);
    })
    .await;
}

/// Retention deletes the old end, in the middle of a seal too; nobody else may.
#[tokio::test]
async fn what_retention_deletes_is_told_from_what_others_delete() {
    for_each_backend(async |database| {
        let settings = RetentionSettings { history: DAY, feed: DAY, audit: DAY, ..RetentionSettings::default() };
        let store = open(database).await;
        let app = App::with_retention(store, CancellationToken::new(), settings);
        let w = World { app, caller: Caller::system("system:test"), project: project() };
        let pass_days = || w.app.store().shift_clock(Duration::from_secs(2 * 86_400));
        fill(&w, 2).await;
        // Old and new rows in one seal.
        w.submit_many(5).await;
        pass_days();
        w.submit_many(5).await;
        seal(&w.app).await;
        let before = is_intact(&w.app, &w.project).await;
        let cut = async || {
            w.app.run_retention(&w.caller, &w.project, None).await.expect("begun");
            while w.app.work_on_retention().await.expect("it works") {}
            journal::position(w.app.store(), &w.project).await.unwrap().unwrap().oldest
        };
        let oldest = cut().await;
        assert_eq!(oldest, before.sealed_revision - 4);
        let kept = seals::after(w.app.store(), &w.project, 0, 100).await.unwrap();
        assert_eq!((kept.len(), kept[0].number), (1, 3), "the seals of what is gone are gone");
        assert_eq!(is_intact(&w.app, &w.project).await.count, 5);
        seal(&w.app).await;
        is_intact(&w.app, &w.project).await;

        let mut owner = Beside::open(database).await;
        for table in TABLES {
            owner.run(&format!("CREATE TABLE {table}_kept AS SELECT * FROM {table}")).await;
        }
        let delete = |until: i64| {
            format!(
                "DELETE FROM journal WHERE project = 'default' AND revision < {until}; \
                 UPDATE counter SET oldest = {until} WHERE project = 'default'"
            )
        };
        for (what, sql, expected) in [
            ("a row is changed", change_of(oldest + 1), (oldest + 1, Fault::Changed)),
            ("some are deleted", delete(oldest + 2), (oldest, Fault::Missing)),
            ("with their seal", format!("{}; {FIRST_SEAL}", delete(kept[0].last + 1)), (oldest, Fault::Missing)),
            ("the seal alone", FIRST_SEAL.to_owned(), (oldest, Fault::Seal)),
        ] {
            owner.run(&sql).await;
            let (_, verdict) = verify(&w.app, &w.project, None).await;
            assert_eq!(verdict.bad.map(|bad| (bad.revision, bad.fault)), Some(expected), "{what}");
            for table in TABLES {
                owner.run(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {table}_kept")).await;
            }
        }
        // All that was sealed goes, and the chain goes on.
        pass_days();
        w.submit_many(1).await;
        seal(&w.app).await;
        assert!(cut().await > oldest);
        is_intact(&w.app, &w.project).await;
        fill(&w, 1).await;
        is_intact(&w.app, &w.project).await;
    })
    .await;
}

const FIRST_SEAL: &str = "DELETE FROM journal_seal WHERE project = 'default' AND number = 3";

fn change_of(row: i64) -> String {
    format!("UPDATE journal SET actor = 'user:x' WHERE project = 'default' AND revision = {row}")
}
