"""Durations as Go writes them: `1h30m`, `90s`, `1.5m`, `250ms`.

    parse("1h30m") == 5400.0
    format(5400.0) == "1h30m0s"

Source: Go's time package (ParseDuration, Duration.String), whose range of an int64 of nanoseconds is kept.
"""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC, which Go takes too
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST: Final = 2**63 - 1  # nanoseconds, some 292 years
_MAX_TEXT: Final = 128  # characters: every unit once with 19 digits before and behind the point is less
_SECOND: Final = _UNITS["s"]
_part = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)").match


class DurationError(ValueError):
    """A text that is no duration; the message is Go's."""


def parse(text: str) -> float:
    """Seconds. Raises DurationError."""
    return nanoseconds(text) / _SECOND


def nanoseconds(text: str) -> int:
    """Exactly. Raises DurationError."""
    invalid = DurationError(f'time: invalid duration "{text[:_MAX_TEXT]}"')
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    if not rest or len(text) > _MAX_TEXT:
        raise invalid
    total, at = 0, 0
    while at < len(rest):
        found = _part(rest, at)
        if found is None or not (found[1] or found[2]):
            raise invalid
        whole, fraction, unit = found[1] or "0", found[2] or "", _UNITS[found[3]]
        total += int(whole) * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        at = found.end()
    if total > _LONGEST:
        raise invalid
    return sign * total


def format(seconds: float) -> str:
    """The shortest text of Go: `0s`, `1.5ms`, `1m0s`, `1h0m0s`."""
    total = round(seconds * _SECOND)
    sign, total = ("-", -total) if total < 0 else ("", total)
    if not total:
        return "0s"
    if total < _SECOND:
        unit = next(name for name in ("ms", "µs", "ns") if total >= _UNITS[name])
        return f"{sign}{_decimal(total, _UNITS[unit])}{unit}"
    minutes, rest = divmod(total, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    shown = f"{_decimal(rest, _SECOND)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{shown}"
    return f"{sign}{minutes}m{shown}" if minutes else f"{sign}{shown}"


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = str(unit + rest)[1:].rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
