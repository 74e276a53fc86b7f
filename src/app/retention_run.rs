//! Works on runs of retention. Any replica may; one that is killed is followed by another, from the cursor on.
//!
//! A run walks over the tasks of its project in the order of their submit, up to the first that cannot be due, and reads
//! them without a lock. Those that are due go in batches, each in a transaction of its own that locks them, judges them
//! again, deletes them with all that is kept of them, writes one row of the journal, and saves how far the run is. So
//! whatever happens, what is counted is what was deleted, and a task that was opened again meanwhile stays. Then the old
//! end of the journal is cut off in the same way.
//!
//! Others come first: a batch that takes long makes the next one smaller, and after each the run rests for a multiple of
//! what it took. A task that cannot be deleted is counted and passed over; it must not keep the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    App,
    bulk_run::is_passing,
    retention::{BeginRun, Begun, STRETCH, is_full},
    retention_step::{ClaimRun, CutJournal, Cutting, MakeMissing, Purge, Save, SaveRun},
};
use crate::{
    context::{Caller, CallerInfo},
    domain::{
        retention::{Candidate, RetentionRun, Trigger, Verdict, next_batch, pause_after},
        task::Micros,
        task_list::Position,
    },
    error::Result,
    ids::{ProjectId, RetentionRunId, retention_run_name, task_name},
    store::{
        retention,
        retention_runs::{Claimed, Stage},
        tasks,
    },
};

/// Who deletes what is too old when nobody asked for it.
const PRINCIPAL: &str = "system:retention";
/// How long a run is worked on before the next one has its turn.
const TURN: Duration = Duration::from_secs(10);
/// Projects looked at at once for a daily run.
const PROJECTS: i64 = 500;

impl App {
    /// Begins the daily runs whose time has come; called by a loop, on every replica.
    pub async fn begin_daily_retention(&self) -> Result<()> {
        if retention::is_missing(self.store()).await? {
            self.write(MakeMissing).await?;
        }
        let settings = self.retention_settings();
        let now = self.store().now().await?;
        let daily_time = settings.daily.at_or_before(now);
        let (mut after, mut fault) = (None, None);
        loop {
            let projects = retention::unserved(self.store(), daily_time, after.as_ref(), PROJECTS).await?;
            for (project, served_time) in &projects {
                // The turn of this one may not have come yet.
                let due = settings.daily.due(project.as_str(), now);
                if *served_time >= due || self.draining().is_cancelled() {
                    continue;
                }
                match self.begin_daily_run(project, due).await {
                    Ok(()) => {}
                    Err(cause) if is_passing(&cause) => return Err(cause),
                    // A project that is at fault must not keep the others.
                    Err(cause) => fault = Some(cause),
                }
            }
            match projects.last() {
                Some((last, _)) if i64::try_from(projects.len()).is_ok_and(|found| found >= PROJECTS) => {
                    after = Some(last.clone());
                }
                _ => return fault.map_or(Ok(()), Err),
            }
        }
    }

    async fn begin_daily_run(&self, project: &ProjectId, daily_time: Micros) -> Result<()> {
        let begin = BeginRun {
            caller: Caller::system(PRINCIPAL),
            project: project.clone(),
            id: RetentionRunId(Uuid::now_v7()),
            trigger: Trigger::Daily,
            etag: None,
            daily_time: Some(daily_time),
            settings: self.retention_settings().clone(),
        };
        if let Begun::Run(_) = self.write(begin).await? {
            self.hub().journal_moved(project);
        }
        Ok(())
    }

    /// Works a turn on the run that made no progress for longest. Answers whether there was one.
    pub async fn work_on_retention(&self) -> Result<bool> {
        let Some(claimed) = self.write(ClaimRun).await? else { return Ok(false) };
        let caller = caller_of(&claimed.run);
        Turn { app: self, claimed, caller, batch: next_batch(0, Duration::ZERO) }.work().await?;
        Ok(true)
    }
}

/// The changes a run makes are its owner's, and say which run made them.
fn caller_of(run: &RetentionRun) -> Caller {
    Caller::new(CallerInfo {
        agent: Some(retention_run_name(&run.project, run.id)),
        ..CallerInfo::of_server(Arc::from(run.owner.as_str()))
    })
}

struct Turn<'a> {
    app: &'a App,
    claimed: Claimed,
    caller: Caller,
    /// Tasks deleted in one go.
    batch: usize,
}

/// What comes after a step.
enum Next {
    Step,
    End,
    /// Somebody else has the run.
    Lost,
}

