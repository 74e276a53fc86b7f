//! What is wrong with a filter, where, and what to write instead.

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: {message}")]
pub struct FilterError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// A fault at a byte of the text; the column is counted once, when the fault leaves the parser.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    pub(super) fn locate(self, text: &str) -> FilterError {
        let column = 1 + text.char_indices().take_while(|(start, _)| *start < self.at).count();
        FilterError { column, message: self.message }
    }
}

/// How much of the caller's own text an error repeats, in characters. Errors travel in trailers, which are small.
const MAX_ECHO: usize = 40;

/// The caller's text inside a message: short, and without control characters.
pub(super) fn echo(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_ECHO).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_ECHO).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}
