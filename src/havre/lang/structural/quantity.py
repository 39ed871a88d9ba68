"""Resource quantities: `500m`, `1Gi`, `12e6`; their exact value, order and canonical text.

Smaller than a nano is rounded up, as upstream does; a value of 2^63 and beyond stays exact here.

Source: k8s.io/apimachinery, pkg/api/resource/quantity.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

FORMAT_ERROR: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
LENGTH_MAX: Final = 1024  # characters; upstream has no bound, a longer text is no quantity anyone means
EXPONENT_MAX: Final = 1000
CACHE_SIZE: Final = 4096

_TEXT = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([eE])([+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_BINARY = {f"{unit}i": 1024 ** (i + 1) for i, unit in enumerate("KMGTPE")}
_DECIMAL = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_EXPONENTS = {suffix: exponent for exponent, suffix in _DECIMAL.items()}
_NANO = Fraction(1, 10**9)


class QuantityError(ValueError):
    """A text that is no quantity."""


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """A value and the way it is written: BinarySI, DecimalSI or DecimalExponent."""

    value: Fraction
    form: str = "DecimalSI"

    def __str__(self) -> str:
        if self.form == "BinarySI" and abs(self.value) >= 1024 and self.value.denominator == 1:
            return _binary_text(self.value.numerator)
        return _decimal_text(self.value, exponent_form=self.form == "DecimalExponent")


@lru_cache(CACHE_SIZE)
def parse(text: str) -> Quantity:
    """The quantity of a text. Raises QuantityError."""
    found = _TEXT.fullmatch(text) if len(text) <= LENGTH_MAX else None
    if not found:
        raise QuantityError(FORMAT_ERROR)
    sign, digits, mark, exponent, suffix = found.groups()
    value = Fraction(digits)
    form = "DecimalSI"
    if mark:
        if abs(int(exponent)) > EXPONENT_MAX:
            raise QuantityError("unable to parse quantity's suffix")
        value, form = value * Fraction(10) ** int(exponent), "DecimalExponent"
    elif suffix in _BINARY:
        value, form = value * _BINARY[suffix], "BinarySI"
    else:
        value *= Fraction(10) ** _EXPONENTS[suffix or ""]
    nanos = value / _NANO
    value = Fraction(-(-nanos.numerator // nanos.denominator)) * _NANO
    return Quantity(-value if sign == "-" else value, form)


@lru_cache(CACHE_SIZE)
def canonical(text: str) -> str:
    """The text that the API server stores: `1` for `1000m`, `1Gi` for `1024Mi`. Raises QuantityError."""
    return str(parse(text))


def _binary_text(value: int) -> str:
    suffix = ""
    for unit in _BINARY:
        if value % 1024 or not value:
            break
        value, suffix = value // 1024, unit
    return f"{value}{suffix}"


def _decimal_text(value: Fraction, *, exponent_form: bool) -> str:
    """The shortest whole mantissa with an exponent that is a multiple of three."""
    mantissa, exponent = (value / _NANO).numerator, -9
    if not mantissa:
        return "0"
    while mantissa % 1000 == 0 and (exponent_form or exponent < 18):
        mantissa, exponent = mantissa // 1000, exponent + 3
    if exponent_form:
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{_DECIMAL[exponent]}"
