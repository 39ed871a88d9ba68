"""What the values of a release come to: `valuesFrom` in order, then `values`, then the ones with a target path. Pure.

Source: fluxcd/pkg, chartutil/values.go; helm.sh/helm v4, pkg/strvals and pkg/chart/v2/loader (MergeMaps).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from havre.lang import yaml
from havre.lang.json import copied
from havre.lang.yaml import YAMLError

INDEX_LIMIT = 65536  # Helm's own
DEPTH = 64
_PART = re.compile(r"(?P<name>(?:\\.|[^\\.\[\]])*)(?P<indexes>(?:\[\d{1,6}\])*)(?:\.|$)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")


class ValuesError(ValueError):
    """Values that cannot be read or put where they belong."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Maps are merged, everything else of `over` replaces."""
    out = dict(base)
    for key, value in over.items():
        was = out.get(key)
        out[key] = merged(was, value) if isinstance(was, dict) and isinstance(value, dict) else copied(value)
    return out


def read(text: str | bytes, where: str) -> dict[str, Any]:
    """The values of a YAML text. Raises ValuesError."""
    try:
        found = yaml.load(text)
    except YAMLError as error:
        raise ValuesError(f"unable to read values from key {where}: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValuesError(f"unable to read values from key {where}: not a mapping")
    return found


def put(values: dict[str, Any], path: str, text: str, *, literal: bool = False) -> None:
    """Put one value at a path as `--set` (or `--set-literal`) does. Changes `values`. Raises ValuesError."""
    steps = _steps(path)
    value = text if literal else _typed(text)
    here: Any = values
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        empty: Any = [] if isinstance(following, int) else {}
        if following is None:
            _set(here, step, value, path)
            return
        there = _get(here, step)
        if not isinstance(there, type(empty)):
            there = empty
            _set(here, step, there, path)
        here = there


def digest(values: Mapping[str, Any]) -> str:
    """The digest of values as helm-controller has it: of their YAML with sorted keys."""
    text = yaml.dump(values) if values else ""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        part = _PART.match(path, at)
        if part is None or part.end() == at or (not part["name"] and not part["indexes"]):
            raise ValuesError(f"target path {path!r}: cannot be read after {path[:at]!r}")
        if part["name"]:
            steps.append(re.sub(r"\\(.)", r"\1", part["name"], flags=re.DOTALL))
        steps += [int(index) for index in re.findall(r"\d+", part["indexes"])]
        at = part.end()
    if not steps or len(steps) > DEPTH or any(isinstance(step, int) and step > INDEX_LIMIT for step in steps):
        raise ValuesError(f"target path {path!r}: empty, too deep, or with an index over {INDEX_LIMIT}")
    return steps


def _get(here: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return here[step] if isinstance(here, list) and step < len(here) else None
    return here.get(step) if isinstance(here, dict) else None


def _set(here: Any, step: str | int, value: Any, path: str) -> None:
    if isinstance(step, str) and isinstance(here, dict):
        here[step] = value
    elif isinstance(step, int) and isinstance(here, list):
        here.extend([None] * (step + 1 - len(here)))
        here[step] = value
    else:
        raise ValuesError(f"target path {path!r}: {step!r} does not fit what is there")


def _typed(text: str) -> Any:
    """A value in quotes is a string; without them it may be a number, a boolean, null or a list in braces."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.startswith("{") and text.endswith("}"):
        inner = text[1:-1]
        return [_typed(part.strip()) for part in inner.split(",")] if inner else []
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if _INTEGER.fullmatch(text) and abs(int(text)) < 1 << 63:
        return int(text)
    return text
