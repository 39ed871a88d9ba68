"""Small checks that all kinds share: each yields the problems of one value at one path.

Source: k8s.io/apimachinery, pkg/api/validation and pkg/apis/meta/v1/validation; k8s.io/kubernetes,
pkg/apis/core/validation.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from havre.api.defaults.amounts import amount
from havre.api.strategy.equality import semantic_equal
from havre.kit import names
from havre.kit.field import FieldError, Problem, forbidden, invalid, required
from havre.kit.names import Check

Errors = Iterator[FieldError]
NOT_NEGATIVE: Final = "must be greater than or equal to 0"
IMMUTABLE: Final = "field is immutable"
PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
STANDARD_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage"})


def choice(path: str, value: Any, allowed: Iterable[str]) -> Errors:
    """`value` is one of `allowed`, which the message lists in the given order."""
    allowed = tuple(allowed)
    if value not in allowed:
        words = ", ".join(json.dumps(name) for name in allowed)
        yield FieldError(Problem.NOT_SUPPORTED, path, value, f"supported values: {words}")


def required_choice(path: str, value: Any, allowed: Iterable[str]) -> Errors:
    if not value:
        yield required(path)
    else:
        yield from choice(path, value, allowed)


def checked(path: str, value: Any, check: Callable[[Any], list[str]]) -> Errors:
    """The complaints of `check` about `value`."""
    for message in check(value):
        yield invalid(path, value, message)


def required_name(path: str, value: Any, check: Check) -> Errors:
    if not value:
        yield required(path)
    else:
        yield from checked(path, value, check)


def optional_name(path: str, value: Any, check: Check) -> Errors:
    if value:
        yield from checked(path, value, check)


def not_negative(path: str, obj: Mapping[str, Any], *fields: str) -> Errors:
    """Each of `fields` that is there is 0 or more."""
    for field in fields:
        value = obj.get(field)
        if value is not None and value < 0:
            yield invalid(f"{path}.{field}" if path else field, value, NOT_NEGATIVE)


def port_number(path: str, value: Any) -> Errors:
    yield from checked(path, value or 0, names.port_number)


def port(path: str, value: Any) -> Errors:
    """A port by number or by name."""
    if isinstance(value, str):
        yield from checked(path, value, names.port_name)
    else:
        yield from port_number(path, value)


def labels(path: str, pairs: Mapping[str, Any] | None) -> Errors:
    for key, value in (pairs or {}).items():
        yield from checked(path, key, names.qualified_name)
        yield from checked(path, value, names.label_value)


def label_selector(path: str, selector: Mapping[str, Any] | None) -> Errors:
    if not selector:
        return
    yield from labels(f"{path}.matchLabels", selector.get("matchLabels"))
    for i, expression in enumerate(selector.get("matchExpressions") or ()):
        yield from _expression(f"{path}.matchExpressions[{i}]", expression)


def _expression(path: str, expression: Mapping[str, Any]) -> Errors:
    operator, values = expression.get("operator"), expression.get("values")
    if operator in ("In", "NotIn"):
        if not values:
            yield required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            yield forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    else:
        yield invalid(f"{path}.operator", operator or "", "not a valid selector operator")
    yield from checked(f"{path}.key", expression.get("key") or "", names.qualified_name)
    for i, value in enumerate(values or ()):
        yield from checked(f"{path}.values[{i}]", value, names.label_value)


def selector_matches(selector: Mapping[str, Any] | None, pairs: Mapping[str, str]) -> bool | None:
    """Whether the selector selects the labels; None if it cannot be understood. No selector selects nothing."""
    if selector is None:
        return False
    verdicts = [_meets(e, pairs) for e in selector.get("matchExpressions") or ()]
    if None in verdicts or any(_is_bad_value(v) for v in (selector.get("matchLabels") or {}).values()):
        return None
    wanted = selector.get("matchLabels") or {}
    return all(pairs.get(key) == value for key, value in wanted.items()) and all(verdicts)


def _is_bad_value(value: str) -> bool:
    return bool(names.label_value(value))


def _meets(expression: Mapping[str, Any], pairs: Mapping[str, str]) -> bool | None:
    operator, key, values = expression.get("operator"), expression.get("key", ""), expression.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            return None
        return (pairs.get(key) in values) is (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return None if values else (key in pairs) is (operator == "Exists")
    return None


def is_empty_selector(selector: Mapping[str, Any]) -> bool:
    return not selector.get("matchLabels") and not selector.get("matchExpressions")


def immutable(path: str, new: Any, old: Any) -> Errors:
    if not semantic_equal(new, old):
        yield invalid(path, new, IMMUTABLE)


def count_or_percent(path: str, value: Any) -> Errors:
    """0 or more, or a percentage."""
    if isinstance(value, str):
        yield from checked(path, value, names.percent)
    elif value < 0:
        yield invalid(path, value, NOT_NEGATIVE)


def at_most_all(path: str, value: Any) -> Errors:
    """A percentage does not exceed 100 %."""
    if isinstance(value, str) and not names.percent(value) and int(value[:-1]) > 100:
        yield invalid(path, value, "must not be greater than 100%")


def is_zero_percent(value: Any) -> bool:
    """0 or 0 %; a text that is no percentage counts as 0, as upstream reads it."""
    if isinstance(value, str):
        return bool(names.percent(value)) or int(value[:-1]) == 0
    return not value


def quantity(path: str, value: Any) -> Errors:
    """An amount of 0 or more."""
    if amount(str(value)) < 0:
        yield invalid(path, str(value), NOT_NEGATIVE)


def whole_quantity(path: str, value: Any) -> Errors:
    yield from quantity(path, value)
    if amount(str(value)).denominator != 1:
        yield invalid(path, str(value), "must be an integer")


def resource_name(path: str, name: str) -> Errors:
    """A resource: one of ours or with a domain."""
    bad = names.qualified_name(name)
    for message in bad:
        yield invalid(path, name, message)
    if not bad and "/" not in name and name not in _KNOWN_RESOURCES and not name.startswith("hugepages-"):
        yield invalid(path, name, "must be a standard resource type or fully qualified")


_QUOTA_COUNTS: Final = (
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
)
_KNOWN_RESOURCES: Final = frozenset(
    {*STANDARD_RESOURCES, "storage", *_QUOTA_COUNTS}
    | {f"{side}.{name}" for side in ("requests", "limits") for name in STANDARD_RESOURCES}
    | {"requests.storage", "requests.hugepages-", "limits.hugepages-"}
)
QUOTA_COUNTS: Final = frozenset(_QUOTA_COUNTS)


def is_extended(name: str) -> bool:
    """A resource that a device plugin or a user announces, such as `example.com/gpu`."""
    return "/" in name and not name.startswith(("requests.", "kubernetes.io/")) and ".kubernetes.io/" not in name


def endpoint_ip(path: str, value: str) -> Errors:
    """An address that traffic may be sent to from elsewhere."""
    address = ipaddress.ip_address(value)
    if address.is_unspecified:
        yield invalid(path, value, f"may not be unspecified ({value})")
    elif address.is_loopback:
        yield invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    elif address.is_link_local:
        yield invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    elif address.is_multicast and (address.version == 6 or value.startswith("224.0.0.")):
        yield invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
