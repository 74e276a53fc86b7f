//! A filter as a SQL condition over a task `t` with its place in the queue `r` and its lease `l`, both left-joined.
//!
//! The condition selects exactly the tasks for which `Filter::matches` is true. Two things make that so. NULL: a test
//! on a missing value is NULL, which a WHERE takes as false; negations stand only on single tests, and those say
//! `IS NOT TRUE`. So AND and OR never see a negated NULL, and indexes stay usable, which a COALESCE around every test
//! would prevent. Bytes: texts compare byte by byte on both databases, whatever their collation or their LIKE does.
//!
//! Everything the caller wrote is a bind parameter. The condition belongs in a WHERE, not under another NOT.

use sea_orm::DatabaseBackend;
use sea_orm::sea_query::extension::sqlite::SqliteExpr;
use sea_orm::sea_query::{Condition, Expr, ExprTrait, Func, LikeExpr};

use crate::domain::filter::{
    Filter, IntField, Node, Pattern, Relation, Test, TextField, TextSource, TextTest, TimeField,
};

const TASK: &str = "t";
const READY: &str = "r";
const LEASE: &str = "l";

/// The live state: a lease means RUNNING (2), a place in the queue holds the waiting state, and only a task without
/// either holds its own.
const STATE: &str =
    r#"(CASE WHEN "l"."id" IS NOT NULL THEN 2 WHEN "r"."id" IS NOT NULL THEN "r"."state" ELSE "t"."state" END)"#;

/// The condition for a WHERE.
pub(super) fn condition(filter: &Filter, backend: DatabaseBackend) -> Condition {
    node(filter.root(), Dialect::of(backend))
}

/// What differs between the databases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    fn of(backend: DatabaseBackend) -> Self {
        // The service opens only these two.
        if backend == DatabaseBackend::Sqlite { Self::Sqlite } else { Self::Postgres }
    }
}

fn node(node: &Node, dialect: Dialect) -> Condition {
    match node {
        Node::And(nodes) => nodes.iter().fold(Condition::all(), |all, part| all.add(self::node(part, dialect))),
        Node::Or(nodes) => nodes.iter().fold(Condition::any(), |any, part| any.add(self::node(part, dialect))),
        Node::Test { negated: false, test } => Condition::all().add(positive(test, dialect)),
        Node::Test { negated: true, test } => {
            Condition::all().add(positive(test, dialect).is_not(Expr::custom_keyword("TRUE")))
        }
    }
}

/// The test; NULL or false where it does not hold.
fn positive(test: &Test, dialect: Dialect) -> Expr {
    match test {
        Test::State(state) => Expr::cust(STATE).eq(state.number()),
        Test::CancelRequested => Expr::col((LEASE, "cancel_time")).is_not_null(),
        Test::Project(project) => Expr::col((TASK, "project")).eq(project.as_str()),
        Test::Id { lowest, highest } if lowest == highest => Expr::col((TASK, "id")).eq(*lowest),
        Test::Id { lowest, highest } => Expr::col((TASK, "id")).between(*lowest, *highest),
        Test::Int(field, relation, constant) => compare(int(*field), *relation, Expr::val(*constant)),
        Test::Time(field, relation, constant) => compare(time(*field), *relation, Expr::val(*constant)),
        Test::TimePresent(field) => time(*field).is_not_null(),
        Test::Text(source, TextTest::Present) => text(source, dialect).is_not_null(),
        Test::Text(source, TextTest::Compare(relation, constant)) => {
            let text = text(source, dialect);
            let text = if *relation == Relation::Equal { text } else { in_byte_order(text, dialect) };
            compare(text, *relation, Expr::val(constant.as_str()))
        }
        Test::Text(source, TextTest::Matches(pattern)) => matches(text(source, dialect), pattern, dialect),
    }
}

fn compare(value: Expr, relation: Relation, constant: Expr) -> Expr {
    match relation {
        Relation::Equal => value.eq(constant),
        Relation::Less => value.lt(constant),
        Relation::LessOrEqual => value.lte(constant),
        Relation::Greater => value.gt(constant),
        Relation::GreaterOrEqual => value.gte(constant),
    }
}

fn int(field: IntField) -> Expr {
    match field {
        IntField::Priority => Expr::col((TASK, "priority")),
        IntField::AttemptCount => newest("attempt_count"),
        IntField::CrashCount => newest("crash_count"),
    }
}

fn time(field: TimeField) -> Expr {
    match field {
        TimeField::Create => Expr::col((TASK, "create_time")),
        TimeField::Update => newest("update_time"),
        TimeField::Run => first([READY, TASK], "run_time"),
        TimeField::Finish => Expr::col((TASK, "finish_time")),
        TimeField::Expire => Expr::col((TASK, "expire_time")),
    }
}

fn text(source: &TextSource, dialect: Dialect) -> Expr {
    let column = match source {
        TextSource::Label(key) => return label(key, dialect),
        TextSource::Field(TextField::Worker) => (LEASE, "worker"),
        TextSource::Field(TextField::Type) => (TASK, "type"),
        TextSource::Field(TextField::Queue) => (TASK, "queue"),
        TextSource::Field(TextField::Owner) => (TASK, "owner"),
        TextSource::Field(TextField::UniqueKey) => (TASK, "unique_key"),
        TextSource::Field(TextField::ErrorType) => (TASK, "error_type"),
        TextSource::Field(TextField::ErrorMessage) => (TASK, "error_message"),
    };
    Expr::col(column)
}

/// A column that the lease holds while the task runs, the queue while it waits, and the task otherwise.
fn newest(column: &'static str) -> Expr {
    first([LEASE, READY, TASK], column)
}

fn first<const N: usize>(tables: [&'static str; N], column: &'static str) -> Expr {
    Func::coalesce(tables.map(|table| Expr::col((table, column)))).into()
}

fn label(key: &str, dialect: Dialect) -> Expr {
    match dialect {
        Dialect::Postgres => Expr::cust_with_values(r#"("t"."labels"::jsonb ->> $1::text)"#, [key]),
        // The parser lets no quote and no backslash into a key, so these quotes hold it.
        Dialect::Sqlite => Expr::cust_with_values(r#"json_extract("t"."labels", ?)"#, [format!("$.\"{key}\"")]),
    }
}

/// PostgreSQL orders texts by the rules of a language unless told otherwise; SQLite by bytes.
fn in_byte_order(text: Expr, dialect: Dialect) -> Expr {
    match dialect {
        Dialect::Postgres => Expr::cust_with_expr(r#"($1 COLLATE "C")"#, text),
        Dialect::Sqlite => text,
    }
}

/// LIKE on PostgreSQL; GLOB on SQLite, whose LIKE takes `a` and `A` for the same.
fn matches(text: Expr, pattern: &Pattern, dialect: Dialect) -> Expr {
    match dialect {
        Dialect::Postgres => text.like(LikeExpr::new(like_pattern(pattern)).escape('\\')),
        Dialect::Sqlite => text.glob(glob_pattern(pattern)),
    }
}

fn like_pattern(pattern: &Pattern) -> String {
    let escape = |part: &str| part.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    pattern.parts().map(escape).collect::<Vec<_>>().join("%")
}

fn glob_pattern(pattern: &Pattern) -> String {
    // `[` first, because the other two bring new ones.
    let escape = |part: &str| part.replace('[', "[[]").replace('*', "[*]").replace('?', "[?]");
    pattern.parts().map(escape).collect::<Vec<_>>().join("*")
}

#[cfg(test)]
mod tests;
