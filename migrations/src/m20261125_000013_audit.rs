//! Audit: by which RPC and with which credential a change came, seals over the journal, and a key to sign them with.
//!
//! The new columns of the journal are empty in rows of versions that do not know them; on PostgreSQL an empty column takes no
//! place. Nothing here is indexed: a row of the journal is written on the hot path.

crate::statements!(UP, DOWN);

const UP: &[&str] = &[
    "ALTER TABLE journal ADD COLUMN credential text",
    "ALTER TABLE journal ADD COLUMN method text",
    // A row: the journal rows from `first_revision` to `last_revision`, sealed. Seals of a project are numbered 1, 2, 3 …;
    // of two replicas that seal the same rows the second finds its number taken. `previous` is the hash of the seal before,
    // `digest` is over the rows, `marks` has the first bytes of the hash of each, to tell which one was changed, and `hash`
    // is over all of that.
    "CREATE TABLE journal_seal (
        project text NOT NULL,
        number bigint NOT NULL,
        first_revision bigint NOT NULL,
        last_revision bigint NOT NULL,
        time bigint NOT NULL,
        previous {bytes} NOT NULL,
        digest {bytes} NOT NULL,
        marks {bytes} NOT NULL,
        hash {bytes} NOT NULL,
        PRIMARY KEY (project, number)
    ) {clustered}",
    // Retention deletes seals with the rows they are about.
    "CREATE INDEX journal_seal_age ON journal_seal (project, last_revision)",
    // Signs heads unless the configuration names a key.
    "ALTER TABLE installation ADD COLUMN audit_key {bytes}",
];

const DOWN: &[&str] = &[
    "ALTER TABLE installation DROP COLUMN audit_key",
    "DROP TABLE journal_seal",
    "ALTER TABLE journal DROP COLUMN method",
    "ALTER TABLE journal DROP COLUMN credential",
];
