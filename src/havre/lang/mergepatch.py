"""JSON Merge Patch: objects are merged, null deletes, anything else replaces.

Neither argument is changed; what the patch does not touch is shared with the original, what it brings is copied.

Source: RFC 7386; gopkg.in/evanphx/json-patch.v4 (merge.go) for nulls in lists.
"""

from __future__ import annotations

from typing import Any

from havre.lang import json


def apply(original: Any, patch: Any) -> Any:
    """`original` with `patch` merged into it."""
    if not isinstance(patch, dict) or not isinstance(original, dict):
        return _fresh(patch)
    merged = original.copy()
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(merged.get(key), dict):
            merged[key] = apply(merged[key], value) if isinstance(value, dict) else json.copied(value)
        else:
            merged[key] = _fresh(value)
    return merged


def _fresh(value: Any) -> Any:
    """A value that meets no object: the nulls of its objects say nothing and go; those of lists stay."""
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_fresh(item) for item in value]
    return value
