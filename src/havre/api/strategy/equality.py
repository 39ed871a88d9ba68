"""Equality of API objects as the server means it when it decides whether a spec changed.

A missing list and an empty one are the same, and so are a missing map of strings and an empty one; an empty structure
is not the same as none (`emptyDir: {}` says something). Objects are canonical here, so quantities compare as texts.

Source: k8s.io/apimachinery, third_party/forked/golang/reflect/deep_equal.go.
"""

from __future__ import annotations

from typing import Any

_STRING_MAPS = frozenset(
    {"annotations", "binaryData", "data", "labels", "limits", "matchLabels", "nodeSelector", "overhead"}
    | {"parameters", "requests", "selector", "stringData"}
)


def semantic_equal(a: Any, b: Any) -> bool:
    """Whether `a` and `b` mean the same. The usual, equal case costs one comparison in C."""
    if a == b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return _equal_maps(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(semantic_equal(x, y) for x, y in zip(a, b, strict=True))
    return a in (None, []) and b in (None, [])


def _equal_maps(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(_equal_members(key, a.get(key), b.get(key)) for key in a.keys() | b.keys())


def _equal_members(key: str, a: Any, b: Any) -> bool:
    if key in _STRING_MAPS and not a and not b:
        return True
    return semantic_equal(a, b)
