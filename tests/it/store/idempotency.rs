use std::sync::Arc;

use bytes::Bytes;
use tasktower::store::{
    StoreError,
    idempotency::{self, NewAnswer, RequestKey},
};

use super::{open, project};
use crate::support::backend::for_each_backend;

fn key(principal: &str, method: &'static str, key: &str) -> RequestKey {
    RequestKey { principal: Arc::from(principal), method, key: key.to_owned() }
}

fn answer(key: RequestKey, response: &'static str) -> NewAnswer {
    NewAnswer { key, fingerprint: [7; 32], response: Bytes::from_static(response.as_bytes()) }
}

#[tokio::test]
async fn an_answer_is_found_under_its_own_key_only() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mine = key("me", "Submit", "k");
        let mut tx = store.begin().await.unwrap();
        let answers = [answer(mine.clone(), "a"), answer(key("me", "Lease", "k"), "b")];
        idempotency::insert(&mut tx, &project(), &answers, 5).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = store.begin().await.unwrap();
        let asked = [key("you", "Submit", "k"), mine.clone(), key("me", "Submit", "other")];
        let found = idempotency::find(&mut tx, &project(), &asked).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[&mine].fingerprint, &*found[&mine].response), (&[7_u8; 32][..], &b"a"[..]));

        let again = idempotency::insert(&mut tx, &project(), &[answer(mine, "c")], 6).await;
        assert!(matches!(again, Err(StoreError::Unique)));
        tx.rollback().await;
    })
    .await;
}

#[tokio::test]
async fn old_answers_are_purged_in_batches() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        for time in 0..5 {
            let one = answer(key("me", "Submit", &time.to_string()), "");
            idempotency::insert(&mut tx, &project(), &[one], time).await.unwrap();
        }
        assert_eq!(idempotency::purge(&mut tx, 3, 2).await.unwrap(), 2);
        assert_eq!(idempotency::purge(&mut tx, 3, 2).await.unwrap(), 1);
        assert_eq!(idempotency::purge(&mut tx, 3, 2).await.unwrap(), 0);
        tx.commit().await.unwrap();
    })
    .await;
}
