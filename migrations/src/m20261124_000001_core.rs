//! The core: projects, tasks and where they are in their life, the journal, queues, workers, bulk jobs.
//!
//! Times and spans are microseconds (since 1970 UTC); the same number on both databases, and it sorts.
//!
//! A task is one wide row written twice (submit, end) and one narrow row that says where it is meanwhile:
//! `ready` while it waits, `lease` while it runs. No index names a column that changes with the state, so on PostgreSQL
//! the final update of the wide row stays HOT.
//!
//! Keys of tasks begin with the id: it tells nearly every row from every other by itself, so comparing keys is cheap, and
//! PostgreSQL can make no plan for `project = … AND id = ANY …` that walks over a whole project.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    // One row: which database this is. `identity` is what the server says of itself (empty on SQLite); when it differs at
    // start, this is a copy or a restore and the incarnation changes, so that old resume tokens are refused.
    "CREATE TABLE installation (
        id integer PRIMARY KEY CHECK (id = 1),
        incarnation {uuid} NOT NULL,
        identity text NOT NULL,
        page_token_key {bytes} NOT NULL,
        create_time bigint NOT NULL
    )",
    "CREATE TABLE project (
        id text PRIMARY KEY,
        display_name text NOT NULL,
        description text NOT NULL,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL
    ) {clustered}",
    // The last revision of each project's journal. Raised as the last write before COMMIT, so that revision order is
    // commit order. `oldest` is the first revision still kept.
    "CREATE TABLE counter (
        project text PRIMARY KEY,
        revision bigint NOT NULL,
        oldest bigint NOT NULL DEFAULT 1
    ) {hot}",
    "CREATE TABLE task (
        project text NOT NULL,
        id {uuid} NOT NULL,
        type text NOT NULL,
        queue text NOT NULL,
        priority integer NOT NULL,
        run_time bigint NOT NULL,
        timeout bigint NOT NULL,
        expire_time bigint,
        max_attempts integer NOT NULL,
        initial_backoff bigint NOT NULL,
        max_backoff bigint NOT NULL,
        unique_key text,
        unique_ttl bigint,
        labels text,
        owner text NOT NULL,
        input {bytes},
        input_type text,
        create_time bigint NOT NULL,
        state smallint NOT NULL CHECK (state BETWEEN 1 AND 6),
        version bigint NOT NULL,
        epoch bigint NOT NULL,
        attempt_count integer NOT NULL,
        crash_count integer NOT NULL,
        update_time bigint NOT NULL,
        finish_time bigint,
        error_type text,
        error_message text,
        error_details text,
        result {bytes},
        result_type text,
        cancel_reason text,
        success_worker text,
        success_start_time bigint,
        success_progress_percent double precision,
        success_progress_message text,
        PRIMARY KEY (id, project)
    ) {twice}",
    "CREATE INDEX task_list ON task (project, create_time, id)",
    // A row: the task waits. `rank` is NOT priority, so that ascending order is highest priority first. `due` is set when
    // run_time has come, so that a claim never walks over tasks that wait for later.
    "CREATE TABLE ready (
        project text NOT NULL,
        id {uuid} NOT NULL,
        queue text NOT NULL,
        type text NOT NULL,
        rank integer NOT NULL,
        run_time bigint NOT NULL,
        due boolean NOT NULL,
        state smallint NOT NULL CHECK (state IN (1, 3)),
        version bigint NOT NULL,
        epoch bigint NOT NULL,
        attempt_count integer NOT NULL,
        crash_count integer NOT NULL,
        update_time bigint NOT NULL,
        expire_time bigint,
        PRIMARY KEY (id, project)
    ) {hot}",
    "CREATE INDEX ready_claim ON ready (project, queue, type, rank, run_time, id) WHERE due",
    "CREATE INDEX ready_delayed ON ready (project, run_time) WHERE NOT due",
    "CREATE INDEX ready_expire ON ready (project, expire_time) WHERE expire_time IS NOT NULL",
    // A row: the task runs. Times are not indexed, so that a heartbeat is a HOT update; the sweep reads the whole table,
    // which is as small as the number of running tasks.
    "CREATE TABLE lease (
        project text NOT NULL,
        id {uuid} NOT NULL,
        queue text NOT NULL,
        worker text NOT NULL,
        incarnation text NOT NULL,
        epoch bigint NOT NULL,
        version bigint NOT NULL,
        attempt_count integer NOT NULL,
        crash_count integer NOT NULL,
        waiting_state smallint NOT NULL CHECK (waiting_state IN (1, 3)),
        run_time bigint NOT NULL,
        start_time bigint NOT NULL,
        expire_time bigint NOT NULL,
        deadline_time bigint NOT NULL,
        lease_duration bigint NOT NULL,
        cancel_time bigint,
        cancel_reason text,
        progress_percent double precision,
        progress_message text,
        progress_time bigint,
        progress_pending boolean NOT NULL,
        update_time bigint NOT NULL,
        PRIMARY KEY (id, project)
    ) {hot}",
    // One row for each ended attempt but the one that succeeded: that is the last, and the task's row, which is written then
    // anyway, has it (`success_…`). The running one is the lease.
    "CREATE TABLE attempt (
        project text NOT NULL,
        task_id {uuid} NOT NULL,
        epoch bigint NOT NULL,
        worker text NOT NULL,
        outcome smallint NOT NULL CHECK (outcome BETWEEN 2 AND 7),
        start_time bigint NOT NULL,
        end_time bigint NOT NULL,
        error_type text,
        error_message text,
        error_details text,
        progress_percent double precision,
        progress_message text,
        retry_time bigint,
        PRIMARY KEY (task_id, epoch, project)
    ) {clustered}",
    // The few tasks that ended otherwise than well, so that they can be listed without an index on task.state.
    "CREATE TABLE closed (
        project text NOT NULL,
        state smallint NOT NULL CHECK (state IN (5, 6)),
        create_time bigint NOT NULL,
        id {uuid} NOT NULL,
        PRIMARY KEY (project, state, create_time, id)
    ) {clustered}",
    "CREATE TABLE dead_letter (
        project text NOT NULL,
        task_id {uuid} NOT NULL,
        queue text NOT NULL,
        type text NOT NULL,
        reason smallint NOT NULL,
        error_type text NOT NULL,
        error_message text NOT NULL,
        create_time bigint NOT NULL,
        PRIMARY KEY (project, task_id)
    ) {clustered}",
    "CREATE TABLE unique_key (
        project text NOT NULL,
        type text NOT NULL,
        key text NOT NULL,
        task_id {uuid} NOT NULL,
        expire_time bigint,
        PRIMARY KEY (project, type, key)
    ) {clustered}",
    // The append-only log of every accepted change; events and audit entries are its two views.
    "CREATE TABLE journal (
        project text NOT NULL,
        revision bigint NOT NULL,
        time bigint NOT NULL,
        kind smallint NOT NULL,
        task_id {uuid},
        resource text,
        version bigint NOT NULL,
        from_state smallint,
        to_state smallint,
        actor text NOT NULL,
        owner text,
        request_id text,
        address text,
        agent text,
        diff text,
        snapshot text,
        PRIMARY KEY (project, revision)
    ) {clustered}",
    "CREATE TABLE idempotency (
        project text NOT NULL,
        principal text NOT NULL,
        method text NOT NULL,
        key text NOT NULL,
        fingerprint {bytes} NOT NULL,
        response {bytes} NOT NULL,
        create_time bigint NOT NULL,
        PRIMARY KEY (project, principal, method, key)
    ) {clustered}",
    "CREATE INDEX idempotency_age ON idempotency (create_time)",
    "CREATE TABLE queue (
        project text NOT NULL,
        name text NOT NULL,
        paused boolean NOT NULL,
        pause_note text NOT NULL,
        max_running integer NOT NULL,
        rate_count integer NOT NULL,
        rate_interval bigint NOT NULL,
        rate_burst integer NOT NULL,
        lease_duration bigint,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL,
        PRIMARY KEY (project, name)
    ) {clustered}",
    // The theoretical arrival time of a queue's rate limit (GCRA): changes with every claim, so it has its own row.
    "CREATE TABLE queue_rate (
        project text NOT NULL,
        name text NOT NULL,
        arrival_time bigint NOT NULL,
        PRIMARY KEY (project, name)
    ) {hot}",
    // Figures of each queue, kept exact by every batch: what is there now, and running totals.
    "CREATE TABLE queue_stat (
        project text NOT NULL,
        name text NOT NULL,
        ready bigint NOT NULL,
        delayed bigint NOT NULL,
        running bigint NOT NULL,
        submitted bigint NOT NULL,
        leased bigint NOT NULL,
        succeeded bigint NOT NULL,
        failed bigint NOT NULL,
        PRIMARY KEY (project, name)
    ) {hot}",
    "CREATE TABLE worker (
        project text NOT NULL,
        name text NOT NULL,
        create_time bigint NOT NULL,
        last_seen_time bigint NOT NULL,
        PRIMARY KEY (project, name)
    ) {hot}",
    "CREATE TABLE worker_incarnation (
        project text NOT NULL,
        worker text NOT NULL,
        incarnation text NOT NULL,
        types text NOT NULL,
        queues text NOT NULL,
        slots integer NOT NULL,
        labels text NOT NULL,
        draining boolean NOT NULL,
        start_time bigint NOT NULL,
        last_seen_time bigint NOT NULL,
        PRIMARY KEY (project, worker, incarnation)
    ) {hot}",
    "CREATE TABLE bulk_job (
        project text NOT NULL,
        id {uuid} NOT NULL,
        action smallint NOT NULL,
        filter text NOT NULL,
        reason text NOT NULL,
        state smallint NOT NULL,
        matched_count bigint NOT NULL,
        done_count bigint NOT NULL,
        skipped_count bigint NOT NULL,
        cursor_time bigint,
        cursor_id {uuid},
        error_message text NOT NULL,
        owner text NOT NULL,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL,
        finish_time bigint,
        claim_time bigint NOT NULL,
        PRIMARY KEY (project, id)
    ) {clustered}",
    "CREATE INDEX bulk_job_list ON bulk_job (project, create_time, id)",
    "CREATE INDEX bulk_job_running ON bulk_job (update_time) WHERE state = 1",
    "INSERT INTO project (id, display_name, description, create_time, update_time)
        VALUES ('default', 'Default', 'Exists from the start.', 0, 0)",
    "INSERT INTO counter (project, revision) VALUES ('default', 0), ('system', 0)",
];

const DOWN: &[&str] = &[
    "DROP TABLE bulk_job",
    "DROP TABLE worker_incarnation",
    "DROP TABLE worker",
    "DROP TABLE queue_stat",
    "DROP TABLE queue_rate",
    "DROP TABLE queue",
    "DROP TABLE idempotency",
    "DROP TABLE journal",
    "DROP TABLE unique_key",
    "DROP TABLE dead_letter",
    "DROP TABLE closed",
    "DROP TABLE attempt",
    "DROP TABLE lease",
    "DROP TABLE ready",
    "DROP TABLE task",
    "DROP TABLE counter",
    "DROP TABLE project",
    "DROP TABLE installation",
];
