//! The fingerprint of an error: the same for two errors that differ only in what is different every time.
//!
//! The message is cut into words at spaces, quotes and brackets. What names one thing among many (a number, a UUID, a path,
//! an address, a quoted text) becomes a placeholder; what is left, with the type of the error, is hashed. One pass from
//! left to right, over the first [`MAX_MESSAGE`] bytes only, so that a message of any kind takes microseconds.

use std::net::{Ipv4Addr, Ipv6Addr};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// How much of a message counts, in bytes: what an error is stands at its beginning; stack traces come after.
const MAX_MESSAGE: usize = 4 * 1024;
/// Bytes of the hash that are kept. Two kinds of errors out of a million have the same with a chance of 1 to 40 million.
const HASH_BYTES: usize = 8;
/// So many hexadecimal digits in a row are an id of something; shorter ones may be a word.
const MIN_HEX: usize = 8;

/// The fingerprint: 16 hexadecimal digits.
pub fn of(error_type: &str, message: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(error_type);
    hash.update([0]);
    hash.update(normalised(message));
    hash.finalize()[..HASH_BYTES].iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
}

fn digit(nibble: u8) -> Option<char> {
    char::from_digit(u32::from(nibble), 16)
}

/// The message with placeholders for what differs from one time to the next.
fn normalised(message: &str) -> String {
    let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
    let mut out = String::with_capacity(message.len());
    // Where the last of each kind of quote stands, so that nobody looks for one that never comes.
    let last = QUOTES.map(|quote| message.rfind(quote));
    let mut at = 0;
    // An apostrophe in a word opens no quotation.
    let mut is_in_word = false;
    while let Some(c) = message[at..].chars().next() {
        let rest = at + c.len_utf8();
        let quote = QUOTES.iter().position(|quote| *quote == c);
        let closes = quote.filter(|_| !is_in_word).and_then(|kind| last[kind]).is_some_and(|last| last > at);
        if closes {
            // There is one further on.
            let length = message[rest..].find(c).unwrap_or(0);
            out.push_str("<text>");
            at = rest + length + c.len_utf8();
            is_in_word = false;
        } else if c.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
            at = rest;
            is_in_word = false;
        } else if is_cut(c) {
            out.push(c);
            at = rest;
            is_in_word = c == '\'' && is_in_word;
        } else {
            let end =
                message[at..].find(|c: char| c.is_whitespace() || is_cut(c)).map_or(message.len(), |end| at + end);
            let word = &message[at..end];
            write_word(&mut out, word);
            at = end;
            is_in_word = word.ends_with(char::is_alphanumeric);
        }
    }
    let length = out.trim_end().len();
    out.truncate(length);
    out
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// What ends a word without being a space.
fn is_cut(c: char) -> bool {
    QUOTES.contains(&c) || matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | ',' | ';' | '=' | '|')
}

fn write_word(out: &mut String, word: &str) {
    let core = word.trim_end_matches(['.', ':', '!', '?']);
    let end = &word[core.len()..];
    match placeholder(core) {
        Some(placeholder) => out.push_str(placeholder),
        None => write_without_numbers(out, core),
    }
    out.push_str(end);
}

/// What stands for the whole word.
fn placeholder(word: &str) -> Option<&'static str> {
    if Uuid::try_parse(word).is_ok() {
        return Some("<uuid>");
    }
    if is_address(word) {
        return Some("<ip>");
    }
    if word.contains("://") || word.starts_with(['/', '\\', '~']) && word.len() > 1 || is_drive(word) {
        return Some("<path>");
    }
    if word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.')) {
        return Some("<email>");
    }
    // A relative path: two parts may as well be "and/or".
    if word.matches(['/', '\\']).count() > 1 {
        return Some("<path>");
    }
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    if digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Some("<hex>");
    }
    let is_hex = word.len() >= MIN_HEX && word.bytes().all(|b| b.is_ascii_hexdigit());
    // A word of letters only is a word, and one of digits only a number.
    (is_hex && word.bytes().any(|b| b.is_ascii_digit()) && word.bytes().any(|b| b.is_ascii_alphabetic()))
        .then_some("<hex>")
}

