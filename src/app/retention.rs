//! Retention as callers see it: rules, a look at what a run would do, runs. The work itself is in `retention_run`.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
    page::{cut, one_more},
};
use crate::{
    context::Caller,
    domain::{
        etag,
        event::ResourceKind,
        retention::{
            Counts, Retention, RetentionPolicy, RetentionRule, RetentionRun, RetentionSettings, RunState, Trigger,
        },
        task::Micros,
    },
    error::{Error, Result},
    ids::{ProjectId, RetentionRunId, project_name, retention_name, retention_run_name},
    store::{
        Tx, history,
        journal::{self, Entry},
        retention::{self, Kept},
        retention_runs, tasks,
    },
};

/// Most tasks a preview looks at.
const PREVIEW_TASKS: usize = 200_000;
/// How long a preview looks at tasks; it must answer within the 5 s of a call.
const PREVIEW_TIME: Duration = Duration::from_secs(2);
/// Tasks read in one statement: some milliseconds.
pub(super) const STRETCH: i64 = 2_000;

/// What a run would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPreview {
    /// By which rules.
    pub policy: RetentionPolicy,
    /// What it would delete and keep.
    pub counts: Counts,
    /// Counting ended before all tasks were counted.
    pub is_partial: bool,
    /// The etag of the rules of the project.
    pub etag: String,
}

impl App {
    /// What this server was told about retention.
    pub fn retention_settings(&self) -> &RetentionSettings {
        &self.0.retention
    }

    /// The rules of a project.
    pub async fn get_retention(&self, project: &ProjectId) -> Result<Retention> {
        self.require_project(project).await?;
        let Kept { rules, update_time, served_time } = retention::get(self.store(), project).await?;
        let now = self.store().now().await?;
        let next_run_time = self.retention_settings().daily.next(project.as_str(), served_time, now);
        Ok(Retention { project: project.clone(), rules, update_time, next_run_time })
    }

    /// Replaces the rules of a project; none leaves them as they are.
    pub async fn update_retention(
        &self,
        caller: &Caller,
        project: &ProjectId,
        rules: Option<Vec<RetentionRule>>,
        etag: Option<String>,
    ) -> Result<Retention> {
        self.require_live_project(project).await?;
        let write = UpdateRules { caller: caller.clone(), project: project.clone(), rules, etag };
        if self.write(write).await? {
            self.hub().journal_moved(project);
        }
        self.get_retention(project).await
    }

    /// Counts what a run would do now, by the rules of the project or by others.
    pub async fn preview_retention(
        &self,
        project: &ProjectId,
        rules: Option<Vec<RetentionRule>>,
    ) -> Result<RetentionPreview> {
        self.require_project(project).await?;
        let kept = retention::get(self.store(), project).await?;
        let etag = etag::retention_etag(project, &kept.rules);
        let settings = self.retention_settings();
        let policy = RetentionPolicy { rules: rules.unwrap_or(kept.rules), default_age: settings.history };
        let now = self.store().now().await?;
        let mut counts = Counts::of(&policy);
        let (began, mut looked_at, mut cursor) = (Instant::now(), 0, None);
        let is_partial = loop {
            let page = tasks::candidates(self.store(), project, cursor, policy.horizon(now), STRETCH).await?;
            for candidate in &page {
                counts.add(candidate, policy.verdict(candidate, now));
            }
            looked_at += page.len();
            let Some(last) = page.last().filter(|_| is_full(&page)) else { break false };
            cursor = Some(last.place);
            if looked_at >= PREVIEW_TASKS || began.elapsed() >= PREVIEW_TIME {
                break true;
            }
        };
        if let Some(position) = journal::position(self.store(), project).await? {
            let end = history::first_since(self.store(), project, now - settings.journal()).await?;
            counts.journal_deleted = (end - position.oldest).max(0);
        }
        Ok(RetentionPreview { policy, counts, is_partial, etag })
    }

    /// Begins a run at once; the loop works on it.
    pub async fn run_retention(
        &self,
        caller: &Caller,
        project: &ProjectId,
        etag: Option<String>,
    ) -> Result<RetentionRun> {
        let begin = BeginRun {
            caller: caller.clone(),
            project: project.clone(),
            id: RetentionRunId(Uuid::now_v7()),
            trigger: Trigger::Call,
            etag,
            daily_time: None,
            settings: self.retention_settings().clone(),
        };
        match self.write(begin).await? {
            Begun::Run(run) => {
                self.hub().journal_moved(project);
                Ok(*run)
            }
            Begun::Nothing => Err(Error::internal(anyhow::anyhow!("a call for a run began none"))),
        }
    }

    /// One run.
    pub async fn get_retention_run(&self, project: &ProjectId, id: RetentionRunId) -> Result<RetentionRun> {
        self.require_project(project).await?;
        let found = retention_runs::get(self.store(), project, id).await?;
        found.ok_or_else(|| Error::NotFound { kind: "retention run", name: retention_run_name(project, id) })
    }

