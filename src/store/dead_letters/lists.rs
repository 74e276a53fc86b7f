//! Lists of dead letters, groups of them, and what a bulk retry walks.

use sea_orm::{
    ConnectionTrait, QueryResult,
    sea_query::{Condition, Expr, ExprTrait, JoinType, Order, Query, SelectStatement},
};
use uuid::Uuid;

use super::{
    super::{
        Store,
        error::StoreResult,
        filter,
        sql::{Reader, Rows, Sql},
    },
    decode, letter_columns,
};
use crate::{
    domain::{
        dead_letter::{DeadLetter, Group},
        filter::Filter,
        task::Micros,
        task_list::Position,
    },
    ids::{BulkJobId, ProjectId, TaskId},
};

/// Counting stops here: nobody decides differently on two million than on one.
const COUNT_LIMIT: u64 = 1_000_000;
/// An analysis looks at so many entries: a few tenths of a second.
pub const SCAN_LIMIT: i64 = 100_000;

/// A page of entries that are OPEN or PROCESSED, those that failed last first.
pub async fn list(
    store: &Store,
    project: &ProjectId,
    filter: &Filter,
    after: Option<Position>,
    limit: u64,
) -> StoreResult<Vec<DeadLetter>> {
    let mut select = matching(store, project, filter);
    select.expr(Expr::cust(letter_columns!()));
    if let Some(after) = after {
        select.and_where(place().lt(place_of(after)));
    }
    select.order_by(("d", "create_time"), Order::Desc).order_by(("d", "task_id"), Order::Desc).limit(limit);
    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    rows.iter().map(|row| decode(project, &mut Reader::new(row))).collect()
}

/// How many entries match, counted up to a million.
pub async fn count(store: &Store, project: &ProjectId, filter: &Filter) -> StoreResult<i64> {
    let mut found = matching(store, project, filter);
    found.expr(Expr::val(1)).limit(COUNT_LIMIT);
    let select = Query::select().expr(Expr::cust("count(*)")).from_subquery(found, "found").to_owned();
    let row = store.in_time_for_a_list(store.reader().query_one(&select)).await?;
    row.map_or(Ok(0), |row| Reader::new(&row).get())
}

/// The largest groups among the newest [`SCAN_LIMIT`] entries that match, and how many entries were looked at.
pub async fn analyze(
    store: &Store,
    project: &ProjectId,
    filter: &Filter,
    max_groups: u64,
) -> StoreResult<(Vec<Group>, i64)> {
    let mut scanned = matching(store, project, filter);
    scanned.columns([("d", "task_id"), ("d", "fingerprint"), ("d", "create_time")]);
    scanned.order_by(("d", "create_time"), Order::Desc).order_by(("d", "task_id"), Order::Desc);
    scanned.limit(SCAN_LIMIT.unsigned_abs());
    let mut grouped = Query::select();
    grouped
        .expr(Expr::cust(
            "s.task_id, count(*) OVER (PARTITION BY s.fingerprint) AS group_count, \
             min(s.create_time) OVER (PARTITION BY s.fingerprint) AS first_time, count(*) OVER () AS scanned, \
             row_number() OVER (PARTITION BY s.fingerprint ORDER BY s.create_time DESC, s.task_id DESC) AS place",
        ))
        .from_subquery(scanned, "s");
    let mut select = Query::select();
    let same = Condition::all()
        .add(Expr::col(("d", "project")).eq(project.as_str()))
        .add(Expr::col(("d", "task_id")).equals(("g", "task_id")));
    select
        .expr(Expr::cust(letter_columns!()))
        .columns([("g", "group_count"), ("g", "first_time"), ("g", "scanned")])
        .from_subquery(grouped, "g")
        .join_as(JoinType::InnerJoin, "dead_letter", "d", same)
        .and_where(Expr::col(("g", "place")).eq(1))
        .order_by(("g", "group_count"), Order::Desc)
        .order_by(("d", "create_time"), Order::Desc)
        .order_by(("d", "task_id"), Order::Desc)
        .limit(max_groups);
    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    let (mut groups, mut scanned) = (Vec::with_capacity(rows.len()), 0);
    for row in &rows {
        let mut r = Reader::new(row);
        let sample = decode(project, &mut r)?;
        groups.push(Group { sample, count: r.get()?, first_fail_time: r.get()? });
        scanned = r.get()?;
    }
    Ok((groups, scanned))
}

/// Which entries a bulk retry is about: OPEN ones only.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Those that match. The filter asks for the state too.
    Matching(Filter),
    /// These.
    Named(Vec<TaskId>),
}

