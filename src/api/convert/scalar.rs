//! Texts, numbers, times and labels, with their bounds.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::fields::{Fields, Path};
use crate::domain::task::Micros;

/// One second, in [`Micros`].
const SECOND: Micros = crate::domain::task::SECOND;

/// Nanoseconds of one microsecond.
const NANOS: i32 = 1_000;

/// The years a `google.protobuf.Timestamp` may hold: 0001-01-01 to 9999-12-31.
const TIMESTAMP_SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Most characters of a queue, a type or a worker.
const MAX_IDENTIFIER: usize = 128;

/// Most characters of a name for people (AIP-148).
pub const MAX_DISPLAY_NAME: usize = 63;

/// What a 1 KiB text may take, in bytes.
pub const SHORT_TEXT: usize = 1024;

/// Most labels of one thing.
const MAX_LABELS: usize = 64;
/// Most characters of a label's key.
const MAX_LABEL_KEY: usize = 63;
/// Most characters of a label's value.
const MAX_LABEL_VALUE: usize = 256;

/// The queue of tasks and workers that name none.
pub const DEFAULT_QUEUE: &str = "default";

/// Whether this can be the name of a queue, a type or a worker.
pub fn is_identifier(text: &str) -> bool {
    (1..=MAX_IDENTIFIER).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// A queue, a type or a worker.
pub fn identifier(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    if text.is_empty() {
        fields.refuse(at, "is required");
    } else if !is_identifier(&text) {
        fields.refuse(at, "must match [A-Za-z0-9._:-]{1,128}");
    }
    text
}

/// A queue; empty means the default one.
pub fn queue(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    if text.is_empty() { DEFAULT_QUEUE.to_owned() } else { identifier(fields, at, text) }
}

/// A text of at most `max` bytes. No text that is stored may hold NUL: PostgreSQL has no place for it.
pub fn bytes_bounded(fields: &mut Fields, at: &Path<'_>, text: String, max: usize) -> String {
    if text.len() > max {
        fields.refuse(at, format!("is longer than {max} bytes"));
    }
    without_nul(fields, at, text)
}

/// A text of at most `max` characters, without NUL.
pub fn chars_bounded(fields: &mut Fields, at: &Path<'_>, text: String, max: usize) -> String {
    // Bytes first: counting characters of a long text is work for nothing.
    if text.len() > max && text.chars().nth(max).is_some() {
        fields.refuse(at, format!("is longer than {max} characters"));
    }
    without_nul(fields, at, text)
}

/// A text without NUL.
pub fn without_nul(fields: &mut Fields, at: &Path<'_>, text: String) -> String {
    if text.as_bytes().contains(&0) {
        fields.refuse(at, "holds a NUL character, which cannot be stored");
    }
    text
}

/// An etag to compare with; empty means no comparison.
pub fn etag(fields: &mut Fields, at: &Path<'_>, text: String) -> Option<String> {
    (!text.is_empty()).then(|| chars_bounded(fields, at, text, MAX_IDENTIFIER))
}

/// A whole number within bounds; 0 means `default`.
pub fn number_or(fields: &mut Fields, at: &Path<'_>, number: i32, bounds: RangeInclusive<i32>, default: i32) -> i32 {
    if number == 0 {
        return default;
    }
    if !bounds.contains(&number) {
        fields.refuse(at, format!("must be {} to {}", bounds.start(), bounds.end()));
    }
    number
}

/// Notes a list that is too short or too long. False when it should not even be looked at.
pub fn length(fields: &mut Fields, at: &Path<'_>, length: usize, bounds: RangeInclusive<usize>) -> bool {
    let fits = bounds.contains(&length);
    if !fits {
        fields.refuse(at, format!("has {length} elements; {} to {} are allowed", bounds.start(), bounds.end()));
    }
    fits
}

/// Labels, within their bounds.
pub fn labels(fields: &mut Fields, at: &Path<'_>, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if labels.len() > MAX_LABELS {
        fields.refuse(at, format!("has {} labels; at most {MAX_LABELS} are allowed", labels.len()));
        return labels;
    }
    for (key, value) in &labels {
        let key_fits = (1..=MAX_LABEL_KEY).contains(&key.len())
            && key
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'/' | b'-'));
        if !key_fits {
            fields.refuse(&Path::Key(at, key), "the key must match [a-z0-9._/-]{1,63}");
        }
        if value.len() > MAX_LABEL_VALUE && value.chars().nth(MAX_LABEL_VALUE).is_some() {
            fields.refuse(&Path::Key(at, key), format!("is longer than {MAX_LABEL_VALUE} characters"));
        }
        if value.as_bytes().contains(&0) {
            fields.refuse(&Path::Key(at, key), "holds a NUL character, which cannot be stored");
        }
    }
    labels
}

/// A point in time, cut to the microsecond.
pub fn time(fields: &mut Fields, at: &Path<'_>, time: &prost_types::Timestamp) -> Micros {
    let prost_types::Timestamp { seconds, nanos } = *time;
    if !TIMESTAMP_SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        fields.refuse(at, "is no valid time: years 0001 to 9999, nanos 0 to 999,999,999");
        return 0;
    }
    seconds * SECOND + i64::from(nanos / NANOS)
}

