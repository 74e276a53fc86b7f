//! Members: who has which role where.

use super::{role::Role, task::Micros};
use crate::ids::{ProjectId, project_name};

/// How "every project" is written, in names and in the database. No project has such an id.
pub const EVERYWHERE: &str = "*";

/// Where a role holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// In every project, and in what belongs to none.
    Everywhere,
    /// In one project.
    Project(ProjectId),
}

impl Scope {
    /// As the database has it: the id of the project, or `*`.
    pub fn key(&self) -> &str {
        match self {
            Self::Everywhere => EVERYWHERE,
            Self::Project(project) => project.as_str(),
        }
    }

    /// Of what the database has.
    pub fn of_key(key: &str) -> Self {
        if key == EVERYWHERE { Self::Everywhere } else { Self::Project(ProjectId::new(key)) }
    }

    /// As resource names have it: `projects/{project}` or `projects/*`.
    pub fn name(&self) -> String {
        match self {
            Self::Everywhere => format!("projects/{EVERYWHERE}"),
            Self::Project(project) => project_name(project),
        }
    }
}

/// One membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where.
    pub scope: Scope,
    /// Who: `service:…` or `user:…`.
    pub principal: String,
    /// As what.
    pub role: Role,
    /// Since when; a change of the role keeps it.
    pub create_time: Micros,
}
