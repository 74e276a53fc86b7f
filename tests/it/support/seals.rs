//! The seals of a project against its rows, both read past the product.

use serde::Deserialize;
use tasktower::{
    domain::audit::{
        JournalRow,
        check::{Bad, Checker, RowHash, Standing},
        seal::{Hash, Seal},
    },
    ids::{ProjectId, TaskId},
};
use uuid::Uuid;

/// Reads [`WholeRow`]s.
pub const ROWS: &str = "SELECT {array}(revision, time, kind, {hex:task_id}, resource, version, from_state, to_state, actor, \
                        owner, request_id, address, agent, credential, method, diff, snapshot) FROM journal \
                        WHERE project = $1 ORDER BY revision";
/// Reads [`SealRow`]s.
pub const SEALS: &str = "SELECT {array}(number, first_revision, last_revision, time, {hex:previous}, {hex:digest}, \
                         {hex:marks}, {hex:hash}) FROM journal_seal WHERE project = $1 ORDER BY number";

/// All columns of a row of the journal.
#[derive(Debug, Deserialize)]
pub struct WholeRow {
    revision: i64,
    time: i64,
    kind: i16,
    task: Option<Uuid>,
    resource: Option<String>,
    version: i64,
    from_state: Option<i16>,
    to_state: Option<i16>,
    actor: String,
    owner: Option<String>,
    request_id: Option<String>,
    address: Option<String>,
    agent: Option<String>,
    credential: Option<String>,
    method: Option<String>,
    diff: Option<String>,
    snapshot: Option<String>,
}

/// All columns of a seal, bytes in hexadecimal.
#[derive(Debug, Deserialize)]
pub struct SealRow(i64, i64, i64, i64, String, String, String, String);

impl WholeRow {
    fn into_domain(self, project: &ProjectId) -> JournalRow {
        let Self { revision, time, kind, task, resource, version, from_state, to_state, actor, owner, .. } = self;
        let Self { request_id, address, agent, credential, method, diff, snapshot, .. } = self;
        JournalRow {
            project: project.clone(),
            revision,
            time,
            kind,
            task: task.map(TaskId),
            resource,
            version,
            from_state,
            to_state,
            actor,
            owner,
            request_id,
            address,
            agent,
            credential,
            method,
            diff,
            snapshot,
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    hex.as_bytes().chunks(2).map(byte).collect()
}

fn hash(hex: &str) -> Hash {
    bytes(hex).try_into().expect("32 bytes")
}

/// The first row that is not as it was sealed. `counter` is the last revision and the oldest that is kept.
pub fn first_bad(project: &str, counter: (i64, i64), rows: Vec<WholeRow>, seals: Vec<SealRow>) -> Option<Bad> {
    let project = ProjectId::new(project);
    let rows: Vec<_> = rows.into_iter().map(|row| row.into_domain(&project)).collect();
    let hashes = RowHash::all(&rows);
    let end = hashes.last().map_or(0, |row| row.revision);
    let standing = Standing { oldest: counter.1, last: counter.0, end };
    let mut checker = Checker::new(project, standing, None);
    let compare = || {
        for SealRow(number, first, last, time, previous, digest, marks, own) in seals {
            let (previous, digest, marks, hash) = (hash(&previous), hash(&digest), bytes(&marks), hash(&own));
            for revision in checker.begin(Seal { number, first, last, time, previous, digest, marks, hash })? {
                let place = hashes.binary_search_by_key(&revision, |row| row.revision);
                checker.row(revision, place.ok().map(|place| &hashes[place]));
            }
            checker.end()?;
        }
        Ok(())
    };
    let compared: Result<(), Bad> = compare();
    let trimmed = hashes.iter().rev().find_map(|row| row.trimmed_to);
    compared.and_then(|()| checker.finish(trimmed)).err()
}
