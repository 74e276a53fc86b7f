//! Writers keep their connections, and nobody waits for one that is idle.

use super::open;
use crate::support::{backend::for_each_backend, wait::SOON};

/// More than the pool of writers holds, on either database.
const WRITERS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_writers_than_connections_all_have_their_turn() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let each = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..8 {
                    let tx = store.begin().await.expect("a connection is free soon");
                    tokio::task::yield_now().await;
                    if writer % 2 == 0 { tx.rollback().await } else { tx.commit().await.expect("nothing to refuse") }
                }
            })
        });
        let all = futures_util::future::try_join_all(each);
        tokio::time::timeout(SOON, all).await.expect("nobody waits for what is idle").expect("no writer panics");
    })
    .await;
}
