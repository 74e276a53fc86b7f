//! Who may call what: deny by default.
//!
//! Every method of ours says so in the proto, by `(tasktower.v1.access)`; the rules are read from the descriptors once, at
//! the start. Health and reflection are not ours and stand in a short table. A method without a rule is refused before its
//! request is looked at.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

use crate::{domain::permission::Permission, pb};

/// What the rules say about one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the caller needs; none for methods that need nothing.
    pub permission: Option<Permission>,
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
            let rule =
                Rule { permission: None, resource, audit, is_stream, takes_stream: is_stream, reads_many: false };
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
    let audit = pb::Audit::try_from(number("audit")?).ok()?;
    if audit == pb::Audit::Unspecified {
        return None;
    }
    let resource = message.get_field_by_name("resource").as_deref().and_then(Value::as_str).unwrap_or("").to_owned();
    let is_stream = method.is_server_streaming();
    let reads_many = READS_MANY.iter().any(|begin| method.name().starts_with(begin));
    let takes_stream = method.is_client_streaming();
    Some(Rule { permission: Some(permission), resource, audit, is_stream, takes_stream, reads_many })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_permissions_of_the_proto_are_those_of_the_domain() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let numbers = pool.get_enum_by_name("tasktower.v1.Permission").unwrap();
        for value in numbers.values().filter(|value| value.number() != 0) {
            let permission = Permission::of_number(value.number()).unwrap();
            let name = value.name().trim_start_matches("PERMISSION_").replace('_', "");
            assert_eq!(format!("{permission:?}").to_uppercase(), name);
        }
        assert_eq!(numbers.values().len(), Permission::ALL.len() + 1);
    }
}
