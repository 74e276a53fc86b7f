//! Cuts a filter into words, strings and comparators. It is asked for one kind at a time because the same characters
//! mean different things: `:` ends a field name but belongs to an unquoted time, `-` negates a term but may
//! begin a value.

use super::error::{Fault, echo};

/// Stands for an unescaped `*` in a literal. No filter may hold NUL itself, since PostgreSQL cannot store it in a text.
pub(super) const WILDCARD: char = '\0';

/// What stands between a field and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
}

impl Comparator {
    pub(super) const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Has => ":",
        }
    }
}

/// A value as written, its escapes resolved and its wildcards marked.
#[derive(Debug)]
pub(super) struct Literal<'a> {
    /// Where it begins.
    pub(super) at: usize,
    /// The caller's own characters, for messages.
    pub(super) raw: &'a str,
    /// The text, with `WILDCARD` for each unescaped `*`.
    pub(super) text: String,
}

impl Literal<'_> {
    pub(super) fn has_wildcard(&self) -> bool {
        self.text.contains(WILDCARD)
    }

    pub(super) fn is_lone_wildcard(&self) -> bool {
        self.text.chars().eq([WILDCARD])
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at, message)
    }
}

/// The text and how far it has been read.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        self.rest().starts_with(text)
    }

    /// Steps over the next character if it is this one.
    pub(super) fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    pub(super) fn skip_space(&mut self) {
        self.take_until(|c| !c.is_whitespace());
    }

    fn take_until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// The word of a field name or keyword at this place, without stepping over it; empty if there is none.
    pub(super) fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(ends_name).unwrap_or(rest.len())]
    }

    /// Steps over the word of a field name or keyword.
    pub(super) fn name(&mut self) -> &'a str {
        self.take_until(ends_name)
    }

    /// An unquoted value; empty if there is none.
    pub(super) fn word(&mut self) -> Result<Literal<'a>, Fault> {
        let at = self.at;
        let raw = self.take_until(ends_value);
        Ok(Literal { at, raw, text: unescape(raw, at)? })
    }

    /// A string, if one begins here.
    pub(super) fn string(&mut self) -> Result<Option<Literal<'a>>, Fault> {
        let at = self.at;
        let Some(quote @ ('"' | '\'')) = self.peek() else { return Ok(None) };
        self.eat(quote);
        let mut escaped = false;
        let inside = self.take_until(|_| false);
        let end = inside.char_indices().find(|(_, c)| {
            let closes = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        let Some((length, _)) = end else {
            return Err(Fault::new(at, format!("this string is never closed; end it with {quote}")));
        };
        let start = at + quote.len_utf8();
        self.at = start + length + quote.len_utf8();
        let raw = &inside[..length];
        Ok(Some(Literal { at, raw, text: unescape(raw, start)? }))
    }

    /// A comparator, if one begins here.
    pub(super) fn comparator(&mut self) -> Result<Option<Comparator>, Fault> {
        let at = self.at;
        let comparator = match self.peek() {
            Some('=') => {
                self.eat('=');
                if self.eat('=') {
                    return Err(Fault::new(at, "`==` is not a comparator; write `=`"));
                }
                Comparator::Equal
            }
            Some('!') => {
                self.eat('!');
                if !self.eat('=') {
                    return Err(Fault::new(at, "`!` is not an operator; write `!=` or, before a term, `NOT`"));
                }
                Comparator::NotEqual
            }
            Some('<') => {
                self.eat('<');
                if self.eat('>') {
                    return Err(Fault::new(at, "`<>` is not a comparator; write `!=`"));
                }
                if self.eat('=') { Comparator::LessOrEqual } else { Comparator::Less }
            }
            Some('>') => {
                self.eat('>');
                if self.eat('=') { Comparator::GreaterOrEqual } else { Comparator::Greater }
            }
            Some(':') => {
                self.eat(':');
                Comparator::Has
            }
            _ => return Ok(None),
        };
        Ok(Some(comparator))
    }
}

fn ends_name(c: char) -> bool {
    ends_value(c) || matches!(c, '.' | ':' | ',')
}

fn ends_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '"' | '\'' | '=' | '!' | '<' | '>')
}

fn unescape(raw: &str, at: usize) -> Result<String, Fault> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.char_indices();
    while let Some((start, c)) = chars.next() {
        text.push(match c {
            '*' => WILDCARD,
            '\\' => match chars.next() {
                Some((_, c @ ('\\' | '"' | '\'' | '*'))) => c,
                Some((_, 'n')) => '\n',
                Some((_, 'r')) => '\r',
                Some((_, 't')) => '\t',
                Some((_, c)) => {
                    let escape = echo(&format!("\\{c}"));
                    return Err(Fault::new(
                        at + start,
                        format!(r#"{escape} is not an escape; there are \\ \" \' \* \n \r \t, and \\ is a backslash"#),
                    ));
                }
                None => return Err(Fault::new(at + start, r"a backslash ends the value; write \\ for a backslash")),
            },
            c => c,
        });
    }
    Ok(text)
}
