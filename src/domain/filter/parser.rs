//! The grammar. Recursive only through parentheses, whose depth is bounded.
//!
//! ```text
//! filter      = [ expression | "*" ]
//! expression  = factor { [ "AND" ] factor }
//! factor      = term { "OR" term }
//! term        = { "NOT" | "-" } ( "(" expression ")" | restriction )
//! restriction = name { "." name } comparator value
//! ```
//!
//! Negation is pushed down while reading: inside a negated part AND becomes OR, OR becomes AND, and the tests at the
//! leaves carry the sign.

use super::cursor::{Cursor, WILDCARD};
use super::error::{Fault, echo};
use super::schema::{Path, Schema};
use super::tree::Node;
use super::{MAX_BYTES, MAX_DEPTH, MAX_TERMS};

/// Reads a whole filter.
pub(super) fn parse(text: &str, schema: &Schema) -> Result<Node, Fault> {
    if text.len() > MAX_BYTES {
        let message =
            format!("the filter has {} bytes; at most {MAX_BYTES} are allowed, so shorten or split it", text.len());
        return Err(Fault::new(MAX_BYTES, message));
    }
    if let Some(at) = text.find(WILDCARD) {
        return Err(Fault::new(at, "the character NUL never occurs in a text; remove it"));
    }
    if matches!(text.trim(), "" | "*") {
        return Ok(Node::And(Vec::new()));
    }
    let mut parser = Parser { cursor: Cursor::new(text), schema, terms: 0 };
    let root = parser.expression(0, false)?;
    match parser.cursor.peek() {
        None => Ok(root),
        Some(_) => Err(parser.fault("this `)` closes nothing; remove it or add the missing `(`")),
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    schema: &'a Schema,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.cursor.at(), message)
    }

    /// The next keyword is this one.
    fn at_keyword(&mut self, keyword: &str) -> bool {
        self.cursor.skip_space();
        self.cursor.peek_word() == keyword
    }

    /// Reads up to the end or to a `)`, which stays for the caller.
    fn expression(&mut self, depth: usize, negated: bool) -> Result<Node, Fault> {
        let mut factors = vec![self.factor(depth, negated)?];
        loop {
            if self.at_keyword("AND") {
                self.cursor.name();
            } else if matches!(self.cursor.peek(), None | Some(')')) {
                return Ok(Node::join(factors, !negated));
            }
            factors.push(self.factor(depth, negated)?);
        }
    }

    fn factor(&mut self, depth: usize, negated: bool) -> Result<Node, Fault> {
        let mut terms = vec![self.term(depth, negated)?];
        while self.at_keyword("OR") {
            self.cursor.name();
            terms.push(self.term(depth, negated)?);
        }
        Ok(Node::join(terms, negated))
    }

    fn term(&mut self, depth: usize, mut negated: bool) -> Result<Node, Fault> {
        loop {
            if self.at_keyword("NOT") {
                self.cursor.name();
            } else if !self.cursor.eat('-') {
                break;
            }
            negated = !negated;
        }
        match self.cursor.peek() {
            Some('(') => self.group(depth, negated),
            None | Some(')') => Err(self.fault("a term is missing here, for example `state = FAILED`")),
            Some('"' | '\'') => Err(self.fault(
                "a string stands alone; name the field to look in, for example `error.message:\"timeout\"`, and leave \
                 field names unquoted",
            )),
            Some(_) if matches!(self.cursor.peek_word(), "AND" | "OR") => {
                let keyword = self.cursor.peek_word();
                Err(self.fault(format!("a term is missing before `{keyword}`, for example `state = FAILED`")))
            }
            Some(_) => self.restriction(negated),
        }
    }

    fn group(&mut self, depth: usize, negated: bool) -> Result<Node, Fault> {
        if depth == MAX_DEPTH {
            return Err(self.fault(format!("parentheses are nested deeper than {MAX_DEPTH}; flatten the filter")));
        }
        let open = self.cursor.at();
        self.cursor.eat('(');
        let node = self.expression(depth + 1, negated)?;
        if !self.cursor.eat(')') {
            return Err(Fault::new(open, "this `(` is never closed; add `)`"));
        }
        Ok(node)
    }

    fn restriction(&mut self, negated: bool) -> Result<Node, Fault> {
        if self.terms == MAX_TERMS {
            return Err(self.fault(format!("the filter has more than {MAX_TERMS} terms; shorten or split it")));
        }
        self.terms += 1;
        let path = self.path()?;
        let spaced = self.cursor.at();
        self.cursor.skip_space();
        let Some(comparator) = self.cursor.comparator()? else {
            return Err(self.lonely(&path, spaced));
        };
        self.cursor.skip_space();
        let value = match self.cursor.string()? {
            Some(string) => string,
            None => self.cursor.word()?,
        };
        if value.raw.is_empty() && value.at == self.cursor.at() {
            let symbol = comparator.symbol();
            return Err(match self.cursor.peek() {
                Some('(') => self.fault(format!(
                    "a list cannot follow `{symbol}`; repeat the field, for example `(queue = a OR queue = b)`"
                )),
                None | Some(')') => self.fault(format!("a value is missing after `{symbol}`")),
                Some(c) => self.fault(format!("`{symbol}{c}` is not a comparator; those are = != < <= > >= :")),
            });
        }
        if matches!(value.raw, "AND" | "OR" | "NOT") && self.cursor.at() == value.at + value.raw.len() {
            let word = value.raw;
            return Err(value.fault(format!("a value is missing before `{word}`; quote it if it is the value")));
        }
        match self.cursor.peek() {
            None | Some(')') => {}
            Some(c) if c.is_whitespace() => {}
            Some(c) => {
                let c = echo(c.encode_utf8(&mut [0; 4]));
                return Err(self.fault(format!("{c} cannot follow a value; quote the whole value, or add a space")));
            }
        }
        self.schema.restriction(&path, comparator, &value, negated)
    }

    /// A field name. Only what follows the first dot may be quoted: the keys of labels are the caller's own.
    fn path(&mut self) -> Result<Path, Fault> {
        let at = self.cursor.at();
        let mut names = Vec::new();
        loop {
            let start = self.cursor.at();
            let string = if names.is_empty() { None } else { self.cursor.string()? };
            match string {
                // Raw, because no label key holds an escape or a wildcard: those are refused as they stand.
                Some(string) => names.push(string.raw.to_owned()),
                None => names.push(self.cursor.name().to_owned()),
            }
            if names.last().is_some_and(String::is_empty) {
                let message = match self.cursor.peek() {
                    Some(c) if names.len() == 1 => {
                        let c = echo(c.encode_utf8(&mut [0; 4]));
                        format!("{c} cannot begin a term; write a field and a comparison, for example `state = FAILED`")
                    }
                    _ => "a name must follow the dot, for example `labels.team`".to_owned(),
                };
                return Err(Fault::new(start, message));
            }
            if !self.cursor.eat('.') {
                return Ok(Path { at, names });
            }
        }
    }

    /// Says what a name without a comparison should have been.
    fn lonely(&self, path: &Path, end: usize) -> Fault {
        let name = path.to_string();
        let message = match name.as_str() {
            "and" | "or" | "not" => format!("operators are written in capitals: `{}`", name.to_uppercase()),
            "&&" => "write `AND` instead of `&&`".to_owned(),
            "||" => "write `OR` instead of `||`".to_owned(),
            "*" => "`*` means every task only when it is the whole filter".to_owned(),
            "cancel_requested" => "a comparison must follow the field; write `cancel_requested = true`".to_owned(),
            _ if self.cursor.at() == end && self.cursor.starts_with("(") => {
                format!("{} looks like a function; functions are not supported", echo(&name))
            }
            _ if self.schema.is_field(path) => format!("a comparator and a value must follow {}", echo(&name)),
            _ => format!(
                "{} stands alone; write a field and a comparison, for example `error.message:\"timeout\"`",
                echo(&name)
            ),
        };
        Fault::new(path.at, message)
    }
}
