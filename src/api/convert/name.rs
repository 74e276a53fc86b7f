//! Resource names: `projects/{project}`, `projects/{project}/tasks/{task}` and so on. An empty parent is the default
//! project. A name that does not parse is wrong at its field; whether the thing exists is for others to say.

use uuid::Uuid;

use super::{
    fields::{Fields, Path},
    scalar::is_identifier,
};
use crate::{
    domain::member::{EVERYWHERE, Scope},
    ids::{BulkJobId, DEFAULT_PROJECT, ProjectId, RetentionRunId, TaskId},
};

/// Most characters of an id that a caller chooses.
const MAX_SHORT_ID: usize = 63;

/// How a UUID is written in a name: with hyphens, not in one of its other forms.
const UUID_LENGTH: usize = 36;

const PROJECT_FORM: &str = "must be projects/{project}, with a project of [a-z][a-z0-9-]{0,62}";

/// Whether this can be the id of a project.
pub fn is_project_id(id: &str) -> bool {
    is_short_id(id)
}

/// Whether this can be an id that a caller chooses: those of projects are such.
fn is_short_id(id: &str) -> bool {
    id.len() <= MAX_SHORT_ID
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What the name of a resource says about where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// In this project, should there be one.
    Project(&'a str),
    /// In all of them: `projects/*`.
    Everywhere,
    /// Nowhere: no resource has such a name.
    Nothing,
}

/// The project of any name. Whatever a function of this file takes for a name of a project is one of that project here.
pub fn project_of(name: &str) -> Named<'_> {
    if name.is_empty() {
        return Named::Project(DEFAULT_PROJECT);
    }
    let project = name.strip_prefix("projects/").map(|rest| rest.split_once('/').map_or(rest, |(project, _)| project));
    match project {
        Some(EVERYWHERE) => Named::Everywhere,
        Some(id) if is_project_id(id) => Named::Project(id),
        _ => Named::Nothing,
    }
}

/// A project, or all of them.
pub fn scope(fields: &mut Fields, at: &Path<'_>, name: &str) -> Scope {
    if name == "projects/*" {
        return Scope::Everywhere;
    }
    Scope::Project(project(fields, at, name))
}

/// The project a request is about; empty means the default one.
pub fn parent(fields: &mut Fields, at: &Path<'_>, parent: &str) -> ProjectId {
    if parent.is_empty() { ProjectId::new(DEFAULT_PROJECT) } else { project(fields, at, parent) }
}

/// A project.
pub fn project(fields: &mut Fields, at: &Path<'_>, name: &str) -> ProjectId {
    match name.strip_prefix("projects/").filter(|id| is_project_id(id)) {
        Some(id) => ProjectId::new(id),
        None => {
            fields.refuse(at, PROJECT_FORM);
            ProjectId::new(DEFAULT_PROJECT)
        }
    }
}

/// A task with its project.
pub fn task(fields: &mut Fields, at: &Path<'_>, name: &str) -> (ProjectId, TaskId) {
    let parts = split(name, "tasks").and_then(|(project, id)| Some((project, uuid(id)?)));
    let (project, id) = known(fields, at, parts, "projects/{project}/tasks/{task}, the last part a UUID");
    (project, TaskId(id))
}

/// A task of a project that is known already.
pub fn task_of(fields: &mut Fields, at: &Path<'_>, name: &str, project: &ProjectId) -> TaskId {
    match split(name, "tasks").and_then(|(project, id)| Some((project, uuid(id)?))) {
        Some((named, id)) if named == project.as_str() => return TaskId(id),
        Some(_) => fields.refuse(at, format!("is not of the parent, projects/{project}")),
        None => fields.refuse(at, "must be projects/{project}/tasks/{task}, the last part a UUID"),
    }
    TaskId(Uuid::nil())
}

/// A dead letter, by its task, with its project.
pub fn dead_letter(fields: &mut Fields, at: &Path<'_>, name: &str) -> (ProjectId, TaskId) {
    let parts = split(name, "deadLetters").and_then(|(project, id)| Some((project, uuid(id)?)));
    let (project, id) = known(fields, at, parts, "projects/{project}/deadLetters/{task}, the last part a UUID");
    (project, TaskId(id))
}

