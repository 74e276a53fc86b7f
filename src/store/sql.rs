//! Statements that carry whole columns, written once for both databases.
//!
//! A statement names its rows `{x}`. On PostgreSQL they arrive as typed arrays (`unnest`), so the text never varies with
//! their number and the prepared statement is found again. SQLite has no arrays: there the rows arrive as `VALUES` in
//! chunks of a few fixed sizes, which keeps the number of texts as small (JSON arrays were measured four times slower).
//! Scalars are `$1`, `$2` … on both.
//!
//! sea-orm binds arrays only without nulls, so these statements go to the driver below it; rows come back as sea-orm's
//! [`QueryResult`], decoded alike everywhere.

use std::fmt::Write as _;

use bytes::Bytes;
use sea_orm::QueryResult;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection, postgres::PgArguments, sqlite::SqliteArguments};
use uuid::Uuid;

use super::error::{StoreError, StoreResult};

/// Rows per chunk on SQLite, largest first. The largest stays far below SQLite's 32,766 parameters.
const SQLITE_CHUNKS: [usize; 4] = [256, 32, 4, 1];

/// The size of the chunk that holds so many rows; several of the largest if there are more. Rows that match nothing fill
/// it up: one statement then instead of one for each power that makes up the number.
pub(super) fn sqlite_chunk(rows: usize) -> usize {
    let [largest, ..] = SQLITE_CHUNKS;
    SQLITE_CHUNKS.into_iter().rev().find(|size| *size >= rows).unwrap_or_else(|| rows.next_multiple_of(largest))
}

/// One column of rows.
#[derive(Clone, Debug)]
enum Column {
    Id(Vec<Option<Uuid>>),
    Text(Vec<Option<String>>),
    Int(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
    Flag(Vec<bool>),
    Blob(Vec<Option<Bytes>>),
}

/// Rows to be joined or inserted, column by column.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    names: Vec<&'static str>,
    columns: Vec<Column>,
    len: usize,
}

impl Rows {
    pub(super) fn new(len: usize) -> Self {
        Self { len, ..Self::default() }
    }

    /// One column of ids, the most common rows.
    pub(super) fn ids(ids: impl ExactSizeIterator<Item = Uuid>) -> Self {
        Self::new(ids.len()).id("id", ids)
    }

    pub(super) fn id(self, name: &'static str, values: impl Iterator<Item = Uuid>) -> Self {
        self.push(name, Column::Id(values.map(Some).collect()))
    }

    pub(super) fn opt_id(self, name: &'static str, values: impl Iterator<Item = Option<Uuid>>) -> Self {
        self.push(name, Column::Id(values.collect()))
    }

    pub(super) fn text<'a>(self, name: &'static str, values: impl Iterator<Item = &'a str>) -> Self {
        self.push(name, Column::Text(values.map(|v| Some(v.to_owned())).collect()))
    }

    pub(super) fn opt_text<'a>(self, name: &'static str, values: impl Iterator<Item = Option<&'a str>>) -> Self {
        self.push(name, Column::Text(values.map(|v| v.map(str::to_owned)).collect()))
    }

    pub(super) fn opt_string(self, name: &'static str, values: impl Iterator<Item = Option<String>>) -> Self {
        self.push(name, Column::Text(values.collect()))
    }

    pub(super) fn int(self, name: &'static str, values: impl Iterator<Item = i64>) -> Self {
        self.push(name, Column::Int(values.map(Some).collect()))
    }

    pub(super) fn opt_int(self, name: &'static str, values: impl Iterator<Item = Option<i64>>) -> Self {
        self.push(name, Column::Int(values.collect()))
    }

    pub(super) fn opt_real(self, name: &'static str, values: impl Iterator<Item = Option<f64>>) -> Self {
        self.push(name, Column::Real(values.collect()))
    }

    pub(super) fn flag(self, name: &'static str, values: impl Iterator<Item = bool>) -> Self {
        self.push(name, Column::Flag(values.collect()))
    }

    pub(super) fn blob(self, name: &'static str, values: impl Iterator<Item = Option<Bytes>>) -> Self {
        self.push(name, Column::Blob(values.collect()))
    }

    fn push(mut self, name: &'static str, column: Column) -> Self {
        self.names.push(name);
        self.columns.push(column);
        self
    }

    fn postgres_source(&self, first_parameter: usize) -> String {
        let mut arrays = String::new();
        for (i, column) in self.columns.iter().enumerate() {
            let kind = match column {
                Column::Id(_) => "uuid",
                Column::Text(_) => "text",
                Column::Int(_) => "bigint",
                Column::Real(_) => "double precision",
                Column::Flag(_) => "boolean",
                Column::Blob(_) => "bytea",
            };
            let separator = if i == 0 { "" } else { ", " };
            let _ = write!(arrays, "{separator}${}::{kind}[]", first_parameter + i);
        }
        format!("x AS (SELECT * FROM unnest({arrays}) AS x({}))", self.names.join(", "))
    }

    /// Cells are anonymous parameters: SQLite finds the name of a parameter by walking over all names, so with thousands of
    /// named ones binding would take quadratic time.
    fn sqlite_source(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns.len()].join(", "));
        format!("x({}) AS (VALUES {})", self.names.join(", "), vec![row; rows].join(", "))
    }
}

