"""Sums and bounds of resource lists: `{"cpu": "500m", "memory": "1Gi"}` read as quantities by name.

Source: k8s.io/apiserver pkg/quota/v1/resources.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from havre.kit.quantity import Quantity, parse

Amounts = Mapping[str, Quantity]


def read(quantities: Mapping[str, object] | None) -> dict[str, Quantity]:
    """A resource list of an object; YAML may have left plain numbers in it. Raises QuantityError."""
    return {name: parse(str(quantity)) for name, quantity in (quantities or {}).items()}


def write(amounts: Amounts) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def add(*lists: Amounts) -> dict[str, Quantity]:
    total: dict[str, Quantity] = {}
    for amounts in lists:
        for name, amount in amounts.items():
            total[name] = total[name] + amount if name in total else amount
    return total


def largest(first: Amounts, second: Amounts) -> dict[str, Quantity]:
    out = dict(first)
    for name, amount in second.items():
        if name not in out or amount > out[name]:
            out[name] = amount
    return out


def mask(amounts: Amounts, names: Iterable[str]) -> dict[str, Quantity]:
    kept = set(names)
    return {name: amount for name, amount in amounts.items() if name in kept}


def shown(amounts: Amounts) -> str:
    """`limits.cpu=2,pods=3`, by name."""
    return ",".join(f"{name}={amounts[name]}" for name in sorted(amounts))
