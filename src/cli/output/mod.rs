//! What goes to stdout: resources in the format asked for. Talk goes to stderr and is not here.
//!
//! A resource says how it looks (`Resource`); the format decides which of its looks is printed. A closed pipe is an
//! ordinary error here, so that `tasktower list | head` ends quietly.

mod json;
mod paint;
mod table;
mod yaml;

use std::{
    io::{self, IsTerminal, Write},
    time::SystemTime,
};

use clap::ValueEnum;
pub use json::{from_json, line as json_line, pretty as json_pretty, to_json, whole_number};
pub use paint::{Color, ColorChoice, Painter, Styled};

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// More columns, absolute times.
    Wide,
    /// One JSON document (proto3 JSON).
    Json,
    /// One JSON object a line.
    Jsonl,
    /// YAML.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// Something a command can print.
pub trait Resource: prost::Message {
    /// Its message in the descriptors.
    const PROTO: &'static str;
    /// What identifies it.
    fn name(&self) -> &str;
    /// The columns of a table.
    fn headers(wide: bool) -> &'static [&'static str];
    /// Its row, one cell for each column.
    fn cells(&self, look: &Look) -> Vec<Styled>;
    /// Everything worth knowing about one of it, as labelled lines.
    fn details(&self, look: &Look) -> Vec<(&'static str, Styled)>;
}

/// What a view needs to know about its surroundings.
pub struct Look {
    /// More columns, absolute times.
    pub wide: bool,
    /// The moment relative times are counted from.
    pub now: SystemTime,
}

/// Where and how a command prints.
#[derive(Clone, Copy)]
pub struct Output {
    chosen: Option<Format>,
    painter: Painter,
}

impl Output {
    /// `chosen` is what `-o` says.
    pub fn new(chosen: Option<Format>, color: ColorChoice) -> Self {
        Self { chosen, painter: Painter::for_stream(color, io::stdout().is_terminal()) }
    }

    /// The format for answers: a table unless told otherwise.
    pub fn format(&self) -> Format {
        self.chosen.unwrap_or(Format::Table)
    }

    /// The format for streams: lines for people at a terminal, JSON lines into a pipe.
    pub fn stream_format(&self) -> Format {
        self.chosen.unwrap_or(if io::stdout().is_terminal() { Format::Table } else { Format::Jsonl })
    }

    /// The colours of stdout.
    pub fn painter(&self) -> Painter {
        self.painter
    }

    /// Prints one resource.
    pub fn one<R: Resource>(&self, resource: &R) -> anyhow::Result<()> {
        let text = match self.format() {
            Format::Table | Format::Wide => table::labelled(&resource.details(&self.look()), self.painter),
            Format::Name => resource.name().to_owned(),
            Format::Json => json::pretty(&to_json(R::PROTO, resource)?)?,
            Format::Jsonl => json::line(&to_json(R::PROTO, resource)?)?,
            Format::Yaml => to_yaml(&to_json(R::PROTO, resource)?)?,
        };
        print(&text)
    }

    /// Prints a list of resources.
    pub fn list<R: Resource>(&self, resources: &[R]) -> anyhow::Result<()> {
        let as_json = || resources.iter().map(|r| to_json(R::PROTO, r)).collect::<anyhow::Result<Vec<_>>>();
        let text = match self.format() {
            Format::Table | Format::Wide => {
                let look = self.look();
                let rows = resources.iter().map(|r| r.cells(&look)).collect();
                table::columns(R::headers(look.wide), rows, self.painter)
            }
            Format::Name => resources.iter().map(Resource::name).collect::<Vec<_>>().join("\n"),
            Format::Json => json::pretty(&as_json()?)?,
            Format::Jsonl => as_json()?.iter().map(json::line).collect::<anyhow::Result<Vec<_>>>()?.join("\n"),
            Format::Yaml => to_yaml(&as_json()?)?,
        };
        // An empty list of names or lines is no output at all, not an empty line.
        if text.is_empty() { Ok(()) } else { print(&text) }
    }

    /// The surroundings of a view, now.
    pub fn look(&self) -> Look {
        Look { wide: self.format() == Format::Wide, now: crate::cli::time::now() }
    }
}

/// Anything that serialises, as a YAML document.
pub fn to_yaml<T: serde::Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(yaml::document(&json::value(value)?))
}

/// Writes text and a line end to stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn streams_into_a_chosen_format_stay_there() {
        let output = Output::new(Some(Format::Yaml), ColorChoice::Never);
        assert_eq!(output.stream_format(), Format::Yaml);
        assert_eq!(Output::new(None, ColorChoice::Never).format(), Format::Table);
    }

    #[test]
    fn proto3_json_keeps_the_order_of_the_proto_and_leaves_out_what_is_empty() {
        let task = pb::Task {
            name: "projects/default/tasks/x".into(),
            state: pb::task::State::Running as i32,
            version: 3,
            ..Default::default()
        };
        let message = to_json("tasktower.v1.Task", &task).unwrap();
        assert_eq!(
            json::line(&message).unwrap(),
            r#"{"name":"projects/default/tasks/x","state":"STATE_RUNNING","version":"3"}"#
        );
    }
}
