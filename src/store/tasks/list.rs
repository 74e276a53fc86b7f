//! Read tasks: some by id, a page, the attempts of one. Reads see committed state and lock nothing.

use sea_orm::{
    ConnectionTrait,
    sea_query::{Condition, Expr, ExprTrait, JoinType, Order, Query, SelectStatement},
};

use super::{
    super::{
        Store,
        error::StoreResult,
        filter,
        sql::{Reader, Rows, Sql},
    },
    decode::{self, COLUMNS, PAYLOAD_COLUMNS, attempt_columns, named_tasks, payload_columns, task_columns},
};
use crate::{
    domain::{
        filter::Filter,
        task::{Attempt, Task},
        task_list::ListQuery,
        task_state::TaskState,
    },
    ids::{ProjectId, TaskId},
};

/// Counting stops here: nobody decides differently on two million than on one.
pub const COUNT_LIMIT: i64 = 1_000_000;

/// Tasks by id; those that do not exist are left out.
pub async fn get(store: &Store, project: &ProjectId, ids: &[TaskId], full: bool) -> StoreResult<Vec<Task>> {
    let basic = concat!("-- tasks::get\nWITH {x} SELECT ", task_columns!(), " FROM ", named_tasks!());
    let everything =
        concat!("-- tasks::get\nWITH {x} SELECT ", task_columns!(), ", ", payload_columns!(), " FROM ", named_tasks!());
    let statement = Sql::new(if full { everything } else { basic });
    let rows = store.fetch(statement.text(project.as_str()).rows(Rows::ids(ids.iter().map(|id| id.0)))).await?;
    rows.iter().map(|row| decode::task(project, row, full).map(|decoded| decoded.task)).collect()
}

/// A page of tasks in the order of the list, and the revision of the project it was read at: both in one statement, so
/// that a watch can start exactly where the page ends. An empty page has no row to carry the revision.
pub async fn list(store: &Store, project: &ProjectId, query: &ListQuery) -> StoreResult<(Vec<Task>, Option<i64>)> {
    let mut select = base(store, project, &query.filter);
    select.expr(Expr::cust(task_columns!()));
    if query.full {
        select.expr(Expr::cust(payload_columns!()));
    }
    let order = if query.ascending { Order::Asc } else { Order::Desc };
    let (time, id) = (Expr::col(("t", "create_time")), Expr::col(("t", "id")));
    if let Some(after) = query.after {
        let place = Expr::tuple([time.clone(), id.clone()]);
        let last = Expr::tuple([Expr::val(after.create_time), Expr::val(after.id.0)]);
        select.and_where(if query.ascending { place.gt(last) } else { place.lt(last) });
    }
    select.order_by_expr(time, order.clone()).order_by_expr(id, order).limit(query.limit);
    let of_project = Condition::all().add(Expr::col(("n", "project")).equals(("t", "project")));
    select.join_as(JoinType::InnerJoin, "counter", "n", of_project).column(("n", "revision"));

    let rows = store.reader().query_all(&select).await?;
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
pub async fn count(store: &Store, project: &ProjectId, filter: &Filter, extra: &[TaskState]) -> StoreResult<i64> {
    let mut matching = base(store, project, filter);
    matching.expr(Expr::val(1)).limit(COUNT_LIMIT.unsigned_abs());
    if !extra.is_empty() {
        matching.cond_where(states_condition(extra));
    }
    let mut select = Query::select();
    select.expr(Expr::cust("count(*)")).from_subquery(matching, "matching");
    let row = store.reader().query_one(&select).await?;
    row.map_or(Ok(0), |row| Ok(row.try_get_by_index(0)?))
}

fn states_condition(states: &[TaskState]) -> Condition {
    let live = "(CASE WHEN l.id IS NOT NULL THEN 2 WHEN r.id IS NOT NULL THEN r.state ELSE t.state END)";
    Condition::all().add(Expr::cust(live).is_in(states.iter().map(|state| state.number())))
}

/// `FROM task t` with its live rows, the project and the filter. When the filter pins the state, the narrow table of that
/// state is joined for real, so that the planner may start from it.
fn base(store: &Store, project: &ProjectId, filter: &Filter) -> SelectStatement {
    let states = filter.required_states().unwrap_or_else(|| TaskState::ALL.to_vec());
    let only = |allowed: &[TaskState]| states.iter().all(|state| allowed.contains(state));
    let join = |inner: bool| if inner { JoinType::InnerJoin } else { JoinType::LeftJoin };
    let on = |alias: &'static str| {
        Condition::all()
            .add(Expr::col((alias, "project")).equals(("t", "project")))
            .add(Expr::col((alias, "id")).equals(("t", "id")))
    };
    let waiting = only(&[TaskState::Pending, TaskState::Retrying]);
    let mut select = Query::select();
    select
        .from_as("task", "t")
        .join_as(join(waiting), "ready", "r", if waiting { on("r").add(state_of("r", &states)) } else { on("r") })
        .join_as(join(only(&[TaskState::Running])), "lease", "l", on("l"));
    if only(&[TaskState::Failed, TaskState::Cancelled]) {
        select.join_as(
            JoinType::InnerJoin,
            "closed",
            "c",
            on("c").add(Expr::col(("c", "create_time")).equals(("t", "create_time"))).add(state_of("c", &states)),
        );
    }
    if let Some(id) = filter.pinned_task() {
        select.and_where(Expr::col(("t", "id")).eq(id));
    }
    select
        .and_where(Expr::col(("t", "project")).eq(project.as_str()))
        .cond_where(filter::condition(filter, store.backend()));
    select
}

/// The state of a narrow table, as literals: the planner knows then how few rows there are.
fn state_of(alias: &'static str, states: &[TaskState]) -> Expr {
    let numbers: Vec<String> = states.iter().map(|state| state.number().to_string()).collect();
    // No state at all: the filter contradicts itself and nothing matches.
    Expr::cust(if numbers.is_empty() {
        "1 = 0".to_owned()
    } else {
        format!("{alias}.state IN ({})", numbers.join(", "))
    })
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
        " FROM attempt a WHERE a.project = $1 AND a.task_id = $2 AND a.epoch > $3 ORDER BY a.epoch LIMIT $4"
    ));
    let rows = store.fetch(statement.text(project.as_str()).id(task.0).int(after).int(limit)).await?;
    rows.iter().map(|row| decode::attempt(&mut Reader::new(row))).collect()
}
