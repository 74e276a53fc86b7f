//! Computes the seals of a project again, oldest first, and stops at the first row that is not as it was sealed.
//!
//! Whoever has the database feeds seals and rows; this decides. It keeps the marks of one seal at a time.
//!
//! What was deleted by retention is told from what was deleted otherwise by the journal itself: each cut is a row of it.

use std::{iter::once, ops::RangeInclusive};

use super::{
    JournalRow,
    fault::{self, Fault},
    head::Head,
    seal::{self, Hash, Link, MARK, Mark, Rows, Seal},
};
use crate::ids::ProjectId;

/// What the database says of a project's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The first revision that is kept.
    pub oldest: i64,
    /// The last revision.
    pub last: i64,
    /// The last row that is there.
    pub end: i64,
}

/// The first bad row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Its revision.
    pub revision: i64,
    /// What is wrong with it.
    pub fault: Fault,
    /// The same in words.
    pub description: String,
}

impl Bad {
    fn new(revision: i64, fault: Fault, description: impl Into<String>) -> Self {
        Self { revision, fault, description: description.into() }
    }

    fn row(revision: i64, fault: Fault) -> Self {
        let description = match fault {
            Fault::Changed => format!("row {revision} does not have the content it was sealed with"),
            Fault::Missing => format!("row {revision} is gone"),
            Fault::Inserted => format!("row {revision} was not there when its neighbours were sealed"),
            Fault::Swapped => format!("row {revision} has the content of a later row, and that one has its content"),
            Fault::Truncated => format!("row {revision} and all after it are gone"),
            Fault::Seal => format!("the seal of row {revision} is not what it was"),
        };
        Self { revision, fault, description }
    }
}

/// The hash of a row, and what else counts of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHash {
    /// Its revision.
    pub revision: i64,
    /// The hash.
    pub hash: Hash,
    /// See [`JournalRow::trimmed_to`].
    pub trimmed_to: Option<i64>,
}

impl RowHash {
    /// Of some rows.
    pub fn all(rows: &[JournalRow]) -> Vec<Self> {
        let mut canonical = Vec::new();
        let mut of = |row: &JournalRow| Self {
            revision: row.revision,
            hash: seal::hash_row(row, &mut canonical),
            trimmed_to: row.trimmed_to(),
        };
        rows.iter().map(&mut of).collect()
    }
}

/// The check of one project.
#[derive(Debug)]
pub struct Checker {
    project: ProjectId,
    standing: Standing,
    /// What the seals must contain, and whether it was met.
    head: Option<Head>,
    head_compared: bool,
    /// The last seal that was found good.
    link: Option<Link>,
    /// The first row that was kept after the last cut of retention; at first where the seals begin.
    kept_from: Option<i64>,
    /// The seal whose rows come.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    seal: Seal,
    /// The first of its rows that is kept.
    from: i64,
    found: Vec<Option<Mark>>,
    rows: Rows,
}

impl Checker {
    /// `head` was signed by this installation.
    pub fn new(project: ProjectId, standing: Standing, head: Option<Head>) -> Self {
        Self { project, standing, head, head_compared: false, link: None, kept_from: None, open: None }
    }

    /// Takes the next seal. Answers the rows of it that must be fed, which may be none.
    pub fn begin(&mut self, seal: Seal) -> Result<RangeInclusive<i64>, Bad> {
        let bad = |description: String| Err(Bad::new(seal.first, Fault::Seal, description));
        if seal.hash != seal.computed_hash(&self.project) {
            return bad(format!("the seal of rows {} to {} was changed", seal.first, seal.last));
        }
        match self.link {
            Some(link) if seal.number != link.number + 1 => {
                let next = link.last + 1;
                return Err(Bad::new(next, Fault::Seal, format!("the seal of row {next} is gone")));
            }
            Some(link) if seal.previous != link.hash || seal.first != link.last + 1 => {
                return bad(format!("the seal of rows {} to {} is not the one that was made", seal.first, seal.last));
            }
            None if seal.first > self.standing.oldest => {
                let oldest = self.standing.oldest;
                return Err(Bad::new(oldest, Fault::Seal, format!("the seal of row {oldest} is gone")));
            }
            // Where sealing began; retention may have cut before.
            None if seal.number == 1 => self.kept_from = Some(seal.first),
            _ => {}
        }
        if let Some(head) = self.head.as_ref().filter(|head| head.link.number == seal.number) {
            if head.link != seal.link() {
                return bad(format!("the seal of rows {} to {} is not the signed one", seal.first, seal.last));
            }
            self.head_compared = true;
        }
        let from = seal.first.max(self.standing.oldest);
        let range = from..=seal.last;
        self.open = Some(Open { seal, from, found: Vec::new(), rows: Rows::default() });
        Ok(range)
    }

