//! Pages of lists: one more than asked is read, and if it is there so is a next page.

/// How many to read for a page of so many.
pub(super) const fn one_more(limit: i64) -> i64 {
    limit.saturating_add(1)
}

/// The page of what was read, and the place of its last, after which the next page goes on if there is one. Limits are
/// positive and small.
pub(super) fn cut<T, P>(
    mut found: Vec<T>,
    limit: impl TryInto<usize>,
    place: impl FnOnce(&T) -> P,
) -> (Vec<T>, Option<P>) {
    let limit = limit.try_into().unwrap_or(0);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(place);
    (found, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_the_place_of_its_last_if_there_are_more() {
        assert_eq!(cut(vec![1, 2, 3], 2, |last| *last), (vec![1, 2], Some(2)));
        assert_eq!(cut(vec![1, 2], 2, |last| *last), (vec![1, 2], None));
        assert_eq!(cut(Vec::<i32>::new(), 2, |last| *last), (vec![], None));
        assert_eq!((one_more(50), one_more(i64::MAX)), (51, i64::MAX));
    }
}
