//! A text with `*` wildcards: what stands before the first, between them, and after the last.

use super::cursor::WILDCARD;

/// The form `prefix*middle*…*suffix`. Every part may be empty but the middle ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    prefix: String,
    middles: Vec<String>,
    suffix: String,
}

impl Pattern {
    /// Cuts a literal at its wildcards. Without one the pattern would not be a pattern: compare instead.
    pub(super) fn new(literal: &str) -> Self {
        let mut parts = literal.split(WILDCARD).map(str::to_owned);
        let prefix = parts.next().unwrap_or_default();
        let suffix = parts.next_back().unwrap_or_default();
        Self { prefix, middles: parts.filter(|part| !part.is_empty()).collect(), suffix }
    }

    /// Whether it asks for nothing: only wildcards.
    pub(super) fn is_any(&self) -> bool {
        self.parts().all(str::is_empty)
    }

    /// The parts in order, with a wildcard between each two. There are at least two.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        [self.prefix.as_str()].into_iter().chain(self.middles.iter().map(String::as_str)).chain([self.suffix.as_str()])
    }

    /// Whether the text has this form. Taking each middle part where it first occurs leaves the most room for the rest.
    pub fn matches(&self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix(self.prefix.as_str()) else { return false };
        let Some(mut rest) = rest.strip_suffix(self.suffix.as_str()) else { return false };
        for middle in &self.middles {
            let Some(start) = rest.find(middle.as_str()) else { return false };
            rest = &rest[start + middle.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_at_every_place() {
        let cases = [
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b", "ab", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("ab*ba", "aba", false),
            ("*b*", "abc", true),
            ("*b*", "ac", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*b*c", "a-b-c", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aba", false),
            ("**x**", "x", true),
            ("é*", "éa", true),
            ("A*", "abc", false),
        ];
        for (pattern, text, expected) in cases {
            let literal: String = pattern.chars().map(|c| if c == '*' { WILDCARD } else { c }).collect();
            assert_eq!(Pattern::new(&literal).matches(text), expected, "{pattern} on {text}");
        }
    }
}
