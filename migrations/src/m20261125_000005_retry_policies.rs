//! Retry policies: rules under a name, what tasks and queues say about retries, and what was decided about each attempt.
//!
//! Version N−1 goes on beside: it writes no new column, so its tasks say nothing new, and its attempts keep no decision.
//! Tasks that name a policy or carry rules are repeated by it with the built-in settings.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    // `settings` is the JSON of the rules and the rest.
    "CREATE TABLE retry_policy (
        project text NOT NULL,
        id text NOT NULL,
        description text NOT NULL,
        settings text NOT NULL,
        version bigint NOT NULL,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL,
        PRIMARY KEY (project, id)
    ) {clustered}",
    // A type has one policy at most.
    "CREATE TABLE retry_policy_type (
        project text NOT NULL,
        type text NOT NULL,
        policy text NOT NULL,
        PRIMARY KEY (project, type)
    ) {clustered}",
    "CREATE INDEX retry_policy_type_policy ON retry_policy_type (project, policy)",
    // What the three columns max_attempts, initial_backoff and max_backoff do not say, as JSON.
    "ALTER TABLE task ADD COLUMN retry text",
    // When it was last opened again by hand.
    "ALTER TABLE task ADD COLUMN open_time bigint",
    "ALTER TABLE queue ADD COLUMN retry_policy text",
    "ALTER TABLE queue ADD COLUMN retry_lease_millionths integer",
    "ALTER TABLE queue ADD COLUMN retry_min_per_second integer",
    // Which attempt it was, and what was decided about it by which version of what.
    "ALTER TABLE attempt ADD COLUMN number integer",
    "ALTER TABLE attempt ADD COLUMN verdict smallint",
    "ALTER TABLE attempt ADD COLUMN cause smallint",
    "ALTER TABLE attempt ADD COLUMN rule integer",
    "ALTER TABLE attempt ADD COLUMN policy text",
    "ALTER TABLE attempt ADD COLUMN policy_version bigint",
    // The failures of a window, for statistics and simulations.
    "CREATE INDEX attempt_failed ON attempt (project, end_time) WHERE outcome IN (3, 6)",
];

const DOWN: &[&str] = &[
    "DROP INDEX attempt_failed",
    "ALTER TABLE attempt DROP COLUMN policy_version",
    "ALTER TABLE attempt DROP COLUMN policy",
    "ALTER TABLE attempt DROP COLUMN rule",
    "ALTER TABLE attempt DROP COLUMN cause",
    "ALTER TABLE attempt DROP COLUMN verdict",
    "ALTER TABLE attempt DROP COLUMN number",
    "ALTER TABLE queue DROP COLUMN retry_min_per_second",
    "ALTER TABLE queue DROP COLUMN retry_lease_millionths",
    "ALTER TABLE queue DROP COLUMN retry_policy",
    "ALTER TABLE task DROP COLUMN open_time",
    "ALTER TABLE task DROP COLUMN retry",
    "DROP TABLE retry_policy_type",
    "DROP TABLE retry_policy",
];
