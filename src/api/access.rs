//! Who may call what: deny by default.
//!
//! Every method of ours says so in the proto, by `(tasktower.v1.access)`; the rules are read from the descriptors once, at
//! the start. Health and reflection are not ours and stand in a short table. A method without a rule is refused before its
//! request is looked at, and so is a caller who has the permission nowhere.
//!
//! Where the caller needs the permission is in the request. The build generates from the same annotation what each message
//! [needs](Scoped), and no handler gets at its message but through [`admit`], which is asked before anything is validated.
//! What the caller may not do and what does not exist are refused in the same words.

use std::{collections::HashMap, sync::Arc};

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

use super::convert::name;
use crate::{
    context::Caller,
    domain::{
        authority::{Authority, Share},
        permission::Permission,
    },
    error::{Error, Result},
    ids::{DEFAULT_PROJECT, ProjectId, project_name},
    pb,
};

/// A request, with what the method it belongs to needs of its caller. Each method has a request of its own.
pub trait Scoped {
    /// What its caller needs.
    const NEEDS: Needs;

    /// The name of what it is about, as the caller wrote it; empty if it is about no one thing.
    fn resource(&self) -> &str;
}

/// Requests for which a permission says all.
pub trait ByPermission: Scoped {}

/// Requests that may reach what the caller owns, and no more; their handlers get to know which.
pub trait ByOwner: Scoped {}

include!(concat!(env!("OUT_DIR"), "/scoped.rs"));

/// What a method needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The method, as in the path of a call.
    pub method: &'static str,
    /// This permission …
    pub permission: Permission,
    /// … or this one, for what the caller owns.
    pub own: Option<Permission>,
    /// Where.
    pub place: Place,
}

/// Where a permission is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the project of the resource.
    Project,
    /// Everywhere.
    Installation,
    /// In any project.
    Anywhere,
}

/// Lets a caller in, and says to what part of the tasks; or refuses, without a word about what there is.
pub fn admit<T: Scoped>(caller: &Caller, request: &T) -> Result<Share> {
    admit_to(caller, &caller.authority, &T::NEEDS, request.resource())
}

/// Lets a caller in to one project, once a stream has said which.
pub fn admit_in_project(caller: &Caller, needs: &Needs, parent: &str) -> Result<Share> {
    admit_to(caller, &caller.authority, &Needs { place: Place::Project, ..*needs }, parent)
}

/// The same for a resource named by itself, under an authority that may be newer than the call.
pub fn admit_to(caller: &Caller, authority: &Authority, needs: &Needs, resource: &str) -> Result<Share> {
    let may = |permission| match needs.place {
        Place::Anywhere => authority.permits_anywhere(permission),
        Place::Installation => authority.permits_in(permission, None),
        Place::Project => match name::project_of(resource) {
            name::Named::Project(project) => authority.permits_in(permission, Some(project)),
            name::Named::Everywhere => authority.permits_in(permission, None),
            // It names nothing that could be there, and will be told so, if by then there is anything the caller may do.
            name::Named::Nothing => authority.permits_anywhere(permission),
        },
    };
    if may(needs.permission) {
        return Ok(Share::All);
    }
    if needs.own.is_some_and(may) {
        return Ok(Share::Own(Arc::clone(&caller.principal)));
    }
    let resource = match (needs.place, resource) {
        (Place::Project, "") => project_name(&ProjectId::new(DEFAULT_PROJECT)),
        (_, resource) => resource.to_owned(),
    };
    Err(Error::PermissionDenied { permission: needs.permission.name(), resource })
}

/// What the rules say about one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the caller needs; none for methods that need nothing.
    pub permission: Option<Permission>,
    /// What is enough for what the caller owns.
    pub own: Option<Permission>,
    /// The request field that names the resource or its parent.
    pub resource: String,
    /// How the call is audited.
    pub audit: pb::Audit,
    /// Whether the answer is a stream, which has its own limits of time.
    pub is_stream: bool,
    /// Whether the caller sends a stream, too.
    pub takes_stream: bool,
    /// Whether the answer is a page or a batch of things, which is much more work than one.
    pub reads_many: bool,
}

impl Rule {
    /// Refuses a caller who has what the method needs in no project at all.
    pub fn may_begin(&self, authority: &Authority) -> Result<()> {
        let Some(permission) = self.permission else { return Ok(()) };
        if authority.permits_anywhere(permission) || self.own.is_some_and(|own| authority.permits_anywhere(own)) {
            return Ok(());
        }
        // What it is about is in the request, which is not read.
        Err(Error::PermissionDenied { permission: permission.name(), resource: String::new() })
    }
}

/// How the names of methods begin that read many things at once (AIP-132, AIP-231).
const READS_MANY: [&str; 3] = ["List", "BatchGet", "PreviewRetention"];

/// Methods that are not ours: their path, and whether the answer is a stream. They need no permission, because probes have
/// no credentials and reflection shows only what the documentation shows.
const OPEN: [(&str, bool); 5] = [
    ("/grpc.health.v1.Health/Check", false),
    ("/grpc.health.v1.Health/List", false),
    ("/grpc.health.v1.Health/Watch", true),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
];

/// The principal of a server without credentials: it may do everything.
pub const DEVELOPER: &str = "system:dev";

/// The rules of all methods, by their path.
#[derive(Debug)]
pub struct AccessRules(HashMap<String, Rule>);

