"""The times of a schedule in the syntax of cron, in a time zone. Pure.

Fields: minute, hour, day of month, month, day of week. Of the two days, a restricted one is enough if both are
restricted. An hour that the clocks skip has no times; one that comes twice has them twice.

Source: github.com/robfig/cron v3 (parser.go, spec.go, constantdelay.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Protocol

YEARS = 5  # to look ahead: 29 February is at most 8 years away, and a CronJob does not wait for it
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_NAMES = {name: n for n, name in enumerate(_MONTHS, 1)} | {name: n for n, name in enumerate(_DAYS)}
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")


class Unreadable(ValueError):
    """The text is no schedule."""


class Schedule(Protocol):
    def after(self, at: float) -> float | None:
        """The first time later than `at`, both since the epoch; None: not within five years."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed distance."""

    seconds: float

    def after(self, at: float) -> float | None:
        return float(int(at)) + self.seconds


@dataclass(frozen=True, slots=True)
class Fields:
    """The five fields as sets."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Sunday is 0
    either_day: bool  # both kinds of days are restricted: one is enough
    zone: tzinfo = UTC

    def after(self, at: float) -> float | None:
        first = datetime.fromtimestamp(at, self.zone).date()
        for number in range(366 * YEARS):
            day = first + timedelta(days=number)
            if self._has(day):
                found = next((time for time in sorted(self._times(day)) if time > at), None)
                if found is not None:
                    return found
        return None

    def _has(self, day: date) -> bool:
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        matches = by_day or by_weekday if self.either_day else by_day and by_weekday
        return day.month in self.months and matches

    def _times(self, day: date) -> Iterator[float]:
        for hour in self.hours:
            for minute in self.minutes:
                for fold in (0, 1):
                    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone, fold=fold)
                    back = local.astimezone(UTC).astimezone(self.zone)
                    if (back.hour, back.minute, back.fold) == (hour, minute, fold):
                        yield local.timestamp()


def parse(text: str, zone: tzinfo = UTC) -> Schedule:
    """Raises Unreadable."""
    if text.startswith("@every "):
        return Every(max(1.0, float(int(_duration(text.removeprefix("@every "))))))
    parts = _WORDS.get(text, text).split()
    if len(parts) != len(_BOUNDS):
        raise Unreadable(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    minutes, hours, days, months, weekdays = (_field(p, *bounds) for p, bounds in zip(parts, _BOUNDS, strict=True))
    free = [any(piece.startswith(("*", "?")) for piece in parts[n].split(",")) for n in (2, 4)]
    return Fields(minutes, hours, days, months, weekdays, not any(free), zone)


def _duration(text: str) -> float:
    found = _PART.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        raise Unreadable(f"failed to parse duration @every {text}")
    return sum(float(number) * _SECONDS[unit] for number, unit in found)


def _field(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for piece in text.split(","):
        span, _, step = piece.partition("/")
        first, hyphen, last = span.partition("-")
        if first in ("*", "?"):
            start, end = low, high
        else:
            start = _number(first)
            end = _number(last) if hyphen else (high if step else start)
        found.update(range(start, end + 1, max(1, _number(step)) if step else 1))
    if not found or min(found) < low or max(found) > high:
        raise Unreadable(f"{text} is not within {low} to {high}")
    return frozenset(found)


def _number(text: str) -> int:
    named = _NAMES.get(text.lower())
    if named is None and not text.isdecimal():
        raise Unreadable(f"failed to parse int from {text}")
    return int(text) if named is None else named
