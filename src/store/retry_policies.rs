//! Retry policies in the database, and what queues and types have which of them.

use std::{collections::HashMap, sync::Arc};

use sea_orm::QueryResult;

use super::{
    Store, Tx,
    error::{StoreError, StoreResult},
    sql::{Reader, Rows, Sql},
};
use crate::{
    domain::{
        retry_budget::RetryBudget,
        retry_policy::{Decider, Policies, PolicyContent, PolicyVersion, QueueRetry, RetryPolicy},
    },
    ids::ProjectId,
};

macro_rules! policy_columns {
    () => {
        "p.id, p.description, p.settings, p.version, p.create_time, p.update_time"
    };
}

/// One policy.
pub async fn get(store: &Store, project: &ProjectId, id: &str) -> StoreResult<Option<RetryPolicy>> {
    let statement = Sql::new(concat!(
        "-- retry_policies::get\nSELECT ",
        policy_columns!(),
        " FROM retry_policy p WHERE p.project = $1 AND p.id = $2"
    ));
    let rows = store.fetch(statement.text(project.as_str()).text(id)).await?;
    let mut types = types_of(&store.fetch(select_types(project)).await?)?;
    rows.first().map(|row| decode(project, row, &mut types)).transpose()
}

/// One policy, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<Option<RetryPolicy>> {
    let statement = Sql::new(if tx.is_postgres() {
        concat!(
            "-- retry_policies::lock\nSELECT ",
            policy_columns!(),
            " FROM retry_policy p WHERE p.project = $1 AND p.id = $2 FOR UPDATE"
        )
    } else {
        concat!(
            "-- retry_policies::lock\nSELECT ",
            policy_columns!(),
            " FROM retry_policy p WHERE p.project = $1 AND p.id = $2"
        )
    });
    let rows = tx.fetch(statement.text(project.as_str()).text(id)).await?;
    let mut types = types_of(&tx.fetch(select_types(project)).await?)?;
    rows.first().map(|row| decode(project, row, &mut types)).transpose()
}

/// Policies after an id, by id.
pub async fn list(
    store: &Store,
    project: &ProjectId,
    after: Option<&str>,
    limit: i64,
) -> StoreResult<Vec<RetryPolicy>> {
    let statement = Sql::new(concat!(
        "-- retry_policies::list\nSELECT ",
        policy_columns!(),
        " FROM retry_policy p WHERE p.project = $1 AND p.id > $2 ORDER BY p.id LIMIT $3"
    ));
    let statement = statement.text(project.as_str()).text(after.unwrap_or_default()).int(limit);
    let rows = store.fetch(statement).await?;
    let mut types = types_of(&store.fetch(select_types(project)).await?)?;
    rows.iter().map(|row| decode(project, row, &mut types)).collect()
}

/// How many policies a project has.
pub async fn count(tx: &mut Tx, project: &ProjectId) -> StoreResult<i64> {
    let statement = Sql::new("-- retry_policies::count\nSELECT count(*) FROM retry_policy WHERE project = $1");
    let rows = tx.fetch(statement.text(project.as_str())).await?;
    rows.first().map_or(Ok(0), |row| Reader::new(row).get())
}

/// Which policy has which of these types.
pub async fn holders(tx: &mut Tx, project: &ProjectId, types: &[String]) -> StoreResult<HashMap<String, String>> {
    let statement = Sql::new(
        "-- retry_policies::holders
         WITH {x} SELECT t.type, t.policy FROM retry_policy_type t
         WHERE t.project = $1 AND t.type IN (SELECT x.type FROM x)",
    );
    let rows = Rows::new(types.len()).text("type", types.iter().map(String::as_str));
    let found = tx.fetch(statement.text(project.as_str()).rows(rows)).await?;
    found
        .iter()
        .map(|row| {
            let mut r = Reader::new(row);
            Ok((r.get()?, r.get()?))
        })
        .collect()
}

