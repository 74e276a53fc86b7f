//! Queues in the database: `queue` holds what operators set, `queue_rate` the clock of the rate limit, `queue_stat` the
//! figures. Three tables because they change at three speeds.
//!
//! A queue exists once it has a `queue` or a `queue_stat` row. Whoever takes several of these locks takes them in the
//! order `queue`, `queue_rate`, `queue_stat`, and within a table by name, so that nobody waits in a circle.

use std::collections::{BTreeMap, HashMap};

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    retry_policies,
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        queue::{Queue, QueueActivity, QueueSettings, Rate},
        task::Micros,
    },
    ids::ProjectId,
};

/// Most lanes (a type at a priority) looked at for the oldest due task of a queue. Each is one step into the index. A
/// queue that uses more, for example a time as priority, is told the oldest of these: all lanes of its first types, and
/// of the last of them the highest priorities.
const OLDEST_LANES: i64 = 200;

/// Most queues whose totals are read at once.
pub const TOTALS_LIMIT: i64 = 20_000;

/// What was set, of `queue q`; all of it may be NULL.
macro_rules! settings_columns {
    () => {
        "q.paused, q.pause_note, q.max_running, q.rate_count, q.rate_interval, q.rate_burst, q.lease_duration, \
         q.retry_policy, q.retry_lease_millionths, q.retry_min_per_second"
    };
}

/// A queue and what went through it since it exists.
#[derive(Clone, Debug)]
pub struct Found {
    /// The queue, without activity.
    pub queue: Queue,
    /// Running totals.
    pub totals: QueueActivity,
}

/// One queue.
pub async fn get(store: &Store, project: &ProjectId, name: &str) -> StoreResult<Option<Found>> {
    Ok(load(store, project, &[name.to_owned()]).await?.pop())
}

/// Queues after a name, by name.
pub async fn list(store: &Store, project: &ProjectId, after: Option<&str>, limit: i64) -> StoreResult<Vec<Found>> {
    // Each half is cut before they are joined, so that a page costs a page.
    let statement = Sql::new(
        "-- queues::list
         SELECT n.name FROM (
            SELECT name FROM (
                SELECT name FROM queue WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3) AS a
            UNION
            SELECT name FROM (
                SELECT name FROM queue_stat WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3) AS b
         ) AS n ORDER BY n.name LIMIT $3",
    );
    let statement = statement.text(project.as_str()).text(after.unwrap_or_default()).int(limit);
    let names = store.fetch(statement).await?.iter().map(|row| Reader::new(row).get()).collect::<StoreResult<Vec<_>>>();
    load(store, project, &names?).await
}

/// The queues of these names, in this order; those that do not exist are left out.
async fn load(store: &Store, project: &ProjectId, names: &[String]) -> StoreResult<Vec<Found>> {
    let statement = Sql::new(concat!(
        "-- queues::load\nWITH {x} SELECT x.name, ",
        settings_columns!(),
        ", q.create_time, q.update_time, s.ready, s.delayed, s.running, s.submitted, s.leased, s.succeeded, s.failed
         FROM x LEFT JOIN queue q ON q.project = $1 AND q.name = x.name
         LEFT JOIN queue_stat s ON s.project = $1 AND s.name = x.name
         WHERE q.name IS NOT NULL OR s.name IS NOT NULL"
    ));
    let statement = statement.text(project.as_str()).rows(names_of(names));
    let mut found = HashMap::with_capacity(names.len());
    for row in &store.fetch(statement).await? {
        let queue = decode(project, row)?;
        found.insert(queue.queue.name.clone(), queue);
    }
    let waiting: Vec<&str> = found.values().filter(|f| f.queue.ready > 0).map(|f| f.queue.name.as_str()).collect();
    for (name, time) in oldest_ready(store, project, &waiting).await? {
        if let Some(found) = found.get_mut(&name) {
            found.queue.oldest_ready_time = Some(time);
        }
    }
    Ok(names.iter().filter_map(|name| found.remove(name)).collect())
}

