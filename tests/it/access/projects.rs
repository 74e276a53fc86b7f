//! Members, and projects that are searched, changed, deleted and brought back.

use std::time::Duration;

use tasktower::{
    context::Caller,
    domain::{
        event::{ResourceKind, Subject},
        member::Scope,
        project::{CANCEL_DELAY, UNDELETE_WINDOW},
        role::Role,
        task_state::TaskState,
    },
    ids::ProjectId,
    pb,
    store::journal,
};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{InProcess, root};
use crate::support::{backend::for_each_backend, sql::Beside};

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

impl InProcess {
    async fn ask<A: prost::Message + Default>(&self, method: &str, message: impl prost::Message) -> Result<A, Status> {
        self.typed(&root(), method, message).await
    }

    async fn refused<A: prost::Message + Default>(&self, method: &str, message: impl prost::Message) -> String {
        self.ask::<A>(method, message).await.err().map(|status| reason(&status)).unwrap_or_default()
    }

    async fn create_project(&self, id: &str, name: &str) -> pb::Project {
        let project = pb::Project { display_name: name.into(), ..Default::default() };
        let create = pb::CreateProjectRequest { project_id: id.into(), project: Some(project) };
        let done: pb::CreateProjectResponse = self.ask("ProjectService/CreateProject", create).await.unwrap();
        done.project.unwrap()
    }

    async fn get_project(&self, caller: &Caller, id: &str) -> pb::Project {
        let get = pb::GetProjectRequest { name: format!("projects/{id}"), view: 0 };
        let done: pb::GetProjectResponse = self.typed(caller, "ProjectService/GetProject", get).await.unwrap();
        done.project.unwrap()
    }

