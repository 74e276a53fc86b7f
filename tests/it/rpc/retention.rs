//! `RetentionService` over the wire: rules, previews, runs, and what the others see of them.

use tasktower::pb::{self, retention_run, task::State, task_event::Type};
use tonic::Code;

use super::{Rpc, refused, seconds, task, token};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    client::Clients,
    credentials::PRINCIPAL,
    server::Server,
    sql::Beside,
    wait::{SOON, eventually},
};

const NAME: &str = "projects/default/retention";

fn rule(states: &[State], r#type: &str, age: i64) -> pb::RetentionRule {
    let states = states.iter().map(|state| *state as i32).collect();
    pb::RetentionRule { states, r#type: r#type.into(), queue: String::new(), age: Some(seconds(age)) }
}

fn update(rules: &[pb::RetentionRule], etag: &str) -> pb::UpdateRetentionRequest {
    let retention = pb::Retention { name: NAME.into(), rules: rules.to_vec(), etag: etag.into(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["rules".into()] });
    pb::UpdateRetentionRequest { retention: Some(retention), update_mask }
}

fn preview(rules: Option<&[pb::RetentionRule]>) -> pb::PreviewRetentionRequest {
    let rules = rules.map(|rules| pb::RetentionRules { rules: rules.to_vec() });
    pb::PreviewRetentionRequest { name: NAME.into(), rules }
}

fn run(etag: &str) -> pb::RunRetentionRequest {
    pb::RunRetentionRequest { name: NAME.into(), etag: etag.into() }
}

impl Rpc {
    async fn set_rules(&self, rules: &[pb::RetentionRule]) -> pb::Retention {
        let answer = self.clients.retention().update_retention(update(rules, "")).await.expect("changed");
        answer.into_inner().retention.expect("an answer holds it")
    }

    /// Runs to the end.
    async fn run_retention(&self) -> pb::RetentionRun {
        let begun = self.clients.retention().run_retention(run("")).await.expect("begun").into_inner();
        let name = begun.retention_run.expect("an answer holds it").name;
        eventually("the run is over", SOON, async || {
            let request = pb::GetRetentionRunRequest { name: name.clone() };
            let answer = self.clients.retention().get_retention_run(request).await.expect("found").into_inner();
            let run = answer.retention_run.expect("an answer holds it");
            if run.state() == retention_run::State::Running { Err(format!("{run:?}")) } else { Ok(run) }
        })
        .await
    }

    /// Submits tasks of the type `t` and completes them.
    async fn done(&self, count: usize) -> Vec<String> {
        let names = self.submit_many(&task("t"), count).await;
        let leased = self.lease(i32::try_from(count).expect("few")).await;
        let codes = self.complete(leased.iter().map(token)).await;
        assert!(codes.iter().all(|code| *code == Code::Ok));
        names
    }
}

#[tokio::test]
async fn rules_are_kept_and_guarded_by_their_etag() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut client = rpc.clients.retention();
        let get = || pb::GetRetentionRequest { name: NAME.into() };
        let first = client.get_retention(get()).await.unwrap().into_inner().retention.unwrap();
        assert_eq!((first.rules.len(), first.update_time), (0, None));
        let days = |span: &Option<prost_types::Duration>| span.unwrap().seconds / 86_400;
        let ages = [&first.default_age, &first.feed_age, &first.audit_age, &first.journal_age].map(days);
        assert_eq!(ages, [30, 7, 90, 90]);
        // Test servers have it at another hour than others.
        assert!(first.daily_time.ends_with(":00") && first.time_zone == "UTC", "{first:?}");
        assert!(first.next_run_time.is_some());

        let rules = [rule(&[State::Failed], "", 86_400), rule(&[], "mail.*", 3_600)];
        let changed = client.update_retention(update(&rules, &first.etag)).await.unwrap().into_inner();
        let changed = changed.retention.unwrap();
        assert_eq!(changed.rules, rules);
        assert!(changed.update_time.is_some() && changed.etag != first.etag);
        refused(client.update_retention(update(&[], &first.etag)).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        refused(client.run_retention(run(&first.etag)).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        // What changes nothing is no change.
        let same =
            client.update_retention(update(&rules, &changed.etag)).await.unwrap().into_inner().retention.unwrap();
        assert_eq!((&same.etag, same.update_time), (&changed.etag, changed.update_time));
        let read = client.get_retention(get()).await.unwrap().into_inner().retention.unwrap();
        assert_eq!((read.rules, read.etag), (rules.to_vec(), changed.etag));
        assert_eq!(rpc.set_rules(&[]).await.etag, first.etag);
    })
    .await;
}

