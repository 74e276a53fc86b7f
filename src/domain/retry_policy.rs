//! Retry settings under a name, and which settings hold for a task.

use std::{collections::HashMap, sync::Arc};

use super::{
    retry::{Decision, FailedAttempt, Retry, RetrySettings, decide},
    retry_budget::{RetryBudget, RetryLedger},
    retry_pattern::Patterns,
    task::{Micros, Spec, Task, TaskError},
};
use crate::ids::ProjectId;

/// Most policies of a project: what holds for it is read as a whole.
pub const MAX_POLICIES: i64 = 200;

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Its project.
    pub project: ProjectId,
    /// The last part of its name.
    pub id: String,
    /// What can be changed.
    pub content: PolicyContent,
    /// Rises by one with every change.
    pub version: i64,
    /// When it was created.
    pub create_time: Micros,
    /// When it last changed.
    pub update_time: Micros,
}

/// What can be changed of a policy.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PolicyContent {
    /// For people.
    pub description: String,
    /// The rules and the rest.
    pub settings: Arc<RetrySettings>,
    /// Types it holds for unless the task or its queue says otherwise; in order, each once.
    pub task_types: Vec<String>,
}

/// New values for a policy. None leaves one as it is.
#[derive(Clone, Debug, Default)]
pub struct PolicyPatch {
    /// For people.
    pub description: Option<String>,
    /// The rules and the rest.
    pub settings: Option<RetrySettings>,
    /// Types it holds for.
    pub task_types: Option<Vec<String>>,
}

impl PolicyContent {
    /// The content with a patch applied.
    #[must_use]
    pub fn patched(&self, patch: PolicyPatch) -> Self {
        Self {
            description: patch.description.unwrap_or_else(|| self.description.clone()),
            settings: patch.settings.map_or_else(|| self.settings.clone(), Arc::new),
            task_types: patch.task_types.unwrap_or_else(|| self.task_types.clone()),
        }
    }
}

/// What decides about the failed attempts of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decider {
    /// The settings.
    pub settings: Arc<RetrySettings>,
    /// The policy they are of; none if the task carries them, or they are the built-in ones.
    pub policy: Option<PolicyVersion>,
}

/// A policy as it was at some time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyVersion {
    /// Its id.
    pub id: Arc<str>,
    /// Its version.
    pub version: i64,
}

/// All policies of a project, and what has which of them.
#[derive(Debug, Default)]
pub struct Policies {
    /// By id.
    pub by_id: HashMap<Arc<str>, Decider>,
    /// By task type.
    pub by_type: HashMap<String, Arc<str>>,
    /// Queues that say something about retries.
    pub queues: HashMap<String, QueueRetry>,
    built_in: Decider,
}

/// What a queue says about retries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRetry {
    /// The policy of its tasks.
    pub policy: Option<Arc<str>>,
    /// What it takes.
    pub budget: Option<RetryBudget>,
}

impl Policies {
    /// What holds for a task: its own settings, else the policy it names, else that of its queue, else that of its type,
    /// else the built-in settings. A policy that is gone says nothing.
    pub fn of(&self, spec: &Spec) -> Decider {
        let named = match &spec.retry {
            Retry::Settings(settings) => return Decider { settings: settings.clone(), policy: None },
            Retry::Policy(id) => self.by_id.get(id),
            Retry::Unsaid => None,
        };
        let of_queue = || self.queues.get(&spec.queue).and_then(|queue| self.by_id.get(queue.policy.as_ref()?));
        let of_type = || self.by_type.get(&spec.task_type).and_then(|id| self.by_id.get(id));
        named.or_else(of_queue).or_else(of_type).unwrap_or(&self.built_in).clone()
    }

    /// What a queue takes.
    pub fn budget(&self, queue: &str) -> RetryBudget {
        self.queues.get(queue).and_then(|queue| queue.budget).unwrap_or_default()
    }
}

/// All that is needed to decide about the failed attempts of a task.
#[derive(Debug)]
pub struct Judge<'a> {
    /// What decides.
    pub decider: &'a Decider,
    /// Compiled expressions.
    pub patterns: &'a mut Patterns,
    /// What its queue takes, and has taken.
    pub budget: RetryBudget,
    /// See there.
    pub ledger: &'a mut RetryLedger,
    /// In [0, 1): draws the wait.
    pub random: f64,
}

impl Judge<'_> {
    /// Decides about the attempt of a running task.
    pub fn decide(&mut self, task: &Task, error: &TaskError, retry_after: Option<Micros>, now: Micros) -> Decision {
        let age = now.saturating_sub(task.spec.open_time.unwrap_or(task.spec.create_time));
        let failed = FailedAttempt { error, number: task.attempt_count, age, retry_after };
        decide(&self.decider.settings, &failed, self.patterns, self.random)
    }

    /// When a retry comes that would come at `time`.
    pub fn place(&mut self, time: Micros, now: Micros) -> Micros {
        self.ledger.place(self.budget, time, now, self.random)
    }
}
