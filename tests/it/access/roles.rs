//! What a submitter sees of its own and of others' tasks.

use std::time::Duration;

use tasktower::{
    app::{App, watch::WatchRequest},
    context::Caller,
    domain::{
        authority::Share,
        filter::Filter,
        member::Scope,
        permission::{Permission, PermissionSet},
        role::Role,
        task_list::ListQuery,
    },
    ids::{ProjectId, TaskId},
    pb,
    store::Store,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{InProcess, root};
use crate::support::{
    backend::{Database, for_each_backend},
    sql::Beside,
    wait::{SOON, eventually},
};

struct World {
    server: InProcess,
}

impl World {
    async fn start(database: &Database) -> Self {
        let server = InProcess::start(database).await;
        Self { server }
    }

    async fn join(&self, principal: &str, role: Role) -> Caller {
        let scope = Scope::Project(ProjectId::new("default"));
        self.server.app.set_member(&root(), scope, principal.to_owned(), role).await.unwrap();
        self.server.member(principal).await
    }

    async fn submit(&self, caller: &Caller, task_type: &str) -> String {
        let task = pb::Task { r#type: task_type.into(), ..Default::default() };
        let submit = pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let done: pb::SubmitTaskResponse = self.server.typed(caller, "TaskService/SubmitTask", submit).await.unwrap();
        done.name
    }

    async fn list(
        &self,
        caller: &Caller,
        request: pb::ListTasksRequest,
    ) -> Result<pb::ListTasksResponse, tonic::Status> {
        self.server.typed(caller, "TaskService/ListTasks", request).await
    }
}

#[tokio::test]
async fn a_submitter_sees_its_own_tasks_and_no_others() {
    for_each_backend(async |database| {
        let w = World::start(database).await;
        let ada = w.join("service:ada", Role::Submitter).await;
        let bob = w.join("service:bob", Role::Submitter).await;
        let eve = w.join("service:eve", Role::Viewer).await;
        let mut own = Vec::new();
        for number in 0..6 {
            own.push(w.submit(&ada, "t").await);
            w.submit(&bob, if number == 0 { "u" } else { "t" }).await;
        }
        own.reverse();
        let names = |page: &pb::ListTasksResponse| page.tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
        let page_of = |page_size, page_token| pb::ListTasksRequest { page_size, page_token, ..Default::default() };
        let first = w.list(&ada, page_of(4, String::new())).await.unwrap();
        let second = w.list(&ada, page_of(4, first.next_page_token.clone())).await.unwrap();
        assert_eq!([names(&first), names(&second)].concat(), own);
        assert!(second.next_page_token.is_empty());
        // A page of one is no page of the other, nor of who sees all.
        for other in [&bob, &eve] {
            let status = w.list(other, page_of(4, first.next_page_token.clone())).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        assert_eq!(w.list(&eve, page_of(0, String::new())).await.unwrap().tasks.len(), 12);
        for filter in ["owner = \"service:bob\"", "type = u", "state = FAILED"] {
            let list = pb::ListTasksRequest { filter: filter.into(), ..Default::default() };
            assert!(w.list(&ada, list).await.unwrap().tasks.is_empty(), "{filter}");
        }
        let of_state = pb::ListTasksRequest { filter: "state = PENDING".into(), ..Default::default() };
        assert_eq!(names(&w.list(&ada, of_state).await.unwrap()), own);

        // It cancels its own; retries, which are for operators, not even that.
        let cancel = |name: &str| pb::CancelTaskRequest { name: name.into(), ..Default::default() };
        let done: pb::CancelTaskResponse =
            w.server.typed(&ada, "TaskService/CancelTask", cancel(&own[0])).await.unwrap();
        assert_eq!(done.task.unwrap().state(), pb::task::State::Cancelled);
        let retry = pb::RetryTaskRequest { name: own[0].clone(), ..Default::default() };
        let refused = w.server.typed::<pb::RetryTaskResponse>(&ada, "TaskService/RetryTask", retry).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    })
    .await;
}

#[tokio::test]
async fn a_submitter_is_told_of_its_own_tasks_and_no_others() {
    for_each_backend(async |database| {
        let w = World::start(database).await;
        let ada = w.join("service:ada", Role::Submitter).await;
        let bob = w.join("service:bob", Role::Submitter).await;
        let first = w.submit(&ada, "t").await;
        w.submit(&bob, "t").await;
        let request = WatchRequest {
            filter: Filter::everything(),
            share: Share::Own(ada.principal.clone()),
            task: None,
            resume_token: None,
            initial_state: true,
        };
        let mut watch = w.server.app.watch_tasks(&ProjectId::new("default"), request).await.unwrap();
        let mut seen = Vec::new();
        w.submit(&bob, "t").await;
        let second = w.submit(&ada, "t").await;
        while seen.len() < 2 {
            let next = tokio::time::timeout(Duration::from_secs(10), futures_util::StreamExt::next(&mut watch)).await;
            let batch = next.expect("in time").expect("open").expect("no error");
            let response = tasktower::api::convert::watch::response(batch);
            seen.extend(response.events.into_iter().filter_map(|event| event.task).map(|task| task.name));
        }
        assert_eq!(seen, [first, second]);
    })
    .await;
}

/// A walk over everybody's tasks would cost the more the less of them are the caller's.
#[tokio::test]
async fn a_list_of_ones_own_is_a_walk_over_ones_own() {
    for_each_backend(async |database| {
        let w = World::start(database).await;
        let ada = w.join("service:ada", Role::Submitter).await;
        w.submit(&ada, "t").await;
        let statement = "SELECT t.create_time, t.id FROM task t WHERE t.project = 'default' AND t.create_time IS NOT NULL \
                         AND t.owner = 'service:ada' ORDER BY t.create_time DESC, t.id DESC LIMIT 50";
        let mut beside = Beside::open(database).await;
        // SQLite answers a plan in columns of its own kinds; there the choice is by rule, and asked of PostgreSQL only.
        if let Beside::Postgres(_) = beside {
            let plan = beside.texts(&format!("EXPLAIN {statement}")).await.join("\n");
            assert!(plan.contains("task_owner"), "{plan}");
        }
        let query = ListQuery {
            share: Share::Own(ada.principal.clone()),
            ..ListQuery::newest(Filter::everything(), 10)
        };
        let page = w.server.app.list_tasks(&ProjectId::new("default"), query).await.unwrap();
        assert_eq!(page.tasks.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_change_of_members_holds_at_once_and_elsewhere_soon() {
    for_each_backend(async |database| {
        let w = World::start(database).await;
        let ada = w.join("service:ada", Role::Submitter).await;
        let id: TaskId = TaskId(w.submit(&ada, "t").await.rsplit('/').next().unwrap().parse().unwrap());
        // Another replica on the same database remembers.
        let url = database.url().parse().unwrap();
        let Ok(store) = Store::open(&url).await else {
            // SQLite has one server at a time.
            return;
        };
        let other = App::new(store, CancellationToken::new());
        let all = PermissionSet::ALL;
        let before = other.authority(&ada.principal, all).await.unwrap();
        let project = ProjectId::new("default");
        let submit = Permission::TasksSubmit;
        assert!(before.permits(submit, Some(&project)));
        let scope = Scope::Project(project.clone());
        w.server.app.remove_member(&root(), scope, ada.principal.to_string()).await.unwrap();
        assert!(!w.server.member("service:ada").await.authority.permits(submit, Some(&project)));
        eventually("the other replica has heard", SOON, async || {
            let still = other.authority(&ada.principal, all).await.unwrap().permits(submit, Some(&project));
            if still { Err("it may still submit") } else { Ok(()) }
        })
        .await;
        assert!(w.server.app.get_task(&project, id, &Share::All, false).await.is_ok());
    })
    .await;
}