/// A queue that has a policy, if one does. Queues cannot take it before the transaction ends.
pub async fn queue_with(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<Option<String>> {
    let statement = Sql::new(
        "-- retry_policies::queue_with
         SELECT name FROM queue WHERE project = $1 AND retry_policy = $2 ORDER BY name LIMIT 1",
    );
    let rows = tx.fetch(statement.text(project.as_str()).text(id)).await?;
    rows.first().map(|row| Reader::new(row).get()).transpose()
}

/// Writes a policy and its types, new or changed.
pub async fn write(tx: &mut Tx, policy: &RetryPolicy) -> StoreResult<()> {
    let statement = Sql::new(
        "-- retry_policies::write
         INSERT INTO retry_policy (project, id, description, settings, version, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (project, id) DO UPDATE SET description = excluded.description, settings = excluded.settings,
            version = excluded.version, update_time = excluded.update_time",
    );
    let settings = serde_json::to_string(&*policy.content.settings).map_err(|cause| StoreError::Bug(cause.into()))?;
    let statement = statement
        .text(policy.project.as_str())
        .text(&policy.id)
        .text(&policy.content.description)
        .text(&settings)
        .int(policy.version)
        .int(policy.create_time)
        .int(policy.update_time);
    tx.execute(statement).await?;
    delete_types(tx, &policy.project, &policy.id).await?;
    let types = Sql::new(
        "-- retry_policies::write_types
         WITH {x} INSERT INTO retry_policy_type (project, type, policy) SELECT $1, x.type, $2 FROM x",
    );
    let rows =
        Rows::new(policy.content.task_types.len()).text("type", policy.content.task_types.iter().map(String::as_str));
    tx.execute(types.text(policy.project.as_str()).text(&policy.id).rows(rows)).await
}

/// Deletes a policy and its types.
pub async fn delete(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<()> {
    delete_types(tx, project, id).await?;
    let statement = Sql::new("-- retry_policies::delete\nDELETE FROM retry_policy WHERE project = $1 AND id = $2");
    tx.execute(statement.text(project.as_str()).text(id)).await
}

async fn delete_types(tx: &mut Tx, project: &ProjectId, id: &str) -> StoreResult<()> {
    let statement =
        Sql::new("-- retry_policies::delete_types\nDELETE FROM retry_policy_type WHERE project = $1 AND policy = $2");
    tx.execute(statement.text(project.as_str()).text(id)).await
}

/// All policies of a project, and what has which of them.
pub async fn all(store: &Store, project: &ProjectId) -> StoreResult<Policies> {
    let mut reader = store.key_reader().await?;
    let select = Sql::new(
        "-- retry_policies::all\nSELECT id, version, settings FROM retry_policy WHERE project = $1 ORDER BY id",
    );
    let mut policies = Policies::default();
    for row in &reader.fetch(select.text(project.as_str())).await? {
        let mut r = Reader::new(row);
        let (id, version): (String, i64) = (r.get()?, r.get()?);
        let id: Arc<str> = id.into();
        let decider = Decider {
            settings: Arc::new(settings(&r.get::<String>()?)?),
            policy: Some(PolicyVersion { id: id.clone(), version }),
        };
        policies.by_id.insert(id, decider);
    }
    for row in &reader.fetch(select_types(project)).await? {
        let mut r = Reader::new(row);
        let (of_type, policy): (String, String) = (r.get()?, r.get()?);
        policies.by_type.insert(of_type, policy.into());
    }
    let queues = Sql::new(
        "-- retry_policies::of_queues
         SELECT name, retry_policy, retry_lease_millionths, retry_min_per_second FROM queue
         WHERE project = $1 AND (retry_policy IS NOT NULL OR retry_min_per_second IS NOT NULL)",
    );
    for row in &reader.fetch(queues.text(project.as_str())).await? {
        let mut r = Reader::new(row);
        let (name, policy): (String, Option<String>) = (r.get()?, r.get()?);
        let budget = budget(r.get()?, r.get()?);
        policies.queues.insert(name, QueueRetry { policy: policy.map(Into::into), budget });
    }
    Ok(policies)
}

/// What a queue takes, if that is set.
pub(super) fn budget(lease_millionths: Option<i32>, min_per_second: Option<i32>) -> Option<RetryBudget> {
    min_per_second
        .map(|min_per_second| RetryBudget { lease_millionths: lease_millionths.unwrap_or_default(), min_per_second })
}

fn select_types(project: &ProjectId) -> Sql {
    Sql::new(
        "-- retry_policies::types
         SELECT type, policy FROM retry_policy_type WHERE project = $1 ORDER BY policy, type",
    )
    .text(project.as_str())
}

fn types_of(rows: &[QueryResult]) -> StoreResult<HashMap<String, Vec<String>>> {
    let mut types: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows {
        let mut r = Reader::new(row);
        let (of_type, policy): (String, String) = (r.get()?, r.get()?);
        types.entry(policy).or_default().push(of_type);
    }
    Ok(types)
}

fn decode(
    project: &ProjectId,
    row: &QueryResult,
    types: &mut HashMap<String, Vec<String>>,
) -> StoreResult<RetryPolicy> {
    let mut r = Reader::new(row);
    let id: String = r.get()?;
    let content = PolicyContent {
        description: r.get()?,
        settings: Arc::new(settings(&r.get::<String>()?)?),
        task_types: types.remove(&id).unwrap_or_default(),
    };
    let (version, create_time, update_time) = (r.get()?, r.get()?, r.get()?);
    Ok(RetryPolicy { project: project.clone(), id, content, version, create_time, update_time })
}

fn settings(text: &str) -> StoreResult<crate::domain::retry::RetrySettings> {
    serde_json::from_str(text).map_err(|cause| StoreError::Bug(cause.into()))
}
