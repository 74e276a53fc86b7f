//! Statements that carry whole columns, written once for both databases.
//!
//! A statement names its rows `{x}`. On PostgreSQL they arrive as typed arrays (`unnest`), so the text never varies with
//! their number and the prepared statement is found again. SQLite has no arrays: there the rows arrive as `VALUES` in
//! chunks of a few fixed sizes, which keeps the number of texts as small (JSON arrays were measured four times slower).
//! Scalars are `$1`, `$2` … on both.
//!
//! What stands in braces in a statement is filled in by `placeholders`.
//!
//! sea-orm binds arrays only without nulls, so these statements go to the driver below it; rows come back as sea-orm's
//! [`QueryResult`], decoded alike everywhere.

use std::fmt::Write as _;

use bytes::Bytes;
use sea_orm::QueryResult;
use sqlx::{
    AssertSqlSafe, Decode, PgConnection, Postgres, Row as _, Sqlite, SqliteConnection, Type, postgres::PgArguments,
    sqlite::SqliteArguments,
};
use uuid::Uuid;

use super::{
    error::{StoreError, StoreResult},
    placeholders::{looked_up, narrowed, renumbered},
    texts::Texts,
};

/// Rows per chunk on SQLite, largest first. The largest stays far below SQLite's 32,766 parameters.
const SQLITE_CHUNKS: [usize; 4] = [256, 32, 4, 1];

/// From so many rows on, a column in which all values are equal is sent as one value: of a batch of tasks most columns
/// are. With fewer rows it would save little, and for every choice of such columns there is another text to be prepared.
const SHARED_FROM: usize = 64;

/// How a statement ends that writes nothing and locks the rows it answers.
const LOCKS: &str = "FOR SHARE";

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
    Text(Texts),
    Int(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
    Flag(Vec<bool>),
    Blob(Vec<Option<Bytes>>),
}

impl Column {
    /// The value all rows share, as a column of one row.
    fn shared(&self) -> Option<Self> {
        fn one<T: Clone + PartialEq>(values: &[T]) -> Option<Vec<T>> {
            let (first, rest) = values.split_first()?;
            rest.iter().all(|value| value == first).then(|| vec![first.clone()])
        }
        Some(match self {
            Self::Id(values) => Self::Id(one(values)?),
            Self::Text(texts) => Self::Text(texts.shared()?),
            Self::Int(values) => Self::Int(one(values)?),
            Self::Real(values) => Self::Real(one(values)?),
            Self::Flag(values) => Self::Flag(one(values)?),
            Self::Blob(values) => Self::Blob(one(values)?),
        })
    }

    fn postgres_type(&self) -> &'static str {
        match self {
            Self::Id(_) => "uuid",
            Self::Text(_) => "text",
            Self::Int(_) => "bigint",
            Self::Real(_) => "double precision",
            Self::Flag(_) => "boolean",
            Self::Blob(_) => "bytea",
        }
    }
}

