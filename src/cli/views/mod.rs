//! How each resource looks to people: its columns, and its details.

mod api_key;
mod attempt;
mod audit;
mod bulk_job;
mod dead_letter;
mod event;
mod payload;
mod project;
mod queue;
mod retention;
mod retry_policy;
mod schedule;
mod task;
mod worker;

pub use audit::audit_line;
pub use event::EventLine;
pub use payload::payload_text;
pub use task::{state_name, state_of};

use super::output::{Color, Look, Styled};

/// Prefixes of enum values add nothing for people.
fn strip<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// A moment: relative for people, absolute when wide, `-` when there is none.
fn moment(stamp: Option<&prost_types::Timestamp>, look: &Look) -> Styled {
    match stamp {
        None => Styled::new("-", Color::Dim),
        Some(stamp) if look.wide => stamp.to_string().into(),
        Some(stamp) => super::time::relative(stamp, look.now).into(),
    }
}

/// A moment in full and how far away it is; empty when there is none.
fn moment_in_full(stamp: Option<&prost_types::Timestamp>, look: &Look) -> Styled {
    stamp.map(|stamp| format!("{stamp} ({})", super::time::relative(stamp, look.now))).unwrap_or_default().into()
}

/// A length of time; empty when there is none.
fn length(duration: Option<&prost_types::Duration>) -> String {
    duration.map(|duration| super::time::brief(super::time::from_duration(duration))).unwrap_or_default()
}

/// `a=b, c=d`.
fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// `-` in place of nothing, so that columns stay readable by `awk`.
fn or_dash(text: impl Into<String>) -> Styled {
    let text = text.into();
    if text.is_empty() { Styled::new("-", Color::Dim) } else { text.into() }
}

/// A count that deserves a colour only when it is not zero.
fn count(number: i64, color: Color) -> Styled {
    Styled::new(number.to_string(), if number == 0 { Color::Plain } else { color })
}

/// The first line of a text, cut for a column.
fn first_line(text: &str, max_chars: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(max_chars) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}
