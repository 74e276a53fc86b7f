//! Queues: read them, bound them, pause and resume them.
//!
//! A change locks the settings, decides, and writes them with one journal row that holds the old and new values. What
//! changes nothing writes nothing. Claims read the settings in their own transaction, so a change holds from its commit
//! on, on every replica.

use serde_json::{Map, Value, json};

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
        queue::{Queue, QueuePatch, QueueSettings},
    },
    error::{Error, Result},
    ids::{ProjectId, queue_name, retry_policy_name},
    store::{
        Tx,
        journal::{self, Entry},
        queues::{self, Found, LockedSettings},
        retry_policies,
    },
};

/// What an operator does to a queue.
#[derive(Debug)]
enum Change {
    Update { patch: QueuePatch, etag: Option<String> },
    Pause { note: String },
    Resume,
}

impl Change {
    fn kind(&self) -> ResourceKind {
        match self {
            Self::Update { .. } => ResourceKind::QueueUpdated,
            Self::Pause { .. } => ResourceKind::QueuePaused,
            Self::Resume => ResourceKind::QueueResumed,
        }
    }

    fn apply(&self, settings: &QueueSettings) -> QueueSettings {
        match self {
            Self::Update { patch, .. } => settings.patched(patch.clone()),
            Self::Pause { note } => QueueSettings { paused: true, pause_note: note.clone(), ..settings.clone() },
            Self::Resume => QueueSettings { paused: false, pause_note: String::new(), ..settings.clone() },
        }
    }
}

impl App {
    /// One queue with its figures.
    pub async fn get_queue(&self, project: &ProjectId, name: &str) -> Result<Queue> {
        self.require_project(project).await?;
        let found = queues::get(self.store(), project, name).await?;
        found.map(|found| self.with_activity(found)).ok_or_else(|| not_found(project, name))
    }

    /// Queues by name, those after `after`; and the name after which the next page goes on.
    pub async fn list_queues(
        &self,
        project: &ProjectId,
        after: Option<String>,
        limit: i64,
    ) -> Result<(Vec<Queue>, Option<String>)> {
        self.require_project(project).await?;
        let found = queues::list(self.store(), project, after.as_deref(), one_more(limit)).await?;
        let (found, next) = cut(found, limit, |found| found.queue.name.clone());
        Ok((found.into_iter().map(|found| self.with_activity(found)).collect(), next))
    }

    /// Changes settings; makes the queue if it does not exist.
    pub async fn update_queue(
        &self,
        caller: &Caller,
        project: &ProjectId,
        name: &str,
        patch: QueuePatch,
        etag: Option<String>,
    ) -> Result<Queue> {
        self.change_queue(caller, project, name, Change::Update { patch, etag }).await
    }

    /// Stops leasing; makes the queue if it does not exist, so that it can be paused before its first task. Of a paused
    /// queue it changes the note.
    pub async fn pause_queue(&self, caller: &Caller, project: &ProjectId, name: &str, note: String) -> Result<Queue> {
        self.change_queue(caller, project, name, Change::Pause { note }).await
    }

    /// Leases again.
    pub async fn resume_queue(&self, caller: &Caller, project: &ProjectId, name: &str) -> Result<Queue> {
        self.change_queue(caller, project, name, Change::Resume).await
    }

    async fn change_queue(&self, caller: &Caller, project: &ProjectId, name: &str, change: Change) -> Result<Queue> {
        let write = ChangeQueue { caller: caller.clone(), project: project.clone(), name: name.to_owned(), change };
        if self.write(write).await? {
            self.committer().forget_policies(project);
            self.hub().journal_moved(project);
        }
        self.get_queue(project, name).await
    }

    fn with_activity(&self, found: Found) -> Queue {
        let Found { queue, totals } = found;
        let activity = self.activity().of(&queue.project, &queue.name, totals);
        Queue { activity, ..queue }
    }
}

struct ChangeQueue {
    caller: Caller,
    project: ProjectId,
    name: String,
    change: Change,
}

impl NamedWrite for ChangeQueue {
    const NAME: &'static str = "change-queue";
    /// Whether the journal got a row.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let Self { caller, project, name, change } = self;
        require_live(tx, project).await?;
        let LockedSettings { settings: old, is_new } = queues::lock_settings(tx, project, name).await?;
        if is_new && matches!(change, Change::Resume) {
            return Err(not_found(project, name).into());
        }
        if let Change::Update { etag: Some(asked), .. } = change {
            let current = etag::queue_settings_etag(project, name, &old);
            if *asked != current {
                return Err(Error::EtagMismatch { name: queue_name(project, name), current }.into());
            }
        }
        let new = change.apply(&old);
        let Some(diff) = diff(&old, &new) else {
            // The queue itself may still be new.
            return Ok(if is_new { Done::Commit(false) } else { Done::Nothing(false) });
        };
        if let Some(policy) = new.retry_policy.as_ref().filter(|_| new.retry_policy != old.retry_policy)
            && retry_policies::lock(tx, project, policy).await?.is_none()
        {
            return Err(Error::NotFound { kind: "retry policy", name: retry_policy_name(project, policy) }.into());
        }
        let now = tx.now();
        queues::write_settings(tx, project, name, &new, now).await?;
        let entry = Entry::of_resource(change.kind(), queue_name(project, name), now, Some(diff), caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(true))
    }
}

fn not_found(project: &ProjectId, name: &str) -> Error {
    Error::NotFound { kind: "queue", name: queue_name(project, name) }
}

/// The settings that differ, as JSON: `{"max_running": [0, 5]}`. None when none does.
fn diff(old: &QueueSettings, new: &QueueSettings) -> Option<String> {
    // Named one by one, so that a new setting is a compile error here.
    let QueueSettings { paused, pause_note, max_running, rate, lease_duration, retry_policy, retry_budget } = old;
    let fields = [
        ("paused", json!(paused), json!(new.paused)),
        ("pause_note", json!(pause_note), json!(new.pause_note)),
        ("max_running", json!(max_running), json!(new.max_running)),
        ("rate", json!(rate), json!(new.rate)),
        ("lease_duration", json!(lease_duration), json!(new.lease_duration)),
        ("retry_policy", json!(retry_policy), json!(new.retry_policy)),
        ("retry_budget", json!(retry_budget), json!(new.retry_budget)),
    ];
    let changed: Map<String, Value> = fields
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(field, old, new)| (field.to_owned(), json!([old, new])))
        .collect();
    (!changed.is_empty()).then(|| Value::Object(changed).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::queue::Rate;

    #[test]
    fn the_journal_gets_old_and_new_values_of_what_changed() {
        let old = QueueSettings::default();
        assert_eq!(diff(&old, &old), None);
        let rate = Some(Rate { count: 1, interval: 2, burst: 3 });
        let new = old.patched(QueuePatch { max_running: Some(5), rate: Some(rate), ..QueuePatch::default() });
        let expected = json!({"max_running": [0, 5], "rate": [null, {"count": 1, "interval": 2, "burst": 3}]});
        assert_eq!(diff(&old, &new).map(|text| text.parse::<Value>().unwrap()), Some(expected));
    }

    #[test]
    fn resuming_clears_the_note_and_keeps_the_limits() {
        let limited = QueueSettings { max_running: 3, ..QueueSettings::default() };
        let paused = Change::Pause { note: "why".to_owned() }.apply(&limited);
        assert_eq!((paused.paused, &*paused.pause_note, paused.max_running), (true, "why", 3));
        assert_eq!(Change::Resume.apply(&paused), limited);
    }
}
