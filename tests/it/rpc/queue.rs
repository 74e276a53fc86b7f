//! `QueueService`: settings, pause, and the limits as the leases show them.

use tasktower::pb;
use tonic::Code;

use super::{Rpc, refused, seconds, task, token, worker};
use crate::support::backend::for_each_backend;

const NAME: &str = "projects/default/queues/default";

fn get() -> pb::GetQueueRequest {
    pb::GetQueueRequest { name: NAME.into() }
}

fn update(queue: pb::Queue, paths: &[&str]) -> pb::UpdateQueueRequest {
    pb::UpdateQueueRequest {
        queue: Some(pb::Queue { name: NAME.into(), ..queue }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
    }
}

#[tokio::test]
async fn a_paused_queue_takes_tasks_and_gives_none() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut queues = rpc.clients.queues();
        refused(queues.get_queue(get()).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        rpc.submit_many(&task("t"), 3).await;
        let running = rpc.lease(1).await;
        let pause = |note: &str| pb::PauseQueueRequest { name: NAME.into(), note: note.into() };
        let paused = queues.pause_queue(pause("maintenance")).await.unwrap().into_inner().queue.unwrap();
        assert!(paused.paused);
        assert_eq!((paused.ready_count, paused.running_count), (2, 1));
        let noted = queues.pause_queue(pause("longer")).await.unwrap().into_inner().queue.unwrap();
        assert_eq!(noted.pause_note, "longer");

        assert!(rpc.lease(5).await.is_empty());
        rpc.submit(task("t")).await;
        assert_eq!(rpc.complete(running.iter().map(token)).await, [Code::Ok], "what runs goes on");
        let queue = queues.get_queue(get()).await.unwrap().into_inner().queue.unwrap();
        assert_eq!((queue.ready_count, queue.running_count, queue.paused), (3, 0, true));
        assert!(queue.oldest_ready_time.is_some());

        // A leaser that waits hears of the end of the pause.
        let mut workers = rpc.clients.workers();
        let waiter = tokio::spawn(async move {
            let request = pb::LeaseTasksRequest {
                identity: Some(worker("patient")),
                max_tasks: 10,
                wait: Some(seconds(20)),
                ..Default::default()
            };
            workers.lease_tasks(request).await
        });
        let resume = pb::ResumeQueueRequest { name: NAME.into() };
        let resumed = queues.resume_queue(resume.clone()).await.unwrap().into_inner().queue.unwrap();
        assert!(!resumed.paused && resumed.pause_note.is_empty());
        assert_eq!(waiter.await.unwrap().unwrap().into_inner().tasks.len(), 3);
        queues.resume_queue(resume).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn no_more_than_max_running_run_however_many_ask() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut queues = rpc.clients.queues();
        queues
            .update_queue(update(pb::Queue { max_running: 3, ..Default::default() }, &["max_running"]))
            .await
            .unwrap();
        rpc.submit_many(&task("t"), 20).await;

        let asking = (0..8).map(|n| {
            let identity = worker(&format!("w{n}"));
            rpc.lease_as(identity, 2)
        });
        let mut held: Vec<_> = futures_util::future::join_all(asking).await.into_iter().flatten().collect();
        assert_eq!(held.len(), 3);
        assert!(rpc.lease(10).await.is_empty());

        // Each that ends makes room for one.
        let ended: Vec<_> = held.drain(..2).collect();
        rpc.complete(ended.iter().map(token)).await;
        held.extend(rpc.lease(10).await);
        assert_eq!(held.len(), 3);

        // A lower limit takes nothing away; no limit lets all of them go.
        queues.update_queue(update(pb::Queue { max_running: 1, ..Default::default() }, &["*"])).await.unwrap();
        rpc.complete(held.drain(..2).map(|leased| token(&leased))).await;
        assert!(rpc.lease(10).await.is_empty(), "one runs still");
        queues.update_queue(update(pb::Queue::default(), &["max_running"])).await.unwrap();
        held.extend(rpc.lease(100).await);
        assert_eq!(held.len(), 1 + 20 - 5);
    })
    .await;
}

#[tokio::test]
async fn no_more_than_the_rate_are_leased() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut queues = rpc.clients.queues();
        let rate = pb::Rate { count: 4, interval: Some(seconds(3_600)), burst: 2 };
        let queue = pb::Queue { rate: Some(rate), ..Default::default() };
        let queue = queues.update_queue(update(queue, &["rate"])).await.unwrap().into_inner().queue.unwrap();
        assert_eq!(queue.rate, Some(rate));
        rpc.submit_many(&task("t"), 10).await;
        assert_eq!(rpc.lease(10).await.len(), 2, "a burst at once");
        assert!(rpc.lease(10).await.is_empty(), "the next is a quarter of an hour away");
        queues.update_queue(update(pb::Queue::default(), &["rate"])).await.unwrap();
        assert_eq!(rpc.lease(10).await.len(), 8, "without a rate they go");
    })
    .await;
}

#[tokio::test]
async fn settings_change_by_mask_and_etag() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut queues = rpc.clients.queues();
        let settings = pb::Queue { max_running: 5, lease_duration: Some(seconds(30)), ..Default::default() };
        let queue = queues.update_queue(update(settings, &["*"])).await.unwrap().into_inner().queue.unwrap();
        assert_eq!((queue.max_running, queue.lease_duration), (5, Some(seconds(30))));
        rpc.submit(task("t")).await;
        assert_eq!(rpc.lease(1).await[0].lease_duration, Some(seconds(30)));

        let stale = pb::Queue { max_running: 6, etag: "\"x\"".into(), ..Default::default() };
        refused(queues.update_queue(update(stale, &["max_running"])).await, Code::Aborted, "ETAG_MISMATCH", &[]);
        let fresh = pb::Queue { max_running: 6, etag: queue.etag.clone(), ..Default::default() };
        let after = queues.update_queue(update(fresh, &["max_running"])).await.unwrap().into_inner().queue.unwrap();
        assert_eq!((after.max_running, after.lease_duration), (6, Some(seconds(30))));
        assert_ne!(after.etag, queue.etag);
        let bad = update(pb::Queue::default(), &["name.first", "max_running"]);
        refused(queues.update_queue(bad).await, Code::InvalidArgument, "FIELD_INVALID", &["update_mask.paths[0]"]);

        for queue in ["a", "b", "c"] {
            rpc.submit(pb::Task { queue: queue.into(), ..task("t") }).await;
        }
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListQueuesRequest { page_size: 3, page_token, ..Default::default() };
            let page = queues.list_queues(request).await.unwrap().into_inner();
            names.extend(page.queues.into_iter().map(|queue| queue.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let expected = ["a", "b", "c", "default"].map(|queue| format!("projects/default/queues/{queue}"));
        assert_eq!(names, expected);
    })
    .await;
}
