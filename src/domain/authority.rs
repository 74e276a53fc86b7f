//! What a caller may do where: decided when the caller is made known, asked by every call.

use std::{collections::HashMap, sync::Arc};

use super::permission::{Permission, PermissionSet};
use crate::ids::ProjectId;

/// The authority of a caller. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Everything, everywhere: the server itself, and every caller of a server without credentials.
    Unbounded,
    /// What memberships give, as far as the credential lets it through.
    Granted(Arc<Grants>),
}

/// What memberships give a principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// In every project, and where a call belongs to none.
    pub everywhere: PermissionSet,
    /// In single projects, beyond that.
    pub projects: HashMap<ProjectId, PermissionSet>,
}

impl Authority {
    /// What the caller may do in a project; `None` is what belongs to no project.
    pub fn permissions(&self, project: Option<&ProjectId>) -> PermissionSet {
        match self {
            Self::Unbounded => PermissionSet::ALL,
            Self::Granted(grants) => {
                let of_project = project.and_then(|project| grants.projects.get(project)).copied();
                grants.everywhere.union(of_project.unwrap_or_default())
            }
        }
    }

    /// Whether the caller may do it in a project.
    pub fn permits(&self, permission: Permission, project: Option<&ProjectId>) -> bool {
        self.permissions(project).holds(permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_in_one_project_is_not_in_another() {
        let (ours, theirs) = (ProjectId::new("ours"), ProjectId::new("theirs"));
        let read = PermissionSet::of(&[Permission::TasksRead]);
        let submit = PermissionSet::of(&[Permission::TasksSubmit]);
        let grants = Grants { everywhere: read, projects: HashMap::from([(ours.clone(), submit)]) };
        let authority = Authority::Granted(Arc::new(grants));
        assert!(authority.permits(Permission::TasksSubmit, Some(&ours)));
        assert!(!authority.permits(Permission::TasksSubmit, Some(&theirs)));
        assert!(!authority.permits(Permission::TasksSubmit, None));
        for project in [Some(&ours), Some(&theirs), None] {
            assert!(authority.permits(Permission::TasksRead, project));
            assert!(Authority::Unbounded.permits(Permission::ProjectsAdmin, project));
        }
    }
}
