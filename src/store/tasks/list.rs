//! Read tasks: some by id, a page, the attempts of one. Reads see committed state and lock nothing.

use sea_orm::{
    ConnectionTrait,
    sea_query::{Condition, Expr, ExprTrait, JoinType, Order, Query, SelectStatement, UnionType},
};

use super::{
    super::{
        KeyReader, Store,
        error::StoreResult,
        sql::{Reader, Rows, Sql, sqlite_chunk},
    },
    decode::{self, COLUMNS, PAYLOAD_COLUMNS, attempt_columns, named_tasks, payload_columns, task_columns},
    walks,
};
use crate::{
    domain::{
        authority::Share,
        filter::Filter,
        task::{Attempt, AttemptOutcome, Task},
        task_list::ListQuery,
    },
    ids::{ProjectId, TaskId},
};

/// Counting stops here: nobody decides differently on two million than on one.
pub const COUNT_LIMIT: i64 = 1_000_000;

/// What tasks are found by on PostgreSQL: one after the other by their keys, whatever the planner thinks of the tables.
/// OFFSET 0 keeps it from joining them in its own way: a plan made while they were empty would read them whole. A task that
/// waits does not run, so a lease is looked for only where nothing waits.
macro_rules! by_key {
    () => {
        " FROM x JOIN LATERAL (SELECT * FROM task k WHERE k.project = $1 AND k.id = x.id OFFSET 0) t ON true \
         LEFT JOIN LATERAL (SELECT * FROM ready k WHERE k.project = $1 AND k.id = x.id OFFSET 0) r ON true \
         LEFT JOIN LATERAL (SELECT * FROM lease k WHERE k.project = $1 AND k.id = x.id AND r.id IS NULL OFFSET 0) l \
         ON true"
    };
}

/// SQLite looks tasks up by their keys anyway.
macro_rules! joined {
    () => {
        concat!(" FROM ", named_tasks!())
    };
}

macro_rules! get {
    ($source:ident, basic) => {
        concat!("-- tasks::get\nWITH {x} SELECT ", task_columns!(), $source!())
    };
    ($source:ident, full) => {
        concat!("-- tasks::get\nWITH {x} SELECT ", task_columns!(), ", ", payload_columns!(), $source!())
    };
}

/// Tasks by id; those that do not exist are left out.
pub async fn get(reader: &mut KeyReader, project: &ProjectId, ids: &[TaskId], full: bool) -> StoreResult<Vec<Task>> {
    let (text, len) = match (reader.is_postgres(), full) {
        (true, false) => (get!(by_key, basic), ids.len()),
        (true, true) => (get!(by_key, full), ids.len()),
        (false, false) => (get!(joined, basic), sqlite_chunk(ids.len())),
        (false, true) => (get!(joined, full), sqlite_chunk(ids.len())),
    };
    let ids = ids.iter().map(|id| Some(id.0)).chain(std::iter::repeat(None)).take(len);
    let statement = Sql::new(text).text(project.as_str()).rows(Rows::new(len).opt_id("id", ids));
    let rows = reader.fetch(statement).await?;
    rows.iter().map(|row| decode::task(project, row, full).map(|decoded| decoded.task)).collect()
}

