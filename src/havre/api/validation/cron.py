"""Schedules in the five-field syntax of cron and its `@daily` words: is a text one, and if not, why not.

Source: github.com/robfig/cron v3, parser.go (ParseStandard), whose messages users of CronJobs see.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_DESCRIPTORS: Final = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})
_DURATION: Final = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+|0").fullmatch
_NUMBER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII).fullmatch
_INT_DIGITS_MAX: Final = 18


class _Bounds(NamedTuple):
    low: int
    high: int
    names: dict[str, int]


_FIELDS: Final = (
    _Bounds(0, 59, {}),
    _Bounds(0, 23, {}),
    _Bounds(1, 31, {}),
    _Bounds(1, 12, _MONTHS),
    _Bounds(0, 6, _DAYS),
)


class _Malformed(ValueError):
    pass


def schedule_problem(text: str) -> str:
    """Why `text` is no schedule; "" if it is one."""
    try:
        _parse(text)
    except _Malformed as malformed:
        return str(malformed)
    return ""


def _parse(text: str) -> None:
    if text.startswith("@"):
        _parse_descriptor(text)
        return
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise _Malformed(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    for field, bounds in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            if part:
                _parse_range(part, bounds)


def _parse_descriptor(text: str) -> None:
    if text in _DESCRIPTORS:
        return
    if text.startswith("@every "):
        duration = text.removeprefix("@every ")
        if not _DURATION(duration):
            raise _Malformed(f'failed to parse duration {text}: time: invalid duration "{duration}"')
        return
    raise _Malformed(f"unrecognized descriptor: {text}")


def _parse_range(part: str, bounds: _Bounds) -> None:
    """`*`, `a`, `a-b`, each with an optional `/step`."""
    pieces = part.split("/")
    ends = pieces[0].split("-")
    start, end = bounds.low, bounds.high
    if ends[0] not in ("*", "?"):
        start = _number(ends[0], bounds)
        if len(ends) > 2:
            raise _Malformed(f"too many hyphens: {part}")
        end = _number(ends[1], bounds) if len(ends) == 2 else start
    if len(pieces) > 2:
        raise _Malformed(f"too many slashes: {part}")
    step = 1
    if len(pieces) == 2:
        step = _positive(pieces[1])
        if len(ends) == 1 and ends[0] not in ("*", "?"):
            end = bounds.high
    if start < bounds.low:
        raise _Malformed(f"beginning of range ({start}) below minimum ({bounds.low}): {part}")
    if end > bounds.high:
        raise _Malformed(f"end of range ({end}) above maximum ({bounds.high}): {part}")
    if start > end:
        raise _Malformed(f"beginning of range ({start}) beyond end of range ({end}): {part}")
    if step == 0:
        raise _Malformed(f"step of range should be a positive number: {part}")


def _number(text: str, bounds: _Bounds) -> int:
    named = bounds.names.get(text.lower())
    return named if named is not None else _positive(text)


def _positive(text: str) -> int:
    if not _NUMBER(text):
        raise _Malformed(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if len(text) > _INT_DIGITS_MAX:
        raise _Malformed(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": value out of range')
    number = int(text)
    if number < 0:
        raise _Malformed(f"negative number ({number}) not allowed: {text}")
    return number
