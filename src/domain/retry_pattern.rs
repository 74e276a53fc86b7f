//! How retry rules look at the messages of errors: by regular expressions.
//!
//! Expressions take time linear in the message (the `regex` crate), are bounded when compiled, and the compiled ones are
//! kept, a bounded number of them: a policy is asked again and again, and compiling is dearer than matching.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

/// Bytes one compiled expression may take: enough for any of 256 characters that people write, Unicode classes
/// included.
const MAX_COMPILED: usize = 256 * 1024;
/// Bytes its cache of states may take.
const MAX_STATES: usize = 64 * 1024;
/// Most compiled expressions that are kept: five policies with all their rules, or 80 MiB at the very worst.
const MAX_KEPT: usize = 256;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It cannot be read: the column, from 1, and why.
    Syntax {
        /// Where.
        column: usize,
        /// Why.
        message: String,
    },
    /// It is too large when compiled.
    TooLarge,
}

/// Looks whether an expression can be used.
pub fn check(pattern: &str) -> Result<(), PatternError> {
    if let Err(error) = regex_syntax::parse(pattern) {
        let (column, message) = match &error {
            regex_syntax::Error::Parse(error) => (error.span().start.column, error.kind().to_string()),
            regex_syntax::Error::Translate(error) => (error.span().start.column, error.kind().to_string()),
            other => (1, other.to_string()),
        };
        return Err(PatternError::Syntax { column, message });
    }
    compile(pattern).map(|_| ()).ok_or(PatternError::TooLarge)
}

fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_STATES).build().ok()
}

/// Compiled expressions.
#[derive(Debug, Default)]
pub struct Patterns {
    /// None for one that cannot be compiled: another version of the server may have let it in.
    compiled: HashMap<String, Option<Regex>>,
}

impl Patterns {
    /// Whether a text matches an expression somewhere. One that cannot be used matches nothing.
    pub fn is_match(&mut self, pattern: &str, text: &str) -> bool {
        if !self.compiled.contains_key(pattern) {
            if self.compiled.len() >= MAX_KEPT {
                self.compiled.clear();
            }
            self.compiled.insert(pattern.to_owned(), compile(pattern));
        }
        self.compiled.get(pattern).is_some_and(|regex| regex.as_ref().is_some_and(|regex| regex.is_match(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_that_cannot_be_read_is_told_with_its_place() {
        let column = |pattern| match check(pattern) {
            Err(PatternError::Syntax { column, .. }) => Some(column),
            _ => None,
        };
        assert_eq!(column("ab(c"), Some(3));
        assert_eq!(column("a**b)"), Some(5));
        assert_eq!(column(r"x\y{Q}"), Some(2));
        assert_eq!(column(r"(?=look)"), Some(1));
        assert_eq!(check(r"^\d{3} .*\w+$"), Ok(()));
        assert_eq!(check(r"(\w{100}){100}"), Err(PatternError::TooLarge));
    }

    #[test]
    fn compiled_expressions_are_bounded() {
        let mut patterns = Patterns::default();
        for number in 0..2 * MAX_KEPT {
            assert!(patterns.is_match(&format!("^{number}$"), &number.to_string()));
            assert!(patterns.compiled.len() <= MAX_KEPT);
        }
        assert!(!patterns.is_match("(", "("));
    }
}
