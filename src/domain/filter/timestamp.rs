//! RFC 3339 timestamps to microseconds since the epoch. Small and strict: a filter with a time that means something
//! else than it seems to is worse than one that is refused.

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_MINUTE: i64 = 60;
const SECONDS_PER_HOUR: i64 = 3_600;
const SECONDS_PER_DAY: i64 = 86_400;
/// Digits after the point that are kept: times are stored in microseconds.
const FRACTION_DIGITS: usize = 6;
/// Digits after the point that are read: `google.protobuf.Timestamp` prints up to nanoseconds.
const MAX_FRACTION_DIGITS: usize = 9;

/// Reads `2026-01-02T03:04:05.678Z` or the like with an offset. The error says what is wrong.
pub(super) fn parse(text: &str) -> Result<i64, &'static str> {
    let mut input = Input(text.as_bytes());
    let year = input.number(4, 0, 9999, "the year must be four digits")?;
    input.one_of(b"-", "`-` must follow the year")?;
    let month = input.number(2, 1, 12, "the month must be 01 to 12")?;
    input.one_of(b"-", "`-` must follow the month")?;
    let day = input.number(2, 1, days_in_month(year, month), "the month has no such day")?;
    input.one_of(b"Tt", "`T` and the time of day must follow the date")?;
    let hour = input.number(2, 0, 23, "the hour must be 00 to 23")?;
    input.one_of(b":", "`:` must follow the hour")?;
    let minute = input.number(2, 0, 59, "the minute must be 00 to 59")?;
    input.one_of(b":", "`:` and seconds must follow the minute")?;
    let second = input.number(2, 0, 59, "the second must be 00 to 59")?;
    let micros = input.fraction()?;
    let offset = input.offset()?;
    if !input.0.is_empty() {
        return Err("nothing may follow the offset");
    }
    let seconds = days_since_epoch(year, month, day) * SECONDS_PER_DAY
        + hour * SECONDS_PER_HOUR
        + minute * SECONDS_PER_MINUTE
        + second
        - offset;
    // Four-digit years keep this far from the ends of i64.
    Ok(seconds * MICROS_PER_SECOND + micros)
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn one_of(&mut self, allowed: &[u8], message: &'static str) -> Result<u8, &'static str> {
        match self.0.split_first() {
            Some((byte, rest)) if allowed.contains(byte) => {
                self.0 = rest;
                Ok(*byte)
            }
            _ => Err(message),
        }
    }

    fn number(&mut self, digits: usize, least: i64, most: i64, message: &'static str) -> Result<i64, &'static str> {
        let (number, rest) = self.0.split_at_checked(digits).ok_or(message)?;
        let number = decimal(number).ok_or(message)?;
        self.0 = rest;
        if (least..=most).contains(&number) { Ok(number) } else { Err(message) }
    }

    fn fraction(&mut self) -> Result<i64, &'static str> {
        let Some((b'.', rest)) = self.0.split_first() else { return Ok(0) };
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=MAX_FRACTION_DIGITS).contains(&length) {
            return Err("one to nine digits must follow the point");
        }
        let (digits, rest) = rest.split_at(length);
        self.0 = rest;
        let mut kept = [b'0'; FRACTION_DIGITS];
        for (index, digit) in digits.iter().enumerate() {
            match kept.get_mut(index) {
                Some(place) => *place = *digit,
                // Cutting it off would make `<` and `=` mean something else than what was written.
                None if *digit != b'0' => return Err("times are kept in microseconds; give at most six digits"),
                None => {}
            }
        }
        decimal(&kept).ok_or("one to nine digits must follow the point")
    }

    fn offset(&mut self) -> Result<i64, &'static str> {
        const MESSAGE: &str = "`Z` or an offset like `+02:00` must end the time";
        match self.one_of(b"Zz+-", MESSAGE)? {
            sign @ (b'+' | b'-') => {
                let hours = self.number(2, 0, 23, "the offset must be between -23:59 and +23:59")?;
                self.one_of(b":", "`:` must follow the hours of the offset")?;
                let minutes = self.number(2, 0, 59, "the minutes of the offset must be 00 to 59")?;
                let seconds = hours * SECONDS_PER_HOUR + minutes * SECONDS_PER_MINUTE;
                Ok(if sign == b'-' { -seconds } else { seconds })
            }
            _ => Ok(0),
        }
    }
}

/// ASCII digits only, and few enough not to overflow.
fn decimal(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number: i64, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

const fn is_leap_year(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap_year(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, for years from 0.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    /// Days of the months before the month, in a year without a leap day.
    const BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    /// Days from 0000-01-01 to 1970-01-01.
    const EPOCH: i64 = 719_528;
    // Leap days of the years before this one; the year 0 has one.
    let leap_days = (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let this_leap_day = if month > 2 && is_leap_year(year) { 1 } else { 0 };
    year * 365 + leap_days + BEFORE_MONTH[(month - 1) as usize] + this_leap_day + day - 1 - EPOCH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        // Expected values from `date -u -d … +%s`.
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1970-01-01t00:00:01z", 1_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000_000),
            ("2024-02-29T12:00:00Z", 1_709_208_000_000_000),
            ("1900-03-01T00:00:00Z", -2_203_891_200_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000),
            ("2026-01-02T03:04:05Z", 1_767_323_045_000_000),
            ("2026-01-02T03:04:05.6Z", 1_767_323_045_600_000),
            ("2026-01-02T03:04:05.678901Z", 1_767_323_045_678_901),
            ("2026-01-02T03:04:05.678901000Z", 1_767_323_045_678_901),
            ("2026-01-02T03:04:05+02:00", 1_767_315_845_000_000),
            ("2026-01-02T03:04:05-05:30", 1_767_342_845_000_000),
            ("2026-01-02T03:04:05-00:00", 1_767_323_045_000_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            "",
            "2026",
            "2026-01-02",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05.1234567Z",
            "2026-01-02T03:04:05.0000000000Z",
            "2026-01-02T03:04:05ZZ",
            "2026-01-02T03:04:05+0200",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+02:60",
            "2026-01-02T24:00:00Z",
            "2026-01-02T03:60:00Z",
            "2026-12-31T23:59:60Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "+026-01-02T03:04:05Z",
            "-026-01-02T03:04:05Z",
            "2026-1-02T03:04:05Z",
            "12026-01-02T03:04:05Z",
            "２026-01-02T03:04:05Z",
        ];
        for text in cases {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_is_one_after_the_day_before() {
        let mut last = days_since_epoch(0, 1, 1) - 1;
        for year in 0..=2400 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    let this = days_since_epoch(year, month, day);
                    assert_eq!(this, last + 1, "{year}-{month}-{day}");
                    last = this;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), near in "[0-9Tt:.+Zz-]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&near);
        }
    }
}
