use tasktower::{
    ids::TaskId,
    store::{
        StoreError,
        unique_keys::{self, Holding, NewHolding, UniqueKey},
    },
};

use super::{open, project};
use crate::support::backend::for_each_backend;

fn key(name: &str) -> UniqueKey {
    UniqueKey { task_type: "t".to_owned(), key: name.to_owned() }
}

fn holding(name: &str, task: TaskId, from: Option<TaskId>) -> NewHolding {
    NewHolding { key: key(name), holding: Holding { task, expire_time: Some(9) }, from }
}

#[tokio::test]
async fn a_key_is_held_once_and_taken_over_once() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let [first, second, third] = [(); 3].map(|()| TaskId::generate());
        let mut tx = store.begin().await.unwrap();
        unique_keys::take(&mut tx, &project(), &[holding("b", first, None), holding("a", first, None)]).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = store.begin().await.unwrap();
        let again = unique_keys::take(&mut tx, &project(), &[holding("a", second, None)]).await;
        assert!(matches!(again, Err(StoreError::Unique)));
        tx.rollback().await;

        let mut tx = store.begin().await.unwrap();
        unique_keys::take(&mut tx, &project(), &[holding("a", second, Some(first))]).await.unwrap();
        let late = unique_keys::take(&mut tx, &project(), &[holding("a", third, Some(first))]).await;
        assert!(matches!(late, Err(StoreError::Conflict)));
        let found = unique_keys::find(&mut tx, &project(), &[key("a"), key("b"), key("c")]).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[&key("a")].task, found[&key("b")].task), (second, first));
        tx.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn only_its_holder_lets_go_of_a_key() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let [holder, other] = [(); 2].map(|()| TaskId::generate());
        let mut tx = store.begin().await.unwrap();
        unique_keys::take(&mut tx, &project(), &[holding("a", holder, None)]).await.unwrap();
        unique_keys::release(&mut tx, &project(), &[(key("a"), other), (key("b"), holder)]).await.unwrap();
        assert_eq!(unique_keys::find(&mut tx, &project(), &[key("a")]).await.unwrap().len(), 1);
        unique_keys::release(&mut tx, &project(), &[(key("a"), holder)]).await.unwrap();
        assert!(unique_keys::find(&mut tx, &project(), &[key("a")]).await.unwrap().is_empty());
        tx.commit().await.unwrap();
    })
    .await;
}
