//! The hash chain over a project's journal.
//!
//! A *seal* is about the rows that follow those of the seal before. Its digest is over the full hash of each row; its marks
//! are the first bytes of each hash, so that a changed row can be named; its hash is over digest, marks and the hash of the
//! seal before. So seals can be checked by themselves, and go on proving something when retention has deleted some of their
//! rows: the marks hold those that are left.
//!
//! A row is hashed in its canonical form: its columns in a fixed order, each with its length, without the project and the
//! revision, which come in beside it. That form never changes, because old seals are over it. A column that a later version
//! adds is written behind the others and only where it is not NULL, so that rows from before hash as they did.

use sha2::{Digest as _, Sha256};

use super::JournalRow;
use crate::{domain::task::Micros, ids::ProjectId};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The first bytes of a row's hash.
pub type Mark = [u8; MARK];

/// Bytes of a mark: enough to name a changed row. That it was changed is proven by the digest.
pub const MARK: usize = 8;

/// Stands for a row that was not there when its neighbours were sealed.
pub const ABSENT: Mark = [0; MARK];

/// Rows of one seal at most: 80 kB of marks.
pub const MOST_ROWS: i64 = 10_000;

/// What the hash of a seal begins with, so that no other hash of ours is one.
const DOMAIN: &[u8] = b"tasktower.journal-seal.v1";

/// A seal, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// 1, 2, 3 …
    pub number: i64,
    /// The first revision it is about.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// When it was made.
    pub time: Micros,
    /// The hash of the seal before; zeroes in the first.
    pub previous: Hash,
    /// Over the hashes of its rows.
    pub digest: Hash,
    /// The mark of each row, one after the other.
    pub marks: Vec<u8>,
    /// Over all of that.
    pub hash: Hash,
}

/// What a seal is made after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number; 0 before the first.
    pub number: i64,
    /// The last revision it is about.
    pub last: i64,
    /// Its hash.
    pub hash: Hash,
}

impl Seal {
    /// What the next seal is made after.
    pub fn link(&self) -> Link {
        Link { number: self.number, last: self.last, hash: self.hash }
    }

    /// The hash that it must have.
    pub fn computed_hash(&self, project: &ProjectId) -> Hash {
        // Named one by one, so that a new field is a compile error here.
        let Self { number, first, last, time, previous, digest, marks, hash: _ } = self;
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        for part in [project.as_str().as_bytes(), previous, digest, marks] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        for number in [number, first, last, time] {
            hash.update(number.to_be_bytes());
        }
        hash.finalize().into()
    }

    /// The marks from a revision on, and whether there is one for each of its rows.
    pub fn marks_from(&self, revision: i64) -> impl Iterator<Item = Mark> {
        let skipped = usize::try_from(revision - self.first).unwrap_or(0);
        self.marks.as_chunks::<MARK>().0.iter().skip(skipped).copied()
    }
}

/// The digest and the marks of consecutive rows.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    digest: Sha256,
    marks: Vec<u8>,
}

impl Rows {
    /// Takes the next row; none where there is none.
    pub fn push(&mut self, revision: i64, hash: Option<Hash>) {
        let hash = hash.unwrap_or_default();
        self.digest.update(revision.to_be_bytes());
        self.digest.update(hash);
        self.marks.extend(mark(&hash));
    }

    /// The digest of all of them.
    pub fn digest(self) -> Hash {
        self.digest.finalize().into()
    }

    /// The seal over all of them.
    pub fn seal(self, project: &ProjectId, after: Link, first: i64, time: Micros) -> Seal {
        let rows = i64::try_from(self.marks.len() / MARK).unwrap_or(0);
        let marks = self.marks;
        let digest = self.digest.finalize().into();
        let (number, last) = (after.number + 1, first + rows - 1);
        let seal = Seal { number, first, last, time, previous: after.hash, digest, marks, hash: Hash::default() };
        Seal { hash: seal.computed_hash(project), ..seal }
    }
}

/// The first bytes of a hash.
pub fn mark(hash: &Hash) -> Mark {
    std::array::from_fn(|i| hash[i])
}

/// The hash of a row. `canonical` is memory to work in.
pub fn hash_row(row: &JournalRow, canonical: &mut Vec<u8>) -> Hash {
    canonical.clear();
    write_canonical(row, canonical);
    Sha256::digest(canonical).into()
}

/// Says that a column is NULL; no column is as long.
const NULL: u32 = u32::MAX;

fn write_canonical(row: &JournalRow, out: &mut Vec<u8>) {
    // Named one by one, so that a new column is a compile error here.
    let JournalRow {
        project: _,
        revision: _,
        time,
        kind,
        task,
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
    } = row;
    let number =
        |out: &mut Vec<u8>, number: Option<i64>| column(out, number.map(i64::to_be_bytes).as_ref().map(|b| &b[..]));
    let text = |out: &mut Vec<u8>, text: &Option<String>| column(out, text.as_ref().map(String::as_bytes));
    number(out, Some(*time));
    number(out, Some((*kind).into()));
    column(out, task.as_ref().map(|task| &task.0.as_bytes()[..]));
    text(out, resource);
    number(out, Some(*version));
    number(out, from_state.map(i64::from));
    number(out, to_state.map(i64::from));
    column(out, Some(actor.as_bytes()));
    for column in [owner, request_id, address, agent, credential, method, diff, snapshot] {
        text(out, column);
    }
}