impl AccessRules {
    /// Reads the rules from the descriptors this binary was built with.
    pub fn load() -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS)?;
        let access = pool
            .get_extension_by_name("tasktower.v1.access")
            .ok_or_else(|| anyhow::anyhow!("the descriptors lack tasktower.v1.access"))?;
        let mut rules = HashMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let options = method.options();
                let stated = options.get_extension(&access);
                // The build refuses a method without a rule; should one slip through, it stays refused here.
                if let Some(rule) = stated.as_message().and_then(|message| rule(&method, message)) {
                    rules.insert(format!("/{}/{}", service.full_name(), method.name()), rule);
                }
            }
        }
        for (path, is_stream) in OPEN {
            let (resource, audit) = (String::new(), pb::Audit::None);
            let rule = Rule {
                permission: None,
                own: None,
                resource,
                audit,
                is_stream,
                takes_stream: is_stream,
                reads_many: false,
            };
            rules.insert(path.to_owned(), rule);
        }
        Ok(Self(rules))
    }

    /// The rule of a method; none when it does not exist or does not say who may call it.
    pub fn of(&self, path: &str) -> Option<&Rule> {
        self.0.get(path)
    }
}

fn rule(method: &MethodDescriptor, message: &DynamicMessage) -> Option<Rule> {
    let number = |field| message.get_field_by_name(field).and_then(|value| value.as_enum_number());
    let permission = Permission::of_number(number("permission")?)?;
    let own = number("own").and_then(Permission::of_number);
    let audit = pb::Audit::try_from(number("audit")?).ok()?;
    if audit == pb::Audit::Unspecified {
        return None;
    }
    let resource = message.get_field_by_name("resource").as_deref().and_then(Value::as_str).unwrap_or("").to_owned();
    let is_stream = method.is_server_streaming();
    let reads_many = READS_MANY.iter().any(|begin| method.name().starts_with(begin));
    let takes_stream = method.is_client_streaming();
    Some(Rule { permission: Some(permission), own, resource, audit, is_stream, takes_stream, reads_many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::CallerInfo,
        domain::{authority::Grants, role::Role},
        ids::ProjectId,
    };

    #[test]
    fn every_method_of_ours_has_its_rule() {
        let rules = AccessRules::load().unwrap();
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let methods: Vec<_> = pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
        assert!(methods.len() > 30);
        assert_eq!(rules.0.len(), methods.len() + OPEN.len());
        let submit = rules.of("/tasktower.v1.TaskService/SubmitTask").unwrap();
        let expected = Rule {
            permission: Some(Permission::TasksSubmit),
            own: None,
            resource: "parent".into(),
            audit: pb::Audit::Journal,
            is_stream: false,
            takes_stream: false,
            reads_many: false,
        };
        assert_eq!(*submit, expected);
        assert!(rules.of("/tasktower.v1.TaskService/ListTasks").unwrap().reads_many);
        assert!(rules.of("/tasktower.v1.TaskService/BatchGetTasks").unwrap().reads_many);
        assert!(rules.of("/tasktower.v1.TaskService/WatchTasks").unwrap().is_stream);
        assert!(rules.of("/tasktower.v1.TaskService/Nonsense").is_none());
    }

    #[test]
    fn a_caller_is_let_in_where_it_has_the_permission() {
        let submits = Role::Submitter.permissions();
        let projects = HashMap::from([(ProjectId::new("ours"), submits)]);
        let grants = Grants { projects, ..Grants::default() };
        let authority = Authority::Granted(Arc::new(grants));
        let caller = Caller::new(CallerInfo { authority, ..CallerInfo::of_server(Arc::from("service:shop")) });
        let get = |name: &str| admit(&caller, &pb::GetTaskRequest { name: name.into(), ..Default::default() });
        let own = Share::Own(Arc::from("service:shop"));
        assert_eq!(get("projects/ours/tasks/1").unwrap(), own);
        assert_eq!(get("nonsense").unwrap(), own, "it will be told that this is no name");
        let submit =
            |parent: &str| admit(&caller, &pb::SubmitTaskRequest { parent: parent.into(), ..Default::default() });
        assert_eq!(submit("projects/ours").unwrap(), Share::All);
        assert!(submit("").is_err(), "the default project");
        assert_eq!(admit(&caller, &pb::ListProjectsRequest::default()).unwrap(), Share::All);
        let refused = |outcome: Result<Share>| outcome.unwrap_err().to_string();
        let of_others = refused(get("projects/theirs/tasks/1"));
        assert_eq!(of_others, refused(get("projects/nowhere/tasks/1")));
        assert!(of_others.ends_with("(or it might not exist)"), "{of_others}");
        assert!(admit(&caller, &pb::CreateProjectRequest::default()).is_err());
        let queue = |name: &str| pb::UpdateQueueRequest {
            queue: Some(pb::Queue { name: name.into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(queue("projects/ours/queues/q").resource(), "projects/ours/queues/q");
        assert!(admit(&caller, &queue("projects/ours/queues/q")).is_err());
        assert_eq!(pb::UpdateQueueRequest::default().resource(), "");
    }

    #[test]
    fn the_permissions_of_the_proto_are_those_of_the_domain() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let numbers = pool.get_enum_by_name("tasktower.v1.Permission").unwrap();
        for value in numbers.values().filter(|value| value.number() != 0) {
            let permission = Permission::of_number(value.number()).unwrap();
            let name = value.name().trim_start_matches("PERMISSION_");
            assert_eq!(permission.name(), name);
            assert_eq!(format!("{permission:?}").to_uppercase(), name.replace('_', ""));
        }
        assert_eq!(numbers.values().len(), Permission::ALL.len() + 1);
    }
}
