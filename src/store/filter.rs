//! A filter as a SQL condition over a task `t` with its place in the queue `r` and its lease `l`, both left-joined; or
//! over a dead letter `d`, or a row of the journal `j`.
//!
//! A statement may begin at another table that holds one row for each task it is about, all of one state. That is its
//! [`Start`]: what that row holds is tested there, so that its indexes can be used and the task need not be read.
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
use uuid::Uuid;

use crate::domain::{
    dead_letter::DeadLetterState,
    filter::{
        AuditField, ChoiceField, Filter, IntField, Node, Pattern, Relation, Test, TextField, TextSource, TextTest,
        TimeField,
    },
    task_state::TaskState,
};

const TASK: &str = "t";
const READY: &str = "r";
const LEASE: &str = "l";
const DEAD_LETTER: &str = "d";
const JOURNAL: &str = "j";

/// The live state: a lease means RUNNING (2), a place in the queue holds the waiting state, and only a task without
/// either holds its own.
const STATE: &str =
    r#"(CASE WHEN "l"."id" IS NOT NULL THEN 2 WHEN "r"."id" IS NOT NULL THEN "r"."state" ELSE "t"."state" END)"#;

/// The name of what a row of the journal is about: a task is kept by its id alone.
const POSTGRES_RESOURCE: &str =
    r#"COALESCE("j"."resource", 'projects/' || "j"."project" || '/tasks/' || "j"."task_id"::text)"#;
const SQLITE_RESOURCE: &str = r#"COALESCE("j"."resource", 'projects/' || "j"."project" || '/tasks/' || lower(
    substr(hex("j"."task_id"), 1, 8) || '-' || substr(hex("j"."task_id"), 9, 4) || '-' ||
    substr(hex("j"."task_id"), 13, 4) || '-' || substr(hex("j"."task_id"), 17, 4) || '-' ||
    substr(hex("j"."task_id"), 21)))"#;

/// The row a statement begins at.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// What the statement calls it.
    pub(super) alias: &'static str,
    /// The columns it has in common with `task`, of those that never differ from there.
    pub(super) columns: &'static [&'static str],
    /// The live state of every task that has such a row; none if it can be any.
    pub(super) state: Option<TaskState>,
}

impl Start {
    /// At the task itself.
    pub(super) const TASK: Self = Self { alias: TASK, columns: &[], state: None };

    /// A column of the task, from here if it is here.
    pub(super) fn column(&self, name: &'static str) -> Expr {
        Expr::col((if self.columns.contains(&name) { self.alias } else { TASK }, name))
    }
}

/// The condition for a WHERE, over tasks.
pub(super) fn condition(filter: &Filter, start: &Start, backend: DatabaseBackend) -> Condition {
    Translation { source: Source::Task(start), dialect: Dialect::of(backend) }.node(filter.root())
}

/// The condition for a WHERE, over dead letters.
pub(super) fn dead_letter_condition(filter: &Filter, backend: DatabaseBackend) -> Condition {
    Translation { source: Source::DeadLetter, dialect: Dialect::of(backend) }.node(filter.root())
}

/// The condition for a WHERE, over rows of the journal.
pub(super) fn audit_condition(filter: &Filter, backend: DatabaseBackend) -> Condition {
    Translation { source: Source::Journal, dialect: Dialect::of(backend) }.node(filter.root())
}

/// Where the values are.
#[derive(Clone, Copy)]
enum Source<'a> {
    Task(&'a Start),
    DeadLetter,
    Journal,
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

/// What a condition is written for.
struct Translation<'a> {
    source: Source<'a>,
    dialect: Dialect,
}

