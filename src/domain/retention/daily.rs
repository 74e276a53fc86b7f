//! A time of the day in a zone: when the daily run is due.
//!
//! Nothing is kept but which daily time was served last, so a changed setting holds at once, and a day that was slept
//! through is made up for once.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time},
    tz::TimeZone,
};

use crate::domain::task::{DAY, Micros, SECOND};

/// Projects are spread over so much time after the daily time, so that they do not all begin at once.
const SPREAD: Micros = 1_800 * SECOND;
/// No zone moves a time by so many days: where the clocks jump over midnight, or a whole day is left out.
const DAYS_LOOKED_AT: i32 = 3;

/// A time that comes once a day.
#[derive(Clone, Debug, PartialEq)]
pub struct DailyTime {
    time: Time,
    zone: TimeZone,
    zone_name: String,
}

impl DailyTime {
    /// `02:00`, in an IANA zone. An error says what to write instead.
    pub fn new(time: &str, zone: &str) -> Result<Self, String> {
        let digits = |text: &str| (text.len() == 2).then(|| text.parse::<i8>().ok()).flatten();
        let parts = time.split_once(':').and_then(|(hour, minute)| Some((digits(hour)?, digits(minute)?)));
        let clock = parts.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok());
        let time = clock.ok_or_else(|| format!("{time:?} is no time of the day; write 00:00 to 23:59"))?;
        let zone =
            TimeZone::get(zone).map_err(|_| format!("{zone:?} is no IANA time zone; write Europe/Berlin or UTC"))?;
        let zone_name = zone.iana_name().unwrap_or("UTC").to_owned();
        Ok(Self { time, zone, zone_name })
    }

    /// As clocks show it: `02:00`.
    pub fn clock(&self) -> String {
        format!("{:02}:{:02}", self.time.hour(), self.time.minute())
    }

    /// The name of the zone.
    pub fn zone_name(&self) -> &str {
        &self.zone_name
    }

    /// The daily time that a project is to be served for at `now`, if it was not yet: the last one whose turn has come.
    pub fn due(&self, project: &str, now: Micros) -> Micros {
        self.at_or_before(now.saturating_sub(spread(project)))
    }

    /// When a project is served next, after it was served for the daily time `served`.
    pub fn next(&self, project: &str, served: Option<Micros>, now: Micros) -> Micros {
        let spread = spread(project);
        let due = self.due(project, now);
        if served.is_some_and(|served| served < due) {
            return due + spread;
        }
        self.after(now.saturating_sub(spread)) + spread
    }

    /// The last daily time up to `now`.
    pub fn at_or_before(&self, now: Micros) -> Micros {
        let days = (0..DAYS_LOOKED_AT).map(|days| self.on(now, -days));
        days.flatten().find(|time| *time <= now).unwrap_or(now - DAY)
    }

    fn after(&self, now: Micros) -> Micros {
        let days = (0..DAYS_LOOKED_AT).map(|days| self.on(now, days));
        days.flatten().find(|time| *time > now).unwrap_or(now + DAY)
    }

    /// The daily time of the day so many days from the one it is now. A time that the clocks jump over is as much later as
    /// they jump; of one that comes twice it is the first.
    fn on(&self, now: Micros, days: i32) -> Option<Micros> {
        let today: Date = Timestamp::from_microsecond(now).ok()?.to_zoned(self.zone.clone()).date();
        let day = today.checked_add(days.days()).ok()?;
        let zoned = day.to_datetime(self.time).to_zoned(self.zone.clone()).ok()?;
        Some(zoned.timestamp().as_microsecond())
    }
}

impl Default for DailyTime {
    /// 02:00 UTC.
    fn default() -> Self {
        Self { time: Time::constant(2, 0, 0, 0), zone: TimeZone::UTC, zone_name: "UTC".to_owned() }
    }
}