#[tokio::test]
async fn a_run_deletes_what_its_preview_said_and_tells_no_watcher() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut client = rpc.clients.retention();
        let done = rpc.done(120).await;
        let failed = rpc.failed().await;
        let waiting = rpc.submit(task("other")).await;
        let cancelled = rpc.submit(task("other")).await;
        let request = pb::CancelTaskRequest { name: cancelled.clone(), ..Default::default() };
        rpc.clients.tasks().cancel_task(request).await.unwrap();

        // By the age of the server nothing is old; rules can be tried out.
        let answer = client.preview_retention(preview(None)).await.unwrap().into_inner();
        assert_eq!((answer.deleted_count, answer.kept_count), (0, 0));
        let rules = [rule(&[State::Cancelled], "", 86_400), rule(&[], "*", 0)];
        let tried = client.preview_retention(preview(Some(&rules))).await.unwrap().into_inner();
        assert_eq!((tried.deleted_count, tried.kept_count, tried.open_dead_letter_count), (120, 2, 1));
        let tallies: Vec<_> = tried.tallies.iter().map(|t| (t.deleted_count, t.kept_count, t.is_default)).collect();
        assert_eq!(tallies, [(0, 1, false), (120, 0, false), (0, 0, true)]);
        assert!(tried.tallies[1].oldest_finish_time.is_some() && !tried.is_partial);
        assert_eq!(tried.tallies[1].rule, Some(rules[1].clone()));

        let request = pb::WatchTasksRequest { initial_state: true, ..Default::default() };
        let mut watch = rpc.clients.tasks().watch_tasks(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while !seen.iter().any(|event: &pb::TaskEvent| event.r#type() == Type::Synced) {
            seen.extend(watch.message().await.unwrap().expect("not the end").events);
        }
        assert_eq!(seen.iter().filter(|event| event.r#type() == Type::Initial).count(), 123);

        rpc.set_rules(&rules).await;
        let run = rpc.run_retention().await;
        assert_eq!(run.state(), retention_run::State::Succeeded);
        assert_eq!((run.trigger(), run.owner.as_str()), (retention_run::Trigger::Call, PRINCIPAL));
        assert_eq!((run.deleted_count, run.kept_count, run.open_dead_letter_count), (120, 2, 1));
        assert_eq!(run.tallies.iter().map(|tally| tally.deleted_count).collect::<Vec<_>>(), [0, 120, 0]);
        assert!(run.finish_time.is_some() && run.error_message.is_empty());
        for name in [&done[0], &done[119]] {
            let request = pb::GetTaskRequest { name: name.clone(), ..Default::default() };
            refused(rpc.clients.tasks().get_task(request).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        }
        assert_eq!(rpc.get(&failed).await.state(), State::Failed);
        assert_eq!(rpc.get(&waiting).await.state(), State::Pending);
        assert_eq!(rpc.get(&cancelled).await.state(), State::Cancelled);

        // Somebody deals with the dead letter; then nothing holds the task any more.
        let entry = failed.replace("/tasks/", "/deadLetters/");
        let mut letters = rpc.clients.dead_letters();
        let mark =
            pb::MarkDeadLetterProcessedRequest { name: entry.clone(), reason: "known".into(), ..Default::default() };
        letters.mark_dead_letter_processed(mark).await.unwrap();
        assert_eq!(rpc.run_retention().await.deleted_count, 1);
        let request = pb::GetTaskRequest { name: failed.clone(), ..Default::default() };
        refused(rpc.clients.tasks().get_task(request).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let request = pb::GetDeadLetterRequest { name: entry };
        refused(letters.get_dead_letter(request).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        // The watch goes on, with the next thing that happens to a task.
        let next = rpc.submit(task("other")).await;
        let event = loop {
            let message = watch.message().await.unwrap().expect("not the end");
            if let Some(event) = message.events.into_iter().find(|event| event.r#type() != Type::Bookmark) {
                break event;
            }
        };
        assert_eq!((event.r#type(), event.task.map(|task| task.name)), (Type::Added, Some(next)));

        let page = |page_token: String| pb::ListRetentionRunsRequest { page_size: 1, page_token, ..Default::default() };
        let first = client.list_retention_runs(page(String::new())).await.unwrap().into_inner();
        let second = client.list_retention_runs(page(first.next_page_token)).await.unwrap().into_inner();
        assert_eq!((second.retention_runs, second.next_page_token.as_str()), (vec![run], ""));
    })
    .await;
}

#[tokio::test]
async fn a_day_without_a_server_is_made_up_for_once() {
    for_each_backend(async |database| {
        let mut rpc = Rpc::start(database).await;
        let mut beside = Beside::open(database).await;
        eventually("the project has its turn", SOON, async || {
            match beside.number("SELECT count(*) FROM retention WHERE project = 'default'").await {
                1 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        rpc.server.kill();
        beside.run("UPDATE retention SET served_time = 0").await;
        rpc.server.restart().await;
        // On PostgreSQL there are two who could.
        let other = match database.backend() {
            Backend::Postgres => Some(Server::start(database).await),
            Backend::Sqlite => None,
        };
        let clients = Clients::connect(other.as_ref().unwrap_or(&rpc.server)).await;
        let runs = async || {
            let request = pb::ListRetentionRunsRequest::default();
            clients.retention().list_retention_runs(request).await.expect("listed").into_inner().retention_runs
        };
        let run = eventually("the daily run is over", SOON, async || match &runs().await[..] {
            [run] if run.state() == retention_run::State::Succeeded => Ok(run.clone()),
            others => Err(format!("{others:?}")),
        })
        .await;
        assert_eq!((run.trigger(), run.owner.as_str()), (retention_run::Trigger::Daily, "system:retention"));
        // The partition of the journal that belongs to no project is served too.
        eventually("it is over", SOON, async || {
            match beside.number("SELECT count(*) FROM retention_run WHERE project = 'system' AND state = 2").await {
                1 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        assert_eq!(runs().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn settings_of_the_server_are_told() {
    let database = Database::sqlite();
    let arguments = [
        "--history-retention-days=14",
        "--feed-retention-days=3",
        "--audit-retention-days=5",
        "--retention-time=23:30",
        "--retention-time-zone=America/Vancouver",
    ];
    let server = Server::start_with(&database, &arguments).await;
    let clients = Clients::connect(&server).await;
    let answer = clients.retention().get_retention(pb::GetRetentionRequest { name: NAME.into() }).await.unwrap();
    let told = answer.into_inner().retention.unwrap();
    let days = [told.default_age, told.feed_age, told.audit_age, told.journal_age];
    assert_eq!(days.map(|span| span.unwrap().seconds / 86_400), [14, 3, 5, 14]);
    assert_eq!((told.daily_time.as_str(), told.time_zone.as_str()), ("23:30", "America/Vancouver"));
    let next = told.next_run_time.unwrap().seconds;
    // 23:30 at -07, or up to half an hour later.
    assert!((0..1_800).contains(&(next - (6 * 3_600 + 1_800)).rem_euclid(86_400)), "{next}");
}
