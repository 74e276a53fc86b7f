//! Schedules, and what became of their ticks.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    // `wake_time` is when there is something to do; NULL while it is paused and when it is over. `decided` is the moment up
    // to which all ticks are decided.
    "CREATE TABLE schedule (
        project text NOT NULL,
        id text NOT NULL,
        uid {uuid} NOT NULL,
        owner text NOT NULL,
        display_name text NOT NULL,
        description text NOT NULL,
        cron text NOT NULL,
        time_zone text NOT NULL,
        start_time bigint,
        end_time bigint,
        jitter bigint NOT NULL,
        template text NOT NULL,
        input {bytes},
        input_type text,
        overlap smallint NOT NULL CHECK (overlap BETWEEN 1 AND 4),
        catch_up smallint NOT NULL CHECK (catch_up BETWEEN 1 AND 3),
        catch_up_count integer NOT NULL,
        catch_up_window bigint NOT NULL,
        paused boolean NOT NULL,
        pause_note text NOT NULL,
        decided bigint NOT NULL,
        next_tick bigint,
        wake_time bigint,
        queued_tick bigint,
        last_tick bigint,
        last_task {uuid},
        zone_version text NOT NULL,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL,
        PRIMARY KEY (project, id)
    ) {hot}",
    // What is due, of all projects: it holds nothing that sleeps for ever.
    "CREATE INDEX schedule_wake ON schedule (wake_time, project, id) WHERE wake_time IS NOT NULL",
    // One row a tick, by construction. Kept under the uid, so that a schedule made anew under an old name has none of these.
    "CREATE TABLE occurrence (
        schedule_uid {uuid} NOT NULL,
        planned_time bigint NOT NULL,
        state smallint NOT NULL CHECK (state BETWEEN 1 AND 6),
        reason text NOT NULL,
        task_id {uuid},
        decide_time bigint NOT NULL,
        PRIMARY KEY (schedule_uid, planned_time)
    ) {clustered}",
    "CREATE INDEX occurrence_age ON occurrence (decide_time)",
];

const DOWN: &[&str] = &["DROP TABLE occurrence", "DROP TABLE schedule"];
