//! The journal: append with the state it describes, read by revision.
//!
//! The project's counter is raised as the last write before COMMIT, together with the insert of the batch's rows. From
//! then until COMMIT the counter row is locked, so revision order is commit order and the numbers are dense: a reader
//! that asks for `revision > n` sees no hole, ever.

use std::sync::Arc;

use sea_orm::QueryResult;
use uuid::Uuid;

use super::{
    CommitError, Store, Tx,
    error::{StoreError, StoreResult},
    idempotency::{self, NewAnswer},
    queues::{self, StatDelta},
    sql::{Reader, Rows, Sql},
};
use crate::{
    context::CallerInfo,
    domain::{
        event::{Event, ResourceKind, Subject},
        snapshot,
        task::Micros,
        transition::{Change, EventKind},
    },
    faults::Mutant,
    ids::{ProjectId, TaskId},
};

/// More than a project's journal grows while the outcome of a commit is looked for, at the fastest that was measured.
const RECENT_REVISIONS: i64 = 500_000;

/// A row to be appended.
#[derive(Debug)]
pub struct Entry<'a> {
    caller: &'a CallerInfo,
    time: Micros,
    kind: i16,
    subject: EntrySubject<'a>,
}

#[derive(Debug)]
enum EntrySubject<'a> {
    Task(&'a Change),
    Resource { name: String, version: i64, diff: Option<String> },
}

impl<'a> Entry<'a> {
    /// The row of a change of a task.
    pub fn of_change(change: &'a Change, caller: &'a CallerInfo) -> Self {
        let time = change.after.update_time;
        Self { caller, time, kind: change.kind as i16, subject: EntrySubject::Task(change) }
    }

    /// The row of a change of another resource; `diff` holds its old and new values as JSON.
    pub fn of_resource(
        kind: ResourceKind,
        name: String,
        time: Micros,
        diff: Option<String>,
        caller: &'a CallerInfo,
    ) -> Self {
        Self { caller, time, kind: kind as i16, subject: EntrySubject::Resource { name, version: 0, diff } }
    }

    fn change(&self) -> Option<&'a Change> {
        match self.subject {
            EntrySubject::Task(change) => Some(change),
            EntrySubject::Resource { .. } => None,
        }
    }
}

/// The columns of a row, from `x`; `base` is the revision before the first.
macro_rules! insert_rows {
    ($base:literal, $from:literal) => {
        concat!(
            "INSERT INTO journal (project, revision, time, kind, task_id, resource, version, from_state, to_state, actor, \
             owner, request_id, address, agent, credential, method, diff, snapshot) SELECT $1, ",
            $base,
            " + x.place, x.time, x.kind, x.task_id, x.resource, x.version, x.from_state, x.to_state, x.actor, x.owner, \
             x.request_id, x.address, x.agent, x.credential, x.method, x.diff, x.snapshot FROM ",
            $from
        )
    };
}

