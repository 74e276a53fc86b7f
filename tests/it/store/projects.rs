use tasktower::{
    domain::project::{Deletion, Project, ProjectQuery},
    ids::ProjectId,
    store::{
        StoreError, journal,
        projects::{self, Presence},
    },
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
        deletion: None,
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
        assert_eq!(projects::presence_in(&mut tx, &ProjectId::new("a")).await.unwrap(), Presence::Live);
        assert!(matches!(projects::create(&mut tx, &named("a")).await, Err(StoreError::Unique)));
        tx.rollback().await;

        assert_eq!(projects::get(&store, &ProjectId::new("a")).await.unwrap(), Some(named("a")));
        let position = journal::position(&store, &ProjectId::new("a")).await.unwrap().unwrap();
        assert_eq!((position.last, position.oldest), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn projects_are_listed_searched_and_sorted_without_the_partition_of_the_system() {
    for_each_backend(async |database| {
        let store = open(database).await;
        let mut tx = store.begin().await.unwrap();
        for id in ["z", "b"] {
            projects::create(&mut tx, &named(id)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let ids = |page: Vec<Project>| page.into_iter().map(|p| p.id.to_string()).collect::<Vec<_>>();
        let all = ProjectQuery {
            visible: None,
            text: String::new(),
            by_time: false,
            descending: false,
            show_deleted: false,
            after: None,
            limit: 2,
        };
        let list = async |query: ProjectQuery| ids(projects::list(&store, &query).await.unwrap());
        assert_eq!(list(all.clone()).await, ["b", "default"]);
        assert_eq!(list(ProjectQuery { after: Some((0, "default".into())), ..all.clone() }).await, ["z"]);
        let last_first = ProjectQuery { descending: true, ..all.clone() };
        assert_eq!(list(last_first.clone()).await, ["z", "default"]);
        assert_eq!(list(ProjectQuery { after: Some((0, "default".into())), ..last_first }).await, ["b"]);
        // Those two were created at 5, the default project at 0.
        let by_time = ProjectQuery { by_time: true, ..all.clone() };
        assert_eq!(list(by_time.clone()).await, ["default", "b"]);
        assert_eq!(list(ProjectQuery { after: Some((5, "b".into())), ..by_time.clone() }).await, ["z"]);
        assert_eq!(list(ProjectQuery { descending: true, ..by_time }).await, ["z", "b"]);
        assert_eq!(list(ProjectQuery { text: "for tests".into(), ..all.clone() }).await, ["b", "z"]);
        assert_eq!(list(ProjectQuery { text: "exists".into(), ..all.clone() }).await, ["default"]);
        assert!(list(ProjectQuery { text: "%".into(), ..all.clone() }).await.is_empty());
        let visible = Some(vec![ProjectId::new("z"), ProjectId::new("none")]);
        assert_eq!(list(ProjectQuery { visible, ..all.clone() }).await, ["z"]);
        assert!(list(ProjectQuery { visible: Some(Vec::new()), ..all.clone() }).await.is_empty());

        let mut tx = store.begin().await.unwrap();
        let deleted = Project { deletion: Some(Deletion { time: 7, purge_time: 8 }), ..named("b") };
        projects::write(&mut tx, &deleted, Some(9)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(list(all.clone()).await, ["default", "z"]);
        assert_eq!(list(ProjectQuery { show_deleted: true, ..all }).await, ["b", "default"]);
        assert_eq!(projects::get(&store, &ProjectId::new("b")).await.unwrap(), Some(deleted));
        let presence = async |id: &str| projects::presence(&store, &ProjectId::new(id)).await.unwrap();
        assert_eq!(presence(project().as_str()).await, Presence::Live);
        assert_eq!(presence("b").await, Presence::Deleted);
        assert_eq!(presence("system").await, Presence::Missing);
        assert!(projects::is_to_cancel(&store, 9).await.unwrap());
        assert!(!projects::is_to_cancel(&store, 8).await.unwrap());
    })
    .await;
}
