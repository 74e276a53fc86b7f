//! `ScheduleService`: settings, previews, and ticks by the real clock.

use tasktower::pb::{self, occurrence::State};
use tonic::Code;

use super::{Rpc, fields, refused, seconds, task, token, worker};
use crate::support::{
    backend::{Database, for_each_backend},
    credentials::PRINCIPAL,
    wait::{SOON, eventually},
};

pub const NAME: &str = "projects/default/schedules/s";

pub fn every_second() -> pb::Schedule {
    pb::Schedule { cron: "* * * * * *".into(), task: Some(task("t")), ..Default::default() }
}

fn daily() -> pb::Schedule {
    pb::Schedule { cron: "@daily".into(), task: Some(task("t")), ..Default::default() }
}

fn stamp(text: &str) -> Option<prost_types::Timestamp> {
    Some(text.parse().expect("a time"))
}

impl Rpc {
    pub async fn create_schedule(&self, id: &str, schedule: pb::Schedule) -> pb::Schedule {
        let request =
            pb::CreateScheduleRequest { schedule_id: id.into(), schedule: Some(schedule), ..Default::default() };
        let answer = self.clients.schedules().create_schedule(request).await.expect("created").into_inner();
        answer.schedule.expect("a schedule")
    }

    async fn get_schedule(&self, id: &str) -> pb::Schedule {
        let request = pb::GetScheduleRequest { name: format!("projects/default/schedules/{id}") };
        self.clients.schedules().get_schedule(request).await.expect("found").into_inner().schedule.expect("a schedule")
    }

    async fn pause_schedule(&self, id: &str) -> pb::Schedule {
        let request =
            pb::PauseScheduleRequest { name: format!("projects/default/schedules/{id}"), note: "enough".into() };
        let answer = self.clients.schedules().pause_schedule(request).await.expect("paused").into_inner();
        answer.schedule.expect("a schedule")
    }

    /// Earliest first.
    async fn occurrences(&self, id: &str) -> Vec<pb::Occurrence> {
        let parent = format!("projects/default/schedules/{id}");
        let request = pb::ListOccurrencesRequest { parent, page_size: 500, ..Default::default() };
        let mut found =
            self.clients.schedules().list_occurrences(request).await.expect("listed").into_inner().occurrences;
        found.reverse();
        found
    }

    /// Waits for occurrences of which `enough` is true.
    async fn until(&self, id: &str, enough: impl Fn(&[pb::Occurrence]) -> bool) -> Vec<pb::Occurrence> {
        eventually("the ticks go on", SOON, async || {
            let found = self.occurrences(id).await;
            if enough(&found) { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    }
}

fn count(found: &[pb::Occurrence], state: State) -> usize {
    found.iter().filter(|occurrence| occurrence.state() == state).count()
}

#[tokio::test]
async fn a_schedule_is_created_with_its_defaults() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut api = rpc.clients.schedules();
        let input = super::json(serde_json::json!({"month": 11}));
        let wanted = pb::Schedule {
            display_name: "Nightly".into(),
            description: "the report of the day".into(),
            cron: "30 2 * * MON-FRI".into(),
            time_zone: "europe/berlin".into(),
            jitter: Some(seconds(600)),
            task: Some(pb::Task { input: Some(input.clone()), queue: "reports".into(), ..task("report.build") }),
            overlap_policy: pb::OverlapPolicy::Skip as i32,
            ..Default::default()
        };
        let made = rpc.create_schedule("s", wanted.clone()).await;
        assert_eq!((&*made.name, &*made.time_zone, &*made.owner), (NAME, "Europe/Berlin", PRINCIPAL));
        assert_eq!(made.task.as_ref().unwrap().input, Some(input));
        assert_eq!(made.catch_up.unwrap().window, Some(seconds(86_400)));
        assert!(made.next_run_time.is_some() && made.last_run_time.is_none() && !made.paused);
        assert_eq!(rpc.get_schedule("s").await, made);
        let again =
            pb::CreateScheduleRequest { schedule_id: "s".into(), schedule: Some(wanted.clone()), ..Default::default() };
        refused(api.create_schedule(again).await, Code::AlreadyExists, "RESOURCE_EXISTS", &[]);
    })
    .await;
}

