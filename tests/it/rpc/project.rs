//! `ProjectService`, and that projects do not see each other.

use tasktower::pb;
use tonic::Code;

use super::{Rpc, refused, task, token, worker};
use crate::support::backend::for_each_backend;

#[tokio::test]
async fn projects_are_created_read_and_listed() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut projects = rpc.clients.projects();
        let create = |id: &str| pb::CreateProjectRequest {
            project_id: id.into(),
            project: Some(pb::Project {
                display_name: "Mail".into(),
                description: "All mail".into(),
                ..Default::default()
            }),
        };
        let created = projects.create_project(create("mail")).await.unwrap().into_inner().project.unwrap();
        assert_eq!((created.name.as_str(), created.display_name.as_str()), ("projects/mail", "Mail"));
        assert!(created.create_time.is_some() && created.etag.starts_with('"'));
        refused(projects.create_project(create("mail")).await, Code::AlreadyExists, "RESOURCE_EXISTS", &[]);
        let answer = projects.create_project(create("system")).await;
        refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["project_id"]);

        let get = |name: &str| pb::GetProjectRequest { name: name.into(), view: pb::ProjectView::Basic.into() };
        let found = projects.get_project(get("projects/mail")).await.unwrap().into_inner().project.unwrap();
        assert_eq!(found, created);
        refused(projects.get_project(get("projects/none")).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);

        let page = pb::ListProjectsRequest { page_size: 1, ..Default::default() };
        let page = projects.list_projects(page).await.unwrap().into_inner();
        assert_eq!(page.projects[0].name, "projects/default");
        let rest = pb::ListProjectsRequest { page_token: page.next_page_token, ..Default::default() };
        let rest = projects.list_projects(rest).await.unwrap().into_inner();
        assert_eq!(rest.projects.iter().map(|project| &project.name).collect::<Vec<_>>(), ["projects/mail"]);
        assert!(rest.next_page_token.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_project_sees_nothing_of_another() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let create = pb::CreateProjectRequest { project_id: "other".into(), project: None };
        rpc.clients.projects().create_project(create).await.unwrap();
        let (mut tasks, mut workers) = (rpc.clients.tasks(), rpc.clients.workers());
        let name = rpc.submit(task("t")).await;
        let other = "projects/other".to_owned();

        let moved = name.replace("default", "other");
        let request = pb::GetTaskRequest { name: moved.clone(), ..Default::default() };
        refused(tasks.get_task(request).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let request = pb::ListTasksRequest { parent: other.clone(), ..Default::default() };
        assert!(tasks.list_tasks(request).await.unwrap().into_inner().tasks.is_empty());
        let request = pb::LeaseTasksRequest {
            parent: other.clone(),
            identity: Some(worker("w")),
            max_tasks: 5,
            ..Default::default()
        };
        assert!(workers.lease_tasks(request).await.unwrap().into_inner().tasks.is_empty());
        let request =
            pb::BatchGetTasksRequest { parent: other.clone(), names: vec![name.clone()], ..Default::default() };
        refused(tasks.batch_get_tasks(request).await, Code::InvalidArgument, "FIELD_INVALID", &["names[0]"]);

        // Each project counts its own revisions.
        let request = pb::SubmitTaskRequest { parent: other.clone(), task: Some(task("t")), ..Default::default() };
        assert_eq!(tasks.submit_task(request).await.unwrap().into_inner().revision, 1);
        // A token of one project is no token of the other.
        let leased = rpc.lease(1).await.remove(0);
        let completion = super::completion(token(&leased), None);
        let request = pb::CompleteTasksRequest { parent: other, completions: vec![completion] };
        let answer = workers.complete_tasks(request).await.unwrap().into_inner();
        assert_eq!(super::code(&answer.results[0]), Code::InvalidArgument);
        assert_eq!(rpc.complete([token(&leased)]).await, [Code::Ok]);
    })
    .await;
}
