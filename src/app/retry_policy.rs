//! Retry policies: make, read, change and delete them.
//!
//! A policy is read by whoever decides about a failed attempt (`committer/judging.rs`), which remembers it for a second.
//! So a change holds a second later on every replica, and each attempt keeps the version that decided about it.

use serde_json::json;

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
    project::require_live,
};
use crate::{
    context::Caller,
    domain::{
        etag,
        event::ResourceKind,
        retry_policy::{MAX_POLICIES, PolicyContent, PolicyPatch, RetryPolicy},
    },
    error::{Error, Result},
    ids::{ProjectId, project_name, queue_name, retry_policy_name},
    store::{
        Tx,
        journal::{self, Entry},
        retry_policies,
    },
};

impl App {
    /// Makes a policy.
    pub async fn create_retry_policy(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: String,
        content: PolicyContent,
    ) -> Result<RetryPolicy> {
        self.change_retry_policy(caller, project, id, Change::Create(content))
            .await?
            .ok_or_else(super::task::wrong_reply)
    }

    /// One policy.
    pub async fn get_retry_policy(&self, project: &ProjectId, id: &str) -> Result<RetryPolicy> {
        self.require_project(project).await?;
        retry_policies::get(self.store(), project, id).await?.ok_or_else(|| not_found(project, id))
    }

    /// Policies by id, those after `after`; and the id after which the next page goes on.
    pub async fn list_retry_policies(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<RetryPolicy>, Option<String>)> {
        self.require_project(project).await?;
        let found = retry_policies::list(self.store(), project, after.as_deref(), one_more(limit)).await?;
        Ok(cut(found, limit, |policy| policy.id.clone()))
    }

    /// Changes a policy.
    pub async fn update_retry_policy(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: String,
        patch: PolicyPatch,
        etag: Option<String>,
    ) -> Result<RetryPolicy> {
        let change = Change::Update { patch, etag };
        self.change_retry_policy(caller, project, id, change).await?.ok_or_else(super::task::wrong_reply)
    }

    /// Deletes a policy.
    pub async fn delete_retry_policy(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: String,
        etag: Option<String>,
        allow_missing: bool,
    ) -> Result<()> {
        self.change_retry_policy(caller, project, id, Change::Delete { etag, allow_missing }).await.map(|_| ())
    }

    async fn change_retry_policy(
        &self,
        caller: &Caller,
        project: &ProjectId,
        id: String,
        change: Change,
    ) -> Result<Option<RetryPolicy>> {
        let write = ChangePolicy { caller: caller.clone(), project: project.clone(), id, change };
        let changed = self.write(write).await?;
        self.committer().forget_policies(project);
        self.hub().journal_moved(project);
        Ok(changed)
    }

    /// Refuses a policy that does not exist.
    pub(super) async fn require_retry_policy(&self, project: &ProjectId, id: &str) -> Result<()> {
        if self.committer().policies(project).await?.by_id.contains_key(id) {
            return Ok(());
        }
        // It may be new.
        self.get_retry_policy(project, id).await.map(|_| ())
    }
}

fn not_found(project: &ProjectId, id: &str) -> Error {
    Error::NotFound { kind: "retry policy", name: retry_policy_name(project, id) }
}

enum Change {
    Create(PolicyContent),
    Update { patch: PolicyPatch, etag: Option<String> },
    Delete { etag: Option<String>, allow_missing: bool },
}

struct ChangePolicy {
    caller: Caller,
    project: ProjectId,
    id: String,
    change: Change,
}

impl NamedWrite for ChangePolicy {
    const NAME: &'static str = "change-retry-policy";
    /// The policy as it is then; none once it is deleted.
    type Answer = Option<RetryPolicy>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        match require_live(tx, &self.project).await {
            // Taking away is no new work.
            Err(Stop::Refused(Error::ProjectDeleted { .. })) if matches!(self.change, Change::Delete { .. }) => {}
            outcome => outcome?,
        }
        let old = retry_policies::lock(tx, &self.project, &self.id).await?;
        match (&self.change, old) {
            (Change::Create(_), Some(_)) => Err(self.exists().into()),
            (Change::Create(content), None) => self.create(tx, content).await,
            (Change::Delete { allow_missing: true, .. }, None) => Ok(Done::Nothing(None)),
            (Change::Update { .. } | Change::Delete { .. }, None) => Err(not_found(&self.project, &self.id).into()),
            (Change::Update { patch, etag }, Some(old)) => {
                self.require_etag(etag.as_deref(), &old)?;
                self.update(tx, patch, old).await
            }
            (Change::Delete { etag, .. }, Some(old)) => {
                self.require_etag(etag.as_deref(), &old)?;
                self.delete(tx, &old).await
            }
        }
    }
}

