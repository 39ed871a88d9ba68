"""Where a pod may run, as far as a node's labels and taints say: selectors, node affinity, tolerations. Pure.

Source: k8s.io/component-helpers, scheduling/corev1 (nodeaffinity, helpers.go); k8s.io/api, core/v1/toleration.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from havre.api.meta import Obj, labels_of, name_of

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def tolerates(toleration: Obj, taint: Obj) -> bool:
    """An empty effect is every effect; an empty key with Exists is every key."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") in ("", "Equal"):
        return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
    return bool(toleration["operator"] == "Exists")


def tolerated(taint: Obj, tolerations: Iterable[Obj]) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def suits(spec: Obj, node: Obj) -> bool:
    """Do the labels and the name of the Node suit the pod's nodeSelector and required node affinity?"""
    return suits_labels(spec, name_of(node), labels_of(node))


def suits_labels(spec: Obj, name: str, labels: Mapping[str, str]) -> bool:
    wanted = spec.get("nodeSelector") or {}
    if not wanted.items() <= labels.items():
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    terms = (required or {}).get("nodeSelectorTerms") or ()
    return required is None or any(term_matches(term, name, labels) for term in terms)


def term_matches(term: Obj, name: str, labels: Mapping[str, str]) -> bool:
    """An empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    by_labels = all(_holds(expression, labels) for expression in expressions)
    return by_labels and all(_holds(field, {"metadata.name": name}) for field in fields)


def _holds(expression: Obj, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case "Gt":
            return _compared(labels.get(key), values) > 0
        case "Lt":
            return _compared(labels.get(key), values) < 0
    return False


def _compared(label: str | None, values: list[Any]) -> int:
    """1 or -1 if the label is a larger or smaller number than the value; 0 also if it is no number."""
    if label is None or len(values) != 1 or not _is_number(label) or not _is_number(str(values[0])):
        return 0
    return (int(label) > int(values[0])) - (int(label) < int(values[0]))


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
