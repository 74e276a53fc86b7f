//! Projects.

use super::{moment, moment_in_full, or_dash};
use crate::{
    cli::{
        names,
        output::{Color, Look, Resource, Styled},
    },
    pb::Project,
};

impl Resource for Project {
    const PROTO: &'static str = "tasktower.v1.Project";

    fn name(&self) -> &str {
        &self.name
    }

    fn headers(_wide: bool) -> &'static [&'static str] {
        &["PROJECT", "DISPLAY NAME", "REVISION", "CREATED"]
    }

    fn cells(&self, look: &Look) -> Vec<Styled> {
        vec![
            names::id(&self.name).into(),
            or_dash(self.display_name.as_str()),
            self.revision.to_string().into(),
            moment(self.create_time.as_ref(), look),
        ]
    }

    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)> {
        vec![
            ("Project", Styled::new(&self.name, Color::Bold)),
            ("Display name", self.display_name.as_str().into()),
            ("Description", self.description.as_str().into()),
            ("Revision", self.revision.to_string().into()),
            ("Created", moment_in_full(self.create_time.as_ref(), look)),
            ("Updated", moment_in_full(self.update_time.as_ref(), look)),
        ]
    }
}