/// A single value.
#[derive(Clone, Debug)]
enum Scalar {
    Id(Uuid),
    OptId(Option<Uuid>),
    Text(String),
    Int(i64),
    OptInt(Option<i64>),
    Flag(bool),
}

/// A statement with its values.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    text: &'static str,
    scalars: Vec<Scalar>,
    rows: Option<Rows>,
}

impl Sql {
    /// A statement; it begins with a comment that names the function it is from, for slow-query logs.
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, scalars: Vec::new(), rows: None }
    }

    pub(super) fn id(mut self, value: Uuid) -> Self {
        self.scalars.push(Scalar::Id(value));
        self
    }

    pub(super) fn opt_id(mut self, value: Option<Uuid>) -> Self {
        self.scalars.push(Scalar::OptId(value));
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.scalars.push(Scalar::Text(value.to_owned()));
        self
    }

    pub(super) fn int(mut self, value: i64) -> Self {
        self.scalars.push(Scalar::Int(value));
        self
    }

    pub(super) fn opt_int(mut self, value: Option<i64>) -> Self {
        self.scalars.push(Scalar::OptInt(value));
        self
    }

    pub(super) fn flag(mut self, value: bool) -> Self {
        self.scalars.push(Scalar::Flag(value));
        self
    }

    pub(super) fn rows(mut self, rows: Rows) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Runs it and returns the rows it answers. Without rows to send there is nothing to do.
    pub(super) async fn fetch_postgres(self, connection: &mut PgConnection) -> StoreResult<Vec<QueryResult>> {
        let Some((text, arguments)) = self.for_postgres()? else { return Ok(Vec::new()) };
        let rows = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(connection).await?;
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    /// Runs it and returns how many rows it changed.
    pub(super) async fn execute_postgres(self, connection: &mut PgConnection) -> StoreResult<u64> {
        let Some((text, arguments)) = self.for_postgres()? else { return Ok(0) };
        Ok(sqlx::query_with(AssertSqlSafe(text), arguments).execute(connection).await?.rows_affected())
    }

    /// Runs it, chunk by chunk, and returns the rows all chunks answer.
    pub(super) async fn fetch_sqlite(self, connection: &mut SqliteConnection) -> StoreResult<Vec<QueryResult>> {
        let mut found = Vec::new();
        let mut chunks = Chunks::of(&self);
        while let Some((text, arguments)) = chunks.next()? {
            let part = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut *connection).await?;
            found.extend(part.into_iter().map(QueryResult::from));
        }
        Ok(found)
    }

    /// Runs it, chunk by chunk, and returns how many rows all chunks changed.
    pub(super) async fn execute_sqlite(self, connection: &mut SqliteConnection) -> StoreResult<u64> {
        let mut affected = 0;
        let mut chunks = Chunks::of(&self);
        while let Some((text, arguments)) = chunks.next()? {
            affected +=
                sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?.rows_affected();
        }
        Ok(affected)
    }

    fn for_postgres(self) -> StoreResult<Option<(String, PgArguments)>> {
        let mut arguments = PgArguments::default();
        let count = self.scalars.len();
        for scalar in self.scalars {
            bind_scalar_postgres(&mut arguments, scalar)?;
        }
        let Some(rows) = self.rows else { return Ok(Some((self.text.to_owned(), arguments))) };
        if rows.len == 0 {
            return Ok(None);
        }
        let source = rows.postgres_source(count + 1);
        for column in rows.columns {
            bind_column_postgres(&mut arguments, column)?;
        }
        Ok(Some((self.text.replacen("{x}", &source, 1), arguments)))
    }

    fn bind_scalars_sqlite(&self, arguments: &mut SqliteArguments) -> StoreResult<()> {
        for scalar in &self.scalars {
            bound(match scalar.clone() {
                Scalar::Id(v) => add_sqlite(arguments, v),
                Scalar::OptId(v) => add_sqlite(arguments, v),
                Scalar::Text(v) => add_sqlite(arguments, v),
                Scalar::Int(v) => add_sqlite(arguments, v),
                Scalar::OptInt(v) => add_sqlite(arguments, v),
                Scalar::Flag(v) => add_sqlite(arguments, v),
            })?;
        }
        Ok(())
    }
}

