"""The hash that tells pod templates apart in names and labels, and when two templates are the same. Pure.

The hash is FNV-1a of 32 bits over the template, written with letters that make no words. It only has to be stable: two
objects are compared by their templates, never by their hashes.

Source: k8s.io/kubernetes, pkg/controller/controller_utils.go (ComputeHash); k8s.io/apimachinery, pkg/util/rand.
"""

from __future__ import annotations

from typing import Any

import orjson

from havre.api.meta import Obj

HASH_LABEL = "pod-template-hash"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_OFFSET, _PRIME = 0x811C9DC5, 0x01000193
_PLAIN_MAPS = frozenset({"labels", "annotations", "nodeSelector", "limits", "requests", "overhead", "matchLabels"})


def template_hash(template: Obj, collisions: int | None) -> str:
    """`collisions` makes another hash of the same template, when the first one was taken."""
    digest = fnv32a(orjson.dumps(_trimmed(template), option=orjson.OPT_SORT_KEYS))
    if collisions is not None:
        digest = fnv32a(collisions.to_bytes(8, "little"), digest)
    return safe(str(digest))


def fnv32a(data: bytes, digest: int = _OFFSET) -> int:
    for byte in data:
        digest = ((digest ^ byte) * _PRIME) & 0xFFFFFFFF
    return digest


def safe(text: str) -> str:
    """Each character by one of 27 without vowels and look-alikes."""
    return "".join(_LETTERS[ord(character) % len(_LETTERS)] for character in text)


def same_template(one: Obj, other: Obj) -> bool:
    """But for the hash label, which the template of a Deployment does not have."""
    return _unlabelled(_trimmed(one)) == _unlabelled(_trimmed(other))


def _trimmed(value: Any, key: str = "") -> Any:
    """Without what is nothing: null, an empty list, an empty map of strings."""
    if isinstance(value, dict):
        kept = {name: _trimmed(each, name) for name, each in value.items()}
        return {name: each for name, each in kept.items() if not _is_nothing(name, each)}
    if isinstance(value, list):
        return [_trimmed(each) for each in value]
    return value


def _is_nothing(key: str, value: Any) -> bool:
    return value is None or value == [] or (value == {} and key in _PLAIN_MAPS)


def _unlabelled(template: Obj) -> Obj:
    meta = template.get("metadata") or {}
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH_LABEL}
    return {**template, "metadata": {**meta, "labels": labels}}
