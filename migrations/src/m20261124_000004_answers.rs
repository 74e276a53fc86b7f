//! Answers that are kept before their revision is known: a batch of submits is one statement, and its revision is taken in
//! it. So an answer counts from a base, which that statement fills in. Those kept so far count from 0.

crate::statements!(UP, DOWN);

const UP: &[&str] = &["ALTER TABLE idempotency ADD COLUMN base_revision bigint NOT NULL DEFAULT 0"];
const DOWN: &[&str] = &["ALTER TABLE idempotency DROP COLUMN base_revision"];