fn decode(project: &ProjectId, row: &QueryResult) -> StoreResult<Found> {
    let mut r = Reader::new(row);
    let name = r.get()?;
    let settings = settings(&mut r)?;
    let (create_time, update_time): (Option<i64>, Option<i64>) = (r.get()?, r.get()?);
    let mut figure = || r.get::<Option<i64>>().map(Option::unwrap_or_default);
    let (ready, delayed, running) = (figure()?, figure()?, figure()?);
    let totals = QueueActivity { submitted: figure()?, leased: figure()?, succeeded: figure()?, failed: figure()? };
    let queue = Queue {
        project: project.clone(),
        name,
        settings,
        ready,
        delayed,
        running,
        oldest_ready_time: None,
        activity: QueueActivity::default(),
        create_time: create_time.unwrap_or_default(),
        update_time: update_time.unwrap_or_default(),
    };
    Ok(Found { queue, totals })
}

/// Reads [`settings_columns`]; a queue without a row has the defaults.
fn settings(r: &mut Reader<'_>) -> StoreResult<QueueSettings> {
    let paused: Option<bool> = r.get()?;
    let pause_note: Option<String> = r.get()?;
    let max_running: Option<i32> = r.get()?;
    let (count, interval, burst): (Option<i32>, Option<i64>, Option<i32>) = (r.get()?, r.get()?, r.get()?);
    let lease_duration = r.get()?;
    Ok(QueueSettings {
        paused: paused.unwrap_or_default(),
        pause_note: pause_note.unwrap_or_default(),
        max_running: max_running.unwrap_or_default(),
        rate: match (count.filter(|count| *count > 0), interval, burst) {
            (Some(count), Some(interval), Some(burst)) => Some(Rate { count, interval, burst }),
            _ => None,
        },
        lease_duration,
        retry_policy: r.get()?,
        retry_budget: retry_policies::budget(r.get()?, r.get()?),
    })
}

/// Since when the due task that waits longest could have run, of each queue that has one.
///
/// The index holds due tasks by queue, type, rank and run_time, so the first of each lane is its oldest. The recursion
/// jumps from lane to lane and touches one row of each, however many wait. The next lane is that of the same type, else
/// the first of the next type: written as two steps, because SQLite searches only by the first column of a row value.
async fn oldest_ready(store: &Store, project: &ProjectId, names: &[&str]) -> StoreResult<Vec<(String, Micros)>> {
    let statement = Sql::new(
        "-- queues::oldest_ready
         WITH RECURSIVE {x}, lane(queue, id, number) AS (
            SELECT x.name, (
                SELECT f.id FROM ready f WHERE f.project = $1 AND f.queue = x.name AND f.due
                ORDER BY f.type, f.rank, f.run_time LIMIT 1
            ), 1 FROM x
            UNION ALL
            SELECT l.queue, COALESCE((
                SELECT f.id FROM ready f WHERE f.project = $1 AND f.queue = l.queue AND f.type = r.type AND f.due
                    AND f.rank > r.rank
                ORDER BY f.rank, f.run_time LIMIT 1
            ), (
                SELECT f.id FROM ready f WHERE f.project = $1 AND f.queue = l.queue AND f.due AND f.type > r.type
                ORDER BY f.type, f.rank, f.run_time LIMIT 1
            )), l.number + 1
            FROM lane l JOIN ready r ON r.project = $1 AND r.id = l.id WHERE l.number < $2
         )
         SELECT l.queue, min(r.run_time) FROM lane l JOIN ready r ON r.project = $1 AND r.id = l.id GROUP BY l.queue",
    );
    let rows = Rows::new(names.len()).text("name", names.iter().copied());
    let found = store.fetch(statement.text(project.as_str()).int(OLDEST_LANES).rows(rows)).await?;
    found
        .iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, r.get()?))
        })
        .collect()
}

/// The settings of these queues, for a claim. Queues without a row are left out: they have the defaults. On PostgreSQL
/// the rows are shared until the claim commits, so that whoever pauses a queue waits for the claims under way, and after
/// the pause is answered nothing more is leased.
pub async fn settings_for(
    tx: &mut Tx,
    project: &ProjectId,
    names: &[String],
) -> StoreResult<HashMap<String, QueueSettings>> {
    macro_rules! select {
        ($lock:literal) => {
            concat!(
                "-- queues::settings_for\nWITH {x} SELECT q.name, ",
                settings_columns!(),
                " FROM queue q WHERE q.project = $1 AND q.name IN (SELECT x.name FROM x) ORDER BY q.name",
                $lock
            )
        };
    }
    let statement = Sql::new(if tx.is_postgres() { select!(" FOR SHARE") } else { select!("") });
    let rows = tx.fetch(statement.text(project.as_str()).rows(names_of(names))).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, settings(&mut r)?))
        })
        .collect()
}

