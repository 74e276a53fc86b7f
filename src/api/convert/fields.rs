//! Where in a request something is wrong, and the list of all that is.
//!
//! A [`Path`] borrows its parents and is written out only when it is needed, so a request without fault costs nothing.
//! Converters note every fault and go on with any value at hand; [`Fields::finish`] then throws the result away.

use std::fmt;

use crate::error::{Error, Result, Violation};

/// Faults kept of one request. More help nobody, and a batch of 1,000 bad tasks must not become a megabyte of them.
const MAX_VIOLATIONS: usize = 50;

/// How much of a caller's own key is repeated in a path, in characters.
const MAX_KEY_SHOWN: usize = 40;

/// The path of a field as in the proto: `requests[3].task.labels["x"]`.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The request itself.
    Request,
    /// A field of a message.
    Field(&'a Path<'a>, &'static str),
    /// An element of a repeated field or of a JSON array.
    Index(&'a Path<'a>, usize),
    /// A value of a map.
    Key(&'a Path<'a>, &'a str),
    /// A member of a JSON object.
    Member(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    /// A field of the message at this path.
    pub fn field(&self, name: &'static str) -> Path<'_> {
        Path::Field(self, name)
    }

    /// An element of the list at this path.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => Ok(()),
            Self::Field(Self::Request, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Member(parent, key) if is_plain(key) => write!(f, "{parent}.{key}"),
            Self::Key(parent, key) | Self::Member(parent, key) => write!(f, "{parent}[\"{}\"]", shown(key)),
        }
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_KEY_SHOWN && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn shown(key: &str) -> String {
    let mut text: String = key.chars().take(MAX_KEY_SHOWN).flat_map(char::escape_debug).collect();
    if key.chars().nth(MAX_KEY_SHOWN).is_some() {
        text.push('…');
    }
    text
}

/// What is wrong with a request, all of it.
#[derive(Debug, Default)]
pub struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a fault.
    pub fn refuse(&mut self, at: &Path<'_>, description: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation::new(at.to_string(), description));
        }
    }

    /// The value, unless something was wrong.
    pub fn finish<T>(self, value: T) -> Result<T> {
        if self.violations.is_empty() { Ok(value) } else { Err(Error::Invalid(self.violations)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_in_the_proto() {
        let request = Path::Request;
        let requests = request.field("requests");
        let third = requests.index(3);
        let task = third.field("task");
        let labels = task.field("labels");
        assert_eq!(Path::Key(&labels, "a b").to_string(), "requests[3].task.labels[\"a b\"]");
        let json = task.field("json");
        let a = Path::Member(&json, "a");
        let second = a.index(2);
        assert_eq!(Path::Member(&second, "b").to_string(), "requests[3].task.json.a[2].b");
        assert_eq!(Path::Member(&second, "b\n").to_string(), "requests[3].task.json.a[2][\"b\\n\"]");
    }

    #[test]
    fn faults_are_collected_and_bounded() {
        let mut fields = Fields::new();
        for index in 0..1_000 {
            fields.refuse(&Path::Request.field("names").index(index), "is wrong");
        }
        let Err(Error::Invalid(violations)) = fields.finish(()) else { panic!("refused") };
        assert_eq!(violations.len(), MAX_VIOLATIONS);
        assert_eq!(violations[1], Violation::new("names[1]", "is wrong"));
    }
}