#[tokio::test]
async fn settings_change_by_mask_and_etag() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut api = rpc.clients.schedules();
        let made = rpc.create_schedule("s", daily()).await;
        let update = |schedule: pb::Schedule, paths: &[&str]| pb::UpdateScheduleRequest {
            schedule: Some(pb::Schedule { name: NAME.into(), ..schedule }),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.into()).collect() }),
        };
        let stale = pb::Schedule { etag: "\"x\"".into(), ..Default::default() };
        refused(api.update_schedule(update(stale, &["display_name"])).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let end = pb::Schedule {
            etag: made.etag.clone(),
            end_time: stamp("2020-01-01T00:00:00Z"),
            start_time: stamp("2020-01-02T00:00:00Z"),
            ..Default::default()
        };
        let backwards = api.update_schedule(update(end.clone(), &["start_time", "end_time"])).await;
        refused(backwards, Code::InvalidArgument, "FIELD_INVALID", &["schedule.end_time"]);
        let over = api.update_schedule(update(end, &["end_time"])).await.unwrap().into_inner().schedule.unwrap();
        assert!(over.next_run_time.is_none() && over.etag != made.etag && over.task == made.task);
        let open = api.update_schedule(update(pb::Schedule::default(), &["end_time"])).await.unwrap().into_inner();
        assert_eq!(open.schedule.unwrap().next_run_time, made.next_run_time);
        let nothing = api.update_schedule(update(daily(), &["cron"])).await.unwrap().into_inner().schedule.unwrap();
        assert_eq!(nothing.etag, made.etag, "what changes nothing writes nothing");
    })
    .await;
}

#[tokio::test]
async fn schedules_are_listed_and_deleted() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut api = rpc.clients.schedules();
        let made = rpc.create_schedule("s", daily()).await;
        for id in ["c", "a", "b"] {
            rpc.create_schedule(id, daily()).await;
        }
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListSchedulesRequest { page_size: 3, page_token, ..Default::default() };
            let page = api.list_schedules(request).await.unwrap().into_inner();
            assert!(page.schedules.iter().all(|schedule| schedule.task.as_ref().unwrap().input.is_none()));
            names.extend(page.schedules.into_iter().map(|schedule| schedule.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(names, ["a", "b", "c", "s"].map(|id| format!("projects/default/schedules/{id}")));

        let delete = |etag: &str| pb::DeleteScheduleRequest { name: NAME.into(), etag: etag.into() };
        refused(api.delete_schedule(delete("\"x\"")).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        api.delete_schedule(delete(&made.etag)).await.unwrap();
        refused(api.delete_schedule(delete("")).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let anew = rpc.create_schedule("s", daily()).await;
        assert_ne!(anew.uid, made.uid);
    })
    .await;
}

#[tokio::test]
async fn a_fault_in_an_expression_is_told_with_field_and_column() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    for (cron, words) in [
        ("0 24 * * *", "hour, column 3: 24 is not 0 to 23"),
        ("0 0 31 2 *", "day of month, column 5: never comes"),
        ("* * *", "column 6: has 3 fields"),
        ("@fortnightly", "column 1: `@fortnightly` is not known"),
        ("0 0 * * MON,TUX", "day of week, column 13: `TUX` is not"),
    ] {
        let schedule = pb::Schedule { cron: cron.into(), ..daily() };
        let request =
            pb::CreateScheduleRequest { schedule_id: "s".into(), schedule: Some(schedule), ..Default::default() };
        let status = rpc.clients.schedules().create_schedule(request).await.unwrap_err();
        assert_eq!(fields(&status), ["schedule.cron"], "{cron}");
        assert!(status.message().contains(words), "{cron}: {}", status.message());
    }
}

