//! The matrix: every method of the descriptor set is called as nobody, from another project, without the one permission it
//! states, with nothing but that, and as a former member; and every field of every request that names something is pointed
//! at another project.
//!
//! Fields that name something are found by what the proto says of them: a text whose comment gives a form
//! `projects/{project}…` names a resource, and one that is called like such a field and gives no form fails here. So a new
//! method or a new field is covered as soon as it is described, and a method without an annotation does not build.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use tasktower::{
    context::Caller,
    domain::{
        member::Scope,
        permission::{Permission, PermissionSet},
        role::Role,
    },
    ids::ProjectId,
    pb,
    store::journal,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{InProcess, granted, is_denied, root};
use crate::support::backend::Database;

/// Methods about no project: they need their permission everywhere. A new one is listed here when it is meant to be.
const INSTALLATION: [&str; 7] = [
    "ApiKeyService/CreateApiKey",
    "ApiKeyService/GetApiKey",
    "ApiKeyService/ListApiKeys",
    "ApiKeyService/RevokeApiKey",
    "ApiKeyService/RotateApiKey",
    "ApiKeyService/UpdateApiKey",
    "ProjectService/CreateProject",
];
/// Methods that begin with the permission in any project, and answer only what the caller may see.
const ANYWHERE: [&str; 2] = ["ProjectService/ListProjects", "WorkerService/Session"];
/// How fields are called that name something.
const NAMES: [&str; 6] = ["name", "names", "parent", "task", "tasks", "retry_policy"];
/// What no caller of another project may ever be shown.
const SECRET: &str = "planted-in-theirs";
/// Levels of messages looked into for fields.
const DEPTH: usize = 5;

/// What a method says of itself, read from the descriptors and not from what the build made of them.
struct Stated {
    permission: Permission,
    own: Option<Permission>,
    resource: String,
    anywhere: bool,
}

fn stated(pool: &prost_reflect::DescriptorPool, method: &MethodDescriptor) -> Stated {
    let access = pool.get_extension_by_name("tasktower.v1.access").expect("the extension");
    let options = method.options();
    let value = options.get_extension(&access);
    let rule = value.as_message().expect("a rule");
    let number = |field| rule.get_field_by_name(field).and_then(|value| value.as_enum_number()).unwrap_or(0);
    let resource = rule.get_field_by_name("resource").expect("resource");
    Stated {
        permission: Permission::of_number(number("permission")).unwrap_or_else(|| panic!("{}", method.full_name())),
        own: Permission::of_number(number("own")),
        resource: resource.as_str().unwrap_or_default().to_owned(),
        anywhere: rule.get_field_by_name("anywhere").is_some_and(|value| value.as_bool() == Some(true)),
    }
}

/// `Service/Method`.
fn short(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().name(), method.name())
}

/// A field that names something: the way to it, and the form of the name.
#[derive(Clone)]
struct Named {
    way: Vec<FieldDescriptor>,
    form: String,
    /// The name of what the request carries: an input in updates, which state it as their resource; ignored in creates.
    is_identifier: bool,
}

impl Named {
    /// As in a field path, with the first element of each list.
    fn path(&self) -> String {
        let part = |field: &FieldDescriptor| field.name().to_owned() + if field.is_list() { "[0]" } else { "" };
        self.way.iter().map(part).collect::<Vec<_>>().join(".")
    }

    /// As an annotation writes it.
    fn dotted(&self) -> String {
        self.way.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
    }

    /// A name of this form in a project.
    fn of(&self, project: &str, task: &str) -> String {
        let mut name = String::new();
        let mut rest = self.form.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (what, after) = after.split_once('}').unwrap_or((after, ""));
            name.push_str(before);
            name.push_str(match what {
                "project" => project,
                "task" | "dead_letter" => task,
                "bulk_job" | "retention_run" => "0190a6c0-0000-7000-8000-000000000000",
                _ => "thing",
            });
            rest = after;
        }
        name + rest
    }

    /// Puts a text there, making the messages on the way.
    fn put(&self, message: &mut DynamicMessage, text: &str) {
        put(message, &self.way, text);
    }
}

