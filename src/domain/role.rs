//! Roles: what members of a project may do, as sets of permissions. The numbers are those of `tasktower.v1.Role` and of
//! the column `member.role`.

use super::permission::{Permission, PermissionSet};

/// A role in one project, or everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Sees all of it.
    Viewer = 1,
    /// Submits tasks; sees and cancels its own, and no others.
    Submitter = 2,
    /// Leases tasks and reports on them.
    Worker = 3,
    /// Sees and operates all of it, and who did what; but changes neither the project nor its members.
    Operator = 4,
    /// May do everything.
    Admin = 5,
}

/// What shows the contents of a project. Members see each other.
const READS: PermissionSet = PermissionSet::of(&[
    Permission::TasksRead,
    Permission::QueuesRead,
    Permission::WorkersRead,
    Permission::ProjectsRead,
    Permission::RetryPoliciesRead,
    Permission::DeadLettersRead,
    Permission::SchedulesRead,
    Permission::RetentionRead,
    Permission::MembersRead,
]);

/// What operators do beyond reading. The record of who did what is theirs and not for every viewer: it has addresses and
/// credentials of people.
const OPERATES: PermissionSet = PermissionSet::of(&[
    Permission::TasksSubmit,
    Permission::TasksOperate,
    Permission::TasksBulk,
    Permission::QueuesOperate,
    Permission::WorkersOperate,
    Permission::RetryPoliciesOperate,
    Permission::DeadLettersOperate,
    Permission::SchedulesOperate,
    Permission::RetentionOperate,
    Permission::AuditRead,
]);

impl Role {
    /// All of them, by number.
    pub const ALL: [Role; 5] = [Self::Viewer, Self::Submitter, Self::Worker, Self::Operator, Self::Admin];

    /// What it may do.
    pub const fn permissions(self) -> PermissionSet {
        match self {
            Self::Viewer => READS,
            Self::Submitter => {
                PermissionSet::of(&[Permission::TasksSubmit, Permission::TasksOwn, Permission::ProjectsRead])
            }
            Self::Worker => PermissionSet::of(&[Permission::TasksWork, Permission::ProjectsRead]),
            Self::Operator => READS.union(OPERATES),
            Self::Admin => PermissionSet::ALL,
        }
    }

    /// The role with a number of the proto or of the database.
    pub fn of_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|role| i64::from(*role as u8) == number)
    }

    /// Its name, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_it_is_for_and_no_more() {
        use Permission::*;
        let may =
            |role: Role| Permission::ALL.iter().copied().filter(|it| role.permissions().holds(*it)).collect::<Vec<_>>();
        assert_eq!(may(Role::Submitter), [TasksSubmit, ProjectsRead, TasksOwn]);
        assert_eq!(may(Role::Worker), [TasksWork, ProjectsRead]);
        assert_eq!(may(Role::Admin), Permission::ALL);
        assert!(may(Role::Viewer).iter().all(|it| format!("{it:?}").ends_with("Read")));
        for withheld in [TasksWork, ProjectsAdmin, MembersAdmin] {
            assert!(!may(Role::Operator).contains(&withheld));
        }
        assert!(may(Role::Viewer).iter().all(|it| may(Role::Operator).contains(it)));
        let readers = Role::ALL.into_iter().filter(|role| role.permissions().holds(AuditRead));
        assert!(readers.eq([Role::Operator, Role::Admin]));
    }

    #[test]
    fn a_role_is_found_by_its_number_and_by_its_name() {
        for role in Role::ALL {
            assert_eq!(Role::of_number(i64::from(role as u8)), Some(role));
            assert_eq!(Role::of_name(role.name()), Some(role));
        }
        assert_eq!((Role::of_number(0), Role::of_number(6), Role::of_name("owner")), (None, None, None));
    }
}