/// A statement for SQLite, in chunks of its rows.
struct Chunks<'a> {
    statement: &'a Sql,
    /// The next row; none when there is nothing left.
    start: Option<usize>,
}

impl<'a> Chunks<'a> {
    fn of(statement: &'a Sql) -> Self {
        Self { statement, start: Some(0) }
    }

    fn next(&mut self) -> StoreResult<Option<(String, SqliteArguments)>> {
        let Some(start) = self.start.take() else { return Ok(None) };
        let mut arguments = SqliteArguments::default();
        let Some(rows) = &self.statement.rows else {
            self.statement.bind_scalars_sqlite(&mut arguments)?;
            return Ok(Some((self.statement.text.to_owned(), arguments)));
        };
        let left = rows.len - start;
        if left == 0 {
            return Ok(None);
        }
        let chunk = SQLITE_CHUNKS.into_iter().find(|size| *size <= left).unwrap_or(1);
        for row in start..start + chunk {
            for column in &rows.columns {
                bind_cell_sqlite(&mut arguments, column, row)?;
            }
        }
        self.statement.bind_scalars_sqlite(&mut arguments)?;
        // The driver counts anonymous parameters first, so the numbers of the scalars follow on theirs.
        let text = renumbered(self.statement.text, chunk * rows.columns.len());
        self.start = Some(start + chunk);
        Ok(Some((text.replacen("{x}", &rows.sqlite_source(chunk), 1), arguments)))
    }
}

/// The statement with `offset` added to the number of each `$n`.
fn renumbered(text: &str, offset: usize) -> String {
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

fn bind_scalar_postgres(arguments: &mut PgArguments, scalar: Scalar) -> StoreResult<()> {
    use sqlx::Arguments as _;
    bound(match scalar {
        Scalar::Id(v) => arguments.add(v),
        Scalar::OptId(v) => arguments.add(v),
        Scalar::Text(v) => arguments.add(v),
        Scalar::Int(v) => arguments.add(v),
        Scalar::OptInt(v) => arguments.add(v),
        Scalar::Flag(v) => arguments.add(v),
    })
}

fn bind_column_postgres(arguments: &mut PgArguments, column: Column) -> StoreResult<()> {
    use sqlx::Arguments as _;
    bound(match column {
        Column::Id(v) => arguments.add(v),
        Column::Text(v) => arguments.add(v),
        Column::Int(v) => arguments.add(v),
        Column::Real(v) => arguments.add(v),
        Column::Flag(v) => arguments.add(v),
        Column::Blob(v) => arguments.add(v.iter().map(Option::as_deref).collect::<Vec<Option<&[u8]>>>()),
    })
}

fn bind_cell_sqlite(arguments: &mut SqliteArguments, column: &Column, row: usize) -> StoreResult<()> {
    bound(match column {
        Column::Id(v) => add_sqlite(arguments, v[row]),
        Column::Text(v) => add_sqlite(arguments, v[row].clone()),
        Column::Int(v) => add_sqlite(arguments, v[row]),
        Column::Real(v) => add_sqlite(arguments, v[row]),
        Column::Flag(v) => add_sqlite(arguments, v[row]),
        Column::Blob(v) => add_sqlite(arguments, v[row].as_deref().map(<[u8]>::to_vec)),
    })
}

fn add_sqlite<'t, T>(arguments: &mut SqliteArguments, value: T) -> Result<(), sqlx::error::BoxDynError>
where
    T: sqlx::Encode<'t, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    use sqlx::Arguments as _;
    arguments.add(value)
}

fn bound(outcome: Result<(), sqlx::error::BoxDynError>) -> StoreResult<()> {
    outcome.map_err(|cause| StoreError::Bug(anyhow::anyhow!("bind a value: {cause}")))
}

/// Reads the columns of a row from left to right.
pub(super) struct Reader<'a> {
    row: &'a QueryResult,
    next: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(row: &'a QueryResult) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn get<T: sea_orm::TryGetable>(&mut self) -> StoreResult<T> {
        let value = self.row.try_get_by_index(self.next)?;
        self.next += 1;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::renumbered;

    #[test]
    fn scalars_are_numbered_after_the_cells() {
        assert_eq!(renumbered("a = $1 AND b = $12 OR $2", 100), "a = $101 AND b = $112 OR $102");
        assert_eq!(renumbered("no parameters", 5), "no parameters");
    }
}