/// Rows to be joined or inserted, column by column.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    names: Vec<&'static str>,
    columns: Vec<Column>,
    /// Columns of one value for all rows.
    shared: Vec<(&'static str, Column)>,
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
        self.push(name, Column::Text(values.map(Some).collect()))
    }

    pub(super) fn opt_text<'a>(self, name: &'static str, values: impl Iterator<Item = Option<&'a str>>) -> Self {
        self.push(name, Column::Text(values.collect()))
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

    /// The array of the column `id`.
    fn postgres_ids(&self, first_parameter: usize) -> String {
        let place = self.names.iter().position(|name| *name == "id").unwrap_or(0);
        format!("= ANY(${}::uuid[])", first_parameter + place)
    }

    /// Takes out the columns in which all values are equal. Ids stay, whatever they are, and so does one column at least:
    /// something must say how many rows there are.
    fn share(&mut self) {
        if self.len < SHARED_FROM {
            return;
        }
        let columns = std::mem::take(&mut self.columns);
        let last = columns.len().saturating_sub(1);
        for (i, (name, column)) in std::mem::take(&mut self.names).into_iter().zip(columns).enumerate() {
            let stays = name == "id" || (i == last && self.columns.is_empty());
            match column.shared().filter(|_| !stays) {
                Some(value) => self.shared.push((name, value)),
                None => {
                    self.names.push(name);
                    self.columns.push(column);
                }
            }
        }
    }

    fn postgres_source(&self, first_parameter: usize) -> String {
        let mut arrays = String::new();
        for (i, column) in self.columns.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            let _ = write!(arrays, "{separator}${}::{}[]", first_parameter + i, column.postgres_type());
        }
        let mut values = String::from("u.*");
        for (i, (name, column)) in self.shared.iter().enumerate() {
            let number = first_parameter + self.columns.len() + i;
            let _ = write!(values, ", ${number}::{} AS {name}", column.postgres_type());
        }
        format!("x AS (SELECT {values} FROM unnest({arrays}) AS u({}))", self.names.join(", "))
    }

    /// Cells are anonymous parameters: SQLite finds the name of a parameter by walking over all names, so with thousands of
    /// named ones binding would take quadratic time.
    fn sqlite_source(&self, rows: usize) -> String {
        let row = format!("({})", repeated("?", self.columns.len()));
        let names = self.names.join(", ");
        let values = repeated(&row, rows);
        if self.shared.is_empty() {
            return format!("x({names}) AS (VALUES {values})");
        }
        let shared: String = self.shared.iter().map(|(name, _)| format!(", ? AS {name}")).collect();
        format!("u({names}) AS (VALUES {values}), x AS (SELECT u.*{shared} FROM u)")
    }
}

/// The same so many times, with commas.
fn repeated(text: &str, times: usize) -> String {
    let mut list = format!("{text}, ").repeat(times);
    list.truncate(list.len().saturating_sub(", ".len()));
    list
}

/// A single value.
#[derive(Clone, Debug)]
enum Scalar {
    Id(Uuid),
    OptId(Option<Uuid>),
    Text(String),
    Int(i64),
    OptInt(Option<i64>),
    OptText(Option<String>),
    Blob(Vec<u8>),
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

    pub(super) fn opt_text(mut self, value: Option<&str>) -> Self {
        self.scalars.push(Scalar::OptText(value.map(str::to_owned)));
        self
    }

    pub(super) fn blob(mut self, value: &[u8]) -> Self {
        self.scalars.push(Scalar::Blob(value.to_owned()));
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

    /// Runs it, chunk by chunk, and returns the rows all chunks answer. An order or a limit in the text is that of each chunk:
    /// a statement that needs its own takes its rows as one value, as `projects::list` does.
    pub(super) async fn fetch_sqlite(mut self, connection: &mut SqliteConnection) -> StoreResult<Vec<QueryResult>> {
        let mut found = Vec::new();
        self.share();
        let mut chunks = Chunks::of(&self);
        while let Some((text, arguments)) = chunks.next()? {
            let part = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut *connection).await?;
            found.extend(part.into_iter().map(QueryResult::from));
        }
        Ok(found)
    }

    /// Runs it, chunk by chunk, and returns how many rows all chunks changed.
    pub(super) async fn execute_sqlite(mut self, connection: &mut SqliteConnection) -> StoreResult<u64> {
        let mut affected = 0;
        self.share();
        let mut chunks = Chunks::of(&self);
        while let Some((text, arguments)) = chunks.next()? {
            affected +=
                sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?.rows_affected();
        }
        Ok(affected)
    }

    fn share(&mut self) {
        if let Some(rows) = &mut self.rows {
            rows.share();
        }
    }

