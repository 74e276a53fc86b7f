//! Schedules fire by the store's clock, which the tests move; no loop runs beside them.

use std::time::Duration;

use futures_util::future::join_all;
use tasktower::{
    api::convert::schedule as convert,
    app::{App, schedule::SchedulePatch, schedule_by_hand::Backfill},
    domain::{
        event::ResourceKind,
        filter::Filter,
        schedule::{Occurrence, OccurrenceState, Settings, firing::GRACE, ticks::zone_version},
        task::{Micros, SECOND, Task},
        task_list::ListQuery,
    },
    pb,
    store::{DatabaseUrl, Store, schedules},
};
use tokio_util::sync::CancellationToken;

use super::{caller, journal_of, project, start};
use crate::support::backend::{Backend, Database, for_each_backend};

const MINUTE: Micros = 60 * SECOND;

/// Settings as the API reads them.
fn settings(schedule: pb::Schedule) -> Settings {
    let task = schedule.task.clone().unwrap_or_else(|| pb::Task { r#type: "t".into(), ..Default::default() });
    let schedule = pb::Schedule { task: Some(task), ..schedule };
    let request = pb::CreateScheduleRequest { schedule_id: "s".into(), schedule: Some(schedule), ..Default::default() };
    convert::create(request).expect("good settings").2
}

fn every_minute() -> pb::Schedule {
    pb::Schedule { cron: "* * * * *".into(), ..Default::default() }
}

fn catching_up(policy: pb::CatchUpPolicy) -> pb::Schedule {
    let window = Some(prost_types::Duration { seconds: 20 * 60, nanos: 0 });
    pb::Schedule { catch_up: Some(pb::CatchUp { policy: policy as i32, max_count: 3, window }), ..every_minute() }
}

async fn create(app: &App, id: &str, schedule: pb::Schedule) {
    app.create_schedule(&caller(), &project(), id, settings(schedule)).await.expect("created");
}

fn shift(app: &App, by: Micros) {
    app.store().shift_clock(Duration::from_micros(by.unsigned_abs()));
}

/// The service a few seconds after the begin of a minute, so that no minute ends by itself while a test runs.
async fn aligned(database: &Database) -> App {
    let app = start(database).await;
    let now = app.store().now().await.expect("the time");
    shift(&app, MINUTE - now % MINUTE + 2 * SECOND);
    app
}

/// Its occurrences, earliest first.
async fn occurrences(app: &App, id: &str) -> Vec<Occurrence> {
    let (mut found, next) = app.list_occurrences(&project(), id, None, 10_000).await.expect("listed");
    assert_eq!(next, None);
    found.reverse();
    found
}

/// Their states, one letter each.
async fn letters(app: &App, id: &str) -> String {
    let letter = |occurrence: &Occurrence| match occurrence.state {
        OccurrenceState::Fired => 'F',
        OccurrenceState::Skipped => 'S',
        OccurrenceState::Missed => 'M',
        OccurrenceState::CaughtUp => 'C',
        OccurrenceState::Manual => 'H',
        OccurrenceState::Backfilled => 'B',
    };
    occurrences(app, id).await.iter().map(letter).collect()
}

async fn tasks(app: &App) -> Vec<Task> {
    let filter = Filter::parse("").expect("no filter");
    let query = ListQuery { ascending: true, full: true, ..ListQuery::newest(filter, 10_000) };
    app.list_tasks(&project(), query).await.expect("listed").tasks
}

#[tokio::test]
async fn a_tick_is_fired_once_with_its_task() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        let mut wanted = every_minute();
        wanted.task = Some(pb::Task { r#type: "report".into(), queue: "q".into(), priority: 7, ..Default::default() });
        create(&app, "s", wanted).await;
        let planned = app.get_schedule(&project(), "s").await.unwrap().progress.next_tick.unwrap();
        assert!(planned % MINUTE == 0 && planned > app.store().now().await.unwrap());
        assert_eq!(app.fire_schedules().await.unwrap(), 0, "nothing is due");

        shift(&app, MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 1);
        assert_eq!(app.fire_schedules().await.unwrap(), 0);
        let occurrences = occurrences(&app, "s").await;
        let tasks = tasks(&app).await;
        assert_eq!((occurrences.len(), tasks.len()), (1, 1));
        let (occurrence, task) = (&occurrences[0], &tasks[0]);
        assert_eq!((occurrence.state, occurrence.planned_time), (OccurrenceState::Fired, planned));
        assert_eq!((occurrence.task, &*occurrence.reason), (Some(task.id), ""));
        assert_eq!((&*task.spec.task_type, &*task.spec.queue, task.spec.priority), ("report", "q", 7));
        assert_eq!((&*task.spec.owner, &*task.spec.labels["tasktower/schedule"]), ("user:ada", "s"));
        let stamp: prost_types::Timestamp = task.spec.labels["tasktower/planned-time"].parse().expect("RFC 3339");
        assert_eq!(stamp.seconds * SECOND, planned);

        let schedule = app.get_schedule(&project(), "s").await.unwrap();
        assert_eq!(schedule.progress.next_tick, Some(planned + MINUTE));
        assert_eq!((schedule.progress.last_tick, schedule.progress.last_task), (Some(planned), Some(task.id)));
        let queue = app.get_queue(&project(), "q").await.unwrap();
        assert_eq!((queue.ready, queue.running), (1, 0));
        let name = "projects/default/schedules/s".to_owned();
        let expected = [
            (ResourceKind::ScheduleCreated, name.clone(), "user:ada".to_owned()),
            (ResourceKind::ScheduleRan, name, "system:scheduler".to_owned()),
        ];
        assert_eq!(journal_of(&app, "default").await, expected);
    })
    .await;
}

#[tokio::test]
async fn ticks_at_which_nobody_was_there_go_by_the_catch_up_policy() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        let policies = [
            ("skip", pb::CatchUpPolicy::Skip, 0),
            ("last", pb::CatchUpPolicy::Last, 1),
            ("all", pb::CatchUpPolicy::All, 3),
        ];
        for (id, policy, _) in policies {
            create(&app, id, catching_up(policy)).await;
        }
        shift(&app, 30 * MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 3);
        let now = app.store().now().await.unwrap();
        for (id, _, caught_up) in policies {
            let found = occurrences(&app, id).await;
            // All that are due, each once, in a row.
            assert_eq!(found.len(), 30, "{id}");
            assert!(found.windows(2).all(|pair| pair[1].planned_time - pair[0].planned_time == MINUTE));
            let late = found.iter().filter(|o| o.decide_time - o.planned_time > GRACE).count();
            let expected = format!("{}{}F", "M".repeat(late - caught_up), "C".repeat(caught_up));
            assert_eq!(letters(&app, id).await, expected, "{id}");
            let told = |o: &&Occurrence| o.reason.is_empty() == (o.state == OccurrenceState::Fired);
            assert_eq!(found.iter().filter(told).count(), 30);
            assert!(found.iter().all(|o| o.state.made_task() == o.task.is_some() && o.decide_time <= now));
        }
        assert_eq!(tasks(&app).await.len(), 4 + 3);
    })
    .await;
}

