//! Workers in the database: a `worker` row for each name, kept for good, and a `worker_incarnation` row for each process,
//! kept for an hour after it was last seen.
//!
//! Workers speak all the time, so being seen is written only when it says something new: another identity, or more than
//! [`SEEN_GRANULARITY`] since the last time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        task::{Micros, SECOND},
        worker::{INCARNATION_KEPT, Identity, Incarnation, PRESENCE_LIMIT, Worker, WorkerState},
    },
    ids::ProjectId,
};

/// How old `last_seen_time` may be before it is written again: small beside [`PRESENCE_LIMIT`], and seldom beside the
/// calls of a busy worker.
const SEEN_GRANULARITY: Micros = 5 * SECOND;

/// Most incarnations answered of a worker, those seen last. A crash loop or a large deployment under one name has more.
const INCARNATIONS_SHOWN: i64 = 100;

/// Keeps what workers say of themselves now.
///
/// A drain stays on the incarnation it was given to. One that comes back after [`PRESENCE_LIMIT`] under the same name
/// has started afresh: workers that name no incarnation always come back under the same one.
pub async fn seen(tx: &mut Tx, project: &ProjectId, said: &[Identity]) -> StoreResult<()> {
    let now = tx.now();
    // The last word of each, in one order, so that two transactions do not wait for each other in a circle.
    let last: BTreeMap<(&str, &str), &Identity> =
        said.iter().map(|identity| ((identity.worker.as_str(), identity.incarnation.as_str()), identity)).collect();
    let names: BTreeSet<&str> = said.iter().map(|identity| identity.worker.as_str()).collect();
    let upsert = Sql::new(
        "-- workers::seen
         WITH {x} INSERT INTO worker (project, name, create_time, last_seen_time)
         SELECT $1, x.name, $2, $2 FROM x WHERE true ORDER BY x.name
         ON CONFLICT (project, name) DO UPDATE SET last_seen_time = excluded.last_seen_time
            WHERE worker.last_seen_time < excluded.last_seen_time - $3",
    );
    let rows = Rows::new(names.len()).text("name", names.iter().copied());
    tx.execute(upsert.text(project.as_str()).int(now).int(SEEN_GRANULARITY).rows(rows)).await?;

    let upsert = Sql::new(
        "-- workers::seen_incarnation
         WITH {x} INSERT INTO worker_incarnation AS i (project, worker, incarnation, types, queues, slots, labels,
            draining, start_time, last_seen_time)
         SELECT $1, x.worker, x.incarnation, x.types, x.queues, x.slots, x.labels, false, $2, $2
         FROM x WHERE true ORDER BY x.worker, x.incarnation
         ON CONFLICT (project, worker, incarnation) DO UPDATE SET types = excluded.types, queues = excluded.queues,
            slots = excluded.slots, labels = excluded.labels,
            draining = i.draining AND i.last_seen_time >= excluded.last_seen_time - $4,
            start_time = CASE WHEN i.last_seen_time >= excluded.last_seen_time - $4
                THEN i.start_time ELSE excluded.start_time END,
            last_seen_time = excluded.last_seen_time
            WHERE i.last_seen_time < excluded.last_seen_time - $3 OR i.types <> excluded.types
                OR i.queues <> excluded.queues OR i.slots <> excluded.slots OR i.labels <> excluded.labels",
    );
    let identities = || last.values();
    let rows = Rows::new(last.len())
        .text("worker", identities().map(|i| i.worker.as_str()))
        .text("incarnation", identities().map(|i| i.incarnation.as_str()))
        .opt_string("types", identities().map(|i| json(&i.types)))
        .opt_string("queues", identities().map(|i| json(&i.queues)))
        .int("slots", identities().map(|i| i.slots.into()))
        .opt_string("labels", identities().map(|i| json(&i.labels)));
    let upsert = upsert.text(project.as_str()).int(now).int(SEEN_GRANULARITY).int(PRESENCE_LIMIT);
    tx.execute(upsert.rows(rows)).await
}

