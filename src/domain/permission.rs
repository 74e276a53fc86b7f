//! What a caller may do, and the roles that bundle it. The numbers are those of `tasktower.v1.Permission`.

/// One thing a caller may do in a project, or in the whole installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the proto says what each is")]
pub enum Permission {
    TasksRead = 1,
    TasksSubmit = 2,
    TasksOperate = 3,
    TasksBulk = 4,
    TasksWork = 5,
    QueuesRead = 6,
    QueuesOperate = 7,
    WorkersRead = 8,
    WorkersOperate = 9,
    ProjectsRead = 10,
    ProjectsAdmin = 11,
    RetryPoliciesRead = 12,
    RetryPoliciesOperate = 13,
    DeadLettersRead = 14,
    DeadLettersOperate = 15,
    SchedulesRead = 16,
    SchedulesOperate = 17,
    RetentionRead = 18,
    RetentionOperate = 19,
    ApiKeysRead = 20,
    ApiKeysAdmin = 21,
    MembersRead = 22,
    MembersAdmin = 23,
    TasksOwn = 24,
    AuditRead = 25,
}

impl Permission {
    /// All of them, by number.
    pub const ALL: &[Permission] = {
        use Permission::*;
        &[
            TasksRead,
            TasksSubmit,
            TasksOperate,
            TasksBulk,
            TasksWork,
            QueuesRead,
            QueuesOperate,
            WorkersRead,
            WorkersOperate,
            ProjectsRead,
            ProjectsAdmin,
            RetryPoliciesRead,
            RetryPoliciesOperate,
            DeadLettersRead,
            DeadLettersOperate,
            SchedulesRead,
            SchedulesOperate,
            RetentionRead,
            RetentionOperate,
            ApiKeysRead,
            ApiKeysAdmin,
            MembersRead,
            MembersAdmin,
            TasksOwn,
            AuditRead,
        ]
    };

    /// Its name in the proto, without the prefix: `TASKS_READ`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TasksRead => "TASKS_READ",
            Self::TasksSubmit => "TASKS_SUBMIT",
            Self::TasksOperate => "TASKS_OPERATE",
            Self::TasksBulk => "TASKS_BULK",
            Self::TasksWork => "TASKS_WORK",
            Self::QueuesRead => "QUEUES_READ",
            Self::QueuesOperate => "QUEUES_OPERATE",
            Self::WorkersRead => "WORKERS_READ",
            Self::WorkersOperate => "WORKERS_OPERATE",
            Self::ProjectsRead => "PROJECTS_READ",
            Self::ProjectsAdmin => "PROJECTS_ADMIN",
            Self::RetryPoliciesRead => "RETRY_POLICIES_READ",
            Self::RetryPoliciesOperate => "RETRY_POLICIES_OPERATE",
            Self::DeadLettersRead => "DEAD_LETTERS_READ",
            Self::DeadLettersOperate => "DEAD_LETTERS_OPERATE",
            Self::SchedulesRead => "SCHEDULES_READ",
            Self::SchedulesOperate => "SCHEDULES_OPERATE",
            Self::RetentionRead => "RETENTION_READ",
            Self::RetentionOperate => "RETENTION_OPERATE",
            Self::ApiKeysRead => "API_KEYS_READ",
            Self::ApiKeysAdmin => "API_KEYS_ADMIN",
            Self::MembersRead => "MEMBERS_READ",
            Self::MembersAdmin => "MEMBERS_ADMIN",
            Self::TasksOwn => "TASKS_OWN",
            Self::AuditRead => "AUDIT_READ",
        }
    }

    /// The permission with a number of the proto.
    pub fn of_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| *permission as i32 == number)
    }
}

/// Permissions as a set; most hold one or two handfuls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PermissionSet(u64);

impl PermissionSet {
    /// Every permission there is.
    pub const ALL: Self = Self::of(Permission::ALL);

    /// These.
    pub const fn of(permissions: &[Permission]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < permissions.len() {
            bits |= 1 << permissions[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// Whether it holds one.
    pub const fn holds(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// As the database keeps it: a bit each, by its number.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Of what the database has. What this version does not know gives nothing.
    pub const fn of_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Those in it, by number.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.holds(*permission))
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