    /// Takes the next row of the seal; none if there is no such row.
    pub fn row(&mut self, revision: i64, row: Option<&RowHash>) {
        let Some(open) = &mut self.open else { return };
        open.found.push(row.map(|row| seal::mark(&row.hash)));
        open.rows.push(revision, row.map(|row| row.hash));
        self.kept_from = row.and_then(|row| row.trimmed_to).or(self.kept_from);
    }

    /// Judges the seal, once all its rows were fed.
    pub fn end(&mut self) -> Result<(), Bad> {
        let Some(Open { seal, from, found, rows }) = self.open.take() else { return Ok(()) };
        let sealed: Vec<Mark> = seal.marks_from(from).collect();
        if let Some((place, fault)) = fault::first(&sealed, &found) {
            let revision = from + i64::try_from(place).unwrap_or(0);
            let is_end = fault == Fault::Missing && self.standing.end < revision;
            return Err(Bad::row(revision, if is_end { Fault::Truncated } else { fault }));
        }
        let is_whole = from == seal.first && found.len() * MARK == seal.marks.len();
        if is_whole && rows.digest() != seal.digest {
            let text =
                format!("of rows {} to {} one does not have the content it was sealed with", seal.first, seal.last);
            return Err(Bad::new(seal.first, Fault::Changed, text));
        }
        self.link = Some(seal.link());
        Ok(())
    }

