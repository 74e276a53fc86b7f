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
    /// What the credential lets through; it is in the sets already, and needed to look the memberships up again.
    pub limit: PermissionSet,
}

/// The part of the tasks of a project that a call may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// All of them.
    All,
    /// Those of one owner.
    Own(Arc<str>),
}

impl Share {
    /// Whether a task of this owner is in it.
    pub fn covers(&self, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Own(principal) => **principal == *owner,
        }
    }

    /// The owner it is bound to.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Own(principal) => Some(principal),
        }
    }
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

    /// Whether the caller may do it in a project known by its id alone.
    pub fn permits_in(&self, permission: Permission, project: Option<&str>) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Granted(grants) => {
                grants.everywhere.holds(permission)
                    || project.and_then(|id| grants.projects.get(id)).is_some_and(|here| here.holds(permission))
            }
        }
    }

    /// Whether there is any project in which the caller may do it.
    pub fn permits_anywhere(&self, permission: Permission) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Granted(grants) => {
                grants.everywhere.holds(permission) || grants.projects.values().any(|here| here.holds(permission))
            }
        }
    }

    /// The projects in which the caller may do it; none for all of them.
    pub fn projects_with(&self, permission: Permission) -> Option<Vec<ProjectId>> {
        match self {
            Self::Granted(grants) if !grants.everywhere.holds(permission) => {
                let found = grants.projects.iter().filter(|(_, here)| here.holds(permission));
                Some(found.map(|(project, _)| project.clone()).collect())
            }
            Self::Unbounded | Self::Granted(_) => None,
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
        let grants =
            Grants { everywhere: read, projects: HashMap::from([(ours.clone(), submit)]), limit: PermissionSet::ALL };
        let authority = Authority::Granted(Arc::new(grants));
        assert!(authority.permits(Permission::TasksSubmit, Some(&ours)));
        assert!(!authority.permits(Permission::TasksSubmit, Some(&theirs)));
        assert!(!authority.permits(Permission::TasksSubmit, None));
        for project in [Some(&ours), Some(&theirs), None] {
            assert!(authority.permits(Permission::TasksRead, project));
            assert!(Authority::Unbounded.permits(Permission::ProjectsAdmin, project));
            for permission in Permission::ALL {
                let id = project.map(ProjectId::as_str);
                assert_eq!(authority.permits(*permission, project), authority.permits_in(*permission, id));
            }
        }
        assert!(authority.permits_anywhere(Permission::TasksSubmit));
        assert!(!authority.permits_anywhere(Permission::TasksWork));
        assert_eq!(authority.projects_with(Permission::TasksSubmit), Some(vec![ours]));
        assert_eq!(authority.projects_with(Permission::TasksRead), None);
    }
}