fn put(message: &mut DynamicMessage, way: &[FieldDescriptor], text: &str) {
    let [field, rest @ ..] = way else { return };
    if rest.is_empty() {
        let value = Value::String(text.to_owned());
        message.set_field(field, if field.is_list() { Value::List(vec![value]) } else { value });
        return;
    }
    let kind = field.kind();
    let inner = kind.as_message().expect("a message on the way");
    let current = message.get_field(field).into_owned();
    let mut next = match current {
        Value::Message(next) => next,
        Value::List(mut list) => match list.pop() {
            Some(Value::Message(next)) => next,
            _ => DynamicMessage::new(inner.clone()),
        },
        _ => DynamicMessage::new(inner.clone()),
    };
    put(&mut next, rest, text);
    let value = Value::Message(next);
    message.set_field(field, if field.is_list() { Value::List(vec![value]) } else { value });
}

/// Every field of a message that names something, but for what the server only says.
fn named_fields(message: &MessageDescriptor) -> Vec<Named> {
    let mut found = Vec::new();
    look_into(message, &mut Vec::new(), &mut found);
    found
}

fn look_into(message: &MessageDescriptor, way: &mut Vec<FieldDescriptor>, found: &mut Vec<Named>) {
    if way.len() > DEPTH || !message.full_name().starts_with("tasktower.v1.") {
        return;
    }
    for field in message.fields() {
        let is_output = behaviours(&field).contains(&3);
        if is_output || field.is_map() {
            continue;
        }
        let is_identifier = behaviours(&field).contains(&8);
        way.push(field.clone());
        match field.kind() {
            Kind::String => {
                let of_project = form(&field, OF_PROJECT);
                assert!(
                    of_project.is_some() || form(&field, OF_NONE).is_some() || !NAMES.contains(&field.name()),
                    "{} is called like a name, and its comment gives no form",
                    field.full_name()
                );
                found.extend(of_project.map(|form| Named { way: way.clone(), form, is_identifier }));
            }
            Kind::Message(inner) => look_into(&inner, way, found),
            _ => {}
        }
        way.pop();
    }
}

/// The numbers of `google.api.field_behavior`: 3 is OUTPUT_ONLY, 8 is IDENTIFIER.
fn behaviours(field: &FieldDescriptor) -> Vec<i32> {
    let options = field.options();
    let Some(extension) = field.parent_pool().get_extension_by_name("google.api.field_behavior") else {
        return Vec::new();
    };
    let value = options.get_extension(&extension);
    value.as_list().map(|list| list.iter().filter_map(Value::as_enum_number).collect()).unwrap_or_default()
}

/// How names begin: of what is in a project, and of what is in none.
const OF_PROJECT: &str = "`projects/{project}";
const OF_NONE: &str = "`apiKeys/{key}";

/// The form of names that the comment of a field gives, if it gives one that begins so.
fn form(field: &FieldDescriptor, begin: &str) -> Option<String> {
    let file = field.parent_file();
    let source = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = source.location.iter().find(|location| location.path == field.path())?;
    let comment = location.leading_comments();
    let start = comment.find(begin)? + 1;
    let end = comment[start..].find('`')? + start;
    Some(comment[start..end].to_owned())
}

/// A request about something in a project.
fn request(method: &MethodDescriptor, resource: &str, project: &str, task: &str) -> DynamicMessage {
    let mut message = DynamicMessage::new(method.input());
    let fields = named_fields(&method.input());
    let wanted = if method.name() == "Session" { "hello.parent" } else { resource };
    if wanted.is_empty() {
        return message;
    }
    let field = fields.iter().find(|field| field.dotted() == wanted);
    let field = field.unwrap_or_else(|| panic!("{}: {wanted} gives no form of a name", method.full_name()));
    field.put(&mut message, &field.of(project, task));
    message
}

/// Projects `ours` and `theirs`, each with a task; theirs has a secret in it.
struct World {
    server: InProcess,
    their_task: String,
    our_task: String,
}

impl World {
    async fn start(database: &Database) -> Self {
        let server = InProcess::start(database).await;
        let mut tasks = Vec::new();
        for (project, secret) in [("ours", "none"), ("theirs", SECRET)] {
            let create = pb::CreateProjectRequest { project_id: project.into(), project: None };
            let _: pb::CreateProjectResponse =
                server.typed(&root(), "ProjectService/CreateProject", create).await.unwrap();
            let task = pb::Task {
                r#type: "t".into(),
                labels: [("secret".to_owned(), secret.to_owned())].into(),
                ..Default::default()
            };
            let parent = format!("projects/{project}");
            let submit = pb::SubmitTaskRequest { parent, task: Some(task), ..Default::default() };
            let owner = granted("service:owner", project, PermissionSet::ALL);
            let submitted: pb::SubmitTaskResponse =
                server.typed(&owner, "TaskService/SubmitTask", submit).await.unwrap();
            tasks.push(submitted.name.rsplit('/').next().unwrap().to_owned());
        }
        let [our_task, their_task] = tasks.try_into().unwrap();
        Self { server, our_task, their_task }
    }