#[tokio::test]
async fn a_preview_says_what_comes_and_writes_nothing() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut api = rpc.clients.schedules();
        let given = pb::PreviewScheduleRequest {
            cron: "30 2 * * *".into(),
            time_zone: "America/New_York".into(),
            after_time: stamp("2026-03-07T12:00:00Z"),
            count: 2,
            ..Default::default()
        };
        let answer = api.preview_schedule(given).await.unwrap().into_inner();
        let local: Vec<&str> = answer.runs.iter().map(|run| &*run.local_time).collect();
        assert_eq!(local, ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]);
        assert!(&*answer.time_zone_version >= "2026e", "{}", answer.time_zone_version);
        let leap = pb::PreviewScheduleRequest {
            cron: "0 0 29 2 *".into(),
            after_time: stamp("2026-01-01T00:00:00Z"),
            ..Default::default()
        };
        let runs = api.preview_schedule(leap).await.unwrap().into_inner().runs;
        assert_eq!((runs.len(), &*runs[0].local_time), (10, "2028-02-29T00:00:00+00:00"));

        let end_time = stamp("2026-01-03T00:00:00Z");
        rpc.create_schedule("s", pb::Schedule { jitter: Some(seconds(60)), end_time, ..daily() }).await;
        let stored = pb::PreviewScheduleRequest {
            schedule_id: "s".into(),
            after_time: stamp("2026-01-01T00:00:00Z"),
            ..Default::default()
        };
        let runs = api.preview_schedule(stored).await.unwrap().into_inner().runs;
        assert_eq!(
            runs.iter().map(|run| run.planned_time).collect::<Vec<_>>(),
            [stamp("2026-01-02T00:00:00Z"), end_time]
        );
        for run in &runs {
            let late = run.run_time.unwrap().seconds - run.planned_time.unwrap().seconds;
            assert!((0..=60).contains(&late), "{late} s");
        }
        let both = pb::PreviewScheduleRequest { schedule_id: "s".into(), cron: "@daily".into(), ..Default::default() };
        refused(api.preview_schedule(both).await, Code::InvalidArgument, "FIELD_INVALID", &["cron"]);
        assert!(rpc.occurrences("s").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn ticks_come_by_the_clock_and_wake_who_waits() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut workers = rpc.clients.workers();
        let waiter = tokio::spawn(async move {
            let request = pb::LeaseTasksRequest {
                identity: Some(worker("patient")),
                max_tasks: 1,
                wait: Some(seconds(20)),
                ..Default::default()
            };
            workers.lease_tasks(request).await
        });
        let made = rpc.create_schedule("s", every_second()).await;
        let leased = waiter.await.unwrap().unwrap().into_inner().tasks.remove(0).task.unwrap();
        assert_eq!(leased.labels["tasktower/schedule"], "s");
        let found = rpc.until("s", |found| found.len() >= 4).await;
        assert_eq!(found[0].task, leased.name);
        let first = found[0].planned_time.unwrap();
        assert_eq!(Some(first), made.next_run_time);
        for (occurrence, second) in found.iter().zip(first.seconds..) {
            assert_eq!((occurrence.state(), &*occurrence.reason), (State::Fired, ""));
            assert_eq!(occurrence.planned_time.unwrap().seconds, second, "each second once");
        }
        let paused = rpc.pause_schedule("s").await;
        assert!(paused.paused && paused.next_run_time.is_none() && paused.pause_note == "enough");
        let done = rpc.occurrences("s").await;
        let resumed =
            rpc.clients.schedules().resume_schedule(pb::ResumeScheduleRequest { name: NAME.into() }).await.unwrap();
        assert!(!resumed.into_inner().schedule.unwrap().paused);
        let on = rpc.until("s", |found| found.len() > done.len()).await;
        assert_eq!(on[..done.len()], done[..], "while it was paused nothing came");
        rpc.pause_schedule("s").await;

        let mut pages = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListOccurrencesRequest { parent: NAME.into(), page_size: 2, page_token };
            let page = rpc.clients.schedules().list_occurrences(request).await.unwrap().into_inner();
            pages.extend(page.occurrences);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        pages.reverse();
        assert_eq!(pages, rpc.occurrences("s").await);
    })
    .await;
}

