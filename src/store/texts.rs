//! A column of texts, in one piece of memory: a `String` for each cell would be thousands of allocations a batch. Of a
//! batch many neighbours are equal (the queue, the caller); those are kept once.

use std::ops::Range;

/// The cells of a column; some may be null.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    text: String,
    /// Where in it each cell is.
    cells: Vec<Option<Range<usize>>>,
}

impl Texts {
    /// Adds a cell.
    pub(super) fn push(&mut self, cell: Option<&str>) {
        let range = cell.map(|cell| match self.cells.last() {
            Some(Some(last)) if self.text[last.clone()] == *cell => last.clone(),
            _ => {
                let start = self.text.len();
                self.text.push_str(cell);
                start..self.text.len()
            }
        });
        self.cells.push(range);
    }

    /// The cell of a row; none if it is null.
    pub(super) fn get(&self, row: usize) -> Option<&str> {
        self.cells.get(row)?.clone().map(|range| &self.text[range])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        self.cells.iter().map(|cell| cell.clone().map(|range| &self.text[range]))
    }

    /// The cell all rows share, as a column of one row.
    pub(super) fn shared(&self) -> Option<Self> {
        // Equal neighbours are in the same place, so there is no text to compare.
        let (first, rest) = self.cells.split_first()?;
        rest.iter().all(|cell| cell == first).then(|| [self.get(0)].into_iter().collect())
    }
}

impl<T: AsRef<str>> FromIterator<Option<T>> for Texts {
    fn from_iter<I: IntoIterator<Item = Option<T>>>(cells: I) -> Self {
        let cells = cells.into_iter();
        let mut texts = Self { text: String::new(), cells: Vec::with_capacity(cells.size_hint().0) };
        cells.for_each(|cell| texts.push(cell.as_ref().map(AsRef::as_ref)));
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::Texts;

    #[test]
    fn cells_are_read_as_they_were_added_and_equal_neighbours_kept_once() {
        let cells = [Some("a"), Some("a"), None, Some(""), Some("bc"), Some("a")];
        let texts: Texts = cells.into_iter().collect();
        assert_eq!(texts.iter().collect::<Vec<_>>(), cells);
        assert_eq!((texts.get(4), texts.get(2), texts.get(6)), (Some("bc"), None, None));
        assert_eq!(texts.text, "abca");
        assert!(texts.shared().is_none());
    }

    #[test]
    fn what_all_rows_share_is_a_column_of_one() {
        for cell in [Some("a"), Some(""), None] {
            let shared = [cell; 3].into_iter().collect::<Texts>().shared().unwrap();
            assert_eq!(shared.iter().collect::<Vec<_>>(), [cell]);
        }
        assert!(Texts::default().shared().is_none());
        assert!([None, Some("a")].into_iter().collect::<Texts>().shared().is_none());
    }
}
