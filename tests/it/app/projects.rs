use tasktower::{
    domain::{event::ResourceKind, project::ProjectQuery},
    error::Error,
    ids::ProjectId,
};

use super::{caller, journal_of, start};
use crate::support::backend::for_each_backend;

#[tokio::test]
async fn a_project_is_created_once_and_the_system_journal_says_so() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let create = async |id: &str| {
            app.create_project(&caller(), ProjectId::new(id), "Name".to_owned(), "why".to_owned()).await
        };
        let created = create("mail").await.unwrap();
        assert_eq!(app.get_project(&created.id).await.unwrap(), created);
        assert!(matches!(create("mail").await, Err(Error::Exists { kind: "project", .. })));
        assert!(matches!(create("system").await, Err(Error::Invalid(_))));
        let row = (ResourceKind::ProjectCreated, "projects/mail".to_owned(), "user:ada".to_owned());
        assert_eq!(journal_of(&app, "system").await, [row]);

        let query = |after| ProjectQuery {
            visible: None,
            text: String::new(),
            by_time: false,
            descending: false,
            show_deleted: false,
            after,
            limit: 1,
        };
        let (page, next) = app.list_projects(&caller(), query(None)).await.unwrap();
        assert_eq!((page.len(), next.clone()), (1, Some((0, "default".to_owned()))));
        let (page, next) = app.list_projects(&caller(), query(next)).await.unwrap();
        assert_eq!((page, next), (vec![created], None));
    })
    .await;
}

#[tokio::test]
async fn of_two_that_create_a_project_at_once_one_is_told_that_it_exists() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let create = || {
            let app = app.clone();
            async move { app.create_project(&caller(), ProjectId::new("p"), String::new(), String::new()).await }
        };
        let (first, second) = tokio::join!(create(), create());
        let refused = if first.is_ok() { second } else { first };
        assert!(matches!(refused, Err(Error::Exists { .. })), "{refused:?}");
    })
    .await;
}