#[tokio::test]
async fn overlap_goes_by_its_policy() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let with = |policy: pb::OverlapPolicy, queue: &str| pb::Schedule {
            overlap_policy: policy as i32,
            task: Some(pb::Task { queue: queue.into(), ..task("t") }),
            ..every_second()
        };
        let lease = async |queue: &str| {
            let identity = pb::WorkerIdentity { queues: vec![queue.into()], ..worker("w") };
            rpc.lease_as(identity, 1).await.remove(0)
        };

        rpc.create_schedule("skip", with(pb::OverlapPolicy::Skip, "skip")).await;
        rpc.until("skip", |found| count(found, State::Skipped) >= 2).await;
        let leased = lease("skip").await;
        rpc.complete([token(&leased)]).await;
        let found = rpc.until("skip", |found| count(found, State::Fired) == 2).await;
        assert!(found[1].reason.contains("not final"));
        rpc.pause_schedule("skip").await;

        rpc.create_schedule("queue", with(pb::OverlapPolicy::QueueOne, "queue")).await;
        let found = rpc.until("queue", |found| count(found, State::Skipped) >= 1).await;
        let waits = rpc.get_schedule("queue").await.queued_run_time.expect("a tick waits");
        assert!(waits.seconds == found[0].planned_time.unwrap().seconds + 1 && found.len() >= 2);
        let leased = lease("queue").await;
        rpc.complete([token(&leased)]).await;
        let found = rpc.until("queue", |found| count(found, State::Fired) == 2).await;
        let queued = found.iter().find(|occurrence| occurrence.planned_time == Some(waits)).expect("it fired");
        assert_eq!((queued.state(), queued.reason.contains("waited")), (State::Fired, true));
        rpc.pause_schedule("queue").await;
        let found = rpc.occurrences("queue").await;
        assert!(found.iter().any(|o| o.reason.contains("paused while it waited")), "{found:?}");

        rpc.create_schedule("cancel", with(pb::OverlapPolicy::CancelPrevious, "cancel")).await;
        let found = rpc.until("cancel", |found| found.len() >= 3).await;
        rpc.pause_schedule("cancel").await;
        assert_eq!(count(&found, State::Fired), found.len());
        let first = rpc.get(&found[0].task).await;
        assert_eq!(first.state(), pb::task::State::Cancelled);
        assert_eq!(first.cancel_reason, "projects/default/schedules/cancel fired again");
        let last = rpc.get_schedule("cancel").await.last_task;
        assert_eq!(rpc.get(&last).await.state(), pb::task::State::Pending);

        rpc.create_schedule("allow", with(pb::OverlapPolicy::Allow, "allow")).await;
        let found = rpc.until("allow", |found| found.len() >= 3).await;
        assert_eq!(count(&found, State::Fired), found.len());
    })
    .await;
}

#[tokio::test]
async fn what_is_made_by_hand_is_recorded() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut api = rpc.clients.schedules();
        rpc.create_schedule("s", daily()).await;
        rpc.pause_schedule("s").await;
        let run = pb::RunScheduleRequest { name: NAME.into() };
        let made = api.run_schedule(run).await.unwrap().into_inner().occurrence.unwrap();
        assert_eq!(made.state(), State::Manual);
        assert_eq!(rpc.get(&made.task).await.labels["tasktower/schedule"], "s");
        assert_eq!(rpc.occurrences("s").await, std::slice::from_ref(&made));
        let schedule = rpc.get_schedule("s").await;
        assert_eq!((schedule.last_task, schedule.last_run_time), (made.task, made.planned_time));

        let range = pb::BackfillScheduleRequest {
            name: NAME.into(),
            start_time: stamp("2026-01-01T00:00:00Z"),
            end_time: stamp("2026-02-01T00:00:00Z"),
            rate: Some(pb::Rate { count: 1, interval: Some(seconds(60)), burst: 0 }),
            dry_run: true,
        };
        let counted = api.backfill_schedule(range.clone()).await.unwrap().into_inner();
        assert_eq!((counted.tick_count, counted.backfilled_count, counted.done_count), (31, 31, 0));
        assert_eq!(rpc.occurrences("s").await.len(), 1);
        let real = pb::BackfillScheduleRequest { dry_run: false, ..range.clone() };
        let made = api.backfill_schedule(real.clone()).await.unwrap().into_inner();
        assert_eq!((made.backfilled_count, made.skipped_count, made.next_start_time), (31, 0, None));
        let again = api.backfill_schedule(real).await.unwrap().into_inner();
        assert_eq!((again.backfilled_count, again.done_count), (0, 31));
        let found = rpc.occurrences("s").await;
        assert_eq!((count(&found, State::Backfilled), found.len()), (31, 32));
        let first = rpc.get(&found[0].task).await;
        assert_eq!(first.labels["tasktower/planned-time"], "2026-01-01T00:00:00Z");
        let apart = rpc.get(&found[1].task).await.run_time.unwrap().seconds - first.run_time.unwrap().seconds;
        assert_eq!(apart, 60);

        let future = pb::BackfillScheduleRequest { end_time: stamp("2100-01-01T00:00:00Z"), ..range };
        refused(api.backfill_schedule(future).await, Code::InvalidArgument, "FIELD_INVALID", &["end_time"]);
    })
    .await;
}
