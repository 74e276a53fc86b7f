//! The text of a statement, written once for both databases: what stands in braces becomes what each of them wants.
//!
//! `id {in_x}` is true for the ids of the rows: `= ANY(array)` on PostgreSQL, a subquery on SQLite. `{and t.id in_x}` is
//! the same for PostgreSQL only, and stands where a join says so already: PostgreSQL keeps plans, and one made while a
//! table was small would go on reading all of it when it no longer is. With it, whichever plan is kept walks over the
//! named rows only.
//!
//! `FROM {of attempt a by task_id epoch}` are the rows of a table that `x` names by these columns, as `a` beside `x`, and
//! `UPDATE lease SET … {at lease by id}` is about those; on PostgreSQL so is `DELETE FROM lease {at lease by id}`. There
//! they are looked up one after the other, so that there is no other plan to be kept.

use std::{borrow::Cow, fmt::Write as _};

/// The statement with the rows that `x` names in the places for them. OFFSET 0 keeps PostgreSQL from joining in its own way.
pub(super) fn looked_up(text: &str, is_postgres: bool) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, place)) = rest.split_once("{of ").or_else(|| rest.split_once("{at ")) {
        let is_update = rest[before.len()..].starts_with("{at ");
        let (place, after) = place.split_once('}').unwrap_or((place, ""));
        let mut words = place.split_ascii_whitespace();
        let table = words.next().unwrap_or_default();
        let alias = words.next().filter(|word| *word != "by").unwrap_or(table);
        let same = |of: &str| {
            let columns = words.clone().filter(|word| *word != "by");
            columns.fold(format!("{of}.project = $1"), |all, column| format!("{all} AND {of}.{column} = x.{column}"))
        };
        out.push_str(before);
        let _ = match (is_update, is_postgres) {
            (false, true) => {
                write!(out, "x CROSS JOIN LATERAL (SELECT * FROM {table} k WHERE {} OFFSET 0) {alias}", same("k"))
            }
            (false, false) => write!(out, "x JOIN {table} {alias} ON {}", same(alias)),
            (true, true) => write!(
                out,
                "{} (SELECT x.*, k.ctid AS place FROM x CROSS JOIN LATERAL \
                 (SELECT k.ctid FROM {table} k WHERE {} OFFSET 0) k) x WHERE {table}.ctid = x.place",
                if before.ends_with(&format!("DELETE FROM {table} ")) { "USING" } else { "FROM" },
                same("k")
            ),
            (true, false) => write!(out, "FROM x WHERE {}", same(table)),
        };
        rest = after;
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The statement with `ids`, a comparison with the ids of the rows, in the places for it; those of `{and … in_x}` too, or
/// these left out.
pub(super) fn narrowed(text: &str, ids: &str, also: bool) -> String {
    let mut parts = text.split("{and ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (column, rest) = part.split_once(" in_x}").unwrap_or(("", part));
        if also {
            let _ = write!(out, "AND {column} {ids}");
        }
        out.push_str(rest);
    }
    out.replace("{in_x}", ids)
}

/// The statement with `offset` added to the number of each `$n`.
pub(super) fn renumbered(text: &str, offset: usize) -> String {
    let mut parts = text.split('$');
    let mut out = String::with_capacity(text.len() + 32);
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let number: usize = part[..digits].parse().unwrap_or(0);
        let _ = write!(out, "${}{}", number + offset, &part[digits..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_where_the_statement_says() {
        let text = "DELETE FROM t USING x WHERE a {in_x} AND t.id = x.id {and t.id in_x}";
        assert_eq!(narrowed(text, "= $1", true), "DELETE FROM t USING x WHERE a = $1 AND t.id = x.id AND t.id = $1");
        assert_eq!(narrowed(text, "= $1", false), "DELETE FROM t USING x WHERE a = $1 AND t.id = x.id ");
    }

    #[test]
    fn rows_are_looked_up_one_by_one_on_postgres_and_joined_on_sqlite() {
        let read = "SELECT a.epoch FROM {of attempt a by task_id epoch}";
        assert_eq!(
            looked_up(read, true),
            "SELECT a.epoch FROM x CROSS JOIN LATERAL (SELECT * FROM attempt k WHERE k.project = $1 \
             AND k.task_id = x.task_id AND k.epoch = x.epoch OFFSET 0) a"
        );
        assert_eq!(
            looked_up(read, false),
            "SELECT a.epoch FROM x JOIN attempt a ON a.project = $1 AND a.task_id = x.task_id AND a.epoch = x.epoch"
        );
        let update = "UPDATE lease SET version = x.version {at lease by id} RETURNING 1";
        assert_eq!(
            looked_up(update, true),
            "UPDATE lease SET version = x.version FROM (SELECT x.*, k.ctid AS place FROM x CROSS JOIN LATERAL \
             (SELECT k.ctid FROM lease k WHERE k.project = $1 AND k.id = x.id OFFSET 0) k) x WHERE lease.ctid = x.place \
             RETURNING 1"
        );
        assert_eq!(
            looked_up(update, false),
            "UPDATE lease SET version = x.version FROM x WHERE lease.project = $1 AND lease.id = x.id RETURNING 1"
        );
        assert_eq!(
            looked_up("DELETE FROM lease {at lease by id} AND lease.version = x.version", true),
            "DELETE FROM lease USING (SELECT x.*, k.ctid AS place FROM x CROSS JOIN LATERAL \
             (SELECT k.ctid FROM lease k WHERE k.project = $1 AND k.id = x.id OFFSET 0) k) x WHERE lease.ctid = x.place \
             AND lease.version = x.version"
        );
    }

    #[test]
    fn scalars_are_numbered_after_the_cells() {
        assert_eq!(renumbered("a = $1 AND b = $12 OR $2", 100), "a = $101 AND b = $112 OR $102");
        assert_eq!(renumbered("no parameters", 5), "no parameters");
    }
}