/// Notes that incarnations are alive. One that never said who it is stays unknown.
pub async fn touch(tx: &mut Tx, project: &ProjectId, alive: &[(String, String)]) -> StoreResult<()> {
    let now = tx.now();
    let rows = Rows::new(alive.len())
        .text("worker", alive.iter().map(|(worker, _)| worker.as_str()))
        .text("incarnation", alive.iter().map(|(_, incarnation)| incarnation.as_str()));
    let workers = Sql::new(
        "-- workers::touch
         WITH {x} UPDATE worker SET last_seen_time = $2
         WHERE project = $1 AND name IN (SELECT x.worker FROM x) AND last_seen_time < $2 - $3",
    );
    let statement = workers.text(project.as_str()).int(now).int(SEEN_GRANULARITY);
    tx.execute(statement.rows(rows.clone())).await?;
    let incarnations = Sql::new(
        "-- workers::touch_incarnation
         WITH {x} UPDATE worker_incarnation SET last_seen_time = $2
         WHERE project = $1 AND (worker, incarnation) IN (SELECT x.worker, x.incarnation FROM x)
            AND last_seen_time < $2 - $3",
    );
    tx.execute(incarnations.text(project.as_str()).int(now).int(SEEN_GRANULARITY).rows(rows)).await
}

/// Tells every live incarnation of a worker to drain. Answers whether the worker exists.
pub async fn drain(tx: &mut Tx, project: &ProjectId, worker: &str) -> StoreResult<bool> {
    let live_since = tx.now() - PRESENCE_LIMIT;
    let statement = Sql::new(
        "-- workers::drain
         UPDATE worker_incarnation SET draining = true
         WHERE project = $1 AND worker = $2 AND last_seen_time >= $3 AND NOT draining",
    );
    tx.execute(statement.text(project.as_str()).text(worker).int(live_since)).await?;
    let known = Sql::new("-- workers::is_known\nSELECT 1 FROM worker WHERE project = $1 AND name = $2");
    Ok(!tx.fetch(known.text(project.as_str()).text(worker)).await?.is_empty())
}

/// Whether an incarnation was told to drain.
pub async fn is_draining(tx: &mut Tx, project: &ProjectId, worker: &str, incarnation: &str) -> StoreResult<bool> {
    let statement = Sql::new(
        "-- workers::is_draining
         SELECT 1 FROM worker_incarnation WHERE project = $1 AND worker = $2 AND incarnation = $3 AND draining",
    );
    Ok(!tx.fetch(statement.text(project.as_str()).text(worker).text(incarnation)).await?.is_empty())
}

/// One worker.
pub async fn get(store: &Store, project: &ProjectId, name: &str) -> StoreResult<Option<Worker>> {
    let statement = Sql::new(
        "-- workers::get\nSELECT name, create_time, last_seen_time FROM worker WHERE project = $1 AND name = $2",
    );
    Ok(load(store, project, statement.text(project.as_str()).text(name)).await?.pop())
}

/// Workers after a name, by name.
pub async fn list(store: &Store, project: &ProjectId, after: Option<&str>, limit: i64) -> StoreResult<Vec<Worker>> {
    let statement = Sql::new(
        "-- workers::list
         SELECT name, create_time, last_seen_time FROM worker WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3",
    );
    load(store, project, statement.text(project.as_str()).text(after.unwrap_or_default()).int(limit)).await
}

async fn load(store: &Store, project: &ProjectId, statement: Sql) -> StoreResult<Vec<Worker>> {
    let mut workers = Vec::new();
    for row in &store.fetch(statement).await? {
        let mut r = Reader::new(row);
        workers.push(Worker {
            project: project.clone(),
            name: r.get()?,
            state: WorkerState::Offline,
            incarnations: Vec::new(),
            running_count: 0,
            create_time: r.get()?,
            last_seen_time: r.get()?,
        });
    }
    if workers.is_empty() {
        return Ok(workers);
    }
    let now = store.now().await?;
    let names: Vec<&str> = workers.iter().map(|w| w.name.as_str()).collect();
    let mut incarnations = incarnations_of(store, project, &names, now).await?;
    let mut running = running_of(store, project, &names).await?;
    for worker in &mut workers {
        worker.incarnations = incarnations.remove(&worker.name).unwrap_or_default();
        worker.running_count = running.remove(&worker.name).unwrap_or_default();
        worker.state = WorkerState::of(&worker.incarnations, now);
    }
    Ok(workers)
}

