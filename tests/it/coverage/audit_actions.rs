//! Every method that changes something, and what it leaves in the audit. A method that is new fails here until it has an
//! action, or a reason why it has none.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, Value};
use tasktower::domain::audit::actions;

/// What a method leaves in the audit: the actions, or why there is none.
enum Leaves {
    Actions(&'static [&'static str]),
    Nothing(&'static str),
}
use Leaves::{Actions, Nothing};

const METHODS: &[(&str, Leaves)] = &[
    ("TaskService/SubmitTask", Actions(&["task.submitted"])),
    ("TaskService/BatchSubmitTasks", Actions(&["task.submitted"])),
    ("TaskService/UpdateTask", Actions(&["task.updated"])),
    ("TaskService/CancelTask", Actions(&["task.cancelled", "task.cancel_requested"])),
    ("TaskService/RetryTask", Actions(&["task.retried"])),
    ("TaskService/RunTaskNow", Actions(&["task.run_now"])),
    ("TaskService/DeleteTask", Actions(&["task.deleted"])),
    ("TaskService/BulkCancelTasks", Actions(&["bulk_job.started", "bulk_job.ended", "task.cancelled"])),
    ("TaskService/BulkPurgeTasks", Actions(&["bulk_job.started", "bulk_job.ended", "task.deleted"])),
    ("TaskService/CancelBulkJob", Actions(&["bulk_job.ended"])),
    ("QueueService/UpdateQueue", Actions(&["queue.updated"])),
    ("QueueService/PauseQueue", Actions(&["queue.paused"])),
    ("QueueService/ResumeQueue", Actions(&["queue.resumed"])),
    ("WorkerService/Session", Actions(&["task.leased", "task.completed", "task.failed", "task.released"])),
    ("WorkerService/LeaseTasks", Actions(&["task.leased"])),
    ("WorkerService/Heartbeat", Nothing("a lease that goes on is no change; progress is hidden from the audit")),
    ("WorkerService/CompleteTasks", Actions(&["task.completed"])),
    ("WorkerService/FailTasks", Actions(&["task.failed"])),
    ("WorkerService/ReleaseTasks", Actions(&["task.released"])),
    ("WorkerService/DrainWorker", Actions(&["worker.drained"])),
    ("RetryService/CreateRetryPolicy", Actions(&["retry_policy.created"])),
    ("RetryService/UpdateRetryPolicy", Actions(&["retry_policy.updated"])),
    ("RetryService/DeleteRetryPolicy", Actions(&["retry_policy.deleted"])),
    ("DeadLetterService/RetryDeadLetter", Actions(&["task.retried"])),
    ("DeadLetterService/BulkRetryDeadLetters", Actions(&["bulk_job.started", "bulk_job.ended", "task.retried"])),
    ("DeadLetterService/MarkDeadLetterProcessed", Actions(&["dead_letter.processed"])),
    ("DeadLetterService/ReopenDeadLetter", Actions(&["dead_letter.reopened"])),
    ("ScheduleService/CreateSchedule", Actions(&["schedule.created"])),
    ("ScheduleService/UpdateSchedule", Actions(&["schedule.updated"])),
    ("ScheduleService/DeleteSchedule", Actions(&["schedule.deleted"])),
    ("ScheduleService/PauseSchedule", Actions(&["schedule.paused"])),
    ("ScheduleService/ResumeSchedule", Actions(&["schedule.resumed"])),
    ("ScheduleService/RunSchedule", Actions(&["schedule.ran", "task.submitted"])),
    ("ScheduleService/BackfillSchedule", Actions(&["schedule.backfilled", "task.submitted"])),
    ("RetentionService/UpdateRetention", Actions(&["retention.updated"])),
    (
        "RetentionService/RunRetention",
        Actions(&["retention.started", "retention.purged", "retention.trimmed", "retention.ended"]),
    ),
    ("ProjectService/CreateProject", Actions(&["project.created"])),
    ("ProjectService/UpdateProject", Actions(&["project.updated"])),
    (
        "ProjectService/DeleteProject",
        Actions(&["project.deleted", "bulk_job.started", "bulk_job.ended", "task.cancelled"]),
    ),
    ("ProjectService/UndeleteProject", Actions(&["project.undeleted", "bulk_job.ended"])),
    ("ApiKeyService/CreateApiKey", Actions(&["api_key.created"])),
    ("ApiKeyService/UpdateApiKey", Actions(&["api_key.updated"])),
    ("ApiKeyService/RotateApiKey", Actions(&["api_key.rotated"])),
    ("ApiKeyService/RevokeApiKey", Actions(&["api_key.revoked"])),
    ("ProjectService/SetMember", Actions(&["member.set"])),
    ("ProjectService/RemoveMember", Actions(&["member.removed"])),
];

/// The methods of the descriptors that may change something, and whether they say that they are audited.
fn mutating() -> BTreeMap<String, bool> {
    const NO_SIDE_EFFECTS: i32 = 1;
    const AUDIT_NONE: i32 = 1;
    let pool = DescriptorPool::decode(tasktower::pb::DESCRIPTORS).expect("our own descriptors");
    let access = pool.get_extension_by_name("tasktower.v1.access").expect("the extension");
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut found = BTreeMap::new();
    for method in methods {
        let options = method.options();
        let number = |value: Option<&Value>| value.and_then(Value::as_enum_number).unwrap_or(0);
        let level = number(options.get_field_by_name("idempotency_level").as_deref());
        let rule = options.get_extension(&access);
        let audit = number(rule.as_message().and_then(|rule| rule.get_field_by_name("audit")).as_deref());
        let name = format!("{}/{}", method.parent_service().name(), method.name());
        assert!(level != NO_SIDE_EFFECTS || audit == AUDIT_NONE, "{name} has no side effects and is audited");
        if level != NO_SIDE_EFFECTS {
            found.insert(name, audit != AUDIT_NONE);
        }
    }
    found
}

#[test]
fn every_method_that_changes_something_leaves_an_action_or_has_a_reason() {
    let found = mutating();
    let listed: BTreeMap<&str, &Leaves> = METHODS.iter().map(|(method, leaves)| (*method, leaves)).collect();
    let missing: Vec<_> = found.keys().filter(|method| !listed.contains_key(method.as_str())).collect();
    assert!(missing.is_empty(), "not in METHODS of tests/it/coverage/audit_actions.rs: {missing:?}");
    for (method, leaves) in listed {
        let is_audited = *found.get(method).unwrap_or_else(|| panic!("{method} does not exist, or changes nothing"));
        assert!(is_audited, "{method} changes something and says AUDIT_NONE");
        match leaves {
            Actions(names) => {
                assert!(!names.is_empty(), "{method}");
                for name in *names {
                    assert!(actions().any(|(_, action)| action == *name), "{method}: {name} is no action");
                }
            }
            Nothing(reason) => assert!(!reason.is_empty(), "{method}"),
        }
    }
}