impl ChangePolicy {
    async fn create(
        &self,
        tx: &mut Tx,
        content: &PolicyContent,
    ) -> std::result::Result<Done<Option<RetryPolicy>>, Stop> {
        if retry_policies::count(tx, &self.project).await? >= MAX_POLICIES {
            let project = project_name(&self.project);
            return Err(Error::QuotaExceeded { project, what: "retry policies", limit: MAX_POLICIES }.into());
        }
        self.require_free_types(tx, content).await?;
        let now = tx.now();
        let policy = RetryPolicy {
            project: self.project.clone(),
            id: self.id.clone(),
            content: content.clone(),
            version: 1,
            create_time: now,
            update_time: now,
        };
        retry_policies::write(tx, &policy).await?;
        self.tell(tx, ResourceKind::RetryPolicyCreated, diff(None, Some(content))).await?;
        Ok(Done::Commit(Some(policy)))
    }

    async fn update(
        &self,
        tx: &mut Tx,
        patch: &PolicyPatch,
        old: RetryPolicy,
    ) -> std::result::Result<Done<Option<RetryPolicy>>, Stop> {
        let content = old.content.patched(patch.clone());
        if content == old.content {
            return Ok(Done::Nothing(Some(old)));
        }
        self.require_free_types(tx, &content).await?;
        let diff = diff(Some(&old.content), Some(&content));
        let policy = RetryPolicy { content, version: old.version + 1, update_time: tx.now(), ..old };
        retry_policies::write(tx, &policy).await?;
        self.tell(tx, ResourceKind::RetryPolicyUpdated, diff).await?;
        Ok(Done::Commit(Some(policy)))
    }

    async fn delete(&self, tx: &mut Tx, old: &RetryPolicy) -> std::result::Result<Done<Option<RetryPolicy>>, Stop> {
        if let Some(queue) = retry_policies::queue_with(tx, &self.project, &self.id).await? {
            return Err(Error::InUse {
                name: retry_policy_name(&self.project, &self.id),
                by: queue_name(&self.project, &queue),
            }
            .into());
        }
        retry_policies::delete(tx, &self.project, &self.id).await?;
        self.tell(tx, ResourceKind::RetryPolicyDeleted, diff(Some(&old.content), None)).await?;
        Ok(Done::Commit(None))
    }

    fn exists(&self) -> Error {
        Error::Exists { kind: "retry policy", name: retry_policy_name(&self.project, &self.id) }
    }

    fn require_etag(&self, asked: Option<&str>, old: &RetryPolicy) -> Result<()> {
        let current = etag::retry_policy_etag(old);
        match asked {
            Some(asked) if asked != current => {
                Err(Error::EtagMismatch { name: retry_policy_name(&self.project, &self.id), current })
            }
            _ => Ok(()),
        }
    }

    /// A type has one policy.
    async fn require_free_types(&self, tx: &mut Tx, content: &PolicyContent) -> std::result::Result<(), Stop> {
        let holders = retry_policies::holders(tx, &self.project, &content.task_types).await?;
        let taken = content.task_types.iter().find_map(|of_type| {
            let holder = holders.get(of_type).filter(|holder| **holder != self.id)?;
            let policy = retry_policy_name(&self.project, holder);
            Some(Error::field(
                "retry_policy.task_types",
                format!("{of_type} has the policy {policy}; change that first"),
            ))
        });
        taken.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn tell(&self, tx: &mut Tx, kind: ResourceKind, diff: String) -> std::result::Result<(), Stop> {
        let name = retry_policy_name(&self.project, &self.id);
        let entry = Entry::of_resource(kind, name, tx.now(), Some(diff), &self.caller);
        journal::append(tx, &self.project, &[entry]).await?;
        Ok(())
    }
}

/// Old and new values of what differs: `{"description": ["", "x"]}`.
fn diff(old: Option<&PolicyContent>, new: Option<&PolicyContent>) -> String {
    // Named one by one, so that a new field is a compile error here.
    let values = |content: Option<&PolicyContent>| {
        let Some(PolicyContent { description, settings, task_types }) = content else {
            return [json!(null), json!(null), json!(null)];
        };
        [json!(description), json!(**settings), json!(task_types)]
    };
    let fields = ["description", "settings", "task_types"].into_iter().zip(values(old).into_iter().zip(values(new)));
    let changed = fields.filter(|(_, (old, new))| old != new);
    serde_json::Value::Object(changed.map(|(field, (old, new))| (field.to_owned(), json!([old, new]))).collect())
        .to_string()
}
