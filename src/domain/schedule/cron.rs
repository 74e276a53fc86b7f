//! Cron expressions: read with the place of each fault, and matched against local time. Time zones are in `ticks.rs`.
//!
//! Five fields (minute, hour, day of month, month, day of week), or six with the second before them. `@daily` and friends
//! are read as the five fields they stand for. Each field becomes a set of bits; a day is matched by either of the day
//! fields when both are restricted, else by both.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};

/// Longer than any expression makes sense.
const MAX_LENGTH: usize = 256;

/// The shortest month and the longest, for what never comes. February of a leap year.
const DAYS_OF_MONTH: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A fault in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    /// The field, in words; none if it is about the whole.
    pub field: Option<&'static str>,
    /// The 1-based column of the fault.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{field}, column {}: {}", self.column, self.message),
            None => write!(f, "column {}: {}", self.column, self.message),
        }
    }
}

/// What a field is about.
struct Kind {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
    /// The value of the first name.
    names_from: u32,
}

const SECOND: Kind = Kind { name: "second", first: 0, last: 59, names: &[], names_from: 0 };
const MINUTE: Kind = Kind { name: "minute", first: 0, last: 59, names: &[], names_from: 0 };
const HOUR: Kind = Kind { name: "hour", first: 0, last: 23, names: &[], names_from: 0 };
const DAY: Kind = Kind { name: "day of month", first: 1, last: 31, names: &[], names_from: 0 };
const MONTH: Kind = Kind { name: "month", first: 1, last: 12, names: &MONTHS, names_from: 1 };
// 7 is Sunday, too.
const WEEKDAY: Kind = Kind { name: "day of week", first: 0, last: 7, names: &WEEKDAYS, names_from: 0 };

impl Kind {
    fn all(&self) -> u64 {
        bits(self.first, self.last, 1)
    }
}

/// The bits `from`, `from + step` … up to `to`.
fn bits(from: u32, to: u32, step: u32) -> u64 {
    (from..=to).step_by(step.max(1) as usize).fold(0, |bits, value| bits | 1 << value)
}

/// An expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    /// The last day of the month.
    last_day: bool,
    months: u64,
    /// Any of these days of the week; Sunday is 0.
    weekdays: u64,
    /// The n-th of a day of the week in the month; n is 1 to 5, [`LAST`] is the last.
    nth_weekdays: Vec<(u32, u32)>,
}

/// The number of the last weekday of its kind in a month.
const LAST: u32 = 6;

/// A part of the expression with the column where it begins.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    column: usize,
}

impl<'a> Part<'a> {
    /// The parts between separators.
    fn split(self, separator: char) -> impl Iterator<Item = Part<'a>> {
        let mut column = self.column;
        self.text.split(separator).map(move |text| {
            let part = Part { text, column };
            column += text.chars().count() + 1;
            part
        })
    }

    fn split_once(self, separator: char) -> Option<(Part<'a>, Part<'a>)> {
        let (before, after) = self.text.split_once(separator)?;
        let column = self.column + before.chars().count() + 1;
        Some((Part { text: before, column: self.column }, Part { text: after, column }))
    }

    fn fault<T>(self, kind: &Kind, message: impl Into<String>) -> Result<T, CronError> {
        Err(CronError { field: Some(kind.name), column: self.column, message: message.into() })
    }
}