/// A dead letter of a project that is known already.
pub fn dead_letter_of(fields: &mut Fields, at: &Path<'_>, name: &str, project: &ProjectId) -> TaskId {
    match split(name, "deadLetters").and_then(|(project, id)| Some((project, uuid(id)?))) {
        Some((named, id)) if named == project.as_str() => return TaskId(id),
        Some(_) => fields.refuse(at, format!("is not of the parent, projects/{project}")),
        None => fields.refuse(at, "must be projects/{project}/deadLetters/{task}, the last part a UUID"),
    }
    TaskId(Uuid::nil())
}

/// A bulk job with its project.
pub fn bulk_job(fields: &mut Fields, at: &Path<'_>, name: &str) -> (ProjectId, BulkJobId) {
    let parts = split(name, "bulkJobs").and_then(|(project, id)| Some((project, uuid(id)?)));
    let (project, id) = known(fields, at, parts, "projects/{project}/bulkJobs/{bulk_job}, the last part a UUID");
    (project, BulkJobId(id))
}

/// The rules of retention of a project.
pub fn retention(fields: &mut Fields, at: &Path<'_>, name: &str) -> ProjectId {
    let project = name.strip_prefix("projects/").and_then(|rest| rest.strip_suffix("/retention"));
    let parts = project.filter(|id| is_project_id(id)).map(|project| (project, ()));
    known(fields, at, parts, "projects/{project}/retention").0
}

/// A run of retention with its project.
pub fn retention_run(fields: &mut Fields, at: &Path<'_>, name: &str) -> (ProjectId, RetentionRunId) {
    let parts = split(name, "retentionRuns").and_then(|(project, id)| Some((project, uuid(id)?)));
    let (project, id) =
        known(fields, at, parts, "projects/{project}/retentionRuns/{retention_run}, the last part a UUID");
    (project, RetentionRunId(id))
}

/// An audit entry with its project.
pub fn audit_entry(fields: &mut Fields, at: &Path<'_>, name: &str) -> (ProjectId, i64) {
    let revision =
        |text: &str| text.parse().ok().filter(|revision: &i64| *revision > 0 && revision.to_string() == text);
    let parts = split(name, "auditEntries").and_then(|(project, text)| Some((project, revision(text)?)));
    known(fields, at, parts, "projects/{project}/auditEntries/{revision}, the last part a number from 1 on")
}

/// A queue with its project.
pub fn queue<'a>(fields: &mut Fields, at: &Path<'_>, name: &'a str) -> (ProjectId, &'a str) {
    let parts = split(name, "queues").filter(|(_, queue)| is_identifier(queue));
    known(fields, at, parts, "projects/{project}/queues/{queue}, with a queue of [A-Za-z0-9._:-]{1,128}")
}

/// A worker with its project.
pub fn worker<'a>(fields: &mut Fields, at: &Path<'_>, name: &'a str) -> (ProjectId, &'a str) {
    let parts = split(name, "workers").filter(|(_, worker)| is_identifier(worker));
    known(fields, at, parts, "projects/{project}/workers/{worker}, with a worker of [A-Za-z0-9._:-]{1,128}")
}

/// A retry policy with its project.
pub fn retry_policy<'a>(fields: &mut Fields, at: &Path<'_>, name: &'a str) -> (ProjectId, &'a str) {
    let parts = split(name, "retryPolicies").filter(|(_, id)| is_short_id(id));
    known(fields, at, parts, "projects/{project}/retryPolicies/{retry_policy}")
}

/// A retry policy of a project that is known already.
pub fn retry_policy_of(fields: &mut Fields, at: &Path<'_>, name: &str, project: &ProjectId) -> String {
    match split(name, "retryPolicies").filter(|(_, id)| is_short_id(id)) {
        Some((named, id)) if named == project.as_str() => return id.to_owned(),
        Some(_) => fields.refuse(at, format!("is not of the project, projects/{project}")),
        None => fields.refuse(at, "must be projects/{project}/retryPolicies/{retry_policy}"),
    }
    String::new()
}

/// An id that a caller chooses for a resource.
pub fn short_id(fields: &mut Fields, at: &Path<'_>, id: String) -> String {
    if !is_short_id(&id) {
        fields.refuse(at, "must match [a-z][a-z0-9-]{0,62}");
    }
    id
}

/// A schedule with its project.
pub fn schedule<'a>(fields: &mut Fields, at: &Path<'_>, name: &'a str) -> (ProjectId, &'a str) {
    // Ids of schedules have the form of those of projects.
    let parts = split(name, "schedules").filter(|(_, schedule)| is_project_id(schedule));
    known(fields, at, parts, "projects/{project}/schedules/{schedule}, with a schedule of [a-z][a-z0-9-]{0,62}")
}