/// What an optimistic claim saw of a queue that is not paused.
#[derive(Clone, Copy, Debug)]
pub struct SeenQueue {
    /// When its settings were last written.
    pub update_time: Micros,
    /// Whether its claims are limited, so that they must lock it.
    pub is_limited: bool,
    /// How long its leases last, if that is set.
    pub lease_duration: Option<Micros>,
}

/// Makes the transaction fail with a conflict unless the settings of these queues are still those of the given times. From
/// then on they are shared until it commits, as in [`settings_for`].
pub fn check(tx: &mut Tx, project: &ProjectId, seen: &[(&str, Micros)]) {
    let statement = Sql::new(
        "-- queues::check
         WITH {x} SELECT 1 FROM queue q JOIN x ON q.project = $1 AND q.name = x.name AND q.update_time = x.update_time
         ORDER BY q.name FOR SHARE",
    );
    let rows = Rows::new(seen.len())
        .text("name", seen.iter().map(|(name, _)| *name))
        .int("update_time", seen.iter().map(|(_, time)| *time));
    tx.defer(statement.text(project.as_str()).rows(rows), Some(seen.len()));
}

/// What bounds how much is leased from a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Tasks that run.
    pub running: i64,
    /// The theoretical arrival time of the next lease; see `domain::queue::Rate`.
    pub arrival: Micros,
}

/// Locks the limits of queues until the transaction ends, and reads them. From then on no other claim takes from these
/// queues, on any replica; tasks may still end meanwhile, so `running` is never too low.
///
/// Waits for other claims of the same queue, at most as long as the lock time-out of the session allows.
pub async fn lock_limits(tx: &mut Tx, project: &ProjectId, names: &[String]) -> StoreResult<HashMap<String, Limits>> {
    if tx.is_postgres() {
        let lock = Sql::new(
            "-- queues::lock_limits
             WITH {x} SELECT 1 FROM queue_rate WHERE project = $1 AND name IN (SELECT x.name FROM x)
             ORDER BY name FOR UPDATE",
        );
        tx.execute(lock.text(project.as_str()).rows(names_of(names))).await?;
    }
    // A statement of its own, after the lock: it sees what the claim we waited for has committed.
    let read = Sql::new(
        "-- queues::read_limits
         WITH {x} SELECT x.name, COALESCE(s.running, 0), COALESCE(r.arrival_time, 0)
         FROM x LEFT JOIN queue_stat s ON s.project = $1 AND s.name = x.name
         LEFT JOIN queue_rate r ON r.project = $1 AND r.name = x.name",
    );
    let rows = tx.fetch(read.text(project.as_str()).rows(names_of(names))).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, Limits { running: r.get()?, arrival: r.get()? }))
        })
        .collect()
}

/// Writes the arrival times that claims moved. The rows are locked by [`lock_limits`].
pub async fn set_arrivals(tx: &mut Tx, project: &ProjectId, arrivals: &[(String, Micros)]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- queues::set_arrivals
         WITH {x} UPDATE queue_rate SET arrival_time = x.arrival_time FROM x
         WHERE queue_rate.project = $1 AND queue_rate.name = x.name",
    );
    let rows = Rows::new(arrivals.len())
        .text("name", arrivals.iter().map(|(name, _)| name.as_str()))
        .int("arrival_time", arrivals.iter().map(|(_, arrival)| *arrival));
    tx.execute(statement.text(project.as_str()).rows(rows)).await
}

/// The settings of a queue, locked until the transaction ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedSettings {
    /// As they are.
    pub settings: QueueSettings,
    /// The queue had no settings before; the row is made by this transaction.
    pub is_new: bool,
}

/// Locks the settings of a queue, making them first if there are none: a lock needs a row.
pub async fn lock_settings(tx: &mut Tx, project: &ProjectId, name: &str) -> StoreResult<LockedSettings> {
    let now = tx.now();
    let is_new = !ensure(tx, project, &[name.to_owned()], now).await?.is_empty();
    let statement = Sql::new(if tx.is_postgres() {
        concat!(
            "-- queues::lock_settings\nSELECT ",
            settings_columns!(),
            " FROM queue q WHERE q.project = $1 AND q.name = $2 FOR UPDATE"
        )
    } else {
        concat!(
            "-- queues::lock_settings\nSELECT ",
            settings_columns!(),
            " FROM queue q WHERE q.project = $1 AND q.name = $2"
        )
    });
    let rows = tx.fetch(statement.text(project.as_str()).text(name)).await?;
    let row = rows.first().ok_or_else(|| StoreError::Bug(anyhow::anyhow!("a queue row vanished")))?;
    Ok(LockedSettings { settings: settings(&mut Reader::new(row))?, is_new })
}