impl Cron {
    /// Reads an expression. What can never come is a fault as well.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let whole = |column, message: String| Err(CronError { field: None, column, message });
        if text.len() > MAX_LENGTH {
            return whole(1, format!("is longer than {MAX_LENGTH} characters"));
        }
        if text.trim().starts_with('@') {
            let macros = MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
            let names = || MACROS.map(|(name, _)| name).join(", ");
            return match macros {
                Some((_, fields)) => Self::parse(fields),
                None => whole(1, format!("`{}` is not known; there are {}", text.trim(), names())),
            };
        }
        let fields: Vec<Part<'_>> = Part { text, column: 1 }.split_whitespace().collect();
        let (second, rest) = match fields.as_slice() {
            rest if rest.len() == 5 => (None, rest),
            [second, rest @ ..] if rest.len() == 5 => (Some(*second), rest),
            [] => return whole(1, "is empty; write five fields, such as `30 2 * * MON-FRI`, or @daily".to_owned()),
            other => {
                // The first field too many, or the end of too few.
                let end = text.trim_end().chars().count() + 1;
                let column = other.get(6).map_or(end, |part| part.column);
                let count = other.len();
                return whole(
                    column,
                    format!("has {count} fields; write 5 (minute hour day month weekday), or 6 with the second first"),
                );
            }
        };
        let mut last_day = false;
        let mut nth_weekdays = Vec::new();
        let seconds = match second {
            None => 1,
            Some(part) => plain(part, &SECOND)?,
        };
        let minutes = plain(rest[0], &MINUTE)?;
        let hours = plain(rest[1], &HOUR)?;
        let days = field(rest[2], &DAY, |part| {
            let found = part.text.eq_ignore_ascii_case("L");
            last_day |= found;
            Ok(found)
        })?;
        let months = plain(rest[3], &MONTH)?;
        let weekdays = field(rest[4], &WEEKDAY, |part| {
            let found = nth_weekday(part)?;
            nth_weekdays.extend(found);
            Ok(found.is_some())
        })?;
        let weekdays = sunday_first(weekdays);
        let cron = Self { seconds, minutes, hours, days, last_day, months, weekdays, nth_weekdays };
        if cron.never_comes() {
            return rest[2].fault(&DAY, "never comes: none of these months has such a day");
        }
        Ok(cron)
    }

    /// Whether it holds for every hour, and so is about intervals rather than about times of day.
    pub fn is_for_every_hour(&self) -> bool {
        self.hours == HOUR.all()
    }

    fn days_are_restricted(&self) -> bool {
        self.last_day || self.days != DAY.all()
    }

    fn weekdays_are_restricted(&self) -> bool {
        !self.nth_weekdays.is_empty() || self.weekdays != sunday_first(WEEKDAY.all())
    }

    fn never_comes(&self) -> bool {
        let possible = |month: usize| self.days & bits(1, DAYS_OF_MONTH[month - 1], 1) != 0;
        !self.last_day
            && !self.weekdays_are_restricted()
            && !(1..=12).any(|month| self.months >> month & 1 == 1 && possible(month))
    }

    /// The first local time from `from` on that fits; none before the year 10000.
    pub fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        if self.fits(date) {
            let time = from.time();
            if let Some(time) = self.time_from(time.hour(), time.minute(), time.second()) {
                return Some(date.to_datetime(time));
            }
        }
        let first = self.time_from(0, 0, 0)?;
        loop {
            date = date.tomorrow().ok()?;
            while !has(self.months, date.month()) {
                let (year, month) =
                    if date.month() == 12 { (date.year().checked_add(1)?, 1) } else { (date.year(), date.month() + 1) };
                date = Date::new(year, month, 1).ok()?;
            }
            if self.fits(date) {
                return Some(date.to_datetime(first));
            }
        }
    }

    fn fits(&self, date: Date) -> bool {
        if !has(self.months, date.month()) {
            return false;
        }
        let day = has(self.days, date.day()) || (self.last_day && date.day() == date.days_in_month());
        let weekday = u32::from(date.weekday().to_sunday_zero_offset().unsigned_abs());
        let number = u32::from(date.day().unsigned_abs() - 1) / 7 + 1;
        let is_last = date.day() + 7 > date.days_in_month();
        let is_nth = |(asked, nth): &(u32, u32)| *asked == weekday && (*nth == number || (*nth == LAST && is_last));
        let week = self.weekdays >> weekday & 1 == 1 || self.nth_weekdays.iter().any(is_nth);
        match (self.days_are_restricted(), self.weekdays_are_restricted()) {
            (true, true) => day || week,
            _ => day && week,
        }
    }

    /// The first time of day from this one on.
    fn time_from(&self, hour: i8, minute: i8, second: i8) -> Option<Time> {
        let (h, m, s) = (from(self.hours, hour), from(self.minutes, minute), from(self.seconds, second));
        let (first_m, first_s) = (from(self.minutes, 0)?, from(self.seconds, 0)?);
        let found = match (h, m, s) {
            (Some(h), Some(m), Some(s)) if h == hour && m == minute => (h, m, s),
            // Not in this minute any more.
            (Some(h), _, _) if h == hour => match from(self.minutes, minute + 1).or(m.filter(|m| *m > minute)) {
                Some(m) => (h, m, first_s),
                None => (from(self.hours, hour + 1)?, first_m, first_s),
            },
            (Some(h), _, _) => (h, first_m, first_s),
            (None, _, _) => return None,
        };
        Time::new(found.0, found.1, found.2, 0).ok()
    }
}

/// Whether a set holds a value.
fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set >> value & 1 == 1)
}

/// The smallest value of a set from `value` on.
fn from(set: u64, value: i8) -> Option<i8> {
    let left = set >> u32::try_from(value).ok()?;
    (left != 0).then(|| value + i8::try_from(left.trailing_zeros()).unwrap_or(i8::MAX))
}

/// Sunday is bit 0, however it was written.
fn sunday_first(weekdays: u64) -> u64 {
    (weekdays | weekdays >> 7) & bits(0, 6, 1)
}

/// A field of values, ranges and steps only.
fn plain(part: Part<'_>, kind: &Kind) -> Result<u64, CronError> {
    field(part, kind, |_| Ok(false))
}

