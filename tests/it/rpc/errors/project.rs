//! Bad input to what changes projects and their members.

use tasktower::pb;
use tonic::Code;

use super::{Case, PROJECTS, bad, case, missing};

/// All of them.
pub fn cases() -> Vec<Case> {
    let update = |project: pb::Project, paths: &[&str]| pb::UpdateProjectRequest {
        project: Some(project),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    };
    let named = |name: &str| pb::Project { name: name.into(), ..Default::default() };
    let long = pb::Project { display_name: "n".repeat(64), ..named("projects/default") };
    let delete = |name: &str| pb::DeleteProjectRequest { name: name.into(), ..Default::default() };
    let list = |parent: &str| pb::ListMembersRequest { parent: parent.into(), ..Default::default() };
    let set = |parent: &str, principal: &str, role: i32| pb::SetMemberRequest {
        parent: parent.into(),
        member: Some(pb::Member { principal: principal.into(), role, create_time: None }),
    };
    let remove =
        |parent: &str, principal: &str| pb::RemoveMemberRequest { parent: parent.into(), principal: principal.into() };
    let ada = "user:local/ada";
    vec![
        bad(PROJECTS, "GetProject", pb::GetProjectRequest { name: "projects/default".into(), view: 9 }, &["view"]),
        bad(
            PROJECTS,
            "ListProjects",
            pb::ListProjectsRequest { query: "q".repeat(129), order_by: "size".into(), ..Default::default() },
            &["query", "order_by"],
        ),
        bad(PROJECTS, "UpdateProject", pb::UpdateProjectRequest::default(), &["project"]),
        bad(PROJECTS, "UpdateProject", update(long, &[]), &["project.display_name"]),
        bad(PROJECTS, "UpdateProject", update(named("projects/default"), &["size"]), &["update_mask.paths[0]"]),
        missing(PROJECTS, "UpdateProject", update(named("projects/none"), &["*"])),
        bad(PROJECTS, "DeleteProject", delete("default"), &["name"]),
        missing(PROJECTS, "DeleteProject", delete("projects/none")),
        case(PROJECTS, "DeleteProject", delete("projects/default"), Code::FailedPrecondition, "STATE_CONFLICT", &[]),
        bad(PROJECTS, "UndeleteProject", pb::UndeleteProjectRequest { name: "p".into() }, &["name"]),
        missing(PROJECTS, "UndeleteProject", pb::UndeleteProjectRequest { name: "projects/none".into() }),
        case(
            PROJECTS,
            "UndeleteProject",
            pb::UndeleteProjectRequest { name: "projects/default".into() },
            Code::AlreadyExists,
            "RESOURCE_EXISTS",
            &[],
        ),
        bad(PROJECTS, "ListMembers", list("projects/**"), &["parent"]),
        missing(PROJECTS, "ListMembers", list("projects/none")),
        bad(PROJECTS, "SetMember", pb::SetMemberRequest::default(), &["member"]),
        bad(PROJECTS, "SetMember", set("projects/P", "ada", 0), &["parent", "member.principal", "member.role"]),
        missing(PROJECTS, "SetMember", set("projects/none", ada, 1)),
        bad(PROJECTS, "RemoveMember", remove("x", ""), &["parent", "principal"]),
        missing(PROJECTS, "RemoveMember", remove("projects/default", ada)),
    ]
}