/// Appends rows in order and returns the revision of the first. None when the project has no counter: it does not exist.
pub async fn append(tx: &mut Tx, project: &ProjectId, entries: &[Entry<'_>]) -> StoreResult<Option<i64>> {
    append_batch(tx, project, entries, &[]).await
}

/// Appends rows, and adds to the figures of the queues. On PostgreSQL this is one round trip with all that the batch
/// deferred, because other commits of the project wait from the moment the counter is raised: so it comes after the
/// deferred, and the rows and the figures, which read what it returns, after it.
pub async fn append_batch(
    tx: &mut Tx,
    project: &ProjectId,
    entries: &[Entry<'_>],
    stats: &[StatDelta],
) -> StoreResult<Option<i64>> {
    if tx.is_postgres() && !Mutant::CursorBySequence.is_on() {
        let (statement, after) = append_statement(APPEND, project, entries, stats)?;
        return first_of(&tx.fetch_together(statement, after).await?);
    }
    let count = i64::try_from(entries.len()).map_err(|cause| StoreError::Bug(cause.into()))?;
    let raise = Sql::new(
        "-- journal::append
         UPDATE counter SET revision = revision + $2 WHERE project = $1 RETURNING revision - $2",
    );
    let rows = tx.fetch(raise.text(project.as_str()).int(count)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let base: i64 = Reader::new(row).get()?;
    if Mutant::CursorBySequence.is_on() {
        tx.split().await?;
    }
    let insert = Sql::new(concat!("-- journal::append\nWITH {x} ", insert_rows!("$2", "x")));
    tx.execute(insert.text(project.as_str()).int(base).rows(rows_of(entries))).await?;
    queues::add_stats(tx, project, stats).await?;
    Ok(Some(base + 1))
}

/// The append that is the last of what an [optimistic](Tx::is_optimistic) transaction writes.
#[derive(Debug)]
pub struct LastAppend {
    statement: Sql,
    /// What reads the revision that the statement takes.
    after: Vec<Sql>,
}

impl LastAppend {
    /// As [`append_batch`].
    pub fn new(project: &ProjectId, entries: &[Entry<'_>], stats: &[StatDelta]) -> StoreResult<Self> {
        let (statement, after) = append_statement(LAST_APPEND, project, entries, stats)?;
        Ok(Self { statement, after })
    }

    /// Also keeps answers, whose revisions count from the first of the batch.
    pub fn keep(&mut self, project: &ProjectId, answers: &[NewAnswer], now: Micros) {
        if !answers.is_empty() {
            self.after.push(idempotency::insert_after_raise(project, answers, now));
        }
    }

    /// Writes it with all that was deferred, and commits. Answers the revision of the first row. If the project has no
    /// counter, the statement fails, so that nothing is written.
    pub async fn commit(self, tx: Tx) -> Result<Option<i64>, CommitError> {
        let rows = tx.only(self.statement, self.after).await?;
        first_of(&rows).map_err(CommitError::Unknown)
    }
}

/// On PostgreSQL: the counter, then the rows, between what was deferred and the figures; `first` is what it answers.
macro_rules! append {
    ($first:literal) => {
        concat!(
            "-- journal::append
             WITH {x}, raised AS (
                UPDATE counter SET revision = revision + $2 WHERE project = $1 RETURNING revision - $2 AS base
             ), added AS (",
            insert_rows!("raised.base", "x, raised"),
            "){others} SELECT {checks}",
            $first,
            " AS first"
        )
    };
}

const APPEND: &str = append!("(SELECT base + 1 FROM raised)");
/// Divides by zero without a counter.
const LAST_APPEND: &str = append!("(SELECT coalesce(max(base) + 1, 1) / count(*) FROM raised)");

fn append_statement(
    text: &'static str,
    project: &ProjectId,
    entries: &[Entry<'_>],
    stats: &[StatDelta],
) -> StoreResult<(Sql, Vec<Sql>)> {
    let count = i64::try_from(entries.len()).map_err(|cause| StoreError::Bug(cause.into()))?;
    let figures = queues::add_stats_after_raise(project, stats);
    let statement = Sql::new(text).text(project.as_str()).int(count).rows(rows_of(entries));
    let after = Some(figures).filter(|figures| !figures.is_idle());
    Ok((statement, after.into_iter().collect()))
}

fn first_of(rows: &[QueryResult]) -> StoreResult<Option<i64>> {
    Ok(rows.first().map(|row| row.try_get_by("first")).transpose()?.flatten())
}

fn rows_of(entries: &[Entry<'_>]) -> Rows {
    let changes = || entries.iter().map(Entry::change);
    let callers = || entries.iter().map(|e| e.caller);
    Rows::new(entries.len())
        .int("place", (1..).take(entries.len()))
        .int("time", entries.iter().map(|e| e.time))
        .int("kind", entries.iter().map(|e| e.kind.into()))
        .opt_id("task_id", changes().map(|c| c.map(|c| c.after.id.0)))
        .opt_text(
            "resource",
            entries.iter().map(|e| match &e.subject {
                EntrySubject::Task(_) => None,
                EntrySubject::Resource { name, .. } => Some(name.as_str()),
            }),
        )
        .int(
            "version",
            entries.iter().map(|e| match &e.subject {
                EntrySubject::Task(change) => change.after.version,
                EntrySubject::Resource { version, .. } => *version,
            }),
        )
        .opt_int("from_state", changes().map(|c| c.and_then(|c| c.before.as_ref()).map(|t| (t.state as u8).into())))
        .opt_int("to_state", changes().map(|c| c.map(|c| (c.after.state as u8).into())))
        .text("actor", callers().map(|c| &*c.principal))
        .opt_text("owner", changes().map(|c| c.map(|c| c.after.spec.owner.as_str())))
        .opt_text("request_id", callers().map(|c| Some(c.request_id.as_str()).filter(|id| !id.is_empty())))
        .opt_text("address", callers().map(|c| c.address.as_deref()))
        .opt_text("agent", callers().map(|c| c.agent.as_deref()))
        .opt_text("credential", callers().map(|c| c.credential.as_deref()))
        .opt_text("method", callers().map(|c| c.method.as_deref()))
        .opt_string(
            "diff",
            entries.iter().map(|e| match &e.subject {
                EntrySubject::Task(c) => c.before.as_ref().map(|before| snapshot::encode_diff(before, &c.after)),
                EntrySubject::Resource { diff, .. } => diff.clone(),
            }),
        )
        .opt_string("snapshot", changes().map(|c| c.map(|c| snapshot::encode(&c.after))))
}

/// Where a project's journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its last revision; 0 when nothing happened yet.
    pub last: i64,
    /// The first revision still kept.
    pub oldest: i64,
}

/// Where a project's journal stands now; none when the project does not exist.
pub async fn position(store: &Store, project: &ProjectId) -> StoreResult<Option<Position>> {
    let statement = Sql::new("-- journal::position\nSELECT revision, oldest FROM counter WHERE project = $1");
    let rows = store.fetch_by_key(statement.text(project.as_str())).await?;
    rows.first()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok(Position { last: r.get()?, oldest: r.get()? })
        })
        .transpose()
}

/// The last revision of each of some projects.
pub async fn positions(store: &Store, projects: &[ProjectId]) -> StoreResult<Vec<(ProjectId, i64)>> {
    let statement = Sql::new(
        "-- journal::positions
         WITH {x} SELECT c.project, c.revision FROM x JOIN counter c ON c.project = x.project",
    )
    .rows(Rows::new(projects.len()).text("project", projects.iter().map(ProjectId::as_str)));
    let rows = store.fetch(statement).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let project: String = r.get()?;
            Ok((ProjectId::new(&project), r.get()?))
        })
        .collect()
}

/// The rows after a revision, in order, at most `limit`.
pub async fn read(store: &Store, project: &ProjectId, after: i64, limit: i64) -> StoreResult<Vec<Event>> {
    let statement = Sql::new(
        "-- journal::read
         SELECT revision, time, kind, task_id, resource, version, actor, owner, diff, snapshot
         FROM journal WHERE project = $1 AND revision > $2 ORDER BY revision LIMIT $3",
    );
    let rows = store.fetch(statement.text(project.as_str()).int(after).int(limit)).await?;
    rows.iter().map(|row| event(project, &mut Reader::new(row))).collect()
}

fn event(project: &ProjectId, r: &mut Reader<'_>) -> StoreResult<Event> {
    let (revision, time): (i64, i64) = (r.get()?, r.get()?);
    let kind: i16 = r.get()?;
    let task_id: Option<Uuid> = r.get()?;
    let resource: Option<String> = r.get()?;
    let version: i64 = r.get()?;
    let actor: String = r.get()?;
    let owner: Option<String> = r.get()?;
    let diff: Option<String> = r.get()?;
    let snapshot: Option<String> = r.get()?;
    let subject = match task_id {
        Some(id) => {
            let row =
                snapshot::Row { project, id: TaskId(id), version, time, owner: owner.as_deref().unwrap_or_default() };
            let text = snapshot.as_deref().unwrap_or_default();
            let (after, before) =
                snapshot::decode(&row, text, diff.as_deref()).map_err(|cause| StoreError::Bug(cause.into()))?;
            // A newer version may know more ways a task changes; the task before and after say what matters.
            let kind = EventKind::try_from(kind).unwrap_or(EventKind::Updated);
            Subject::Task { kind, before: before.map(Arc::new), after: Arc::new(after) }
        }
        None => Subject::Resource {
            kind: ResourceKind::try_from(kind).unwrap_or(ResourceKind::Unknown),
            name: Arc::from(resource.unwrap_or_default()),
        },
    };
    Ok(Event { project: project.clone(), revision, time, actor: Arc::from(actor), subject })
}

/// The revision of a change whose COMMIT got no answer; none if it is not there. `expected` is what it must be, if that is
/// known. Waits for the project's counter first, so that a COMMIT under way on the broken connection has ended either way.
///
/// A statement that has not come so far may still end later. Whoever submits again does so under the same id, and of two
/// rows with one id the second is refused.
pub async fn find_committed(
    store: &Store,
    project: &ProjectId,
    change: &Change,
    expected: Option<i64>,
) -> StoreResult<Option<i64>> {
    let mut tx = store.begin().await?;
    let counter = Sql::new(if tx.is_postgres() {
        "-- journal::find_committed\nSELECT revision FROM counter WHERE project = $1 FOR UPDATE"
    } else {
        "-- journal::find_committed\nSELECT revision FROM counter WHERE project = $1"
    });
    let rows = tx.fetch(counter.text(project.as_str())).await?;
    let last: i64 = rows.first().map(|row| Reader::new(row).get()).transpose()?.unwrap_or_default();
    let statement = Sql::new(
        "-- journal::find_committed
         SELECT revision FROM journal
         WHERE project = $1 AND revision BETWEEN $2 AND $3 AND task_id = $4 AND version = $5 AND time = $6",
    )
    .text(project.as_str())
    .int(expected.unwrap_or(last - RECENT_REVISIONS))
    .int(expected.unwrap_or(last))
    .id(change.after.id.0)
    .int(change.after.version)
    .int(change.after.update_time);
    let rows = tx.fetch(statement).await?;
    let revision = rows.first().map(|row| Reader::new(row).get()).transpose()?;
    tx.rollback().await;
    Ok(revision)
}