    async fn submit(&self, project: &str) -> Result<pb::SubmitTaskResponse, Status> {
        let task = pb::Task { r#type: "t".into(), ..Default::default() };
        let submit =
            pb::SubmitTaskRequest { parent: format!("projects/{project}"), task: Some(task), ..Default::default() };
        self.ask("TaskService/SubmitTask", submit).await
    }

    async fn resources(&self, project: &str) -> Vec<ResourceKind> {
        let events = journal::read(self.app.store(), &ProjectId::new(project), 0, 1_000).await.unwrap();
        let kind = |event: tasktower::domain::event::Event| match event.subject {
            Subject::Resource { kind, .. } => Some(kind),
            Subject::Task { .. } => None,
        };
        events.into_iter().filter_map(kind).collect()
    }
}

#[tokio::test]
async fn members_get_roles_lose_them_and_the_last_administrator_stays() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        server.create_project("mail", "").await;
        let set = |parent: &str, principal: &str, role: pb::Role| pb::SetMemberRequest {
            parent: parent.into(),
            member: Some(pb::Member { principal: principal.into(), role: role.into(), create_time: None }),
        };
        let remove = |parent: &str, principal: &str| pb::RemoveMemberRequest {
            parent: parent.into(),
            principal: principal.into(),
        };
        let (give, take) = ("ProjectService/SetMember", "ProjectService/RemoveMember");
        for (principal, role) in [("service:b", pb::Role::Worker), ("service:a", pb::Role::Viewer)] {
            let done: pb::SetMemberResponse = server.ask(give, set("projects/mail", principal, role)).await.unwrap();
            assert_eq!(done.member.unwrap().role(), role);
        }
        // In place of the one it had, and once more the same, which writes nothing.
        for _ in 0..2 {
            let request = set("projects/mail", "service:b", pb::Role::Operator);
            let _: pb::SetMemberResponse = server.ask(give, request).await.unwrap();
        }
        let mut members = Vec::new();
        let mut page_token = String::new();
        loop {
            let list = pb::ListMembersRequest { parent: "projects/mail".into(), page_size: 1, page_token };
            let page: pb::ListMembersResponse = server.ask("ProjectService/ListMembers", list).await.unwrap();
            members.extend(page.members.into_iter().map(|member| (member.principal.clone(), member.role())));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let expected = [("service:a".to_owned(), pb::Role::Viewer), ("service:b".to_owned(), pb::Role::Operator)];
        assert_eq!(members, expected);
        let _: pb::RemoveMemberResponse = server.ask(take, remove("projects/mail", "service:a")).await.unwrap();
        let gone = server.refused::<pb::RemoveMemberResponse>(take, remove("projects/mail", "service:a")).await;
        assert_eq!(gone, "RESOURCE_NOT_FOUND");
        let kinds = server.resources("mail").await;
        assert_eq!(kinds, [vec![ResourceKind::MemberSet; 3], vec![ResourceKind::MemberRemoved]].concat());
        let diffs = "SELECT diff FROM journal WHERE project = 'mail' AND resource LIKE '%service:b' ORDER BY revision";
        let diffs = Beside::open(database).await.texts(diffs).await;
        assert_eq!(diffs, [r#"{"role":[null,"worker"]}"#, r#"{"role":["worker","operator"]}"#]);

        // Everywhere.
        let first = set("projects/*", "user:local/ada", pb::Role::Admin);
        let _: pb::SetMemberResponse = server.ask(give, first.clone()).await.unwrap();
        let demoted = set("projects/*", "user:local/ada", pb::Role::Viewer);
        assert_eq!(server.refused::<pb::SetMemberResponse>(give, demoted).await, "STATE_CONFLICT");
        let last = remove("projects/*", "user:local/ada");
        assert_eq!(server.refused::<pb::RemoveMemberResponse>(take, last.clone()).await, "STATE_CONFLICT");
        let second = set("projects/*", "user:local/bob", pb::Role::Admin);
        let _: pb::SetMemberResponse = server.ask(give, second).await.unwrap();
        // Of two who leave at once one stays.
        let other = remove("projects/*", "user:local/bob");
        let (one, two) = tokio::join!(
            server.ask::<pb::RemoveMemberResponse>(take, last),
            server.ask::<pb::RemoveMemberResponse>(take, other)
        );
        assert_eq!([one.is_ok(), two.is_ok()].into_iter().filter(|done| *done).count(), 1);
        assert_eq!(server.resources("system").await.last(), Some(&ResourceKind::MemberRemoved));
    })
    .await;
}

#[tokio::test]
async fn callers_list_the_projects_they_may_see_and_look_at_what_they_may_read() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        for (id, name) in [("mail", "Letters"), ("shop", "Orders"), ("zoo", "Animals")] {
            server.create_project(id, name).await;
        }
        let scope = |id: &str| Scope::Project(ProjectId::new(id));
        let principal = "service:ada";
        server.app.set_member(&root(), scope("mail"), principal.into(), Role::Viewer).await.unwrap();
        server.app.set_member(&root(), scope("zoo"), principal.into(), Role::Submitter).await.unwrap();
        let ada = server.member(principal).await;
        let list = async |caller: &Caller, request: pb::ListProjectsRequest| {
            let page = server.typed::<pb::ListProjectsResponse>(caller, "ProjectService/ListProjects", request).await;
            let page = page.unwrap();
            page.projects.into_iter().map(|project| project.name.replace("projects/", "")).collect::<Vec<_>>()
        };
        let all = pb::ListProjectsRequest::default;
        assert_eq!(list(&ada, all()).await, ["mail", "zoo"]);
        assert_eq!(list(&root(), all()).await, ["default", "mail", "shop", "zoo"]);
        let query = |text: &str| pb::ListProjectsRequest { query: text.into(), ..all() };
        assert_eq!(list(&ada, query("LETT")).await, ["mail"]);
        assert!(list(&ada, query("Orders")).await.is_empty());
        let newest = pb::ListProjectsRequest { order_by: "create_time desc".into(), page_size: 2, ..all() };
        assert_eq!(list(&root(), newest).await, ["zoo", "shop"]);

