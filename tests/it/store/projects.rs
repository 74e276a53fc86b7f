use tasktower::{
    domain::project::Project,
    ids::ProjectId,
    store::{StoreError, journal, projects},
};

use super::{open, project};
use crate::support::backend::for_each_backend;

fn named(id: &str) -> Project {
    Project {
        id: ProjectId::new(id),
        display_name: id.to_uppercase(),
        description: "for tests".to_owned(),
        create_time: 5,
        update_time: 6,
        revision: 0,
    }
}

#[tokio::test]
async fn a_project_is_made_once_with_an_empty_journal() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        projects::create(&mut tx, &named("a")).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert!(projects::exists_in(&mut tx, &ProjectId::new("a")).await.unwrap());
        assert!(matches!(projects::create(&mut tx, &named("a")).await, Err(StoreError::Unique)));
        tx.rollback().await;

        assert_eq!(projects::get(&store, &ProjectId::new("a")).await.unwrap(), Some(named("a")));
        let position = journal::position(&store, &ProjectId::new("a")).await.unwrap().unwrap();
        assert_eq!((position.last, position.oldest), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn projects_are_listed_by_id_without_the_partition_of_the_system() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        for id in ["z", "b"] {
            projects::create(&mut tx, &named(id)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let ids = |page: Vec<Project>| page.into_iter().map(|p| p.id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(projects::list(&store, None, 2).await.unwrap()), ["b", "default"]);
        assert_eq!(ids(projects::list(&store, Some("default"), 2).await.unwrap()), ["z"]);
        assert!(projects::exists(&store, &project()).await.unwrap());
        assert!(!projects::exists(&store, &ProjectId::new("system")).await.unwrap());
    })
    .await;
}