/// A span within bounds, cut to the microsecond.
pub fn span(
    fields: &mut Fields,
    at: &Path<'_>,
    span: &prost_types::Duration,
    bounds: &RangeInclusive<Micros>,
) -> Micros {
    let prost_types::Duration { seconds, nanos } = *span;
    let micros = seconds.checked_mul(SECOND).and_then(|s| s.checked_add(i64::from(nanos / NANOS)));
    match micros {
        Some(micros) if (0..1_000_000_000).contains(&nanos) && seconds >= 0 && bounds.contains(&micros) => micros,
        _ => {
            fields.refuse(at, format!("must be {} to {}", human(*bounds.start()), human(*bounds.end())));
            *bounds.start()
        }
    }
}

/// A span as people read it, in the largest unit that divides it.
fn human(micros: Micros) -> String {
    const UNITS: [(Micros, &str); 5] =
        [(86_400 * SECOND, "d"), (3_600 * SECOND, "h"), (60 * SECOND, "min"), (SECOND, "s"), (1_000, "ms")];
    match UNITS.iter().find(|(unit, _)| micros >= *unit && micros % unit == 0) {
        Some((unit, name)) => format!("{} {name}", micros / unit),
        None if micros == 0 => "0".to_owned(),
        None => format!("{micros} µs"),
    }
}

/// A point in time for the wire.
pub fn timestamp(micros: Micros) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: micros.div_euclid(SECOND), nanos: micros.rem_euclid(SECOND) as i32 * NANOS }
}

/// A span for the wire.
pub fn duration(micros: Micros) -> prost_types::Duration {
    prost_types::Duration { seconds: micros / SECOND, nanos: (micros % SECOND) as i32 * NANOS }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(check: impl FnOnce(&mut Fields, &Path<'_>)) -> bool {
        let mut fields = Fields::new();
        check(&mut fields, &Path::Request.field("x"));
        fields.finish(()).is_err()
    }

    #[test]
    fn identifiers_keep_to_their_alphabet_and_length() {
        for good in ["a", "A.b_c:d-9", &"x".repeat(128)] {
            assert!(!refused(|f, at| drop(identifier(f, at, good.to_owned()))), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", "a\0", &"x".repeat(129)] {
            assert!(refused(|f, at| drop(identifier(f, at, bad.to_owned()))), "{bad}");
        }
        assert_eq!(queue(&mut Fields::new(), &Path::Request, String::new()), "default");
    }

    #[test]
    fn texts_are_bounded_in_their_unit() {
        assert!(!refused(|f, at| drop(chars_bounded(f, at, "ä".repeat(256), 256))));
        assert!(refused(|f, at| drop(chars_bounded(f, at, "ä".repeat(257), 256))));
        assert!(refused(|f, at| drop(bytes_bounded(f, at, "ä".repeat(513), 1024))));
        assert!(refused(|f, at| drop(bytes_bounded(f, at, "a\0b".to_owned(), 1024))));
    }

    #[test]
    fn labels_are_bounded() {
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(!refused(|f, at| drop(labels(f, at, one("team/x-1_y.z", "Any Thing ✓")))));
        assert!(refused(|f, at| drop(labels(f, at, one("Team", "x")))));
        assert!(refused(|f, at| drop(labels(f, at, one("", "x")))));
        assert!(refused(|f, at| drop(labels(f, at, one(&"k".repeat(64), "x")))));
        assert!(refused(|f, at| drop(labels(f, at, one("k", &"v".repeat(257))))));
        let many = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(!refused(|f, at| drop(labels(f, at, many(64)))));
        assert!(refused(|f, at| drop(labels(f, at, many(65)))));
    }

    #[test]
    fn times_and_spans_out_of_range_are_refused() {
        let time_of = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        assert!(!refused(|f, at| assert_eq!(time(f, at, &time_of(-1, 999_999_999)), -1)));
        for bad in [time_of(i64::MAX, 0), time_of(i64::MIN, 0), time_of(253_402_300_800, 0), time_of(0, -1)] {
            assert!(refused(|f, at| _ = time(f, at, &bad)), "{bad:?}");
        }
        let span_of = |seconds, nanos| prost_types::Duration { seconds, nanos };
        let bounds = SECOND..=86_400 * SECOND;
        assert!(!refused(|f, at| assert_eq!(span(f, at, &span_of(1, 1_500), &bounds), SECOND + 1)));
        for bad in [span_of(0, 0), span_of(-1, 0), span_of(2, -1), span_of(86_401, 0), span_of(i64::MAX, 0)] {
            assert!(refused(|f, at| _ = span(f, at, &bad, &bounds)), "{bad:?}");
        }
        assert_eq!(
            (human(SECOND), human(90 * SECOND), human(604_800 * SECOND)),
            ("1 s".into(), "90 s".into(), "7 d".into())
        );
    }

    proptest! {
        #[test]
        fn times_come_back_as_they_went(micros in -62_135_596_800_000_000..253_402_300_799_999_999_i64) {
            let mut fields = Fields::new();
            prop_assert_eq!(time(&mut fields, &Path::Request, &timestamp(micros)), micros);
            prop_assert!(fields.finish(()).is_ok());
        }
    }
}