/// How long after the daily time a project has its turn: the same on every replica, and another one for each project.
fn spread(project: &str) -> Micros {
    // FNV-1a, because it is the same in every version.
    let hash = project
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Below SPREAD, which is an i64.
    (hash >> 16).rem_euclid(SPREAD.cast_unsigned()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    fn day_of(daily: &DailyTime, now: &str) -> String {
        Timestamp::from_microsecond(daily.at_or_before(at(now))).unwrap().to_string()
    }

    #[test]
    fn what_is_no_time_or_no_zone_is_refused() {
        let daily = DailyTime::new("02:05", "europe/berlin").unwrap();
        assert_eq!((daily.clock(), daily.zone_name()), ("02:05".to_owned(), "Europe/Berlin"));
        assert_eq!((DailyTime::default().clock(), DailyTime::default().zone_name()), ("02:00".to_owned(), "UTC"));
        for (time, zone) in [
            ("2:00", "UTC"),
            ("24:00", "UTC"),
            ("02:60", "UTC"),
            ("-1:00", "UTC"),
            ("0200", "UTC"),
            ("02:00:00", "UTC"),
            ("", "UTC"),
            ("02:00", ""),
            ("02:00", "Europe/Atlantis"),
        ] {
            assert!(DailyTime::new(time, zone).is_err(), "{time} {zone}");
        }
    }

    #[test]
    fn the_daily_time_follows_the_zone_through_the_year() {
        let berlin = DailyTime::new("02:30", "Europe/Berlin").unwrap();
        assert_eq!(day_of(&berlin, "2026-01-15T12:00:00Z"), "2026-01-15T01:30:00Z");
        assert_eq!(day_of(&berlin, "2026-07-15T00:29:59Z"), "2026-07-14T00:30:00Z");
        // On 2026-03-29 the clocks jump from 02:00 to 03:00, on 2026-10-25 they go back from 03:00 to 02:00.
        assert_eq!(day_of(&berlin, "2026-03-29T12:00:00Z"), "2026-03-29T01:30:00Z");
        assert_eq!(day_of(&berlin, "2026-10-25T12:00:00Z"), "2026-10-25T00:30:00Z");
        let lord_howe = DailyTime::new("02:15", "Australia/Lord_Howe").unwrap();
        assert_eq!(day_of(&lord_howe, "2026-10-03T20:00:00Z"), "2026-10-03T15:45:00Z");
        // 2026 rules: Vancouver stays at -07.
        let vancouver = DailyTime::new("02:00", "America/Vancouver").unwrap();
        assert_eq!(day_of(&vancouver, "2026-11-20T12:00:00Z"), "2026-11-20T09:00:00Z");
        // Samoa left out 2011-12-30.
        let apia = DailyTime::new("02:00", "Pacific/Apia").unwrap();
        assert_eq!(day_of(&apia, "2011-12-30T11:59:00Z"), "2011-12-29T12:00:00Z");
    }

    #[test]
    fn each_day_is_served_once_whatever_the_zone() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"] {
            for clock in ["00:00", "02:00", "02:30", "23:59"] {
                let daily = DailyTime::new(clock, zone).unwrap();
                let (mut now, end) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
                let mut served = daily.due("p", now);
                let mut days = 0;
                while now < end {
                    now = daily.next("p", Some(served), now);
                    assert_eq!(daily.next("p", Some(served), now), now, "it is due when it was said to be");
                    let due = daily.due("p", now);
                    assert!(due > served, "{zone} {clock}");
                    served = due;
                    days += 1;
                }
                assert!((365..=366).contains(&days), "{zone} {clock}: {days}");
            }
        }
    }

    #[test]
    fn days_slept_through_are_made_up_for_once() {
        let daily = DailyTime::default();
        let now = at("2026-05-05T12:00:00Z");
        let served = Some(at("2026-05-01T02:00:00Z"));
        assert!(daily.next("p", served, now) <= now);
        let due = daily.due("p", now);
        assert_eq!(due, at("2026-05-05T02:00:00Z"));
        assert!(daily.next("p", Some(due), now) > now);
        // A project that was never served waits for its next turn.
        assert!(daily.next("p", None, now) > now);
    }

    #[test]
    fn projects_are_spread() {
        let mut spreads: Vec<_> = (0..100).map(|n| spread(&format!("p{n}"))).collect();
        assert!(spreads.iter().all(|spread| (0..SPREAD).contains(spread)));
        spreads.sort_unstable();
        spreads.dedup();
        assert!(spreads.len() > 95);
        assert!(spreads[10] < SPREAD / 3 && spreads[90] > SPREAD / 2, "{spreads:?}");
    }
}
