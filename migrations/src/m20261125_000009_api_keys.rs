//! API keys.
//!
//! Only hashes of secrets are kept: SHA-256, in hex. Secrets are 256 random bits, so a slow hash would add nothing. Every
//! server keeps the keys in memory and reads what changed since it last looked, by `update_time`.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    // `scopes` is a set of permissions, a bit each by its number; 0 means all. `networks` is a JSON array.
    "CREATE TABLE api_key (
        id text PRIMARY KEY,
        principal text NOT NULL,
        display_name text NOT NULL,
        scopes bigint NOT NULL,
        networks text NOT NULL,
        secret_hash text NOT NULL,
        previous_hash text,
        previous_expire_time bigint,
        rotate_time bigint NOT NULL,
        expire_time bigint,
        revoke_time bigint,
        last_used_time bigint,
        create_time bigint NOT NULL,
        update_time bigint NOT NULL
    ) {clustered}",
    "CREATE INDEX api_key_changes ON api_key (update_time)",
];

const DOWN: &[&str] = &["DROP TABLE api_key"];
