//! Names as people type them: `email` for `projects/default/queues/email`, the first digits for a task's UUID.

use anyhow::bail;
use uuid::Uuid;

use super::{connect::Api, failure::Usage};
use crate::pb::{ListTasksRequest, TaskView};

/// Fewer digits of an id are refused: they name nearly anything.
const MIN_PREFIX_DIGITS: usize = 4;
const UUID_DIGITS: usize = 32;
/// So many candidates are shown when a prefix fits several tasks.
const MAX_CANDIDATES: i32 = 5;
/// Where the hyphens of a UUID stand, counted in digits.
const UUID_GROUP_ENDS: [usize; 4] = [8, 12, 16, 20];

/// `default` or `projects/default`, as `projects/default`.
pub fn project(text: &str) -> anyhow::Result<String> {
    let id = text.strip_prefix("projects/").unwrap_or(text);
    if id.is_empty() || id.contains('/') {
        bail!(Usage::new(format!("`{text}` does not name a project; write its id, or projects/ID")));
    }
    Ok(format!("projects/{id}"))
}

/// `email` or the whole name, as the whole name. `collection` is `queues`, `workers`, `bulkJobs` or `deadLetters`.
pub fn child(project: &str, collection: &str, text: &str) -> anyhow::Result<String> {
    if text.starts_with("projects/") {
        return match text.split('/').collect::<Vec<_>>()[..] {
            [_, project, found, id] if found == collection && !project.is_empty() && !id.is_empty() => {
                Ok(text.to_owned())
            }
            _ => bail!(Usage::new(format!("`{text}` is not a name of the form projects/PROJECT/{collection}/ID"))),
        };
    }
    if text.is_empty() || text.contains('/') {
        bail!(Usage::new(format!("`{text}` is neither an id nor a name of the form projects/PROJECT/{collection}/ID")));
    }
    Ok(format!("{project}/{collection}/{text}"))
}

/// The last part of a name.
pub fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// What somebody typed for a task.
#[derive(Debug, PartialEq, Eq)]
enum TaskReference {
    /// The whole name.
    Name(String),
    /// The first digits of its id, hyphens in place.
    Prefix(String),
}

/// The whole name of a task given by name, UUID, or a prefix of the UUID that no other task of the project has.
pub async fn task(api: &Api, project: &str, text: &str) -> anyhow::Result<String> {
    let prefix = match task_reference(project, text)? {
        TaskReference::Name(name) => return Ok(name),
        TaskReference::Prefix(prefix) => prefix,
    };
    let request = ListTasksRequest {
        parent: project.to_owned(),
        page_size: MAX_CANDIDATES,
        filter: format!("name = \"{project}/tasks/{prefix}*\""),
        view: TaskView::Basic as i32,
        ..Default::default()
    };
    let page = api.tasks().list_tasks(api.call(request)).await?.into_inner();
    match page.tasks.as_slice() {
        [only] => Ok(only.name.clone()),
        [] => Err(tonic::Status::not_found(format!("no task of {project} has an id that starts with {prefix}")).into()),
        several => {
            let candidates: Vec<&str> = several.iter().map(|task| id(&task.name)).collect();
            bail!(Usage::new(format!(
                "several tasks have an id that starts with {prefix}; give more of it:\n  {}",
                candidates.join("\n  ")
            )))
        }
    }
}

/// The whole name of a dead letter, given by name, or as its task may be given.
pub async fn dead_letter(api: &Api, project: &str, text: &str) -> anyhow::Result<String> {
    if text.starts_with("projects/") && text.contains("/deadLetters/") {
        return child(project, "deadLetters", text);
    }
    Ok(task(api, project, text).await?.replace("/tasks/", "/deadLetters/"))
}

fn task_reference(project: &str, text: &str) -> anyhow::Result<TaskReference> {
    if text.starts_with("projects/") {
        return child(project, "tasks", text).map(TaskReference::Name);
    }
    let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if !digits.chars().all(|c| c.is_ascii_hexdigit()) || digits.len() > UUID_DIGITS {
        bail!(Usage::new(format!(
            "`{text}` does not name a task; write its name, its UUID, or the first digits of it"
        )));
    }
    if let Ok(uuid) = Uuid::try_parse(&digits) {
        return Ok(TaskReference::Name(format!("{project}/tasks/{}", uuid.hyphenated())));
    }
    if digits.len() < MIN_PREFIX_DIGITS {
        bail!(Usage::new(format!("`{text}` is too short; give at least {MIN_PREFIX_DIGITS} digits of the task's id")));
    }
    let mut prefix = String::with_capacity(digits.len() + UUID_GROUP_ENDS.len());
    for (index, digit) in digits.chars().enumerate() {
        if UUID_GROUP_ENDS.contains(&index) {
            prefix.push('-');
        }
        prefix.push(digit);
    }
    Ok(TaskReference::Prefix(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "projects/default";
    const UUID: &str = "0199a3b2-5c11-7000-8000-00000000abcd";

    #[test]
    fn children_take_ids_and_names() {
        assert_eq!(child(PROJECT, "queues", "email").unwrap(), "projects/default/queues/email");
        assert_eq!(child(PROJECT, "queues", "projects/a/queues/b").unwrap(), "projects/a/queues/b");
        for text in ["", "a/b", "projects/a", "projects/a/workers/b", "projects//queues/b", "projects/a/queues/b/c"] {
            assert!(child(PROJECT, "queues", text).is_err(), "{text}");
        }
        assert_eq!(project("default").unwrap(), PROJECT);
        assert_eq!(project("projects/default").unwrap(), PROJECT);
        assert!(project("projects/").is_err());
        assert_eq!(id("projects/a/queues/b"), "b");
    }

    #[test]
    fn tasks_go_by_name_uuid_or_prefix() {
        let name = TaskReference::Name(format!("projects/default/tasks/{UUID}"));
        assert_eq!(task_reference(PROJECT, UUID).unwrap(), name);
        assert_eq!(task_reference(PROJECT, &UUID.to_uppercase()).unwrap(), name);
        assert_eq!(task_reference(PROJECT, &format!("projects/default/tasks/{UUID}")).unwrap(), name);
        let prefix = |text: &str| task_reference(PROJECT, text).unwrap();
        assert_eq!(prefix("0199"), TaskReference::Prefix("0199".into()));
        assert_eq!(prefix("0199A3B25C11"), TaskReference::Prefix("0199a3b2-5c11".into()));
        assert_eq!(prefix("0199a3b2-5c"), TaskReference::Prefix("0199a3b2-5c".into()));
        for text in ["", "019", "-", "0199x", "email", "0199a3b25c1170008000000000000abcd00"] {
            assert!(task_reference(PROJECT, text).is_err(), "{text}");
        }
    }
}