/// An IP address, with or without a port.
fn is_address(word: &str) -> bool {
    let host = word.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(word, |(host, _)| host);
    host.parse::<Ipv4Addr>().is_ok() || word.contains(':') && word.parse::<Ipv6Addr>().is_ok()
}

/// `C:\Users` and the like.
fn is_drive(word: &str) -> bool {
    matches!(word.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
}

/// The word with each number in it replaced: digits, and what joins them in times, dates and amounts.
fn write_without_numbers(out: &mut String, word: &str) {
    let mut rest = word;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..start]);
        out.push_str("<n>");
        let number = &rest.as_bytes()[start..];
        let joins = |at: usize| {
            matches!(number[at], b'.' | b':' | b'-' | b'_' | b'/') && number.get(at + 1).is_some_and(u8::is_ascii_digit)
        };
        let end = (0..number.len()).find(|at| !number[*at].is_ascii_digit() && !joins(*at)).unwrap_or(number.len());
        rest = &rest[start + end..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_every_time_becomes_a_placeholder() {
        for (message, expected) in [
            ("", ""),
            ("connection refused", "connection refused"),
            ("took 1,250 ms", "took <n>,<n> ms"),
            ("took 1250.5ms at 2026-11-25T02:29:18Z", "took <n>ms at <n>T<n>Z"),
            ("order 42 of user-7 is gone.", "order <n> of user-<n> is gone."),
            ("task 0190a6c0-0000-7000-8000-000000000000: no", "task <uuid>: no"),
            ("at 0x7ffdeadbeef and deadbeef01, a facade", "at <hex> and <hex>, a facade"),
            ("user \"Jane Doe\" and 'x' and `y`", "user <text> and <text> and <text>"),
            ("can't open Jane's file", "can't open Jane's file"),
            ("an open \"quote", "an open \"quote"),
            ("{\"code\":500,\"id\":\"a\"}", "{<text>:<n>,<text>:<text>}"),
            ("open /var/lib/x.db: denied", "open <path>: denied"),
            ("open C:\\Users\\x and src/a/b.rs, and/or", "open <path> and <path>, and/or"),
            ("GET https://a.example/x?id=1 failed", "GET <path>=<n> failed"),
            ("mail to jane@example.org bounced", "mail to <email> bounced"),
            ("dial 10.0.0.1:5432, ::1, fe80::1 and 1.2.3", "dial <ip>, <ip>, <ip> and <n>"),
            ("  many \n\t spaces  ", " many spaces"),
            ("größe 5µm in 東京", "größe <n>µm in 東京"),
            ("key=value7, (9) [x|3]", "key=value<n>, (<n>) [x|<n>]"),
        ] {
            assert_eq!(normalised(message), expected, "{message}");
        }
    }

    #[test]
    fn a_fingerprint_is_golden_and_depends_on_type_and_form() {
        assert_eq!(of("TIMEOUT", "took 5s"), "3c71baacf30e81f3");
        assert_eq!(of("TIMEOUT", "took 5s"), of("TIMEOUT", "took 77s"));
        assert_ne!(of("TIMEOUT", "took 5s"), of("TIMEOUT", "took 5m"));
        assert_ne!(of("TIMEOUT", "took 5s"), of("OTHER", "took 5s"));
        assert_ne!(of("a", "b"), of("ab", ""));
    }

    #[test]
    fn no_message_takes_long() {
        // What a careless pattern would take minutes for.
        for piece in ["'", "\"", "a@", "1.", "0x", "é", "/", "a\\", ":", "`'\"", "\u{1F600}"] {
            let message = piece.repeat(1 << 20);
            let start = std::time::Instant::now();
            assert_eq!(of("E", &message).len(), 16);
            assert!(start.elapsed().as_millis() < 500, "{piece}");
        }
        let beyond = |end: &str| of("E", &format!("{}{end}", "x".repeat(MAX_MESSAGE)));
        assert_eq!(beyond("one"), beyond("another"), "what comes later does not count");
    }
}