#[tokio::test]
async fn a_long_backlog_is_worked_off_and_what_is_very_old_is_missed_as_a_whole() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        create(&app, "s", every_minute()).await;
        shift(&app, 2_500 * MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 3, "in three transactions");
        let found = letters(&app, "s").await;
        assert_eq!((found.len(), found.trim_start_matches('M')), (2_500, "CF"));

        create(&app, "old", pb::Schedule { cron: "@hourly".into(), ..Default::default() }).await;
        app.pause_schedule(&caller(), &project(), "s", String::new()).await.unwrap();
        shift(&app, 40 * 24 * 60 * MINUTE);
        app.fire_schedules().await.unwrap();
        let found = occurrences(&app, "old").await;
        assert!(found[0].reason.contains("all ticks from this one until"), "{}", found[0].reason);
        assert_eq!(found[0].state, OccurrenceState::Missed);
        assert!((31 * 24..=31 * 24 + 1).contains(&(found.len() - 1)), "31 days of hours, not {}", found.len());
        assert_eq!(letters(&app, "old").await.chars().last(), Some('C'));
    })
    .await;
}

#[tokio::test]
async fn replicas_that_fire_together_fire_each_tick_once() {
    const SCHEDULES: usize = 700;
    const ROUNDS: usize = 3;
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let first = start(&database).await;
    let url: DatabaseUrl = database.url().parse().unwrap();
    let mut apps = vec![first];
    for _ in 0..2 {
        apps.push(App::new(Store::open(&url).await.unwrap(), CancellationToken::new()));
    }
    let made = (0..SCHEDULES).map(|n| {
        let app = &apps[n % 3];
        async move { create(app, &format!("s{n}"), every_minute()).await }
    });
    futures_util::stream::StreamExt::collect::<Vec<_>>(futures_util::stream::StreamExt::buffer_unordered(
        futures_util::stream::iter(made),
        8,
    ))
    .await;
    for _ in 0..ROUNDS {
        apps.iter().for_each(|app| shift(app, MINUTE));
        let fired = join_all(apps.iter().map(|app| async { app.fire_schedules().await.unwrap() })).await;
        // What one holds another passes over; what is left comes in its next round.
        let rest = apps[0].fire_schedules().await.unwrap();
        assert!(fired.iter().sum::<usize>() + rest >= SCHEDULES, "{fired:?} and {rest}");
    }
    let mut made = 0;
    for n in 0..SCHEDULES {
        let found = occurrences(&apps[0], &format!("s{n}")).await;
        assert!(found.windows(2).all(|pair| pair[1].planned_time - pair[0].planned_time == MINUTE));
        made += found.iter().filter(|o| o.state.made_task()).count();
    }
    // More if a minute ended by itself.
    assert!(made >= SCHEDULES * ROUNDS);
    assert_eq!(tasks(&apps[0]).await.len(), made, "one task each");
    assert_eq!(apps[0].get_queue(&project(), "default").await.unwrap().ready, made as i64);
}