/// Writes the settings of a queue, and makes the rows that claims lock and count on.
pub async fn write_settings(
    tx: &mut Tx,
    project: &ProjectId,
    name: &str,
    settings: &QueueSettings,
    now: Micros,
) -> StoreResult<()> {
    let statement = Sql::new(
        "-- queues::write_settings
         INSERT INTO queue (project, name, paused, pause_note, max_running, rate_count, rate_interval, rate_burst,
            lease_duration, retry_policy, retry_lease_millionths, retry_min_per_second, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
         ON CONFLICT (project, name) DO UPDATE SET paused = excluded.paused, pause_note = excluded.pause_note,
            max_running = excluded.max_running, rate_count = excluded.rate_count,
            rate_interval = excluded.rate_interval, rate_burst = excluded.rate_burst,
            lease_duration = excluded.lease_duration, retry_policy = excluded.retry_policy,
            retry_lease_millionths = excluded.retry_lease_millionths,
            retry_min_per_second = excluded.retry_min_per_second, update_time = excluded.update_time",
    );
    let rate = settings.rate.unwrap_or(Rate { count: 0, interval: 0, burst: 0 });
    let statement = statement
        .text(project.as_str())
        .text(name)
        .flag(settings.paused)
        .text(&settings.pause_note)
        .int(settings.max_running.into())
        .int(rate.count.into())
        .int(rate.interval)
        .int(rate.burst.into())
        .opt_int(settings.lease_duration)
        .opt_text(settings.retry_policy.as_deref())
        .opt_int(settings.retry_budget.map(|budget| budget.lease_millionths.into()))
        .opt_int(settings.retry_budget.map(|budget| budget.min_per_second.into()))
        .int(now);
    tx.execute(statement).await?;
    let rate = Sql::new(
        "-- queues::make_rate
         INSERT INTO queue_rate (project, name, arrival_time) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
    );
    tx.execute(rate.text(project.as_str()).text(name)).await?;
    make_stats(tx, project, &[name.to_owned()]).await
}

/// Makes the rows of queues that are used for the first time, and returns the names that were new.
pub async fn ensure(tx: &mut Tx, project: &ProjectId, names: &[String], now: Micros) -> StoreResult<Vec<String>> {
    // WHERE true: without it SQLite takes ON for a join condition.
    let statement = Sql::new(
        "-- queues::ensure
         WITH {x} INSERT INTO queue (project, name, paused, pause_note, max_running, rate_count, rate_interval,
            rate_burst, lease_duration, create_time, update_time)
         SELECT $1, x.name, false, '', 0, 0, 0, 0, NULL, $2, $2 FROM x WHERE true ORDER BY x.name
         ON CONFLICT DO NOTHING RETURNING name",
    );
    let rows = tx.fetch(statement.text(project.as_str()).int(now).rows(names_of(names))).await?;
    make_stats(tx, project, names).await?;
    rows.iter().map(|row| Reader::new(row).get()).collect()
}

async fn make_stats(tx: &mut Tx, project: &ProjectId, names: &[String]) -> StoreResult<()> {
    let statement = Sql::new(
        "-- queues::make_stats
         WITH {x} INSERT INTO queue_stat (project, name, ready, delayed, running, submitted, leased, succeeded, failed)
         SELECT $1, x.name, 0, 0, 0, 0, 0, 0, 0 FROM x WHERE true ORDER BY x.name
         ON CONFLICT DO NOTHING",
    );
    tx.execute(statement.text(project.as_str()).rows(names_of(names))).await
}

/// What a batch changes in the figures of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatDelta {
    /// The queue.
    pub name: String,
    /// Due tasks that wait.
    pub ready: i64,
    /// Tasks that wait for their `run_time`.
    pub delayed: i64,
    /// Tasks that run.
    pub running: i64,
    /// Tasks submitted.
    pub submitted: i64,
    /// Leases granted.
    pub leased: i64,
    /// Tasks SUCCEEDED.
    pub succeeded: i64,
    /// Attempts that did not succeed.
    pub failed: i64,
}

impl StatDelta {
    fn add(&mut self, other: &Self) {
        self.ready += other.ready;
        self.delayed += other.delayed;
        self.running += other.running;
        self.submitted += other.submitted;
        self.leased += other.leased;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
    }

