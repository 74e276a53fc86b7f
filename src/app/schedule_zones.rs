//! Next ticks that were computed with older time zone data than ours are computed anew: rules of a zone may have changed.

use std::collections::HashMap;

use serde_json::json;

use super::{
    App,
    named_write::{Done, NamedWrite, Stop},
    schedule_run::SCHEDULER,
};
use crate::{
    context::Caller,
    domain::{
        event::ResourceKind,
        schedule::{Plan, ticks},
    },
    error::Result,
    ids::{ProjectId, schedule_name},
    store::{
        Tx,
        journal::{self, Entry},
        schedules,
    },
};

/// Schedules of one transaction.
const BATCH: i64 = 500;
/// Projects looked up at once.
const PROJECTS: i64 = 100;

impl App {
    /// Plans the next tick anew where it was computed with older time zone data than ours. Called at the start and
    /// every hour: while replicas are replaced, one of the version before may still write its own.
    pub async fn renew_time_zones(&self) -> Result<()> {
        loop {
            let projects = schedules::outdated_projects(self.store(), ticks::zone_version(), PROJECTS).await?;
            let mut renewed = 0;
            for project in projects {
                renewed += self.write(RenewZones { project: project.clone() }).await?;
                self.hub().journal_moved(&project);
            }
            if renewed == 0 {
                return Ok(());
            }
        }
    }
}

struct RenewZones {
    project: ProjectId,
}

impl NamedWrite for RenewZones {
    const NAME: &'static str = "renew-time-zones";
    /// How many schedules were looked at.
    type Answer = usize;

    async fn run(&self, tx: &mut Tx) -> std::result::Result<Done<usize>, Stop> {
        let found = schedules::lock_outdated(tx, &self.project, ticks::zone_version(), BATCH).await?;
        let mut moved = Vec::with_capacity(found.len());
        let mut changes = HashMap::new();
        for schedule in &found {
            let mut progress = schedule.progress.clone();
            if !schedule.settings.paused {
                match Plan::new(&schedule.settings.timing, schedule.uid) {
                    Ok(plan) => progress = plan.moved_to(progress.decided, progress),
                    // It cannot be fired either, and is told about then.
                    Err(cause) => tracing::debug!(id = schedule.id, cause, "a timing cannot be read"),
                }
            }
            ticks::zone_version().clone_into(&mut progress.zone_version);
            if progress.next_tick != schedule.progress.next_tick {
                changes.insert(schedule.id.as_str(), (schedule.progress.next_tick, progress.next_tick));
            }
            moved.push((schedule.id.clone(), progress));
        }
        schedules::write_progress(tx, &self.project, &moved).await?;
        let (caller, now) = (Caller::system(SCHEDULER), tx.now());
        let entries: Vec<Entry<'_>> = changes
            .into_iter()
            .map(|(id, (before, after))| {
                let diff = json!({
                    "next_run_time": [before, after],
                    "time_zone_version": [null, ticks::zone_version()],
                });
                let name = schedule_name(&self.project, id);
                Entry::of_resource(ResourceKind::ScheduleUpdated, name, now, Some(diff.to_string()), &caller)
            })
            .collect();
        if !entries.is_empty() {
            journal::append(tx, &self.project, &entries).await?;
        }
        Ok(Done::Commit(found.len()))
    }
}