    /// Runs, newest first, those before `after`; and the place after which the next page goes on.
    pub async fn list_retention_runs(
        &self,
        project: &ProjectId,
        after: Option<(Micros, RetentionRunId)>,
        limit: i64,
    ) -> Result<(Vec<RetentionRun>, Option<(Micros, RetentionRunId)>)> {
        self.require_project(project).await?;
        let found = retention_runs::list(self.store(), project, after, one_more(limit)).await?;
        Ok(cut(found, limit, |run| (run.create_time, run.id)))
    }
}

/// Whether more may come after what was read.
pub(super) fn is_full<T>(page: &[T]) -> bool {
    i64::try_from(page.len()).is_ok_and(|length| length >= STRETCH)
}

struct UpdateRules {
    caller: Caller,
    project: ProjectId,
    rules: Option<Vec<RetentionRule>>,
    etag: Option<String>,
}

impl NamedWrite for UpdateRules {
    const NAME: &'static str = "update-retention";
    /// Whether the journal got a row.
    type Answer = bool;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<bool>, Stop> {
        let Self { caller, project, rules, etag } = self;
        let kept = locked(tx, project, etag.as_deref()).await?;
        let Some(rules) = rules.as_ref().filter(|rules| **rules != kept.rules) else { return Ok(Done::Nothing(false)) };
        retention::set_rules(tx, project, rules).await?;
        let diff = json!({ "rules": [kept.rules, rules] }).to_string();
        let name = retention_name(project);
        let entry = Entry::of_resource(ResourceKind::RetentionUpdated, name, tx.now(), Some(diff), caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(true))
    }
}

/// Locks the rules of a project, and refuses unless they are those that were looked at.
async fn locked(tx: &mut Tx, project: &ProjectId, etag: Option<&str>) -> std::result::Result<Kept, Stop> {
    let kept = retention::lock(tx, project).await?;
    let kept = kept.ok_or_else(|| Error::NotFound { kind: "project", name: project_name(project) })?;
    let current = etag::retention_etag(project, &kept.rules);
    match etag {
        Some(asked) if asked != current => Err(Error::EtagMismatch { name: retention_name(project), current }.into()),
        _ => Ok(kept),
    }
}

/// Begins a run, once.
pub(super) struct BeginRun {
    pub(super) caller: Caller,
    pub(super) project: ProjectId,
    pub(super) id: RetentionRunId,
    pub(super) trigger: Trigger,
    pub(super) etag: Option<String>,
    /// For the daily run: the time it serves. It is begun unless it is served already, or another run is under way.
    pub(super) daily_time: Option<Micros>,
    pub(super) settings: RetentionSettings,
}

/// What became of it.
pub(super) enum Begun {
    Run(Box<RetentionRun>),
    /// It was served before, or cannot be now.
    Nothing,
}

impl NamedWrite for BeginRun {
    const NAME: &'static str = "begin-retention-run";
    type Answer = Begun;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Begun>, Stop> {
        let Self { caller, project, id, trigger, etag, daily_time, settings } = self;
        let kept = locked(tx, project, etag.as_deref()).await?;
        if let Some(daily_time) = daily_time
            && kept.served_time.is_some_and(|served| served >= *daily_time)
        {
            return Ok(Done::Nothing(Begun::Nothing));
        }
        match (retention_runs::running(tx, project).await?, daily_time) {
            (None, _) => {}
            // Its turn comes when the other run has ended.
            (Some(_), Some(_)) => return Ok(Done::Nothing(Begun::Nothing)),
            (Some(run), None) => {
                return Err(Error::StateConflict {
                    name: retention_run_name(project, run.id),
                    state: RunState::Running.name(),
                    hint: "one run of a project goes on at a time; wait for its end",
                }
                .into());
            }
        }
        if let Some(daily_time) = daily_time {
            retention::set_served(tx, project, *daily_time).await?;
        }
        let policy = RetentionPolicy { rules: kept.rules, default_age: settings.history };
        let now = tx.now();
        let run = RetentionRun {
            project: project.clone(),
            id: *id,
            trigger: *trigger,
            owner: caller.principal.to_string(),
            state: RunState::Running,
            counts: Counts::of(&policy),
            policy,
            journal_age: settings.journal(),
            error_message: String::new(),
            create_time: now,
            update_time: now,
            finish_time: None,
        };
        retention_runs::create(tx, &run).await?;
        let diff = json!({ "policy": [null, run.policy], "journal_age": [null, run.journal_age] }).to_string();
        let name = retention_run_name(project, *id);
        let entry = Entry::of_resource(ResourceKind::RetentionRunStarted, name, now, Some(diff), caller);
        journal::append(tx, project, &[entry]).await?;
        Ok(Done::Commit(Begun::Run(Box::new(run))))
    }
}
