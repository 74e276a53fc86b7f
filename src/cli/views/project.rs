//! Projects and their members.

use super::{moment, moment_in_full, or_dash};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::{Member, Project, Role},
};

impl Resource for Project {
    const PROTO: &'static str = "tasktower.v1.Project";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["PROJECT", "DISPLAY NAME", "STATE", "REVISION", "CREATED"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        let state = if self.delete_time.is_some() { "DELETED" } else { "" };
        vec![
            names::id(&self.name).into(),
            or_dash(self.display_name.as_str()),
            or_dash(state),
            self.revision.to_string().into(),
            moment(self.create_time.as_ref(), look),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        let mut lines = vec![
            ("Project", Styled::new(&self.name, Color::Bold)),
            ("Display name", self.display_name.as_str().into()),
            ("Description", self.description.as_str().into()),
            ("Revision", self.revision.to_string().into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
        ];
        if self.delete_time.is_some() {
            lines.push(("Deleted", moment_in_full(self.delete_time.as_ref(), look)));
            lines.push(("Until", moment_in_full(self.purge_time.as_ref(), look)));
        }
        if let Some(tasks) = &self.tasks {
            lines.extend([
                ("Pending", tasks.pending_count.to_string().into()),
                ("Retrying", tasks.retrying_count.to_string().into()),
                ("Running", tasks.running_count.to_string().into()),
                ("Failed", tasks.failed_count.to_string().into()),
                ("Cancelled", tasks.cancelled_count.to_string().into()),
                ("Succeeded", format!("{} ever", tasks.succeeded_total).into()),
            ]);
            let latest = tasks.latest.iter().map(|task| ("Latest", format!("{} {}", task.name, task.r#type).into()));
            lines.extend(latest);
        }
        lines
    }
}

impl Resource for Member {
    const PROTO: &'static str = "tasktower.v1.Member";

    fn name(&self) -> &str {
        &self.principal
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["PRINCIPAL", "ROLE", "SINCE"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![self.principal.as_str().into(), role(self.role()).into(), moment(self.create_time.as_ref(), look)]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Principal", Styled::new(&self.principal, Color::Bold)),
            ("Role", role(self.role()).into()),
            ("Since", moment_in_full(self.create_time.as_ref(), look)),
        ]
    }
}

fn role(role: Role) -> &'static str {
    let name = role.as_str_name();
    name.strip_prefix("ROLE_").unwrap_or(name)
}
