//! Times as people type and read them: `30s`, `1h30m`, `+5m`, `12s ago`. Pure.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use prost_types::Timestamp;

const SECONDS_PER_MINUTE: u64 = 60;
const SECONDS_PER_HOUR: u64 = 60 * SECONDS_PER_MINUTE;
const SECONDS_PER_DAY: u64 = 24 * SECONDS_PER_HOUR;
const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i32 = 1_000;

/// The time on this machine, for reading `+5m` and for writing `12s ago`. No decision of the service depends on it.
#[allow(clippy::disallowed_methods, reason = "the command line runs beside its user's clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Reads `250ms`, `30s`, `1h30m`, `7d`. A bare number has no unit and is refused, because its meaning would be a guess.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        bail!("a duration is missing; write it as 250ms, 30s, 5m, 1h30m or 7d");
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |end| digits + end);
        let (number, unit) = (&rest[..digits], &rest[digits..unit_end]);
        let number: f64 = number
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())
            .with_context(|| format!("`{text}` is not a duration; write it as 250ms, 30s, 5m, 1h30m or 7d"))?;
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => SECONDS_PER_MINUTE as f64,
            "h" => SECONDS_PER_HOUR as f64,
            "d" => SECONDS_PER_DAY as f64,
            "" => bail!("`{text}` has no unit; write for example {text}s for seconds"),
            other => bail!("`{other}` is not a unit of time; use ms, s, m, h or d"),
        };
        let part = Duration::try_from_secs_f64(number * unit_seconds).ok();
        total = part.and_then(|part| total.checked_add(part)).with_context(|| format!("`{text}` is too long"))?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

/// Reads a moment: RFC 3339, `now`, or `+5m` and `-2h` counted from `now`.
pub fn parse_moment(text: &str, now: SystemTime) -> anyhow::Result<Timestamp> {
    let text = text.trim();
    if text == "now" {
        return Ok(to_timestamp(now));
    }
    if let Some(ahead) = text.strip_prefix('+') {
        let moment = now.checked_add(parse_duration(ahead)?);
        return Ok(to_timestamp(moment.with_context(|| format!("`{text}` is too far ahead"))?));
    }
    if let Some(ago) = text.strip_prefix('-') {
        let moment = now.checked_sub(parse_duration(ago)?);
        return Ok(to_timestamp(moment.with_context(|| format!("`{text}` is too long ago"))?));
    }
    text.parse().map_err(|_| {
        anyhow::anyhow!("`{text}` is not a time; write 2026-11-20T08:00:00Z, or +5m for five minutes from now")
    })
}

/// The wire's form of a moment, cut to microseconds as the server stores them.
pub fn to_timestamp(moment: SystemTime) -> Timestamp {
    let mut stamp = Timestamp::from(moment);
    stamp.nanos -= stamp.nanos % NANOS_PER_MICRO;
    stamp
}

/// The wire's form of a length of time. Lengths beyond what it holds become its largest.
pub fn to_duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        // A sub-second part is below 10^9 and always fits.
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

/// A length of time from the wire; a negative one counts as none.
pub fn from_duration(length: &prost_types::Duration) -> Duration {
    Duration::try_from(*length).unwrap_or(Duration::ZERO)
}

/// Microseconds since the epoch.
pub fn micros(stamp: &Timestamp) -> i64 {
    stamp.seconds.saturating_mul(MICROS_PER_SECOND).saturating_add(i64::from(stamp.nanos / NANOS_PER_MICRO))
}

/// `12s ago`, `in 5m`, `now`: how far a moment is from `now`.
pub fn relative(stamp: &Timestamp, now: SystemTime) -> String {
    let distance = micros(stamp) - micros(&to_timestamp(now));
    let length = Duration::from_micros(distance.unsigned_abs());
    match distance {
        _ if length < Duration::from_secs(1) => "now".to_owned(),
        1.. => format!("in {}", brief(length)),
        _ => format!("{} ago", brief(length)),
    }
}

/// A length of time in its two largest units: `850ms`, `12s`, `3m05s`, `2h10m`, `4d3h`.
pub fn brief(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{}ms", length.as_millis()),
        s if s < SECONDS_PER_MINUTE => format!("{s}s"),
        s if s < SECONDS_PER_HOUR => format!("{}m{:02}s", s / SECONDS_PER_MINUTE, s % SECONDS_PER_MINUTE),
        s if s < SECONDS_PER_DAY => {
            format!("{}h{:02}m", s / SECONDS_PER_HOUR, s % SECONDS_PER_HOUR / SECONDS_PER_MINUTE)
        }
        s => format!("{}d{}h", s / SECONDS_PER_DAY, s % SECONDS_PER_DAY / SECONDS_PER_HOUR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn durations_with_units_are_read() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("1.5s", 1_500), ("1h30m", 5_400_000), ("7d", 604_800_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn durations_without_meaning_are_refused() {
        for text in ["", "30", "s", "5 m", "3x", "-5s", "1..2s", "1e9s", "99999999999999999999d", "ms5"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_absolute_or_so_far_away() {
        assert_eq!(parse_moment("+5m", at(1_000)).unwrap().seconds, 1_300);
        assert_eq!(parse_moment("-5m", at(1_000)).unwrap().seconds, 700);
        assert_eq!(parse_moment("now", at(1_000)).unwrap().seconds, 1_000);
        assert_eq!(parse_moment("1970-01-01T01:00:00+01:00", at(0)).unwrap().seconds, 0);
        for text in ["tomorrow", "-", "+", "2026-13-01T00:00:00Z", "+99999999999999999d"] {
            assert!(parse_moment(text, at(0)).is_err(), "{text}");
        }
    }

    #[test]
    fn distances_read_as_people_say_them() {
        let stamp = to_timestamp(at(10_000));
        assert_eq!(relative(&stamp, at(10_012)), "12s ago");
        assert_eq!(relative(&stamp, at(9_700)), "in 5m00s");
        assert_eq!(relative(&stamp, at(10_000)), "now");
        assert_eq!(brief(Duration::from_millis(850)), "850ms");
        assert_eq!(brief(Duration::from_secs(7_800)), "2h10m");
        assert_eq!(brief(Duration::from_secs(97 * 3_600)), "4d1h");
    }

    #[test]
    fn lengths_survive_the_wire() {
        let length = Duration::new(3, 500);
        assert_eq!(from_duration(&to_duration(length)), length);
        assert_eq!(from_duration(&prost_types::Duration { seconds: -1, nanos: 0 }), Duration::ZERO);
    }
}
