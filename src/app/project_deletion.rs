//! Projects that are deleted and brought back. Deleting changes what a project is, not what is in it: nothing is removed.
//!
//! The deletion itself, the pausing of the schedules and the end of the bulk jobs are one transaction. From then on new
//! work is refused: at once here, within the time that projects are remembered ([`Projects`]) on other replicas. Only when
//! all of them must have heard does a loop start the bulk job that cancels the open tasks, so that none comes after it.
//! That it is to be started stands in the row of the project: a server that is killed in between, or in the middle of the
//! bulk job, leaves it to the next.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use super::{
    App,
    bulk_job::{StartJob, journal_end},
    named_write::{Done, NamedWrite, Stop},
    project::locked,
    schedule_change::resume,
};
use crate::{
    context::Caller,
    domain::{
        bulk_job::{BulkAction, BulkJob, BulkState},
        event::ResourceKind,
        project::{CANCEL_DELAY, Deletion, Project, UNDELETE_WINDOW},
    },
    error::{Error, Result},
    ids::{BulkJobId, DEFAULT_PROJECT, ProjectId, SYSTEM_PROJECT, project_name},
    store::{
        Tx, bulk_jobs,
        journal::{self, Entry},
        occurrences,
        projects::{self, Presence},
        schedules,
    },
};

/// How long it is believed that a project is there without a look: half of [`CANCEL_DELAY`], in real time.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Projects remembered. Each is some dozen bytes.
const MANY: usize = 16_384;
/// Who cancels the tasks of a deleted project, in the journal.
const CLEANER: &str = "system:project-deletion";
/// What is cancelled: tasks that run are asked to stop, so that none of them waits for another attempt afterwards.
const OPEN_TASKS: &str = "state = PENDING OR state = RETRYING OR state = RUNNING";
/// Why.
const REASON: &str = "the project was deleted";
/// Schedules resumed by one statement.
const PAGE: i64 = 500;

/// The projects that are known to exist, and whether they were deleted.
#[derive(Debug, Default)]
pub(super) struct Projects(Mutex<HashMap<ProjectId, (Presence, Instant)>>);

impl Projects {
    fn known(&self) -> MutexGuard<'_, HashMap<ProjectId, (Presence, Instant)>> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Refuses a project that does not exist. A deleted one does.
    pub(super) async fn require_project(&self, project: &ProjectId) -> Result<()> {
        match Box::pin(self.presence(project)).await? {
            Presence::Missing => Err(Error::NotFound { kind: "project", name: project_name(project) }),
            Presence::Live | Presence::Deleted => Ok(()),
        }
    }

    /// Refuses new work for a project that does not exist or was deleted.
    pub(super) async fn require_live_project(&self, project: &ProjectId) -> Result<()> {
        match Box::pin(self.presence(project)).await? {
            Presence::Missing => Err(Error::NotFound { kind: "project", name: project_name(project) }),
            Presence::Deleted => Err(Error::ProjectDeleted { name: project_name(project) }),
            Presence::Live => Ok(()),
        }
    }

    async fn presence(&self, project: &ProjectId) -> Result<Presence> {
        let remembered = &self.0.projects;
        let found = remembered.known().get(project).copied();
        if let Some((presence, _)) = found.filter(|(_, read)| read.elapsed() < REMEMBERED) {
            return Ok(presence);
        }
        let asked = Instant::now();
        let presence = projects::presence(self.store(), project).await?;
        let mut known = remembered.known();
        if known.len() >= MANY {
            known.retain(|_, (_, read)| read.elapsed() < REMEMBERED);
        }
        // What does not exist may be created at any moment, on any replica.
        if presence == Presence::Missing || known.len() >= MANY {
            known.remove(project);
        } else {
            known.insert(project.clone(), (presence, asked));
        }
        Ok(presence)
    }

    /// Deletes a project; none when it may be missing and is.
    pub async fn delete_project(
        &self,
        caller: &Caller,
        id: &ProjectId,
        etag: Option<String>,
        allow_missing: bool,
    ) -> Result<Option<Project>> {
        if id.as_str() == DEFAULT_PROJECT {
            let hint = "requests that name no project mean this one";
            return Err(Error::StateConflict { name: project_name(id), state: "the default project", hint });
        }
        let deleted = self.write(DeleteProject { caller: caller.clone(), id: id.clone(), etag }).await;
        match deleted {
            Ok(project) => {
                self.project_changed(id);
                Ok(Some(project))
            }
            Err(Error::NotFound { .. }) if allow_missing => Ok(projects::get(self.store(), id).await?),
            Err(error) => Err(error),
        }
    }

    /// Takes a deletion back.
    pub async fn undelete_project(&self, caller: &Caller, id: &ProjectId) -> Result<Project> {
        let project = self.write(UndeleteProject { caller: caller.clone(), id: id.clone() }).await?;
        self.project_changed(id);
        Ok(project)
    }

