//! How long final tasks are kept in each project, and the runs that take them away.
//!
//! Both are small: one row a project, and a run a day for as long as the journal is kept. What a run counts, and the rules
//! it goes by, are JSON: nothing is looked up by them.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    // Also of the partition of the journal that belongs to no project. `served_time` is the daily time that was served
    // last: whoever raises it begins the run of that day.
    "CREATE TABLE retention (
        project text PRIMARY KEY,
        rules text NOT NULL,
        update_time bigint,
        served_time bigint NOT NULL
    ) {clustered}",
    // `claim_time` as in bulk_job. `stage` is 1 while it is at the tasks, then 2, at the journal.
    "CREATE TABLE retention_run (
        project text NOT NULL,
        id {uuid} NOT NULL,
        trigger_kind smallint NOT NULL,
        owner text NOT NULL,
        state smallint NOT NULL,
        policy text NOT NULL,
        journal_age bigint NOT NULL,
        counts text NOT NULL,
        error_message text NOT NULL,
        stage smallint NOT NULL,
        cursor_time bigint,
        cursor_id {uuid},
        create_time bigint NOT NULL,
        update_time bigint NOT NULL,
        finish_time bigint,
        claim_time bigint NOT NULL,
        PRIMARY KEY (project, id)
    ) {clustered}",
    "CREATE INDEX retention_run_list ON retention_run (project, create_time, id)",
    // One run of a project at a time, on however many replicas.
    "CREATE UNIQUE INDEX retention_run_running ON retention_run (project) WHERE state = 1",
];

const DOWN: &[&str] = &["DROP TABLE retention_run", "DROP TABLE retention"];