    fn is_zero(&self) -> bool {
        let Self { name: _, ready, delayed, running, submitted, leased, succeeded, failed } = self;
        [ready, delayed, running, submitted, leased, succeeded, failed].iter().all(|figure| **figure == 0)
    }
}

macro_rules! add_stats {
    ($from:literal) => {
        concat!(
            "-- queues::add_stats
             WITH {x} INSERT INTO queue_stat (project, name, ready, delayed, running, submitted, leased, succeeded, failed)
             SELECT $1, x.name, x.ready, x.delayed, x.running, x.submitted, x.leased, x.succeeded, x.failed
             FROM ",
            $from,
            " WHERE true ORDER BY x.name
             ON CONFLICT (project, name) DO UPDATE SET ready = queue_stat.ready + excluded.ready,
                delayed = queue_stat.delayed + excluded.delayed, running = queue_stat.running + excluded.running,
                submitted = queue_stat.submitted + excluded.submitted, leased = queue_stat.leased + excluded.leased,
                succeeded = queue_stat.succeeded + excluded.succeeded, failed = queue_stat.failed + excluded.failed"
        )
    };
}

/// Adds to the figures. A queue may come more than once; one whose changes cancel out is not written.
pub async fn add_stats(tx: &mut Tx, project: &ProjectId, deltas: &[StatDelta]) -> StoreResult<()> {
    tx.execute(statement_of(add_stats!("x"), project, deltas)).await
}

/// [`add_stats`] as part of a statement that raises the project's counter in `raised`: reading that makes the counter
/// come first, so that two batches of a project never wait for each other's figures.
pub(super) fn add_stats_after_raise(project: &ProjectId, deltas: &[StatDelta]) -> Sql {
    statement_of(add_stats!("x, raised"), project, deltas)
}

fn statement_of(text: &'static str, project: &ProjectId, deltas: &[StatDelta]) -> Sql {
    let sums = sums_by_name(deltas);
    let rows = Rows::new(sums.len())
        .text("name", sums.iter().map(|d| d.name.as_str()))
        .int("ready", sums.iter().map(|d| d.ready))
        .int("delayed", sums.iter().map(|d| d.delayed))
        .int("running", sums.iter().map(|d| d.running))
        .int("submitted", sums.iter().map(|d| d.submitted))
        .int("leased", sums.iter().map(|d| d.leased))
        .int("succeeded", sums.iter().map(|d| d.succeeded))
        .int("failed", sums.iter().map(|d| d.failed));
    Sql::new(text).text(project.as_str()).rows(rows)
}

fn sums_by_name(deltas: &[StatDelta]) -> Vec<StatDelta> {
    let mut sums: BTreeMap<&str, StatDelta> = BTreeMap::new();
    for delta in deltas {
        sums.entry(&delta.name)
            .or_insert_with(|| StatDelta { name: delta.name.clone(), ..StatDelta::default() })
            .add(delta);
    }
    sums.into_values().filter(|sum| !sum.is_zero()).collect()
}

/// The running totals of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTotals {
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// What went through it since it exists.
    pub totals: QueueActivity,
}

/// The running totals of all queues of all projects, up to [`TOTALS_LIMIT`] of them.
pub async fn totals(store: &Store) -> StoreResult<Vec<QueueTotals>> {
    let statement = Sql::new(
        "-- queues::totals
         SELECT project, name, submitted, leased, succeeded, failed FROM queue_stat ORDER BY project, name LIMIT $1",
    );
    let rows = store.fetch(statement.int(TOTALS_LIMIT)).await?;
    rows.iter()
        .map(|row| {
            let mut r = Reader::new(row);
            let project: String = r.get()?;
            Ok(QueueTotals {
                project: ProjectId::new(&project),
                name: r.get()?,
                totals: QueueActivity { submitted: r.get()?, leased: r.get()?, succeeded: r.get()?, failed: r.get()? },
            })
        })
        .collect()
}

fn names_of(names: &[String]) -> Rows {
    Rows::new(names.len()).text("name", names.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_by_queue_and_zeros_are_left_out() {
        let delta =
            |name: &str, ready, running| StatDelta { name: name.to_owned(), ready, running, ..Default::default() };
        let sums = sums_by_name(&[delta("b", 1, 0), delta("a", 1, 0), delta("b", 2, -1), delta("a", -1, 0)]);
        assert_eq!(sums, [delta("b", 3, -1)]);
    }
}