/// A page of tasks in the order of the list, and the revision of the project it was read at: both in one statement, so
/// that a watch can start exactly where the page ends. An empty page has no row to carry the revision.
pub async fn list(store: &Store, project: &ProjectId, query: &ListQuery) -> StoreResult<(Vec<Task>, Option<i64>)> {
    let order = if query.ascending { Order::Asc } else { Order::Desc };
    let found = walks::of(store, project, &query.filter, &query.share).await?.into_iter().map(|walk| {
        let mut keys = walk.select(store, project, &query.filter, &query.share);
        let (time, id) = (walk.start.column("create_time"), walk.start.column("id"));
        if let Some(after) = query.after {
            let place = Expr::tuple([time.clone(), id.clone()]);
            let last = Expr::tuple([Expr::val(after.create_time), Expr::val(after.id.0)]);
            keys.and_where(if query.ascending { place.gt(last) } else { place.lt(last) });
        }
        keys.expr_as(time.clone(), "create_time").expr_as(id.clone(), "id");
        keys.order_by_expr(time, order.clone()).order_by_expr(id, order.clone()).limit(query.limit).to_owned()
    });
    let Some(keys) = all_of(found) else { return Ok((Vec::new(), None)) };

    let by_key = |alias: &'static str| {
        Condition::all()
            .add(Expr::col((alias, "project")).eq(project.as_str()))
            .add(Expr::col((alias, "id")).equals(("k", "id")))
    };
    let mut select = Query::select();
    select.expr(Expr::cust(task_columns!())).from_subquery(keys, "k");
    walks::join_tasks(&mut select, store)
        .cond_where(by_key("t"))
        .join_as(JoinType::LeftJoin, "ready", "r", by_key("r"))
        .join_as(JoinType::LeftJoin, "lease", "l", by_key("l"))
        .join_as(JoinType::InnerJoin, "counter", "n", Expr::col(("n", "project")).eq(project.as_str()));
    if query.full {
        select.expr(Expr::cust(payload_columns!()));
    }
    select.column(("n", "revision"));
    select.order_by(("k", "create_time"), order.clone()).order_by(("k", "id"), order).limit(query.limit);

    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    let mut tasks = Vec::with_capacity(rows.len());
    let mut revision = None;
    for row in &rows {
        tasks.push(decode::task(project, row, query.full)?.task);
        let columns = if query.full { COLUMNS + PAYLOAD_COLUMNS } else { COLUMNS };
        revision = Some(row.try_get_by_index::<i64>(columns)?);
    }
    Ok((tasks, revision))
}

/// How many tasks match, counted up to [`COUNT_LIMIT`].
pub async fn count(store: &Store, project: &ProjectId, filter: &Filter) -> StoreResult<i64> {
    let found = walks::of(store, project, filter, &Share::All).await?.into_iter().map(|walk| {
        let mut found = walk.select(store, project, filter, &Share::All);
        found.expr(Expr::val(1)).limit(COUNT_LIMIT.unsigned_abs()).to_owned()
    });
    let Some(found) = all_of(found) else { return Ok(0) };
    let select = Query::select().expr(Expr::cust("count(*)")).from_subquery(found, "found").to_owned();
    let row = store.in_time_for_a_list(store.reader().query_one(&select)).await?;
    row.map_or(Ok(0), |row| Ok(Ord::min(row.try_get_by_index(0)?, COUNT_LIMIT)))
}

/// All rows of some statements; none of no statement. Each is a subquery, because it has an order and a limit of its own.
fn all_of(statements: impl Iterator<Item = SelectStatement>) -> Option<SelectStatement> {
    let whole = |part| Query::select().expr(Expr::cust("*")).from_subquery(part, "part").to_owned();
    statements.map(whole).reduce(|mut all, part| all.union(UnionType::All, part).to_owned())
}

/// The ended attempts of a task with an epoch beyond `after`, the first one first.
pub async fn attempts(
    store: &Store,
    project: &ProjectId,
    task: TaskId,
    after: i64,
    limit: i64,
) -> StoreResult<Vec<Attempt>> {
    let statement = Sql::new(concat!(
        "-- tasks::attempts\nSELECT ",
        attempt_columns!(),
        " FROM attempt a WHERE a.project = $1 AND a.task_id = $2 AND a.epoch > $3
         UNION ALL SELECT t.epoch, t.success_worker, CAST($5 AS smallint), t.success_start_time, t.finish_time, NULL, NULL,
            NULL, t.success_progress_percent, t.success_progress_message, NULL, t.attempt_count, NULL, NULL, NULL, NULL,
            NULL
         FROM task t WHERE t.project = $1 AND t.id = $2 AND t.epoch > $3 AND t.success_worker IS NOT NULL
         ORDER BY 1 LIMIT $4"
    ));
    let statement = statement.text(project.as_str()).id(task.0).int(after).int(limit);
    let rows = store.fetch(statement.int(AttemptOutcome::Succeeded as i64)).await?;
    rows.iter().map(|row| decode::attempt(&mut Reader::new(row))).collect()
}