fn column(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    // No column reaches 4 GiB: neither database takes a value that large.
    let length = bytes.map_or(NULL, |bytes| u32::try_from(bytes.len()).unwrap_or(NULL - 1));
    out.extend(length.to_be_bytes());
    out.extend(bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::TaskId;

    fn full() -> JournalRow {
        let text = |text: &str| Some(text.to_owned());
        JournalRow {
            project: ProjectId::new("p"),
            revision: 7,
            time: 1_700_000_000_000_000,
            kind: 10,
            task: Some(TaskId(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef))),
            resource: text("r"),
            version: 3,
            from_state: Some(1),
            to_state: Some(2),
            actor: "user:corp/ada".to_owned(),
            owner: text("service:mailer"),
            request_id: text("q"),
            address: text("192.0.2.1"),
            agent: text("a"),
            credential: text("apiKeys/k"),
            method: text("TaskService/UpdateTask"),
            diff: text("{}"),
            snapshot: text("{\"state\":2}"),
        }
    }

    fn empty() -> JournalRow {
        let actor = String::new();
        JournalRow {
            time: 0,
            kind: 0,
            task: None,
            resource: None,
            version: 0,
            from_state: None,
            to_state: None,
            actor,
            owner: None,
            request_id: None,
            address: None,
            agent: None,
            credential: None,
            method: None,
            diff: None,
            snapshot: None,
            ..full()
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals of years ago must come out the same. A value that differs here is a broken chain in every database.
    #[test]
    fn the_canonical_form_is_what_it_always_was() {
        let mut canonical = Vec::new();
        write_canonical(&empty(), &mut canonical);
        let eight = |number: &str| format!("00000008{number}");
        let (zero, null) = (eight("0000000000000000"), "ffffffff");
        let expected =
            [&zero, &zero, null, null, &zero, null, null, "00000000", null, null, null, null, null, null, null, null];
        assert_eq!(hex(&canonical), expected.concat());
        assert_eq!(
            hex(&hash_row(&empty(), &mut canonical)),
            "88a6353e55082bf05f4e29747d54714925b906b7a0c3474390927c118b927435"
        );
        assert_eq!(
            hex(&hash_row(&full(), &mut canonical)),
            "c289f0e8113c56ff806031db49b3506363f7cf9fbe18f320fabc4a29de202633"
        );
        let mut rows = Rows::default();
        rows.push(7, Some(hash_row(&full(), &mut canonical)));
        rows.push(8, None);
        rows.push(9, Some(hash_row(&empty(), &mut canonical)));
        let seal = rows.seal(&ProjectId::new("p"), Link { number: 2, last: 6, hash: [9; 32] }, 7, 5);
        assert_eq!((seal.number, seal.first, seal.last, seal.marks.len()), (3, 7, 9, 24));
        assert_eq!(hex(&seal.digest), "57407f5470a8d9fb8cb4b895517c4ce7f0364f16365f20160c84b2e7a29476c1");
        assert_eq!(hex(&seal.hash), "4831e213d7d06e1fb01ae296d8767dbf80a76c737b17ba31c6585be62df5e638");
    }

    #[test]
    fn every_column_counts_and_none_runs_into_the_next() {
        let text = |text: &str| Some(text.to_owned());
        let mut hashes = std::collections::BTreeSet::new();
        let row = full();
        let others = [
            row.clone(),
            JournalRow { time: 1, ..row.clone() },
            JournalRow { kind: 1, ..row.clone() },
            JournalRow { task: None, ..row.clone() },
            JournalRow { resource: None, ..row.clone() },
            JournalRow { version: 4, ..row.clone() },
            JournalRow { from_state: None, to_state: Some(1), ..row.clone() },
            JournalRow { from_state: Some(2), to_state: None, ..row.clone() },
            JournalRow { actor: "x".to_owned(), ..row.clone() },
            JournalRow { owner: text(""), ..row.clone() },
            JournalRow { owner: None, ..row.clone() },
            JournalRow { request_id: text("q192"), address: text(".0.2.1"), ..row.clone() },
            JournalRow { agent: None, credential: text("a"), ..row.clone() },
            JournalRow { credential: None, ..row.clone() },
            JournalRow { method: None, ..row.clone() },
            JournalRow { diff: text("{"), snapshot: text("}{\"state\":2}"), ..row.clone() },
        ];
        let count = others.len();
        hashes.extend(others.iter().map(|row| hash_row(row, &mut Vec::new())));
        assert_eq!(hashes.len(), count);
    }
}