#[tokio::test]
async fn what_was_due_when_a_schedule_changes_is_recorded_and_not_fired() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        create(&app, "paused", every_minute()).await;
        create(&app, "changed", every_minute()).await;
        shift(&app, 2 * MINUTE);
        let paused = app.pause_schedule(&caller(), &project(), "paused", "enough".into()).await.unwrap();
        assert_eq!((paused.progress.next_tick, paused.progress.wake_time), (None, None));
        let patch = SchedulePatch { cron: Some("@daily".into()), ..Default::default() };
        app.update_schedule(&caller(), &project(), "changed", patch, None).await.unwrap();
        assert_eq!(app.fire_schedules().await.unwrap(), 0);
        for id in ["paused", "changed"] {
            let found = occurrences(&app, id).await;
            assert_eq!(letters(&app, id).await, "SS");
            assert!(found[0].reason.contains(id), "{}", found[0].reason);
        }
        // While it is paused nothing is planned, and so nothing is missed.
        shift(&app, 10 * MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 0);
        let resumed = app.resume_schedule(&caller(), &project(), "paused").await.unwrap();
        assert!(resumed.progress.next_tick.unwrap() > app.store().now().await.unwrap());
        shift(&app, MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 1);
        assert_eq!(letters(&app, "paused").await, "SSF");
        assert!(tasks(&app).await.len() == 1);
    })
    .await;
}

#[tokio::test]
async fn an_open_task_with_the_unique_key_stands_in_the_way() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        let task = pb::Task { r#type: "t".into(), unique_key: "k".into(), ..Default::default() };
        create(&app, "s", pb::Schedule { task: Some(task), ..every_minute() }).await;
        for _ in 0..2 {
            shift(&app, MINUTE);
            app.fire_schedules().await.unwrap();
        }
        let found = occurrences(&app, "s").await;
        assert_eq!(letters(&app, "s").await, "FS");
        assert_eq!(found[1].task, found[0].task);
        assert!(found[1].reason.contains("unique_key"));
        assert_eq!(tasks(&app).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_schedule_that_cannot_be_fired_keeps_no_other_from_it() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        for id in ["a", "b", "c"] {
            create(&app, id, every_minute()).await;
        }
        // As if a newer version had written what this one does not know.
        let mut broken = app.get_schedule(&project(), "b").await.unwrap();
        broken.settings.timing.cron = "nonsense".to_owned();
        let mut tx = app.store().begin().await.unwrap();
        schedules::write(&mut tx, &broken).await.unwrap();
        tx.commit().await.unwrap();
        shift(&app, MINUTE);
        assert_eq!(app.fire_schedules().await.unwrap(), 2);
        assert_eq!((letters(&app, "a").await, letters(&app, "c").await), ("F".into(), "F".into()));
        let now = app.store().now().await.unwrap();
        let put_off = app.get_schedule(&project(), "b").await.unwrap().progress.wake_time.unwrap();
        assert!(put_off > now + MINUTE / 2, "it is put off");
    })
    .await;
}