impl Turn<'_> {
    async fn work(mut self) -> Result<()> {
        let until = Instant::now() + TURN;
        loop {
            let next = match self.claimed.stage {
                Stage::Tasks(cursor) => self.walk_on(cursor, until).await,
                Stage::Journal => self.cut_journal().await,
            };
            match next {
                Ok(Next::Step) if Instant::now() < until && !self.app.draining().is_cancelled() => {}
                Ok(Next::Step) => return self.save(Save::Release).await,
                Ok(Next::End) => return self.save(Save::Finish).await,
                Ok(Next::Lost) => return Ok(()),
                Err(cause) => {
                    self.save(Save::Release).await?;
                    return Err(cause);
                }
            }
        }
    }

    /// Looks at the next tasks, and deletes those that are due.
    async fn walk_on(&mut self, cursor: Option<Position>, until: Instant) -> Result<Next> {
        let run = &self.claimed.run;
        let horizon = run.policy.horizon(run.create_time);
        let began = Instant::now();
        let page = tasks::candidates(self.app.store(), &run.project, cursor, horizon, STRETCH).await?;
        self.rest(began.elapsed()).await;
        let is_last = !is_full(&page);
        let mut rest = page.as_slice();
        while !rest.is_empty() {
            if Instant::now() >= until || self.app.draining().is_cancelled() {
                return Ok(Next::Step);
            }
            let (part, others) = rest.split_at(self.length_of_batch(rest));
            rest = others;
            if !self.purge(part).await? {
                return Ok(Next::Lost);
            }
        }
        if is_last {
            self.claimed.stage = Stage::Journal;
        }
        Ok(Next::Step)
    }

    /// How many of these tasks make a batch: up to the last that is due before it is full.
    fn length_of_batch(&self, tasks: &[Candidate]) -> usize {
        let run = &self.claimed.run;
        let is_due = |task: &Candidate| matches!(run.policy.verdict(task, run.create_time), Verdict::Due { .. });
        let mut due = tasks.iter().enumerate().filter(|(_, task)| is_due(task));
        due.nth(self.batch - 1).map_or(tasks.len(), |(place, _)| place + 1)
    }

    /// Passes over tasks, and deletes those of them that are due. False when the run is no longer ours.
    async fn purge(&mut self, tasks: &[Candidate]) -> Result<bool> {
        let began = Instant::now();
        match self.purge_together(tasks).await {
            Err(cause) if !is_passing(&cause) && tasks.len() > 1 => {
                for task in tasks {
                    if !self.purge_alone(task).await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Err(cause) if !is_passing(&cause) => self.purge_alone(&tasks[0]).await,
            outcome => {
                if outcome? {
                    let took = began.elapsed();
                    self.batch = next_batch(self.batch, took);
                    self.rest(took).await;
                    return Ok(true);
                }
                Ok(false)
            }
        }
    }

    async fn purge_together(&mut self, tasks: &[Candidate]) -> Result<bool> {
        let (due, claimed) = self.passed_over(tasks);
        if due.is_empty() {
            // Kept with the next batch, or when the turn is over: until then it costs nothing to look again.
            self.claimed = claimed;
            return Ok(true);
        }
        let project = claimed.run.project.clone();
        let saved = self.app.write(Purge { claimed, due, caller: self.caller.clone() }).await?;
        let Some(saved) = saved else { return Ok(false) };
        self.claimed = saved;
        self.app.hub().journal_moved(&project);
        Ok(true)
    }

    /// One of a batch that failed.
    async fn purge_alone(&mut self, task: &Candidate) -> Result<bool> {
        match self.purge_together(std::slice::from_ref(task)).await {
            Err(cause) if !is_passing(&cause) => {
                let (_, mut claimed) = self.passed_over(std::slice::from_ref(task));
                claimed.run.counts.errors += 1;
                let name = task_name(&claimed.run.project, task.place.id);
                claimed.run.error_message = format!("{name}: {cause}");
                self.claimed = claimed;
                Ok(true)
            }
            outcome => outcome,
        }
    }

    /// The tasks that are due among these, and the run once all of them are passed over and those kept are counted.
    fn passed_over(&self, tasks: &[Candidate]) -> (Vec<Candidate>, Claimed) {
        let mut claimed = self.claimed.clone();
        let mut due = Vec::new();
        for task in tasks {
            match claimed.run.policy.verdict(task, claimed.run.create_time) {
                Verdict::Due { .. } => due.push(task.clone()),
                verdict => claimed.run.counts.add(task, verdict),
            }
        }
        if let Some(last) = tasks.last() {
            claimed.stage = Stage::Tasks(Some(last.place));
        }
        (due, claimed)
    }

    async fn cut_journal(&mut self) -> Result<Next> {
        let began = Instant::now();
        let project = self.claimed.run.project.clone();
        let cut = CutJournal { claimed: self.claimed.clone(), caller: self.caller.clone() };
        match self.app.write(cut).await? {
            Cutting::Nothing => Ok(Next::End),
            Cutting::Lost => Ok(Next::Lost),
            Cutting::Cut(claimed) => {
                self.claimed = *claimed;
                self.app.hub().journal_moved(&project);
                self.rest(began.elapsed()).await;
                Ok(Next::Step)
            }
        }
    }

    /// Leaves the database to others for as long as what was done deserves.
    async fn rest(&self, took: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause_after(took)) => {}
            () = self.app.draining().cancelled() => {}
        }
    }

    async fn save(self, how: Save) -> Result<()> {
        let project = self.claimed.run.project.clone();
        self.app.write(SaveRun { claimed: self.claimed, caller: self.caller, how }).await?;
        self.app.hub().journal_moved(&project);
        Ok(())
    }
}