    /// Judges the ends, once all seals were fed. `trimmed` is the last cut of retention of which a row says that is not
    /// sealed yet. Answers whether the head was compared.
    pub fn finish(&self, trimmed: Option<i64>) -> Result<bool, Bad> {
        let sealed = self.link.map_or(0, |link| link.last);
        let Standing { oldest, last, .. } = self.standing;
        if last < sealed {
            return Err(Bad::row(last + 1, Fault::Truncated));
        }
        if let Some(head) = self.head.as_ref().filter(|head| head.link.number > self.link.map_or(0, |link| link.number))
        {
            let text = format!("the signed head is of row {}, the seals end at row {sealed}", head.link.last);
            return Err(Bad::new(sealed + 1, Fault::Truncated, text));
        }
        let kept_from = once(trimmed).chain(once(self.kept_from)).flatten().next();
        match kept_from {
            Some(kept_from) if oldest > kept_from => {
                let text =
                    format!("rows {kept_from} to {} are gone, and it was not retention that deleted them", oldest - 1);
                Err(Bad::new(kept_from, Fault::Missing, text))
            }
            None if self.link.is_some() => {
                let text = format!("what came before row {oldest} is gone, and it was not retention that deleted it");
                Err(Bad::new(oldest, Fault::Seal, text))
            }
            _ => Ok(self.head_compared),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(revision: i64) -> RowHash {
        RowHash { revision, hash: [u8::try_from(revision).unwrap(); 32], trimmed_to: None }
    }

    /// Seals over 1 to 3, 4 to 6, 7 to 9.
    fn seals(project: &ProjectId) -> Vec<Seal> {
        let mut link = Link::default();
        let seal = |first| {
            let mut rows = Rows::default();
            (first..first + 3).for_each(|revision| rows.push(revision, Some(hash(revision).hash)));
            let seal = rows.seal(project, link, first, 5);
            link = seal.link();
            seal
        };
        [1, 4, 7].map(seal).into()
    }

    struct Case {
        seals: Vec<Seal>,
        standing: Standing,
        head: Option<Head>,
        rows: Vec<RowHash>,
    }

    impl Case {
        fn new() -> Self {
            let standing = Standing { oldest: 1, last: 10, end: 10 };
            Self { seals: seals(&ProjectId::new("p")), standing, head: None, rows: (1..=10).map(hash).collect() }
        }

        fn run(self) -> Result<bool, (i64, Fault)> {
            let mut checker = Checker::new(ProjectId::new("p"), self.standing, self.head);
            let run = || {
                for seal in self.seals {
                    for revision in checker.begin(seal)? {
                        checker.row(revision, self.rows.iter().find(|row| row.revision == revision));
                    }
                    checker.end()?;
                }
                Ok(())
            };
            let outcome: Result<(), Bad> = run();
            outcome.and_then(|()| checker.finish(None)).map_err(|bad| (bad.revision, bad.fault))
        }
    }

    #[test]
    fn what_was_sealed_is_good_and_the_first_bad_row_is_named() {
        assert_eq!(Case::new().run(), Ok(false));
        let mut case = Case::new();
        case.rows[4].hash[31] ^= 1;
        // A mark does not see that far; the digest does.
        assert_eq!(case.run(), Err((4, Fault::Changed)));
        let mut case = Case::new();
        case.rows[4].hash[0] ^= 1;
        case.rows.remove(7);
        assert_eq!(case.run(), Err((5, Fault::Changed)));
        let mut case = Case::new();
        case.rows.truncate(7);
        case.standing.end = 7;
        assert_eq!(case.run(), Err((8, Fault::Truncated)));
        let mut case = Case::new();
        case.standing.last = 7;
        assert_eq!(case.run(), Err((8, Fault::Truncated)));
    }

    #[test]
    fn a_seal_cannot_be_changed_left_out_or_cut_off() {
        for place in 0..3 {
            let mut case = Case::new();
            case.seals[place].marks[0] ^= 1;
            assert_eq!(case.run(), Err((1 + 3 * place as i64, Fault::Seal)));
        }
        // With its hash made good again, so that only the next one tells.
        let mut case = Case::new();
        case.seals[1].time += 1;
        case.seals[1].hash = case.seals[1].computed_hash(&ProjectId::new("p"));
        assert_eq!(case.run(), Err((7, Fault::Seal)));
        for (place, row) in [(0, 1), (1, 4)] {
            let mut case = Case::new();
            case.seals.remove(place);
            assert_eq!(case.run(), Err((row, Fault::Seal)));
        }
        let head =
            |case: &Case, place: usize| Some(Head { project: ProjectId::new("p"), link: case.seals[place].link() });
        let mut case = Case::new();
        case.head = head(&case, 1);
        assert_eq!(case.run(), Ok(true));
        let mut case = Case::new();
        case.head = head(&case, 2);
        case.seals.truncate(2);
        case.standing = Standing { oldest: 1, last: 6, end: 6 };
        assert_eq!(case.run(), Err((7, Fault::Truncated)));
        let mut case = Case::new();
        case.head = head(&case, 1).map(|head| Head { link: Link { hash: [1; 32], ..head.link }, ..head });
        assert_eq!(case.run(), Err((4, Fault::Seal)));
    }

    #[test]
    fn only_retention_may_cut_off_the_old_end() {
        let cut = |trimmed_to| {
            let mut case = Case::new();
            case.standing.oldest = 5;
            case.rows.retain(|row| row.revision >= 5);
            case.rows[3].trimmed_to = trimmed_to;
            case
        };
        // Its own oldest seal is kept, because row 5 and 6 are.
        let keep = |mut case: Case| {
            case.seals.remove(0);
            case
        };
        assert_eq!(keep(cut(Some(5))).run(), Ok(false));
        assert_eq!(cut(Some(5)).run(), Ok(false));
        assert_eq!(keep(cut(Some(3))).run(), Err((3, Fault::Missing)));
        assert_eq!(keep(cut(None)).run(), Err((5, Fault::Seal)));
        assert_eq!(cut(None).run(), Err((1, Fault::Missing)));
        let mut changed = keep(cut(Some(5)));
        changed.rows[0].hash[0] ^= 1;
        assert_eq!(changed.run(), Err((5, Fault::Changed)));
    }
}
