//! What would be decided about failed attempts, and what was: an error is put to settings, failures of the past are put to
//! others, and counted. Nothing here changes anything.

use std::sync::Arc;

use super::App;
use crate::{
    domain::{
        authority::Share,
        retry::{Decision, FailedAttempt, RetrySettings, Verdict, decide},
        retry_pattern::Patterns,
        retry_policy::{Decider, PolicyVersion, RetryPolicy},
        retry_report::{RetryStatistics, Simulation, Window},
        task::{DAY, Micros, TaskError},
    },
    error::{Error, Result},
    ids::{ProjectId, TaskId},
    store::retry_reports,
};

/// The window of a report unless the caller names one.
const USUAL_WINDOW: Micros = DAY;
/// Failures a simulation looks at before it lets others go on: at worst a few milliseconds of matching.
const WITHOUT_PAUSE: usize = 16;

/// Settings that a caller names or brings.
#[derive(Clone, Debug)]
pub enum SettingsChoice {
    /// Those of a policy.
    Policy(String),
    /// These.
    Settings(RetrySettings),
}

/// By what an error is decided.
#[derive(Clone, Debug)]
pub enum EvaluationBy {
    /// By these settings.
    Settings(SettingsChoice),
    /// By what holds for this task.
    Task(TaskId),
}

/// An error to be decided about.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// By what.
    pub by: EvaluationBy,
    /// The error.
    pub error: TaskError,
    /// Which attempt it was; none means the first, or the task's.
    pub attempt: Option<i32>,
    /// How long the task has been open; none means not at all, or as the task.
    pub age: Option<Micros>,
    /// What the worker asks for.
    pub retry_after: Option<Micros>,
}

/// What would be decided.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// With the shortest wait.
    pub decision: Decision,
    /// The longest wait; none for a dead letter.
    pub max_wait: Option<Micros>,
    /// The policy that was asked.
    pub policy: Option<PolicyVersion>,
}

/// A window as callers name it; what is not said is filled in from the database's clock.
#[derive(Clone, Debug)]
pub struct AskedWindow {
    /// From this time on.
    pub start: Option<Micros>,
    /// Before this one.
    pub end: Option<Micros>,
    /// Only of this queue, unless it is empty.
    pub queue: String,
    /// Only of this type, unless it is empty.
    pub task_type: String,
}

impl App {
    /// What would be decided about an error.
    pub async fn evaluate_retry(&self, project: &ProjectId, asked: Evaluation) -> Result<Evaluated> {
        let Evaluation { by, error, attempt, age, retry_after } = asked;
        let (decider, of_task) = match by {
            EvaluationBy::Settings(choice) => (self.decider(project, choice).await?, None),
            EvaluationBy::Task(id) => {
                let task = self.get_task(project, id, &Share::All, false).await?;
                let decider = self.committer().policies(project).await?.of(&task.spec);
                let age = self.store().now().await? - task.spec.open_time.unwrap_or(task.spec.create_time);
                (decider, Some((task.attempt_count, age)))
            }
        };
        let failed = FailedAttempt {
            error: &error,
            number: attempt.or(of_task.map(|(number, _)| number)).unwrap_or(1).max(1),
            age: age.or(of_task.map(|(_, age)| age)).unwrap_or(0),
            retry_after,
        };
        // The smallest and the largest draw there are.
        let [decision, latest] =
            [0.0, 1.0].map(|random| decide(&decider.settings, &failed, &mut Patterns::default(), random));
        let max_wait = match latest.verdict {
            Verdict::Retry(wait) | Verdict::Snooze(wait) => Some(wait),
            Verdict::DeadLetter => None,
        };
        Ok(Evaluated { decision, max_wait, policy: decider.policy })
    }

    /// What settings would have decided otherwise about the latest failures of a window.
    pub async fn simulate_policy(
        &self,
        project: &ProjectId,
        choice: SettingsChoice,
        window: AskedWindow,
        limit: i64,
    ) -> Result<(Simulation, Option<PolicyVersion>)> {
        let window = self.window(project, window).await?;
        let decider = self.decider(project, choice).await?;
        // One more than asked tells whether there are more.
        let mut failures = retry_reports::failures(self.store(), project, &window, limit.saturating_add(1)).await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let truncated =
            failures.len() > most || retry_reports::is_more_than_counted(self.store(), project, &window).await?;
        failures.truncate(most);
        let mut simulation = Simulation { truncated, ..Simulation::default() };
        let mut patterns = Patterns::default();
        for (number, failure) in failures.into_iter().enumerate() {
            if number % WITHOUT_PAUSE == 0 {
                tokio::task::yield_now().await;
            }
            simulation.put(failure, &decider.settings, &mut patterns);
        }
        Ok((simulation, decider.policy))
    }

    /// The failures of a window, counted.
    pub async fn retry_statistics(&self, project: &ProjectId, window: AskedWindow) -> Result<RetryStatistics> {
        let window = self.window(project, window).await?;
        Ok(retry_reports::statistics(self.store(), project, &window).await?)
    }

    async fn window(&self, project: &ProjectId, asked: AskedWindow) -> Result<Window> {
        self.require_project(project).await?;
        let AskedWindow { start, end, queue, task_type } = asked;
        let end = match end {
            Some(end) => end,
            None => self.store().now().await?.saturating_add(1),
        };
        let start = start.unwrap_or_else(|| end.saturating_sub(USUAL_WINDOW));
        if start >= end {
            return Err(Error::field("start_time", "must be before end_time"));
        }
        Ok(Window { start, end, queue, task_type })
    }

    async fn decider(&self, project: &ProjectId, choice: SettingsChoice) -> Result<Decider> {
        match choice {
            SettingsChoice::Settings(settings) => {
                self.require_project(project).await?;
                Ok(Decider { settings: Arc::new(settings), policy: None })
            }
            SettingsChoice::Policy(id) => {
                let RetryPolicy { id, content, version, .. } = self.get_retry_policy(project, &id).await?;
                Ok(Decider { settings: content.settings, policy: Some(PolicyVersion { id: id.into(), version }) })
            }
        }
    }
}
