//! `docs/reference/errors.md` is the comments of the `ErrorReason` enum, as a table.
//!
//! A comment reads `CODE. What it means. What to do.`: the first sentence is the gRPC code, the second the meaning, the
//! rest what the caller does. A comment that does not, or a page that is not up to date, fails here;
//! `UPDATE_DOCS=1` (`make docs`) writes the page.

use std::{fmt::Write, fs};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use crate::support::repository;

const PAGE: &str = "docs/reference/errors.md";
const PREFIX: &str = "ERROR_REASON_";

/// Path parts of `SourceCodeInfo`: the field numbers of `FileDescriptorProto.enum_type` and `EnumDescriptorProto.value`.
const ENUM_TYPE: i32 = 5;
const VALUE: i32 = 2;

/// All that gRPC has but OK, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const HEAD: &str = "\
<!-- Generated from the comments of ErrorReason in proto/tasktower/v1/error.proto by `make docs`. Do not edit. -->

# Errors

Every error has a gRPC code, a message for people, and a `google.rpc.ErrorInfo` with domain `tasktower` and one of the
reasons below. Programs branch on the reason; reasons, once shipped, stay. The values named in the message stand in
`ErrorInfo.metadata` too.

Beside it, where it applies:

- `google.rpc.BadRequest`: the path of each bad field, as written in the proto files, with what is wrong with it.
- `google.rpc.RetryInfo`: how long to wait before the call is repeated.
- `google.rpc.QuotaFailure`: which quota is used up.

The command line exits with 64 + the number of the code.

| Reason | Code | What it means | What to do |
|---|---|---|---|
";

struct Entry {
    reason: String,
    code: usize,
    meaning: String,
    remedy: String,
}

#[test]
fn the_page_lists_every_reason() {
    let page = page(&entries());
    let path = repository().join(PAGE);
    if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{PAGE} is not what error.proto says: run `make docs` and commit the result");
}

#[test]
fn a_comment_becomes_code_meaning_and_remedy() {
    let entry =
        parse("X", " ABORTED. Used within 24 h, `a.b` too.\n Choose a new one. Or wait.\n").expect("well formed");
    assert_eq!(CODES[entry.code], "ABORTED");
    assert_eq!(entry.meaning, "Used within 24 h, `a.b` too.");
    assert_eq!(entry.remedy, "Choose a new one. Or wait.");

    for wrong in ["", "ABORTED", "ABORTED.", "A lease is lost. Stop.", "OK. Fine."] {
        assert!(parse("X", wrong).is_err(), "{wrong:?}");
    }
}

fn page(entries: &[Entry]) -> String {
    let mut page = HEAD.to_owned();
    for Entry { reason, code, meaning, remedy } in entries {
        // An empty cell looks forgotten.
        let remedy = if remedy.is_empty() { "—" } else { remedy };
        let (meaning, remedy) = (meaning.replace('|', "\\|"), remedy.replace('|', "\\|"));
        // Writing to a string does not fail.
        let _ = writeln!(page, "| `{reason}` | {} ({code}) | {meaning} | {remedy} |", CODES[*code]);
    }
    page
}

fn entries() -> Vec<Entry> {
    let files = FileDescriptorSet::decode(tasktower::pb::DESCRIPTORS).expect("our own descriptors").file;
    let (file, index) = files
        .iter()
        .filter(|file| file.package() == "tasktower.v1")
        .find_map(|file| Some((file, file.enum_type.iter().position(|e| e.name() == "ErrorReason")?)))
        .expect("tasktower.v1.ErrorReason");
    let values = file.enum_type[index].value.iter().enumerate();
    values
        .filter(|(_, value)| value.number() != 0)
        .map(|(at, value)| {
            let reason = value.name().strip_prefix(PREFIX).expect("the prefix of the enum");
            parse(reason, comment(file, &[ENUM_TYPE, position(index), VALUE, position(at)]))
                .unwrap_or_else(|problem| panic!("the comment of {}: {problem}", value.name()))
        })
        .collect()
}

fn position(index: usize) -> i32 {
    i32::try_from(index).expect("few enough")
}

fn comment<'a>(file: &'a FileDescriptorProto, path: &[i32]) -> &'a str {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations.filter(|location| location.path == path).map(|location| location.leading_comments()).next().unwrap_or("")
}

fn parse(reason: &str, comment: &str) -> Result<Entry, String> {
    let text = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    let (code, rest) = text.split_once(". ").ok_or("it is not `CODE. What it means. What to do.`")?;
    let code = CODES.iter().position(|known| *known == code).filter(|code| *code != 0);
    let code = code.ok_or("it does not start with the name of a gRPC code")?;
    let (meaning, remedy) = match rest.split_once(". ") {
        Some((meaning, remedy)) => (format!("{meaning}."), remedy.to_owned()),
        None => (rest.to_owned(), String::new()),
    };
    Ok(Entry { reason: reason.to_owned(), code, meaning, remedy })
}
