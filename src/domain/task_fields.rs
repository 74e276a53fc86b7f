//! A task as filters ask about it.

use uuid::Uuid;

use super::{
    filter::{Fields, IntField, TextField, TimeField},
    task::Task,
    task_state::TaskState,
};

impl Fields for Task {
    fn project(&self) -> &str {
        self.project.as_str()
    }

    fn id(&self) -> Uuid {
        self.id.0
    }

    fn state(&self) -> TaskState {
        self.state
    }

    fn cancel_requested(&self) -> bool {
        Task::cancel_requested(self)
    }

    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Type => Some(&self.spec.task_type),
            TextField::Queue => Some(&self.spec.queue),
            TextField::Owner => Some(&self.spec.owner),
            TextField::UniqueKey => self.spec.unique_key.as_deref(),
            TextField::Worker => self.lease.as_ref().map(|lease| lease.worker.as_str()),
            TextField::ErrorType => self.error.as_ref().map(|error| error.error_type.as_str()),
            TextField::ErrorMessage => self.error.as_ref().map(|error| error.message.as_str()),
            TextField::Fingerprint | TextField::Audit(_) => None,
        }
    }

    fn int(&self, field: IntField) -> i64 {
        match field {
            IntField::Priority => self.spec.priority.into(),
            IntField::AttemptCount => self.attempt_count.into(),
            IntField::CrashCount => self.crash_count.into(),
        }
    }

    fn time(&self, field: TimeField) -> Option<i64> {
        match field {
            TimeField::Create => Some(self.spec.create_time),
            TimeField::Update => Some(self.update_time),
            TimeField::Run => Some(self.run_time),
            TimeField::Finish => self.finish_time,
            TimeField::Expire => self.spec.expire_time,
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.spec.labels.get(key).map(String::as_str)
    }
}
