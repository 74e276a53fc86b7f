//! Where a list begins: with the smallest set of rows, kept in the order of the list, that holds every task it is about.
//!
//! Tasks that wait, failed or were cancelled have a narrow row each, with an index in list order by state; those that run
//! are few. So a list of states without SUCCEEDED is a walk for each state, and finds three waiting tasks behind a million
//! finished ones at once. Any other list walks the tasks themselves, those of one owner if the
//! caller may see no others, those of one queue if the filter names it. Nothing
//! here changes what a list finds, only how much it has to look at.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, JoinType, Query, SelectStatement};

use super::super::{
    Store,
    error::StoreResult,
    filter::{self, Start},
    sql::{Reader, Sql},
};
use crate::{
    domain::{authority::Share, filter::Filter, task_state::TaskState},
    ids::ProjectId,
};

/// A queue with at least one in so many of the waiting tasks is met soon enough among all of them: a page of 50 after about
/// a thousand rows.
const SPARSE: i64 = 20;

/// One walk over rows in list order.
pub(super) struct Walk {
    /// The row it begins at; its columns `create_time` and `id` are the order.
    pub(super) start: Start,
    set: Set,
}

/// The rows that are walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    /// All tasks, or those of one queue.
    Tasks,
    /// The waiting ones of a state.
    Ready,
    /// Waiting ones written by a version that did not know how to list them. They are sorted, and there are none unless
    /// such a version still runs.
    Unlisted,
    /// The running ones, sorted.
    Leases,
    /// The failed or the cancelled ones.
    Closed,
}

/// The walks that find every task a filter matches, each once. None if no task can match.
pub(super) async fn of(store: &Store, project: &ProjectId, filter: &Filter, share: &Share) -> StoreResult<Vec<Walk>> {
    let tasks = vec![Walk { start: Start::TASK, set: Set::Tasks }];
    // An index has the tasks of each owner in the order of the list; any other walk would meet those of all others.
    if share.owner().is_some() {
        return Ok(tasks);
    }
    let Some(states) = filter.required_states() else { return Ok(tasks) };
    if states == [TaskState::Succeeded] {
        return Ok(vec![Walk::of_state(TaskState::Succeeded)]);
    }
    if states.contains(&TaskState::Succeeded) || filter.pinned_task().is_some() {
        return Ok(tasks);
    }
    let waiting = states.iter().any(|state| state.is_waiting());
    if let Some(queue) = filter.pinned_queue()
        && waiting
        && is_sparse_among_waiting(store, project, queue).await?
    {
        return Ok(tasks);
    }
    let mut walks: Vec<Walk> = states.into_iter().map(Walk::of_state).collect();
    // SQLite has no other writer.
    if waiting && store.has_row_locks() {
        let start = Start { alias: "r", columns: &["id", "queue", "type"], state: None };
        walks.push(Walk { start, set: Set::Unlisted });
    }
    Ok(walks)
}

/// Whether a walk over all waiting tasks would mostly meet other queues, and a walk over this queue is shorter: few of
/// those that wait are of it, and fewer ever came to it than wait in all.
async fn is_sparse_among_waiting(store: &Store, project: &ProjectId, queue: &str) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- walks::is_sparse_among_waiting
         SELECT COALESCE(SUM(CASE WHEN name = $2 THEN ready + delayed ELSE 0 END) * $3 < SUM(ready + delayed)
            AND SUM(CASE WHEN name = $2 THEN submitted ELSE 0 END) < SUM(ready + delayed), false)
         FROM queue_stat WHERE project = $1",
    );
    let rows = store.fetch(statement.text(project.as_str()).text(queue).int(SPARSE)).await?;
    rows.first().map_or(Ok(false), |row| Reader::new(row).get())
}

impl Walk {
    fn of_state(state: TaskState) -> Self {
        let (set, alias, columns): (_, _, &[&str]) = match state {
            TaskState::Pending | TaskState::Retrying => (Set::Ready, "r", &["id", "create_time", "queue", "type"]),
            TaskState::Running => (Set::Leases, "l", &["id", "queue"]),
            TaskState::Failed | TaskState::Cancelled => (Set::Closed, "c", &["id", "create_time"]),
            TaskState::Succeeded => (Set::Tasks, "t", &[]),
        };
        Self { start: Start { alias, columns, state: Some(state) }, set }
    }

    /// The walk without what it selects, its order and its end: the rows of the project that match.
    pub(super) fn select(&self, store: &Store, project: &ProjectId, filter: &Filter, share: &Share) -> SelectStatement {
        let alias = self.start.alias;
        let with = |other: &'static str| {
            Condition::all()
                .add(Expr::col((other, "project")).eq(project.as_str()))
                .add(Expr::col((other, "id")).equals((alias, "id")))
        };
        let mut select = Query::select();
        match self.set {
            Set::Tasks => select.from_as("task", "t"),
            Set::Ready | Set::Unlisted => select.from_as("ready", "r"),
            Set::Leases => select.from_as("lease", "l"),
            Set::Closed => select.from_as("closed", "c"),
        };
        select.and_where(Expr::col((alias, "project")).eq(project.as_str()));
        match (self.set, self.start.state) {
            // As literals: the planner knows then how few rows there are.
            // No task leaves SUCCEEDED, and the task's own row says nothing else before.
            (Set::Ready | Set::Closed | Set::Tasks, Some(state)) => {
                select.and_where(Expr::cust(format!("{alias}.state = {}", state.number())));
            }
            (Set::Unlisted, _) => {
                select.and_where(Expr::col(("r", "create_time")).is_null());
            }
            _ => {}
        }
        if matches!(self.set, Set::Tasks | Set::Ready) {
            // The indexes of lists hold such rows only.
            select.and_where(Expr::col((alias, "create_time")).is_not_null());
        }
        if self.set != Set::Tasks {
            join_tasks(&mut select, store).cond_where(with("t"));
        }
        if alias != "r" {
            select.join_as(JoinType::LeftJoin, "ready", "r", with("r"));
        }
        if alias != "l" {
            select.join_as(JoinType::LeftJoin, "lease", "l", with("l"));
        }
        if let Some(owner) = share.owner() {
            select.and_where(Expr::col(("t", "owner")).eq(owner));
        }
        if let Some(id) = filter.pinned_task() {
            select.and_where(self.start.column("id").eq(id));
        }
        select.cond_where(filter::condition(filter, &self.start, store.backend()));
        select
    }
}

/// Joins the tasks. SQLite, which knows little about its tables, takes them in the order in which a CROSS JOIN names them;
/// what joins them is left to the WHERE.
pub(super) fn join_tasks<'a>(select: &'a mut SelectStatement, store: &Store) -> &'a mut SelectStatement {
    let join = if store.has_row_locks() { JoinType::InnerJoin } else { JoinType::CrossJoin };
    select.join_as(join, "task", "t", Expr::cust("1 = 1"))
}
