"""Expressions in a Kustomization: when a dependency is ready, when an object of some kind is healthy. Pure.

`dependsOn[].readyExpr` sees `self` and `dep`; an expression of `healthCheckExprs` sees the fields of the object itself.

Source: fluxcd/pkg, runtime/cel; fluxcd/kustomize-controller, docs/spec/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from havre.api.meta import Obj, split_api_version
from havre.lang.cel.expression import CelError, activation, compile_expression, count
from havre.machinery.kstatus import Result, Status

_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status", "data")
_ORDER: Final = (("inProgress", Status.IN_PROGRESS), ("failed", Status.FAILED), ("current", Status.CURRENT))


class ExpressionError(Exception):
    """An expression that is none: nothing will work until the spec changes."""


def is_ready(expression: str, ours: Obj, dependency: Obj) -> bool:
    """Raises ExpressionError; CelError when it cannot be evaluated for these objects."""
    try:
        program = compile_expression(f"cel.bind(dep, oldSelf, (\n{expression}\n))")
    except CelError as error:
        raise ExpressionError(f"failed to evaluate dependency {dependency['metadata']['name']}: {error}") from error
    return program.evaluate(activation(ours, dependency), count(ours) + count(dependency)) is True


@dataclass(frozen=True, slots=True)
class HealthExpressions:
    """What `healthCheckExprs` say of the kinds they name."""

    entries: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, raw: Iterable[Mapping[str, Any]]) -> HealthExpressions:
        """Raises ExpressionError."""
        entries = tuple(raw)
        for number, entry in enumerate(entries):
            for name, _ in _ORDER:
                if entry.get(name):
                    try:
                        compile_expression(_bound(str(entry[name]), _FIELDS))
                    except CelError as error:
                        raise ExpressionError(f"healthCheckExprs[{number}].{name}: {error}") from error
        return cls(entries)

    def status(self, obj: Obj) -> Result | None:
        """None: they say nothing of such objects. What cannot be evaluated yet is in progress."""
        entry = self._entry(obj)
        if entry is None:
            return None
        known = [name for name in _FIELDS if name in obj]
        for name, status in _ORDER:
            try:
                if entry.get(name) and _holds(str(entry[name]), obj, known):
                    return Result(status, f"{name}: {entry[name]}")
            except CelError as error:
                return Result(Status.IN_PROGRESS, f"{name}: {error}")
        return Result(Status.IN_PROGRESS, "no expression holds")

    def _entry(self, obj: Obj) -> Mapping[str, Any] | None:
        """One that names the kind goes before one that names the group alone."""
        group, _ = split_api_version(str(obj.get("apiVersion", "")))
        of_group = [each for each in self.entries if split_api_version(str(each.get("apiVersion", "")))[0] == group]
        exact = [each for each in of_group if each.get("kind") == obj.get("kind")]
        general = [each for each in of_group if not each.get("kind")]
        return next(iter((*exact, *general)), None)


def _bound(expression: str, names: Iterable[str]) -> str:
    """With the fields of `self` as names of their own."""
    text = f"(\n{expression}\n)"
    for name in names:
        text = f"cel.bind({name}, self.{name}, {text})"
    return text


def _holds(expression: str, obj: Obj, names: Sequence[str]) -> bool:
    program = compile_expression(_bound(expression, names))
    return program.evaluate(activation(obj), count(obj)) is True