/// Places of the next entries behind a place, up to a time, the oldest first.
pub async fn next(
    store: &Store,
    project: &ProjectId,
    targets: &Targets,
    after: Option<Position>,
    until: Micros,
    limit: usize,
) -> StoreResult<Vec<Position>> {
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(Uuid::nil()) });
    let rows = match targets {
        Targets::Matching(filter) => {
            let mut select = matching(store, project, filter);
            select
                .columns([("d", "create_time"), ("d", "task_id")])
                .and_where(place().gt(place_of(after)))
                .and_where(Expr::col(("d", "create_time")).between(after.create_time, until))
                .order_by(("d", "create_time"), Order::Asc)
                .order_by(("d", "task_id"), Order::Asc)
                .limit(limit as u64);
            store.in_time_for_a_list(store.reader().query_all(&select)).await?
        }
        Targets::Named(ids) => {
            let statement = Sql::new(
                "-- dead_letters::named
                 WITH {x} SELECT d.create_time, d.task_id FROM dead_letter d
                 WHERE d.project = $1 AND d.task_id {in_x} AND d.process_time IS NULL AND d.create_time <= $2
                    AND (d.create_time, d.task_id) > ($3, $4)",
            )
            .text(project.as_str())
            .int(until)
            .int(after.create_time)
            .id(after.id.0)
            .rows(Rows::ids(ids.iter().map(|id| id.0)));
            store.fetch(statement).await?
        }
    };
    let mut places: Vec<Position> = rows.iter().map(position).collect::<StoreResult<_>>()?;
    places.sort_unstable_by_key(|place| (place.create_time, place.id));
    places.truncate(limit);
    Ok(places)
}

/// The time up to which the next `rows` entries after a place failed; none when fewer are left. A job looks at its entries
/// in stretches of that size, so that each statement is short however few of them match.
pub async fn stretch(
    store: &Store,
    project: &ProjectId,
    after: Option<Position>,
    rows: i64,
) -> StoreResult<Option<Micros>> {
    let statement = Sql::new(
        "-- dead_letters::stretch
         SELECT create_time FROM dead_letter WHERE project = $1 AND (create_time, task_id) > ($2, $3)
         ORDER BY create_time, task_id LIMIT 1 OFFSET $4",
    );
    let after = after.unwrap_or(Position { create_time: i64::MIN, id: TaskId(Uuid::nil()) });
    let statement = statement.text(project.as_str()).int(after.create_time).id(after.id.0).int(rows);
    store.fetch(statement).await?.first().map(|row| Reader::new(row).get()).transpose()
}

/// Of the first `limit` tasks that a job retried since a time: how many ended since, and how many of these failed again.
/// The row of a task says how it ended only once it has.
pub async fn outcomes(
    store: &Store,
    project: &ProjectId,
    job: BulkJobId,
    since: Micros,
    limit: i64,
) -> StoreResult<(i64, i64)> {
    let statement = Sql::new(
        "-- dead_letters::outcomes
         SELECT count(*), COALESCE(SUM(CASE WHEN t.state = 5 THEN 1 ELSE 0 END), 0)
         FROM (SELECT project, task_id FROM replay WHERE project = $1 AND bulk_job = $2 AND time > $3
            ORDER BY time LIMIT $4) y
         JOIN task t ON t.project = y.project AND t.id = y.task_id
         WHERE t.state IN (4, 5, 6)",
    );
    let statement = statement.text(project.as_str()).id(job.0).int(since).int(limit);
    let rows = store.fetch(statement).await?;
    let Some(row) = rows.first() else { return Ok((0, 0)) };
    let mut r = Reader::new(row);
    Ok((r.get()?, r.get()?))
}

/// The entries of a project that match, without what is selected of them.
fn matching(store: &Store, project: &ProjectId, filter: &Filter) -> SelectStatement {
    let mut select = Query::select();
    select
        .from_as("dead_letter", "d")
        .and_where(Expr::col(("d", "project")).eq(project.as_str()))
        .cond_where(filter::dead_letter_condition(filter, store.backend()));
    if let Some(task) = filter.pinned_task() {
        select.and_where(Expr::col(("d", "task_id")).eq(task));
    }
    select
}

fn place() -> Expr {
    Expr::tuple([Expr::col(("d", "create_time")), Expr::col(("d", "task_id"))])
}

fn place_of(position: Position) -> Expr {
    Expr::tuple([Expr::val(position.create_time), Expr::val(position.id.0)])
}

fn position(row: &QueryResult) -> StoreResult<Position> {
    let mut r = Reader::new(row);
    Ok(Position { create_time: r.get()?, id: TaskId(r.get()?) })
}