/// A UUID as names write it.
pub fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == UUID_LENGTH).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn split<'a>(name: &'a str, collection: &str) -> Option<(&'a str, &'a str)> {
    let (project, rest) = name.strip_prefix("projects/")?.split_once('/')?;
    let id = rest.strip_prefix(collection)?.strip_prefix('/')?;
    is_project_id(project).then_some((project, id))
}

fn known<T: Default>(
    fields: &mut Fields,
    at: &Path<'_>,
    parts: Option<(&str, T)>,
    form: &'static str,
) -> (ProjectId, T) {
    match parts {
        Some((project, id)) => (ProjectId::new(project), id),
        None => {
            fields.refuse(at, format!("must be {form}"));
            (ProjectId::new(DEFAULT_PROJECT), T::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{dead_letter_name, queue_name, task_name};

    fn refused<T>(check: impl FnOnce(&mut Fields, &Path<'_>) -> T) -> bool {
        let mut fields = Fields::new();
        check(&mut fields, &Path::Request.field("name"));
        fields.finish(()).is_err()
    }

    #[test]
    fn names_come_back_as_they_went() {
        let (project_id, id) = (ProjectId::new("shop-2"), TaskId::generate());
        let mut fields = Fields::new();
        let name = task_name(&project_id, id);
        assert_eq!(task(&mut fields, &Path::Request, &name), (project_id.clone(), id));
        assert_eq!(task_of(&mut fields, &Path::Request, &name, &project_id), id);
        let name = dead_letter_name(&project_id, id);
        assert_eq!(dead_letter(&mut fields, &Path::Request, &name), (project_id.clone(), id));
        assert_eq!(dead_letter_of(&mut fields, &Path::Request, &name, &project_id), id);
        let name = queue_name(&project_id, "e-mail:eu");
        assert_eq!(queue(&mut fields, &Path::Request, &name), (project_id, "e-mail:eu"));
        assert_eq!(parent(&mut fields, &Path::Request, "").as_str(), "default");
        assert!(fields.finish(()).is_ok());
    }

    #[test]
    fn the_project_of_a_name_is_the_one_its_parser_finds() {
        let id = Uuid::now_v7();
        for name in ["projects/p".to_owned(), format!("projects/p/tasks/{id}"), "projects/p/retention".to_owned()] {
            assert_eq!(project_of(&name), Named::Project("p"), "{name}");
        }
        assert_eq!(project_of(""), Named::Project("default"));
        assert_eq!(project_of("projects/*"), Named::Everywhere);
        for bad in
            ["p", "projects", "projects/", "projects/P", "/projects/p", "projects//p", "Projects/p", " projects/p"]
        {
            assert_eq!(project_of(bad), Named::Nothing, "{bad}");
        }
    }

    #[test]
    fn malformed_names_are_wrong_at_their_field() {
        let id = Uuid::now_v7();
        for bad in [
            String::new(),
            "tasks/1".to_owned(),
            "projects/p/tasks/1".to_owned(),
            format!("projects//tasks/{id}"),
            format!("projects/P/tasks/{id}"),
            format!("projects/p/tasks/{id}/"),
            format!("projects/p/tasks/{}", id.simple()),
            format!("projects/p/queues/{id}"),
            format!("/projects/p/tasks/{id}"),
        ] {
            assert!(refused(|f, at| task(f, at, &bad)), "{bad}");
        }
        for bad in ["p", "projects/", "projects/1", "projects/a_b", "projects/p/", "projects/-"] {
            assert!(refused(|f, at| parent(f, at, bad)), "{bad}");
        }
        for bad in ["projects/p/queues/", "projects/p/queues/a/b", "projects/p/queues/a b"] {
            assert!(refused(|f, at| queue(f, at, bad)), "{bad}");
        }
        let other = task_name(&ProjectId::new("q"), TaskId(id));
        assert!(refused(|f, at| task_of(f, at, &other, &ProjectId::new("p"))));
        let other = dead_letter_name(&ProjectId::new("q"), TaskId(id));
        assert!(refused(|f, at| dead_letter_of(f, at, &other, &ProjectId::new("p"))));
        assert!(refused(|f, at| task(f, at, &other)));
    }
}