    async fn revision(&self, project: &str) -> i64 {
        journal::position(self.server.app.store(), &ProjectId::new(project)).await.unwrap().unwrap().last
    }
}

fn without(permissions: &[Option<Permission>]) -> PermissionSet {
    let kept: Vec<_> = Permission::ALL.iter().copied().filter(|it| !permissions.contains(&Some(*it))).collect();
    PermissionSet::of(&kept)
}

fn text(answer: &Result<DynamicMessage, Status>) -> String {
    answer.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn every_method_refuses_who_may_not_and_says_nothing() {
    let database = Database::sqlite();
    let w = World::start(&database).await;
    let (mut called, mut lists) = (0, Vec::new());
    let revision = w.revision("theirs").await;
    let former = former_member(&w).await;
    for method in w.server.methods() {
        let (name, rule) = (short(&method), stated(&w.server.pool, &method));
        let needed = [Some(rule.permission), rule.own];
        let ask = |project: &str, task: &str| request(&method, &rule.resource, project, task);
        let denied = async |who: &str, caller: &Caller, message: DynamicMessage| {
            let answer = w.server.call(caller, &method, message).await;
            assert!(is_denied(&answer), "{name} as {who}: {answer:?}");
            text(&answer)
        };
        match (rule.resource.is_empty(), rule.anywhere) {
            (false, _) => {}
            (true, true) => assert!(ANYWHERE.contains(&name.as_str()), "{name} is not listed"),
            (true, false) => assert!(INSTALLATION.contains(&name.as_str()), "{name} is not listed"),
        }
        let is_of_project = !rule.resource.is_empty() || name == "WorkerService/Session";

        // Nobody: the same words for what is there, for what is not, and for what is no name.
        let nobody = granted("service:nobody", "ours", PermissionSet::default());
        let words = denied("nobody", &nobody, ask("theirs", &w.their_task)).await;
        assert!(words.ends_with("(or it might not exist)"), "{name}: {words}");
        for (project, task) in [("theirs", w.our_task.as_str()), ("nowhere", &w.their_task), ("No Name", "no id")] {
            assert_eq!(denied("nobody", &nobody, ask(project, task)).await, words, "{name}");
        }
        // Who was a member, and is no longer.
        assert_eq!(denied("a former member", &former, ask("ours", &w.our_task)).await, words, "{name}");
        if is_of_project {
            // An administrator of another project.
            let ours = granted("service:ours", "ours", PermissionSet::ALL);
            for (project, task) in [("theirs", w.their_task.as_str()), ("theirs", &w.our_task), ("nowhere", "x")] {
                assert_eq!(denied("another project", &ours, ask(project, task)).await, words, "{name}");
            }
        } else if rule.anywhere {
            lists.push(name.clone());
        } else {
            let ours = granted("service:ours", "ours", PermissionSet::ALL);
            assert_eq!(denied("an administrator of one project", &ours, ask("", "")).await, words, "{name}");
        }
        // Everything but what it states; then nothing but that.
        let other_role = granted("service:other", "ours", without(&needed));
        assert_eq!(denied("the wrong role", &other_role, ask("ours", &w.our_task)).await, words, "{name}");
        if is_of_project || rule.anywhere {
            let just = granted("service:just", "ours", PermissionSet::of(&[rule.permission]));
            let answer = w.server.call(&just, &method, ask("ours", &w.our_task)).await;
            assert!(!is_denied(&answer), "{name} with its permission: {answer:?}");
        }
        if let Some(own) = rule.own {
            wrong_owner(&w, &method, &rule, own).await;
        }
        called += 1;
    }
    assert_eq!(called, w.server.methods().len());
    assert_eq!(lists, ["ProjectService/ListProjects"]);
    assert_eq!(w.revision("theirs").await, revision, "somebody changed something of theirs");
}

/// A task of another is refused in the same words as one that does not exist; lists and watches leave it out.
async fn wrong_owner(w: &World, method: &MethodDescriptor, rule: &Stated, own: Permission) {
    let name = short(method);
    let stranger = granted("service:stranger", "ours", PermissionSet::of(&[own]));
    let absent = "0190a6c0-0000-7000-8000-000000000000";
    let ask = |task: &str| {
        let mut message = request(method, &rule.resource, "ours", task);
        for field in named_fields(&method.input()).iter().filter(|field| field.form.contains("{task}")) {
            field.put(&mut message, &field.of("ours", task));
        }
        message
    };
    if name == "TaskService/ListTasks" {
        let answer = w.server.call(&stranger, method, ask(absent)).await.unwrap();
        let answer = pb::ListTasksResponse::decode(answer.encode_to_vec().as_slice()).unwrap();
        assert!(answer.tasks.is_empty(), "{name} lists what is not its own");
        return;
    }
    let of_other = w.server.call(&stranger, method, ask(&w.our_task)).await;
    let of_nobody = w.server.call(&stranger, method, ask(absent)).await;
    assert!(is_denied(&of_other), "{name} of another: {of_other:?}");
    assert!(is_denied(&of_nobody), "{name} of nobody: {of_nobody:?}");
    assert_eq!(text(&of_other), text(&of_nobody), "{name}");
    let owner = granted("service:owner", "ours", PermissionSet::of(&[own]));
    let of_owner = w.server.call(&owner, method, ask(&w.our_task)).await;
    assert!(of_owner.is_ok(), "{name} of its owner: {of_owner:?}");
}

/// A caller that may do nothing, because what it was a member of it is no longer.
async fn former_member(w: &World) -> Caller {
    let ours = Scope::Project(ProjectId::new("ours"));
    let principal = "service:former";
    w.server.app.set_member(&root(), ours.clone(), principal.into(), Role::Admin).await.unwrap();
    let member = w.server.member(principal).await;
    assert!(member.authority.permits(Permission::TasksRead, Some(&ProjectId::new("ours"))));
    w.server.app.remove_member(&root(), ours, principal.into()).await.unwrap();
    w.server.member(principal).await
}

#[tokio::test]
async fn no_name_inside_a_request_reaches_another_project() {
    let database = Database::sqlite();
    let w = World::start(&database).await;
    let ours = granted("service:ours", "ours", PermissionSet::ALL);
    let revision = w.revision("theirs").await;
    let mut pointed = Vec::new();
    for method in w.server.methods() {
        let (name, rule) = (short(&method), stated(&w.server.pool, &method));
        for field in named_fields(&method.input()) {
            if field.dotted() == rule.resource || field.dotted() == "hello.parent" || field.is_identifier {
                continue;
            }
            let mut message = request(&method, &rule.resource, "ours", &w.our_task);
            field.put(&mut message, &field.of("theirs", &w.their_task));
            let answer = w.server.call(&ours, &method, message).await;
            let at = field.path();
            let is_refused = match &answer {
                Ok(answer) => answers_no_item(answer),
                Err(status) => {
                    let details = status.get_error_details();
                    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
                    let is_named = violations.iter().any(|violation| violation.field == at);
                    // In a stream it is no first message; there hello stands before it.
                    let is_early = violations.iter().any(|violation| violation.field == "hello");
                    status.code() == Code::InvalidArgument && (is_named || is_early)
                }
            };
            assert!(is_refused, "{name}: {at} may name another project: {answer:?}");
            if let Ok(answer) = &answer {
                assert!(!String::from_utf8_lossy(&answer.encode_to_vec()).contains(SECRET), "{name}: {at}");
            }
            pointed.push(format!("{name} {at}"));
        }
    }
    for known in ["TaskService/BatchGetTasks names[0]", "WorkerService/CompleteTasks completions[0].token.task"] {
        assert!(pointed.iter().any(|done| done == known), "{known} is not among {pointed:#?}");
    }
    assert_eq!(w.revision("theirs").await, revision, "somebody changed something of theirs");
}

/// Whether an answer has items, and refuses each of them.
fn answers_no_item(answer: &DynamicMessage) -> bool {
    let Some(results) = answer.get_field_by_name("results") else { return false };
    let Some(results) = results.as_list() else { return false };
    let code = |result: &Value| {
        let status = result.as_message()?.get_field_by_name("status")?.into_owned();
        status.as_message()?.get_field_by_name("code")?.as_i32()
    };
    !results.is_empty() && results.iter().all(|result| code(result).is_some_and(|code| code != 0))
}