/// A field; `special` takes the items that are not values.
fn field(
    part: Part<'_>,
    kind: &Kind,
    mut special: impl FnMut(Part<'_>) -> Result<bool, CronError>,
) -> Result<u64, CronError> {
    let mut set = 0;
    for item in part.split(',') {
        if !special(item)? {
            set |= self::item(item, kind)?;
        }
    }
    Ok(set)
}

/// `*`, `a`, `a-b`, each perhaps with `/step`.
fn item(part: Part<'_>, kind: &Kind) -> Result<u64, CronError> {
    let (range, step) = match part.split_once('/') {
        None => (part, None),
        Some((range, step)) => (range, Some(self::step(step, kind)?)),
    };
    let is_day = kind.name == DAY.name || kind.name == WEEKDAY.name;
    if range.text == "*" || (is_day && range.text == "?") {
        // Not the second Sunday, or a step over the week would depend on it.
        let last = if kind.name == WEEKDAY.name { 6 } else { kind.last };
        return Ok(if step.is_none() { kind.all() } else { bits(kind.first, last, step.unwrap_or(1)) });
    }
    let Some((from, to)) = range.split_once('-') else {
        let from = value(range, kind)?;
        // `5/15` counts from 5 on.
        return Ok(step.map_or(1 << from, |step| bits(from, kind.last, step)));
    };
    let (first, last) = (value(from, kind)?, value(to, kind)?);
    if first > last {
        return range.fault(kind, format!("the range {} ends before it begins", range.text));
    }
    Ok(bits(first, last, step.unwrap_or(1)))
}

fn step(part: Part<'_>, kind: &Kind) -> Result<u32, CronError> {
    match number(part.text) {
        Some(step) if (1..=kind.last).contains(&step) => Ok(step),
        _ => part.fault(kind, format!("the step `{}` must be 1 to {}", part.text, kind.last)),
    }
}

fn value(part: Part<'_>, kind: &Kind) -> Result<u32, CronError> {
    if part.text.is_empty() {
        return part.fault(kind, "a value is missing");
    }
    let named = kind.names.iter().zip(kind.names_from..).find(|(name, _)| name.eq_ignore_ascii_case(part.text));
    let found = named.map(|(_, value)| value).or_else(|| number(part.text));
    match found {
        Some(value) if (kind.first..=kind.last).contains(&value) => Ok(value),
        Some(value) => part.fault(kind, format!("{value} is not {} to {}", kind.first, kind.last)),
        None => {
            let names = if kind.names.is_empty() { String::new() } else { format!(" or {} …", kind.names[0]) };
            part.fault(kind, format!("`{}` is not {} to {}{names}", part.text, kind.first, kind.last))
        }
    }
}

/// A number as people write it: digits only.
fn number(text: &str) -> Option<u32> {
    (text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// `MON#1`, `FRIL`; none for anything else.
fn nth_weekday(part: Part<'_>) -> Result<Option<(u32, u32)>, CronError> {
    if let Some((day, nth)) = part.split_once('#') {
        let day = value(day, &WEEKDAY)? % 7;
        return match number(nth.text) {
            Some(nth) if (1..=5).contains(&nth) => Ok(Some((day, nth))),
            _ => nth.fault(&WEEKDAY, format!("`{}` is not 1 to 5", nth.text)),
        };
    }
    match part.text.strip_suffix(['L', 'l']) {
        Some(day) if !day.is_empty() => {
            let day = value(Part { text: day, column: part.column }, &WEEKDAY)?;
            Ok(Some((day % 7, LAST)))
        }
        _ => Ok(None),
    }
}

impl<'a> Part<'a> {
    /// The parts between spaces.
    fn split_whitespace(self) -> impl Iterator<Item = Part<'a>> {
        self.text.split_whitespace().map(move |text| {
            // A part of the text, so its place is how far into it it begins.
            let before = text.as_ptr() as usize - self.text.as_ptr() as usize;
            Part { text, column: self.column + self.text[..before].chars().count() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, from: &str) -> String {
        let cron = Cron::parse(cron).unwrap();
        cron.first_from(from.parse().unwrap()).map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn expressions_fit_what_they_say() {
        for (cron, from, expected) in [
            ("* * * * *", "2026-01-01T00:00:00", "2026-01-01T00:00:00"),
            ("* * * * *", "2026-01-01T00:00:01", "2026-01-01T00:01:00"),
            ("*/15 * * * *", "2026-01-01T10:46:00", "2026-01-01T11:00:00"),
            ("5/20 * * * *", "2026-01-01T10:26:00", "2026-01-01T10:45:00"),
            ("*/10 * * * * *", "2026-01-01T23:59:51", "2026-01-02T00:00:00"),
            ("30 2 * * MON-FRI", "2026-11-20T02:30:01", "2026-11-23T02:30:00"),
            ("0 9-17/4 * * *", "2026-01-01T13:00:01", "2026-01-01T17:00:00"),
            ("0 0 1,15 * *", "2026-01-02T00:00:00", "2026-01-15T00:00:00"),
            ("0 0 * * 7", "2026-11-25T00:00:00", "2026-11-29T00:00:00"),
            ("0 0 * * sun", "2026-11-25T00:00:00", "2026-11-29T00:00:00"),
            ("0 0 * * 5-7", "2026-11-28T00:00:01", "2026-11-29T00:00:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 29 FEB ?", "2096-03-01T00:00:00", "2104-02-29T00:00:00"),
            ("0 0 L * *", "2026-02-02T00:00:00", "2026-02-28T00:00:00"),
            ("0 0 * * MON#1", "2026-11-03T00:00:00", "2026-12-07T00:00:00"),
            ("0 0 * * FRIL", "2026-11-01T00:00:00", "2026-11-27T00:00:00"),
            ("0 0 * * 5#5", "2026-11-01T00:00:00", "2027-01-29T00:00:00"),
            // Both days are restricted: either is enough.
            ("0 0 13 * 5", "2026-11-25T00:00:00", "2026-11-27T00:00:00"),
            ("0 0 31 2 5", "2026-02-02T00:00:00", "2026-02-06T00:00:00"),
            ("59 59 23 31 12 *", "2026-12-31T23:59:59", "2026-12-31T23:59:59"),
            ("59 59 23 31 12 *", "9999-12-31T23:59:59", "9999-12-31T23:59:59"),
            ("0 0 1 1 *", "9999-01-02T00:00:00", ""),
            ("@weekly", "2026-11-25T00:00:00", "2026-11-29T00:00:00"),
            (" @Hourly ", "2026-11-25T00:00:01", "2026-11-25T01:00:00"),
        ] {
            assert_eq!(next(cron, from), expected, "{cron} from {from}");
        }
        assert!(Cron::parse("0 */1 * * *").unwrap().is_for_every_hour());
        assert!(!Cron::parse("0 */2 * * *").unwrap().is_for_every_hour());
    }

    #[test]
    fn faults_are_told_with_field_and_column() {
        for (cron, field, column) in [
            ("", None, 1),
            ("* * * *", None, 8),
            ("* * * * * * *", None, 13),
            ("@fortnightly", None, 1),
            ("60 * * * *", Some("minute"), 1),
            ("0 24 * * *", Some("hour"), 3),
            ("0  1-x * * *", Some("hour"), 6),
            ("0 5-2 * * *", Some("hour"), 3),
            ("0 0,, * * *", Some("hour"), 5),
            ("0 */0 * * *", Some("hour"), 5),
            ("0 0 0 * *", Some("day of month"), 5),
            ("0 0 1 JAX *", Some("month"), 7),
            ("0 0 1 JAN,13 *", Some("month"), 11),
            ("0 0 * * MON#6", Some("day of week"), 13),
            ("0 0 * * 8", Some("day of week"), 9),
            ("x 0 0 * * *", Some("second"), 1),
            ("0 0 31 2 *", Some("day of month"), 5),
            ("0 0 30 2 *", Some("day of month"), 5),
            ("0 0 31 4,6,9,11 *", Some("day of month"), 5),
            ("ä * * * *", Some("minute"), 1),
            ("? * * * *", Some("minute"), 1),
            ("+5 * * * *", Some("minute"), 1),
        ] {
            let error = Cron::parse(cron).expect_err(cron);
            assert_eq!((error.field, error.column), (field, column), "{cron}: {error}");
        }
        assert!(Cron::parse(&"*".repeat(300)).is_err());
    }

    #[test]
    fn a_time_is_found_by_trying_every_second_too() {
        for cron in ["*/7 3,50 4-6 * * *", "30 * 23 * * *", "0 59 */5 * * *", "1-3 2 2 * * *"] {
            let cron = Cron::parse(cron).unwrap();
            let is_hit = |time: DateTime| {
                has(cron.hours, time.hour()) && has(cron.minutes, time.minute()) && has(cron.seconds, time.second())
            };
            let mut next: Option<DateTime> = None;
            let mut time: DateTime = "2026-06-02T00:00:00".parse().unwrap();
            let end: DateTime = "2026-06-01T00:00:00".parse().unwrap();
            // Backwards, so that the next hit is known.
            while time > end {
                time = time.checked_sub(jiff::Span::new().seconds(1)).unwrap();
                if is_hit(time) {
                    next = Some(time);
                }
                if let Some(next) = next {
                    assert_eq!(cron.first_from(time), Some(next), "{time}");
                }
            }
        }
    }
}
