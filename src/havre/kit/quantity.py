"""Amounts of resources: `500m` CPU, `64Mi` of memory, `12e6`; exact, down to a billionth.

A quantity remembers how it was written: with binary suffixes (Ki, Mi), decimal ones (m, k, M) or an exponent, and is
written back in the canonical form of that format: no fraction, the largest suffix that keeps the number whole. A text
that is close enough to canonical (`1.500`, `+1`) is kept as it stands, as upstream does, until it is calculated with.

Apart on purpose: what is beyond 64 bits stays exact where upstream overflows, and 1000E is written 1e21 where upstream
writes 1.

Source: k8s.io/apimachinery, pkg/api/resource (quantity.go, suffix.go, amount.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import lru_cache, total_ordering
from typing import Final

NANO: Final = 10**9  # quantities are counted in billionths, smaller ones are rounded up to one
MAX_LENGTH: Final = 256  # characters of a text; numbers of resources have twenty
MAX_EXPONENT: Final = 256  # beyond it the integer itself would be the attack
CACHED: Final = 4096  # different texts of a cluster: a few dozen; 200 bytes each

_INT64_MAX: Final = 2**63 - 1
_FAST_DIGITS: Final = 18  # what upstream keeps in 64 bits, and the text with it


class QuantityError(ValueError):
    """A text that is no quantity; the words are upstream's."""


class Format(Enum):
    """How a quantity is written."""

    DECIMAL_EXPONENT = "DecimalExponent"  # 12e6
    BINARY_SI = "BinarySI"  # 12Mi
    DECIMAL_SI = "DecimalSI"  # 12M


_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = ["", *_BINARY]

_split = re.compile(r"([-+]?)([0-9]*)(\.[0-9]*)?([eEinumkKMGTP]*[-+]?[0-9]*)").fullmatch
_exponent = re.compile(r"[eE]([-+]?[0-9]+)").fullmatch

FORM_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_NUMBER_ERROR = "unable to parse numeric part of quantity"
_SUFFIX_ERROR = "unable to parse quantity's suffix"


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An exact amount. Quantities compare by amount, however they are written."""

    nano: int  # billionths
    format: Format = Format.DECIMAL_SI
    text: str = field(default="", repr=False)  # how it was written, if that is kept

    @classmethod
    def of(cls, amount: int, format_: Format = Format.DECIMAL_SI) -> Quantity:
        """A whole amount."""
        return cls(amount * NANO, format_)

    @classmethod
    def of_milli(cls, amount: int, format_: Format = Format.DECIMAL_SI) -> Quantity:
        """An amount in thousandths."""
        return cls(amount * (NANO // 1000), format_)

    @property
    def amount(self) -> Fraction:
        return Fraction(self.nano, NANO)

    def value(self) -> int:
        """Whole units, rounded away from zero."""
        return _up(self.nano, NANO)

    def milli_value(self) -> int:
        """Thousandths, rounded away from zero."""
        return _up(self.nano, NANO // 1000)

    def sign(self) -> int:
        return (self.nano > 0) - (self.nano < 0)

    def __bool__(self) -> bool:
        return self.nano != 0

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.nano + other.nano, self.format if self.nano else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nano - other.nano, self.format if self.nano else other.format)

    def __mul__(self, times: int) -> Quantity:
        return Quantity(self.nano * times, self.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nano, self.format)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.nano == other.nano

    def __lt__(self, other: Quantity) -> bool:
        return self.nano < other.nano

    def __hash__(self) -> int:
        return hash(self.nano)

    def __str__(self) -> str:
        return self.text or _canonical(self.nano, self.format)


ZERO: Final = Quantity(0)


def _up(nano: int, unit: int) -> int:
    return -(-nano // unit) if nano >= 0 else nano // unit


@lru_cache(CACHED)
def parse(text: str) -> Quantity:
    """The quantity of `text`. Raises QuantityError."""
    if len(text) > MAX_LENGTH:
        raise QuantityError(f"{_NUMBER_ERROR}: {len(text)} characters, at most {MAX_LENGTH} are read")
    parts = _split(text) if text else None
    if parts is None:
        # upstream reads a second sign as the start of a suffix
        raise QuantityError(_SUFFIX_ERROR if text[1:2] in ("+", "-") and _split(text[1:]) else FORM_ERROR)
    sign, whole, point, suffix = parts.groups()
    whole, fraction = whole.lstrip("0"), (point or ".")[1:]
    format_, base, exponent = _suffix(suffix)
    if not whole and not fraction and not suffix:
        return Quantity(0, format_)  # 0, but also "-" and ".", as upstream
    magnitude, rest = _magnitude(int(f"{whole}{fraction}" or "0"), len(fraction), base, exponent)
    if rest:
        magnitude += 1  # who asks for something gets something
    if format_ is Format.BINARY_SI:
        magnitude = min(magnitude, _INT64_MAX * NANO)
        if 0 < magnitude < NANO:
            format_ = Format.DECIMAL_SI
    kept = text if _is_kept(whole, fraction, format_, exponent) else ""
    return Quantity(-magnitude if sign == "-" else magnitude, format_, kept)


def _suffix(suffix: str) -> tuple[Format, int, int]:
    """The format, base and exponent that a suffix stands for."""
    if suffix in _DECIMAL:
        return Format.DECIMAL_SI, 10, _DECIMAL[suffix]
    if suffix in _BINARY:
        return Format.BINARY_SI, 2, _BINARY[suffix]
    found = _exponent(suffix)
    if not found or abs(int(found.group(1))) > MAX_EXPONENT:
        raise QuantityError(_SUFFIX_ERROR)
    return Format.DECIMAL_EXPONENT, 10, int(found.group(1))


def _magnitude(digits: int, places: int, base: int, exponent: int) -> tuple[int, int]:
    """`digits` × 10^-places × base^exponent in billionths, and what is left below one."""
    if base == 2:
        return divmod((digits * NANO) << exponent, _ten_to(places))
    shift = exponent - places + 9
    return (digits * _ten_to(shift), 0) if shift >= 0 else divmod(digits, _ten_to(-shift))


def _ten_to(exponent: int) -> int:
    power: int = 10**exponent
    return power


def _is_kept(whole: str, fraction: str, format_: Format, exponent: int) -> bool:
    """Whether upstream keeps the text: what fits 64 bits and looks canonical at a glance."""
    digits = f"{whole or '0'}{fraction}"
    if format_ is Format.BINARY_SI:
        few = 15 - len(whole or "0") - exponent * 3 // 10 - 1 >= 0
        return few and not fraction and int(digits) & 7 != 0
    scale = exponent - len(fraction)
    return (
        len(digits) <= _FAST_DIGITS
        and scale >= -9
        and scale % 3 == 0
        and digits[0] != "0"
        and not digits.endswith("000")
    )


def _canonical(nano: int, format_: Format) -> str:
    if not nano:
        return "0"
    if format_ is Format.BINARY_SI and abs(nano) >= 1024 * NANO and nano % NANO == 0:
        number, power = nano // NANO, 0
        while number % 1024 == 0 and power < len(_BINARY):
            number, power = number // 1024, power + 1
        return f"{number}{_BINARY_SUFFIX[power]}"
    number, exponent = nano, -9
    while number % 1000 == 0:
        number, exponent = number // 1000, exponent + 3
    if format_ is Format.DECIMAL_EXPONENT or exponent not in _DECIMAL_SUFFIX:
        return f"{number}e{exponent}" if exponent else str(number)
    return f"{number}{_DECIMAL_SUFFIX[exponent]}"