/// The incarnations of workers seen within [`INCARNATION_KEPT`], those seen last first.
async fn incarnations_of(
    store: &Store,
    project: &ProjectId,
    names: &[&str],
    now: Micros,
) -> StoreResult<HashMap<String, Vec<Incarnation>>> {
    let statement = Sql::new(
        "-- workers::incarnations_of
         WITH {x}, ranked AS (
            SELECT i.worker, i.incarnation, i.types, i.queues, i.slots, i.labels, i.draining, i.start_time,
                i.last_seen_time,
                row_number() OVER (PARTITION BY i.worker ORDER BY i.last_seen_time DESC, i.incarnation) AS place
            FROM x JOIN worker_incarnation i ON i.project = $1 AND i.worker = x.worker AND i.last_seen_time >= $2
         )
         SELECT worker, incarnation, types, queues, slots, labels, draining, start_time, last_seen_time
         FROM ranked WHERE place <= $3 ORDER BY worker, place",
    );
    let statement = statement.text(project.as_str()).int(now - INCARNATION_KEPT).int(INCARNATIONS_SHOWN);
    let mut found: HashMap<String, Vec<Incarnation>> = HashMap::new();
    for row in &store.fetch(statement.rows(workers_of(names))).await? {
        let mut r = Reader::new(row);
        let worker: String = r.get()?;
        found.entry(worker).or_default().push(Incarnation {
            incarnation: r.get()?,
            types: from_json(r.get()?)?,
            queues: from_json(r.get()?)?,
            slots: r.get()?,
            labels: from_json(r.get()?)?,
            draining: r.get()?,
            start_time: r.get()?,
            last_seen_time: r.get()?,
        });
    }
    Ok(found)
}

/// How many tasks each worker runs. Reads all leases of the project, which are as many as its running tasks.
async fn running_of(store: &Store, project: &ProjectId, names: &[&str]) -> StoreResult<HashMap<String, i64>> {
    let statement = Sql::new(
        "-- workers::running_of
         WITH {x} SELECT l.worker, count(*) FROM lease l
         WHERE l.project = $1 AND l.worker IN (SELECT x.worker FROM x) GROUP BY l.worker",
    );
    let rows = store.fetch(statement.text(project.as_str()).rows(workers_of(names))).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, r.get()?))
        })
        .collect()
}

/// Removes up to `limit` incarnations, of any project, that were not seen for [`INCARNATION_KEPT`], and returns how many.
pub async fn purge(tx: &mut Tx, limit: i64) -> StoreResult<usize> {
    let older_than = tx.now() - INCARNATION_KEPT;
    let statement = Sql::new(if tx.is_postgres() {
        "-- workers::purge
         DELETE FROM worker_incarnation WHERE (project, worker, incarnation) IN (
            SELECT project, worker, incarnation FROM worker_incarnation WHERE last_seen_time < $1
            LIMIT $2 FOR UPDATE SKIP LOCKED
         ) RETURNING 1"
    } else {
        "-- workers::purge
         DELETE FROM worker_incarnation WHERE (project, worker, incarnation) IN (
            SELECT project, worker, incarnation FROM worker_incarnation WHERE last_seen_time < $1 LIMIT $2
         ) RETURNING 1"
    });
    Ok(tx.fetch(statement.int(older_than).int(limit)).await?.len())
}

fn workers_of(names: &[&str]) -> Rows {
    Rows::new(names.len()).text("worker", names.iter().copied())
}

/// Lists and maps of texts always serialise.
fn json(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

fn from_json<T: serde::de::DeserializeOwned>(text: String) -> StoreResult<T> {
    serde_json::from_str(&text).map_err(|cause| StoreError::Bug(cause.into()))
}
