//! Whole rows of the journal, for the audit: a page that matches a filter, some by revision, and where the journal ends.
//!
//! Nothing but (project, revision) is indexed, because every row is written on the hot path. So a filter looks at the rows of
//! a stretch of revisions one by one; the caller says how long that is.

use sea_orm::{
    ConnectionTrait,
    sea_query::{Expr, ExprTrait, Order, Query},
};
use uuid::Uuid;

use super::{
    Store,
    error::StoreResult,
    filter,
    sql::{Reader, Sql},
};
use crate::{
    domain::{
        audit::{JournalRow, check::Standing},
        event::ResourceKind,
        filter::Filter,
        transition::EventKind,
    },
    ids::{ProjectId, TaskId},
};

macro_rules! row_columns {
    () => {
        "j.revision, j.time, j.kind, j.task_id, j.resource, j.version, j.from_state, j.to_state, j.actor, j.owner, \
         j.request_id, j.address, j.agent, j.credential, j.method, j.diff, j.snapshot"
    };
}

fn decode(project: &ProjectId, r: &mut Reader<'_>) -> StoreResult<JournalRow> {
    Ok(JournalRow {
        project: project.clone(),
        revision: r.get()?,
        time: r.get()?,
        kind: r.get()?,
        task: r.get::<Option<Uuid>>()?.map(TaskId),
        resource: r.get()?,
        version: r.get()?,
        from_state: r.get()?,
        to_state: r.get()?,
        actor: r.get()?,
        owner: r.get()?,
        request_id: r.get()?,
        address: r.get()?,
        agent: r.get()?,
        credential: r.get()?,
        method: r.get()?,
        diff: r.get()?,
        snapshot: r.get()?,
    })
}

/// A stretch of revisions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

/// The rows of a stretch that match, but for reports of progress, in the order of revisions or against it.
pub async fn matching(
    store: &Store,
    project: &ProjectId,
    filter: &Filter,
    stretch: Stretch,
    ascending: bool,
    limit: u64,
) -> StoreResult<Vec<JournalRow>> {
    let column = |name: &'static str| Expr::col(("j", name));
    let order = if ascending { Order::Asc } else { Order::Desc };
    let mut select = Query::select();
    select
        .expr(Expr::cust(row_columns!()))
        .from_as("journal", "j")
        .and_where(column("project").eq(project.as_str()))
        .and_where(column("revision").between(stretch.from, stretch.to))
        .and_where(column("kind").ne(EventKind::Progressed as i16))
        .cond_where(filter::audit_condition(filter, store.backend()))
        .order_by(("j", "revision"), order)
        .limit(limit);
    let rows = store.in_time_for_a_list(store.reader().query_all(&select)).await?;
    rows.iter().map(|row| decode(project, &mut Reader::new(row))).collect()
}

/// The rows of a stretch, in order, at most `limit`.
pub async fn rows(store: &Store, project: &ProjectId, stretch: Stretch, limit: i64) -> StoreResult<Vec<JournalRow>> {
    let statement = Sql::new(concat!(
        "-- audit::rows\nSELECT ",
        row_columns!(),
        " FROM journal j WHERE j.project = $1 AND j.revision >= $2 AND j.revision <= $3 ORDER BY j.revision LIMIT $4"
    ));
    let statement = statement.text(project.as_str()).int(stretch.from).int(stretch.to).int(limit);
    store.fetch(statement).await?.iter().map(|row| decode(project, &mut Reader::new(row))).collect()
}

/// What a project's journal says of itself, and the first row that is there; none when there is no such project.
pub async fn standing(store: &Store, project: &ProjectId) -> StoreResult<Option<(Standing, Option<i64>)>> {
    // The rows first: the counter is raised with them, so it is never behind what was read before.
    let ends = Sql::new("-- audit::ends\nSELECT min(revision), max(revision) FROM journal WHERE project = $1");
    let rows = store.fetch(ends.text(project.as_str())).await?;
    let mut ends: (Option<i64>, Option<i64>) = (None, None);
    if let Some(row) = rows.first() {
        let mut r = Reader::new(row);
        ends = (r.get()?, r.get()?);
    }
    let counter = Sql::new("-- audit::standing\nSELECT oldest, revision FROM counter WHERE project = $1");
    let rows = store.fetch_by_key(counter.text(project.as_str())).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut r = Reader::new(row);
    let (oldest, last) = (r.get()?, r.get()?);
    Ok(Some((Standing { oldest, last, end: ends.1.unwrap_or(0) }, ends.0)))
}

/// How many rows a stretch has.
pub async fn count(store: &Store, project: &ProjectId, stretch: Stretch) -> StoreResult<i64> {
    let statement = Sql::new(
        "-- audit::count\nSELECT count(*) FROM journal WHERE project = $1 AND revision >= $2 AND revision <= $3",
    );
    let rows = store.fetch(statement.text(project.as_str()).int(stretch.from).int(stretch.to)).await?;
    rows.first().map_or(Ok(0), |row| Reader::new(row).get())
}

/// The last row of a stretch that says that retention cut off the old end.
pub async fn last_trim(store: &Store, project: &ProjectId, stretch: Stretch) -> StoreResult<Option<JournalRow>> {
    let statement = Sql::new(concat!(
        "-- audit::last_trim\nSELECT ",
        row_columns!(),
        " FROM journal j WHERE j.project = $1 AND j.revision >= $2 AND j.revision <= $3 AND j.kind = $4
         ORDER BY j.revision DESC LIMIT 1"
    ));
    let statement = statement.text(project.as_str()).int(stretch.from).int(stretch.to);
    let rows = store.fetch(statement.int(ResourceKind::RetentionTrimmed as i64)).await?;
    rows.first().map(|row| decode(project, &mut Reader::new(row))).transpose()
}
