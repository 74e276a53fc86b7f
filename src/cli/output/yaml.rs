//! Writes JSON values as YAML. Only what JSON can say is needed, so a page of code stands in for a crate.

use std::fmt::Write;

use serde_json::Value;

use super::json::whole_number;

const INDENT: &str = "  ";

/// A whole document, without a line end.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0);
    out.truncate(out.trim_end_matches('\n').len());
    out
}

/// Writes a value that starts at the current column; collections use lines of their own at `depth`.
fn node(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, field)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(&INDENT.repeat(depth));
                }
                out.push_str(&text(key));
                out.push(':');
                if is_block(field) {
                    out.push('\n');
                    out.push_str(&INDENT.repeat(depth + 1));
                    node(out, field, depth + 1);
                } else {
                    out.push(' ');
                    node(out, field, depth);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(&INDENT.repeat(depth));
                }
                out.push_str("- ");
                node(out, item, depth + 1);
            }
        }
        scalar => {
            // Writing to a string cannot fail.
            let _ = match scalar {
                Value::Null => write!(out, "null"),
                Value::Bool(flag) => write!(out, "{flag}"),
                Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()).and_then(whole_number) {
                    Some(whole) => write!(out, "{whole}"),
                    None => write!(out, "{number}"),
                },
                Value::String(string) => write!(out, "{}", text(string)),
                Value::Array(_) => write!(out, "[]"),
                Value::Object(_) => write!(out, "{{}}"),
            };
            out.push('\n');
        }
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// A string bare if every YAML reader takes it for that string, else in double quotes, whose escapes are those of JSON.
fn text(string: &str) -> String {
    if is_plain(string) { string.to_owned() } else { Value::String(string.to_owned()).to_string() }
}

fn is_plain(string: &str) -> bool {
    let starts_plain = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let all_plain = string.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.' | '@' | '+'));
    // YAML 1.1 readers take these words for booleans and nulls.
    let taken = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    starts_plain && all_plain && !taken.contains(&string.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nests_objects_and_lists() {
        let value = json!({
            "name": "projects/default/tasks/x",
            "labels": {"team": "core", "empty": {}},
            "list": [1, {"a": true, "b": [null, []]}, "two words"],
        });
        assert_eq!(
            document(&value),
            "labels:\n  empty: {}\n  team: core\nlist:\n  - 1\n  - a: true\n    b:\n      - null\n      - []\n  - \"two \
             words\"\nname: projects/default/tasks/x"
        );
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for string in ["", "true", "No", "12", "1e3", "- x", "a: b", "#c", "null", "2026-11-20T00:00:00Z", "é", "a\nb"]
        {
            assert!(text(string).starts_with('"'), "{string}");
        }
        assert_eq!(text("email.send"), "email.send");
        assert_eq!(document(&json!("a\nb")), "\"a\\nb\"");
    }

    #[test]
    fn lists_of_lists_keep_their_place() {
        assert_eq!(document(&json!([[1, 2], [3]])), "- - 1\n  - 2\n- - 3");
    }
}