    /// Whether it has nothing to do: it is about rows, and there are none.
    pub(super) fn is_idle(&self) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.len == 0)
    }

    /// Runs this statement and others in one round trip on PostgreSQL, and returns the rows this one answers.
    ///
    /// The others become its `WITH` items where it says `{others}`. Its first columns, where it says `{checks}`, make them
    /// run in their order and before the rest of it, and divide by zero if one does not change as many rows as it must:
    /// then all of it fails with a conflict. All of them see the database as it was before, and none may change a row that
    /// another one changes.
    pub(super) async fn fetch_postgres_with(
        self,
        others: Vec<(Sql, Option<usize>)>,
        connection: &mut PgConnection,
    ) -> StoreResult<Vec<QueryResult>> {
        let mut arguments = PgArguments::default();
        let mut bound = 0;
        let (mut items, mut checks) = (String::new(), String::new());
        let text = self.into_postgres(&mut arguments, &mut bound)?;
        for (i, (other, expected)) in others.into_iter().enumerate() {
            let item = other.into_postgres(&mut arguments, &mut bound)?;
            let item = item.split_once('\n').map_or(item.as_str(), |(_name, item)| item);
            let returning = if item.ends_with(LOCKS) { "" } else { " RETURNING 1" };
            let _ = write!(items, ", o{i} AS ({item}{returning})");
            let _ = match expected {
                None => write!(checks, "(SELECT count(*) FROM o{i}), "),
                Some(expected) => {
                    bind_scalar_postgres(&mut arguments, Scalar::Int(i64::try_from(expected).unwrap_or(i64::MAX)))?;
                    bound += 1;
                    write!(checks, "(SELECT 1 / (count(*) = ${bound})::integer FROM o{i}), ")
                }
            };
        }
        let text = text.replace("{others}", &items).replace("{checks}", &checks);
        let rows = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(connection).await?;
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    fn for_postgres(self) -> StoreResult<Option<(String, PgArguments)>> {
        if self.is_idle() {
            return Ok(None);
        }
        let mut arguments = PgArguments::default();
        let text = self.into_postgres(&mut arguments, &mut 0)?;
        Ok(Some((text, arguments)))
    }

    /// Binds its values after those that are `bound` already, and returns its text with their numbers.
    fn into_postgres(self, arguments: &mut PgArguments, bound: &mut usize) -> StoreResult<String> {
        let text = looked_up(self.text, true);
        let text = if *bound == 0 { text.into_owned() } else { renumbered(&text, *bound) };
        *bound += self.scalars.len();
        for scalar in self.scalars {
            bind_scalar_postgres(arguments, scalar)?;
        }
        let Some(mut rows) = self.rows else { return Ok(text) };
        rows.share();
        let text = text.replacen("{x}", &rows.postgres_source(*bound + 1), 1);
        let text = narrowed(&text, &rows.postgres_ids(*bound + 1), true);
        *bound += rows.columns.len() + rows.shared.len();
        for column in rows.columns {
            bind_column_postgres(arguments, column)?;
        }
        for (_, value) in rows.shared {
            bind_cell_postgres(arguments, value)?;
        }
        Ok(text)
    }

    fn bind_scalars_sqlite(&self, arguments: &mut SqliteArguments) -> StoreResult<()> {
        for scalar in &self.scalars {
            bound(match scalar.clone() {
                Scalar::Id(v) => add_sqlite(arguments, v),
                Scalar::OptId(v) => add_sqlite(arguments, v),
                Scalar::Text(v) => add_sqlite(arguments, v),
                Scalar::Int(v) => add_sqlite(arguments, v),
                Scalar::OptInt(v) => add_sqlite(arguments, v),
                Scalar::OptText(v) => add_sqlite(arguments, v),
                Scalar::Blob(v) => add_sqlite(arguments, v),
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
        for (_, value) in &rows.shared {
            bind_cell_sqlite(&mut arguments, value, 0)?;
        }
        self.statement.bind_scalars_sqlite(&mut arguments)?;
        // The driver counts anonymous parameters first, so the numbers of the scalars follow on theirs.
        let text = renumbered(&looked_up(self.statement.text, false), chunk * rows.columns.len() + rows.shared.len());
        self.start = Some(start + chunk);
        let text = text.replacen("{x}", &rows.sqlite_source(chunk), 1);
        Ok(Some((narrowed(&text, "IN (SELECT x.id FROM x)", false), arguments)))
    }
}

fn bind_scalar_postgres(arguments: &mut PgArguments, scalar: Scalar) -> StoreResult<()> {
    use sqlx::Arguments as _;
    bound(match scalar {
        Scalar::Id(v) => arguments.add(v),
        Scalar::OptId(v) => arguments.add(v),
        Scalar::Text(v) => arguments.add(v),
        Scalar::Int(v) => arguments.add(v),
        Scalar::OptInt(v) => arguments.add(v),
        Scalar::OptText(v) => arguments.add(v),
        Scalar::Blob(v) => arguments.add(v),
        Scalar::Flag(v) => arguments.add(v),
    })
}

fn bind_column_postgres(arguments: &mut PgArguments, column: Column) -> StoreResult<()> {
    use sqlx::Arguments as _;
    bound(match column {
        Column::Id(v) => arguments.add(v),
        Column::Text(v) => arguments.add(v.iter().collect::<Vec<Option<&str>>>()),
        Column::Int(v) => arguments.add(v),
        Column::Real(v) => arguments.add(v),
        Column::Flag(v) => arguments.add(v),
        Column::Blob(v) => arguments.add(v.iter().map(Option::as_deref).collect::<Vec<Option<&[u8]>>>()),
    })
}

fn bind_cell_postgres(arguments: &mut PgArguments, value: Column) -> StoreResult<()> {
    use sqlx::Arguments as _;
    bound(match value {
        Column::Id(mut v) => arguments.add(v.pop().flatten()),
        Column::Text(v) => arguments.add(v.get(0)),
        Column::Int(mut v) => arguments.add(v.pop().flatten()),
        Column::Real(mut v) => arguments.add(v.pop().flatten()),
        Column::Flag(mut v) => arguments.add(v.pop()),
        Column::Blob(mut v) => arguments.add(v.pop().flatten().as_deref()),
    })
}

fn bind_cell_sqlite(arguments: &mut SqliteArguments, column: &Column, row: usize) -> StoreResult<()> {
    bound(match column {
        Column::Id(v) => add_sqlite(arguments, v[row]),
        Column::Text(v) => add_sqlite(arguments, v.get(row).map(str::to_owned)),
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

/// What a column may hold. Read from the driver's row, because sea-orm writes an error message for every NULL first.
pub(super) trait Cell:
    for<'r> Decode<'r, Postgres> + Type<Postgres> + for<'r> Decode<'r, Sqlite> + Type<Sqlite>
{
}

impl<T> Cell for T where T: for<'r> Decode<'r, Postgres> + Type<Postgres> + for<'r> Decode<'r, Sqlite> + Type<Sqlite> {}

/// Reads the columns of a row from left to right.
pub(super) struct Reader<'a> {
    row: &'a QueryResult,
    next: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(row: &'a QueryResult) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn get<T: Cell>(&mut self) -> StoreResult<T> {
        let at = self.next;
        self.next += 1;
        Ok(match (self.row.try_as_pg_row(), self.row.try_as_sqlite_row()) {
            (Some(row), _) => row.try_get(at)?,
            (None, Some(row)) => row.try_get(at)?,
            (None, None) => return Err(StoreError::Bug(anyhow::anyhow!("a row of an unknown database"))),
        })
    }

    /// Passes over columns.
    pub(super) fn skip(&mut self, columns: usize) {
        self.next += columns;
    }
}

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn what_all_rows_share_is_sent_once() {
        let rows = |len: i64| {
            let mut rows =
                Rows::new(usize::try_from(len).unwrap()).int("place", 0..len).flag("due", (0..len).map(|_| true));
            rows.share();
            rows
        };
        assert_eq!(rows(2).sqlite_source(2), "x(place, due) AS (VALUES (?, ?), (?, ?))");
        assert_eq!(rows(64).sqlite_source(2), "u(place) AS (VALUES (?), (?)), x AS (SELECT u.*, ? AS due FROM u)");
        assert_eq!(
            rows(64).postgres_source(3),
            "x AS (SELECT u.*, $4::boolean AS due FROM unnest($3::bigint[]) AS u(place))"
        );
        let mut alike = Rows::new(64).flag("due", (0..64).map(|_| true));
        alike.share();
        assert_eq!(alike.postgres_source(1), "x AS (SELECT u.* FROM unnest($1::boolean[]) AS u(due))");
    }
}
