"""Quantities in the form they are stored in, and sums of lists of resources.

Source: k8s.io/kubernetes, pkg/apis/core/v1/defaults.go (SetDefaults_ResourceList); k8s.io/component-helpers, resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

from havre.kit.quantity import Quantity, QuantityError, parse


def canonical(value: Any) -> Any:
    """The stored form of a quantity (`1000m` → `1`, 1024Mi → 1Gi); what is none stays for validation to refuse."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    return _canonical(value if isinstance(value, str) else repr(value))


def rounded_up(value: Any) -> Any:
    """As `canonical`, and no finer than a thousandth: amounts in lists of resources."""
    stored = canonical(value)
    if isinstance(stored, str) and stored[-1:] in ("n", "u"):
        quantity = parse(stored)
        return str(Quantity.of_milli(ceil(quantity.amount * 1000), quantity.format))
    return stored


def amount(text: str) -> Fraction:
    """The value of a quantity. Raises QuantityError."""
    return parse(text).amount


@lru_cache(maxsize=4096)  # texts of a cluster: a few dozen
def _canonical(text: str) -> str:
    try:
        return str(parse(text))
    except QuantityError:
        return text


def total(lists: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The sum of each resource."""
    sums: dict[str, Quantity] = {}
    for amounts in lists:
        for name, text in amounts.items():
            quantity = parse(text)
            sums[name] = sums[name] + quantity if name in sums else quantity
    return {name: str(quantity) for name, quantity in sums.items()}


def largest(lists: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The largest amount of each resource."""
    most: dict[str, str] = {}
    for amounts in lists:
        for name, text in amounts.items():
            if name not in most or parse(text) > parse(most[name]):
                most[name] = text
    return most
