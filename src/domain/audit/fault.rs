//! What is wrong with the first row that is not as it was sealed.

use super::seal::{ABSENT, Mark};

/// What is wrong with a row. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Its content is another one.
    Changed = 1,
    /// It is gone.
    Missing = 2,
    /// It was not there.
    Inserted = 3,
    /// It has the content of a later row, which has its content.
    Swapped = 4,
    /// It is gone, and so is everything after it.
    Truncated = 5,
    /// Its seal was changed, or is gone.
    Seal = 6,
}

/// The place of the first row that is not as it was sealed, and what is wrong with it. Places of both lists are of the same
/// rows.
pub(super) fn first(sealed: &[Mark], found: &[Option<Mark>]) -> Option<(usize, Fault)> {
    let is_bad = |(mark, row): (&Mark, &Option<Mark>)| *mark == ABSENT || *row != Some(*mark);
    let place = sealed.iter().zip(found).position(is_bad)?;
    let fault = match (sealed[place], found[place]) {
        (ABSENT, Some(_)) => Fault::Inserted,
        (_, None) => Fault::Missing,
        (mark, Some(row)) => of_content(mark, row, &sealed[place + 1..], &found[place + 1..]),
    };
    Some((place, fault))
}

/// What became of a row whose place another content took.
fn of_content(mark: Mark, row: Mark, sealed: &[Mark], found: &[Option<Mark>]) -> Fault {
    let is_swapped = sealed.iter().zip(found).any(|(sealed, found)| *sealed == row && *found == Some(mark));
    if is_swapped {
        Fault::Swapped
    } else if found.first() == Some(&Some(mark)) {
        Fault::Inserted
    } else if sealed.first() == Some(&row) {
        Fault::Missing
    } else {
        Fault::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_tampering_is_told_from_the_others() {
        let marks = |text: &str| text.bytes().map(|b| [b; 8]).collect::<Vec<Mark>>();
        let rows = |text: &str| text.bytes().map(|b| (b != b'-').then_some([b; 8])).collect::<Vec<_>>();
        for (found, expected) in [
            ("abcdef", None),
            ("abXdef", Some((2, Fault::Changed))),
            ("abcdeX", Some((5, Fault::Changed))),
            ("ab-def", Some((2, Fault::Missing))),
            ("------", Some((0, Fault::Missing))),
            // The rows after it moved up, or down.
            ("abdef-", Some((2, Fault::Missing))),
            ("abXcde", Some((2, Fault::Inserted))),
            ("abdcef", Some((2, Fault::Swapped))),
            ("ebcdaf", Some((0, Fault::Swapped))),
            ("abXdXf", Some((2, Fault::Changed))),
        ] {
            assert_eq!(first(&marks("abcdef"), &rows(found)), expected, "{found}");
        }
        let mut sealed = marks("abc");
        sealed[1] = ABSENT;
        assert_eq!(first(&sealed, &rows("a-c")), Some((1, Fault::Missing)));
        assert_eq!(first(&sealed, &rows("abc")), Some((1, Fault::Inserted)));
    }
}