impl Translation<'_> {
    fn node(&self, node: &Node) -> Condition {
        match node {
            Node::And(nodes) => nodes.iter().fold(Condition::all(), |all, part| all.add(self.node(part))),
            Node::Or(nodes) => nodes.iter().fold(Condition::any(), |any, part| any.add(self.node(part))),
            Node::Test { negated: false, test } => Condition::all().add(self.positive(test)),
            Node::Test { negated: true, test } => {
                Condition::all().add(self.positive(test).is_not(Expr::custom_keyword("TRUE")))
            }
        }
    }

    /// The test; NULL or false where it does not hold.
    fn positive(&self, test: &Test) -> Expr {
        match self.source {
            Source::Task(start) => self.of_task(start, test),
            Source::DeadLetter => self.of_dead_letter(test),
            Source::Journal => self.of_journal(test),
        }
    }

    fn of_task(&self, start: &Start, test: &Test) -> Expr {
        match test {
            Test::State(state) => match start.state {
                Some(known) => Expr::cust(if known == *state { "(1 = 1)" } else { "(1 = 0)" }),
                None => Expr::cust(STATE).eq(state.number()),
            },
            Test::CancelRequested => Expr::col((LEASE, "cancel_time")).is_not_null(),
            Test::Project(project) => start.column("project").eq(project.as_str()),
            Test::Id { lowest, highest } => between(start.column("id"), *lowest, *highest),
            Test::Int(field, relation, constant) => compare(int(*field), *relation, Expr::val(*constant)),
            Test::Time(field, relation, constant) => compare(time(start, *field), *relation, Expr::val(*constant)),
            Test::TimePresent(field) => time(start, *field).is_not_null(),
            Test::Text(source, test) => match self.text(start, source) {
                Some(text) => self.text_test(text, test),
                None => nothing(),
            },
            Test::Choice(..) | Test::Kinds(_) => nothing(),
        }
    }

    fn text(&self, start: &Start, source: &TextSource) -> Option<Expr> {
        let column = match source {
            TextSource::Label(key) => return Some(label(key, self.dialect)),
            TextSource::Field(TextField::Worker) => return Some(Expr::col((LEASE, "worker"))),
            TextSource::Field(TextField::Fingerprint | TextField::Audit(_)) => return None,
            TextSource::Field(TextField::Type) => "type",
            TextSource::Field(TextField::Queue) => "queue",
            TextSource::Field(TextField::Owner) => "owner",
            TextSource::Field(TextField::UniqueKey) => "unique_key",
            TextSource::Field(TextField::ErrorType) => "error_type",
            TextSource::Field(TextField::ErrorMessage) => "error_message",
        };
        Some(start.column(column))
    }

    fn of_dead_letter(&self, test: &Test) -> Expr {
        let column = |name: &'static str| Expr::col((DEAD_LETTER, name));
        match test {
            Test::Choice(ChoiceField::DeadLetterReason, number) => column("reason").eq(*number),
            Test::Choice(ChoiceField::DeadLetterState, number) => {
                let time = column("process_time");
                if *number == DeadLetterState::Open as i16 { time.is_null() } else { time.is_not_null() }
            }
            Test::Project(project) => column("project").eq(project.as_str()),
            Test::Id { lowest, highest } => between(column("task_id"), *lowest, *highest),
            Test::Time(TimeField::Create, relation, constant) => {
                compare(column("create_time"), *relation, Expr::val(*constant))
            }
            Test::TimePresent(TimeField::Create) => column("create_time").is_not_null(),
            Test::Text(TextSource::Field(field), test) => {
                let name = match field {
                    TextField::Type => "type",
                    TextField::Queue => "queue",
                    TextField::ErrorType => "error_type",
                    TextField::ErrorMessage => "error_message",
                    TextField::Fingerprint => "fingerprint",
                    TextField::Owner | TextField::UniqueKey | TextField::Worker | TextField::Audit(_) => {
                        return nothing();
                    }
                };
                self.text_test(column(name), test)
            }
            Test::State(_)
            | Test::CancelRequested
            | Test::Kinds(_)
            | Test::Int(..)
            | Test::Time(..)
            | Test::TimePresent(_)
            | Test::Text(TextSource::Label(_), _) => nothing(),
        }
    }

    fn of_journal(&self, test: &Test) -> Expr {
        let column = |name: &'static str| Expr::col((JOURNAL, name));
        match test {
            Test::Kinds(kinds) => column("kind").is_in(kinds.iter().copied()),
            Test::Time(TimeField::Create, relation, constant) => {
                compare(column("time"), *relation, Expr::val(*constant))
            }
            Test::TimePresent(TimeField::Create) => column("time").is_not_null(),
            Test::Text(TextSource::Field(TextField::Audit(field)), test) => {
                let text = match field {
                    AuditField::Actor => column("actor"),
                    AuditField::Credential => column("credential"),
                    AuditField::Method => column("method"),
                    AuditField::RequestId => column("request_id"),
                    AuditField::Address => column("address"),
                    AuditField::Agent => column("agent"),
                    AuditField::Resource => Expr::cust(match self.dialect {
                        Dialect::Postgres => POSTGRES_RESOURCE,
                        Dialect::Sqlite => SQLITE_RESOURCE,
                    }),
                };
                self.text_test(text, test)
            }
            _ => nothing(),
        }
    }

    fn text_test(&self, text: Expr, test: &TextTest) -> Expr {
        match test {
            TextTest::Present => text.is_not_null(),
            TextTest::Compare(relation, constant) => {
                let text = if *relation == Relation::Equal { text } else { in_byte_order(text, self.dialect) };
                compare(text, *relation, Expr::val(constant.as_str()))
            }
            TextTest::Matches(pattern) => matches(text, pattern, self.dialect),
        }
    }
}

/// A test on a value that is not there.
fn nothing() -> Expr {
    Expr::cust("(1 = 0)")
}

fn between(id: Expr, lowest: Uuid, highest: Uuid) -> Expr {
    if lowest == highest { id.eq(lowest) } else { id.between(lowest, highest) }
}

fn time(start: &Start, field: TimeField) -> Expr {
    match field {
        TimeField::Create => start.column("create_time"),
        TimeField::Update => newest("update_time"),
        TimeField::Run => first([READY, TASK], "run_time"),
        TimeField::Finish => Expr::col((TASK, "finish_time")),
        TimeField::Expire => Expr::col((TASK, "expire_time")),
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
