//! Who may do what in which project; projects that were deleted; the tasks of one owner.
//!
//! A member of `*` is a member of every project. The rows of deleted projects stay: only their state says that they are.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    "CREATE TABLE member (
        project text NOT NULL,
        principal text NOT NULL,
        role smallint NOT NULL CHECK (role BETWEEN 1 AND 5),
        create_time bigint NOT NULL,
        PRIMARY KEY (project, principal)
    ) {clustered}",
    // What a principal may do is read by its name.
    "CREATE INDEX member_principal ON member (principal)",
    // Who sees only its own tasks finds them in the order of lists. The owner of a task never changes, so updates of the
    // task stay HOT.
    "CREATE INDEX task_owner ON task (project, owner, create_time, id) {of_lists}",
    // Set when it was deleted; `purge_time` is until when that can be undone.
    "ALTER TABLE project ADD COLUMN delete_time bigint",
    "ALTER TABLE project ADD COLUMN purge_time bigint",
    // When the tasks of a deleted project are to be cancelled; none once a bulk job is at it.
    "ALTER TABLE project ADD COLUMN cancel_time bigint",
    "CREATE INDEX project_cancel ON project (cancel_time) WHERE cancel_time IS NOT NULL",
    // The schedule was paused by the deletion of its project, and is resumed with it.
    "ALTER TABLE schedule ADD COLUMN project_paused boolean NOT NULL DEFAULT false",
];

const DOWN: &[&str] = &[
    "ALTER TABLE schedule DROP COLUMN project_paused",
    "DROP INDEX project_cancel",
    "ALTER TABLE project DROP COLUMN cancel_time",
    "ALTER TABLE project DROP COLUMN purge_time",
    "ALTER TABLE project DROP COLUMN delete_time",
    "DROP INDEX task_owner",
    "DROP TABLE member",
];