    /// Starts the bulk job that cancels the tasks of a project deleted a while ago. Answers whether there may be more such
    /// projects.
    pub async fn cancel_tasks_of_deleted(&self) -> Result<bool> {
        let now = self.store().now().await?;
        if !projects::is_to_cancel(self.store(), now).await? {
            return Ok(false);
        }
        let started = self.write(CancelTasks { caller: Caller::system(CLEANER) }).await?;
        if let Some(project) = &started {
            self.hub().journal_moved(project);
        }
        Ok(started.is_some())
    }

    fn project_changed(&self, id: &ProjectId) {
        self.0.projects.known().remove(id);
        self.hub().journal_moved(id);
        self.hub().journal_moved(&ProjectId::new(SYSTEM_PROJECT));
        self.alarm().reset();
    }
}

struct DeleteProject {
    caller: Caller,
    id: ProjectId,
    etag: Option<String>,
}

impl NamedWrite for DeleteProject {
    const NAME: &'static str = "delete-project";
    type Answer = Project;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Project>, Stop> {
        let Self { caller, id, etag } = self;
        let old = locked(tx, id, etag.as_deref()).await?;
        let name = project_name(id);
        if old.deletion.is_some() {
            return Err(Error::NotFound { kind: "project", name }.into());
        }
        let now = tx.now();
        let deletion = Deletion { time: now, purge_time: now.saturating_add(UNDELETE_WINDOW) };
        let new = Project { deletion: Some(deletion), update_time: now, ..old };
        projects::write(tx, &new, Some(now.saturating_add(CANCEL_DELAY))).await?;
        let paused = schedules::pause_with_project(tx, id, REASON).await?;
        for job in bulk_jobs::cancel_all(tx, id, None).await? {
            journal_end(tx, &job, caller).await?;
        }
        let diff = json!({
            "delete_time": [null, deletion.time],
            "purge_time": [null, deletion.purge_time],
            "paused_schedules": [0, paused],
        });
        let entry = Entry::of_resource(ResourceKind::ProjectDeleted, name, now, Some(diff.to_string()), caller);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(new))
    }
}

struct UndeleteProject {
    caller: Caller,
    id: ProjectId,
}

impl NamedWrite for UndeleteProject {
    const NAME: &'static str = "undelete-project";
    type Answer = Project;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Project>, Stop> {
        let Self { caller, id } = self;
        let old = locked(tx, id, None).await?;
        let name = project_name(id);
        let Some(deletion) = old.deletion else { return Err(Error::Exists { kind: "project", name }.into()) };
        let now = tx.now();
        if now >= deletion.purge_time {
            let hint = "its purge_time has passed; create another project";
            return Err(Error::StateConflict { name, state: "deleted for good", hint }.into());
        }
        let new = Project { deletion: None, update_time: now, ..old };
        projects::write(tx, &new, None).await?;
        let mut resumed = 0;
        loop {
            let paused = schedules::lock_paused_with_project(tx, id, PAGE).await?;
            let is_last = paused.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            for mut schedule in paused {
                let settled = resume(&mut schedule, now)?;
                occurrences::insert(tx, &settled).await?;
                schedules::write(tx, &schedule).await?;
                schedules::resumed_with_project(tx, id, &schedule.id).await?;
                resumed += 1;
            }
            if is_last {
                break;
            }
        }
        for job in bulk_jobs::cancel_all(tx, id, Some(CLEANER)).await? {
            journal_end(tx, &job, caller).await?;
        }
        let diff = json!({
            "delete_time": [deletion.time, null],
            "purge_time": [deletion.purge_time, null],
            "resumed_schedules": [0, resumed],
        });
        let entry = Entry::of_resource(ResourceKind::ProjectUndeleted, name, now, Some(diff.to_string()), caller);
        journal::append(tx, &ProjectId::new(SYSTEM_PROJECT), &[entry]).await?;
        Ok(Done::Commit(new))
    }
}

/// Starts the bulk job, and notes in the project that it is started.
struct CancelTasks {
    caller: Caller,
}

impl NamedWrite for CancelTasks {
    const NAME: &'static str = "cancel-tasks-of-deleted";
    /// The project; none if there was none to be done.
    type Answer = Option<ProjectId>;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<Self::Answer>, Stop> {
        let Some(project) = projects::lock_to_cancel(tx).await? else { return Ok(Done::Nothing(None)) };
        projects::write(tx, &project, None).await?;
        let job = BulkJob {
            project: project.id.clone(),
            id: BulkJobId(Uuid::now_v7()),
            action: BulkAction::Cancel,
            filter: OPEN_TASKS.to_owned(),
            reason: REASON.to_owned(),
            state: BulkState::Running,
            // Nobody waits to be told how many there are, and counting takes as long as looking.
            matched_count: 0,
            done_count: 0,
            skipped_count: 0,
            error_message: String::new(),
            owner: CLEANER.to_owned(),
            // Filled in from the clock of the transaction.
            create_time: 0,
            update_time: 0,
            finish_time: None,
            retry: None,
        };
        StartJob { caller: self.caller.clone(), job }.run(tx).await?;
        Ok(Done::Commit(Some(project.id)))
    }
}