        for _ in 0..7 {
            server.submit("mail").await.unwrap();
            server.submit("zoo").await.unwrap();
        }
        // The least of a few looks: a server counts the statements of its loops too.
        let look = async || {
            let (mut least, mut looked) = (u64::MAX, None);
            for _ in 0..5 {
                let statements = server.app.store().statements();
                looked = server.get_project(&ada, "mail").await.tasks;
                least = least.min(server.app.store().statements() - statements);
            }
            (looked.unwrap(), least)
        };
        let (looked, few) = look().await;
        assert_eq!((looked.pending_count, looked.latest.len()), (7, 5));
        assert!(server.get_project(&ada, "zoo").await.tasks.is_none(), "a submitter sees its own only");
        for _ in 0..20 {
            server.submit("mail").await.unwrap();
        }
        let (looked, as_few) = look().await;
        assert_eq!(looked.pending_count, 27);
        assert_eq!(as_few, few, "as many statements for more tasks");
    })
    .await;
}

#[tokio::test]
async fn a_project_is_changed_deleted_as_state_and_brought_back() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        let created = server.create_project("mail", "Mail").await;
        let update = |etag: &str, text: &str| pb::UpdateProjectRequest {
            project: Some(pb::Project {
                name: "projects/mail".into(),
                description: text.into(),
                etag: etag.into(),
                ..Default::default()
            }),
            update_mask: None,
        };
        let method = "ProjectService/UpdateProject";
        let done: pb::UpdateProjectResponse = server.ask(method, update(&created.etag, "All mail")).await.unwrap();
        let changed = done.project.unwrap();
        assert_eq!((changed.display_name.as_str(), changed.description.as_str()), ("Mail", "All mail"));
        let stale = server.refused::<pb::UpdateProjectResponse>(method, update(&created.etag, "x")).await;
        assert_eq!(stale, "ETAG_MISMATCH");

        let schedule = |id: &str| pb::CreateScheduleRequest {
            parent: "projects/mail".into(),
            schedule_id: id.into(),
            schedule: Some(pb::Schedule {
                cron: "0 0 1 1 *".into(),
                task: Some(pb::Task { r#type: "t".into(), ..Default::default() }),
                ..Default::default()
            }),
        };
        for id in ["on", "off"] {
            let _: pb::CreateScheduleResponse =
                server.ask("ScheduleService/CreateSchedule", schedule(id)).await.unwrap();
        }
        let name = |id: &str| format!("projects/mail/schedules/{id}");
        let pause = pb::PauseScheduleRequest { name: name("off"), note: "by hand".into() };
        let _: pb::PauseScheduleResponse = server.ask("ScheduleService/PauseSchedule", pause).await.unwrap();
        let task = server.submit("mail").await.unwrap().name;

        let delete = pb::DeleteProjectRequest { name: "projects/mail".into(), ..Default::default() };
        let method = "ProjectService/DeleteProject";
        let done: pb::DeleteProjectResponse = server.ask(method, delete.clone()).await.unwrap();
        let deleted = done.project.unwrap();
        let span = deleted.purge_time.unwrap().seconds - deleted.delete_time.unwrap().seconds;
        assert_eq!(span, UNDELETE_WINDOW / 1_000_000);
        assert_eq!(server.refused::<pb::DeleteProjectResponse>(method, delete.clone()).await, "RESOURCE_NOT_FOUND");
        let again = pb::DeleteProjectRequest { allow_missing: true, ..delete };
        let done: pb::DeleteProjectResponse = server.ask(method, again).await.unwrap();
        assert_eq!(done.project.unwrap().delete_time, deleted.delete_time);
        assert!(server.get_project(&root(), "mail").await.delete_time.is_some());
        let shown = pb::ListProjectsRequest { show_deleted: true, ..Default::default() };
        for (request, count) in [(pb::ListProjectsRequest::default(), 1), (shown, 2)] {
            let page: pb::ListProjectsResponse = server.ask("ProjectService/ListProjects", request).await.unwrap();
            assert_eq!(page.projects.len(), count);
        }

        // No new work; what is there can be read.
        assert_eq!(reason(&server.submit("mail").await.unwrap_err()), "PROJECT_DELETED");
        let lease = pb::LeaseTasksRequest {
            parent: "projects/mail".into(),
            identity: Some(pb::WorkerIdentity { worker: "w".into(), types: vec!["t".into()], ..Default::default() }),
            max_tasks: 1,
            ..Default::default()
        };
        let refused = server.refused::<pb::LeaseTasksResponse>("WorkerService/LeaseTasks", lease).await;
        assert_eq!(refused, "PROJECT_DELETED");
        let resume = pb::ResumeScheduleRequest { name: name("on") };
        let refused = server.refused::<pb::ResumeScheduleResponse>("ScheduleService/ResumeSchedule", resume).await;
        assert_eq!(refused, "PROJECT_DELETED");
        let pause = pb::PauseQueueRequest { name: "projects/mail/queues/default".into(), note: String::new() };
        let refused = server.refused::<pb::PauseQueueResponse>("QueueService/PauseQueue", pause).await;
        assert_eq!(refused, "PROJECT_DELETED");
        let schedule = async |id: &str| {
            let get = pb::GetScheduleRequest { name: name(id) };
            let done: pb::GetScheduleResponse = server.ask("ScheduleService/GetSchedule", get).await.unwrap();
            done.schedule.unwrap()
        };
        assert!(schedule("on").await.paused && schedule("on").await.next_run_time.is_none());

        // Not at once: first every replica must have heard.
        assert!(!server.app.cancel_tasks_of_deleted().await.unwrap());
        server.app.store().shift_clock(Duration::from_micros(CANCEL_DELAY.unsigned_abs()));
        assert!(server.app.cancel_tasks_of_deleted().await.unwrap());
        assert!(!server.app.cancel_tasks_of_deleted().await.unwrap(), "it is started once");
        while server.app.work_on_bulk_job().await.unwrap() {}
        let get = pb::GetTaskRequest { name: task, ..Default::default() };
        let found: pb::GetTaskResponse = server.ask("TaskService/GetTask", get).await.unwrap();
        assert_eq!(found.task.unwrap().state, i32::from(TaskState::Cancelled.number()));

        let undelete = pb::UndeleteProjectRequest { name: "projects/mail".into() };
        let method = "ProjectService/UndeleteProject";
        let done: pb::UndeleteProjectResponse = server.ask(method, undelete.clone()).await.unwrap();
        assert!(done.project.unwrap().delete_time.is_none());
        assert_eq!(server.refused::<pb::UndeleteProjectResponse>(method, undelete).await, "RESOURCE_EXISTS");
        assert!(!schedule("on").await.paused, "it goes on");
        let off = schedule("off").await;
        assert!(off.paused && off.pause_note == "by hand", "it was paused before");
        server.submit("mail").await.unwrap();
        let kinds = server.resources("system").await;
        let expected = [
            ResourceKind::ProjectCreated,
            ResourceKind::ProjectUpdated,
            ResourceKind::ProjectDeleted,
            ResourceKind::ProjectUndeleted,
        ];
        assert_eq!(kinds, expected);
    })
    .await;
}

#[tokio::test]
async fn a_deletion_cannot_be_taken_back_for_ever() {
    for_each_backend(async |database| {
        let server = InProcess::start(database).await;
        server.create_project("mail", "").await;
        let delete = pb::DeleteProjectRequest { name: "projects/mail".into(), ..Default::default() };
        let _: pb::DeleteProjectResponse = server.ask("ProjectService/DeleteProject", delete).await.unwrap();
        server.app.store().shift_clock(Duration::from_micros(UNDELETE_WINDOW.unsigned_abs()));
        let undelete = pb::UndeleteProjectRequest { name: "projects/mail".into() };
        let refused = server.refused::<pb::UndeleteProjectResponse>("ProjectService/UndeleteProject", undelete).await;
        assert_eq!(refused, "STATE_CONFLICT");
    })
    .await;
}