#[tokio::test]
async fn next_ticks_are_computed_anew_with_newer_time_zone_data() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        create(&app, "s", every_minute()).await;
        create(&app, "paused", every_minute()).await;
        app.pause_schedule(&caller(), &project(), "paused", String::new()).await.unwrap();
        let right = app.get_schedule(&project(), "s").await.unwrap().progress;
        let mut tx = app.store().begin().await.unwrap();
        for id in ["s", "paused"] {
            let mut old = app.get_schedule(&project(), id).await.unwrap().progress;
            old.zone_version = "2000a".to_owned();
            old.next_tick = old.next_tick.map(|tick| tick + 60 * MINUTE);
            old.wake_time = old.next_tick;
            schedules::write_progress(&mut tx, &project(), &[(id.to_owned(), old)]).await.unwrap();
        }
        tx.commit().await.unwrap();

        app.renew_time_zones().await.unwrap();
        assert_eq!(app.get_schedule(&project(), "s").await.unwrap().progress, right);
        let paused = app.get_schedule(&project(), "paused").await.unwrap().progress;
        assert_eq!((paused.next_tick, &*paused.zone_version), (None, zone_version()));
        let last = journal_of(&app, "default").await.pop().unwrap();
        let expected = (ResourceKind::ScheduleUpdated, "projects/default/schedules/s", "system:scheduler");
        assert_eq!((last.0, &*last.1, &*last.2), expected);
    })
    .await;
}

#[tokio::test]
async fn a_backfill_makes_what_is_missing_once_and_at_its_rate() {
    for_each_backend(async |database| {
        let app = aligned(database).await;
        create(&app, "s", catching_up(pb::CatchUpPolicy::Last)).await;
        let begin = app.store().now().await.unwrap();
        shift(&app, 30 * MINUTE);
        app.fire_schedules().await.unwrap();
        let now = app.store().now().await.unwrap();
        // The first hour of it lies before the schedule itself.
        let rate = tasktower::domain::queue::Rate { count: 1, interval: 2 * SECOND, burst: 1 };
        let range = Backfill { start_time: begin - 60 * MINUTE, end_time: now, rate: Some(rate), dry_run: true };
        let backfill = async |range: &Backfill| {
            app.backfill_schedule(&caller(), &project(), "s", range.clone()).await.expect("backfilled")
        };
        let counted = backfill(&range).await;
        assert_eq!((counted.ticks, counted.done, counted.made, counted.skipped), (90, 2, 88, 0));
        assert_eq!(tasks(&app).await.len(), 2, "a dry run makes nothing");
        let made = backfill(&Backfill { dry_run: false, ..range.clone() }).await;
        assert_eq!((made.ticks, made.done, made.made), (90, 2, 88));
        let mut due: Vec<Micros> = tasks(&app).await.iter().skip(2).map(|task| task.run_time).collect();
        due.sort_unstable();
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 2 * SECOND));
        assert_eq!(made.last_due_time, due.last().copied());
        let again = backfill(&Backfill { dry_run: false, ..range }).await;
        assert_eq!((again.done, again.made), (90, 0), "what is there is not made again");
        assert_eq!(letters(&app, "s").await, format!("{}CF", "B".repeat(88)));
        assert!(occurrences(&app, "s").await[60].reason.contains("it was MISSED"));

        let long = Backfill { start_time: begin - 2_000 * MINUTE, end_time: now, rate: None, dry_run: false };
        let first = backfill(&long).await;
        assert_eq!((first.ticks, first.made), (1_000, 1_000));
        let second = backfill(&Backfill { start_time: first.next_start_time.unwrap(), ..long.clone() }).await;
        assert_eq!((second.ticks, second.made), (1_000, 940));
        let third = backfill(&Backfill { start_time: second.next_start_time.unwrap(), ..long }).await;
        assert_eq!((third.ticks, third.made, third.next_start_time), (30, 0, None));
    })
    .await;
}
