"""The walk over an object that leaves it as the reference server would store it.

The reference server decodes an object into Go structures, sets defaults in them and encodes them again. So empty fields
without a meaning of their own vanish (`env: []`, `value: ""`), structures that are always there appear (`resources:
{}`), quantities take their canonical form (`1000m` → `1`) and times are UTC. Clients and field ownership depend on it.

Each Go type becomes one compiled function; the types and how their fields are encoded come from the table `shapes`. A
hook, if the type has one, sets its defaults before its fields are walked, as `SetDefaults_*` do.

Source: k8s.io/api types.go (struct tags), encoding/json of Go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from havre.api.data import table
from havre.api.defaults.amounts import canonical, rounded_up
from havre.api.meta import Obj

Hook = Callable[[Obj], None]
Walk = Callable[[Any], Any]  # gives the value to store: the same one, changed in place, or another

_ZERO: Final[Mapping[str, Any]] = {"s": "", "i": 0, "b": False, "q": "0", "x": 0}
_NOT_WALKED: Final = frozenset({"managedFields"})  # the server writes them itself, in form
_PLAIN: Final = frozenset("sibyrx")


class Compiler:
    """Compiles types by name; a type that contains itself refers to its one function."""

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        content = table("shapes")
        self._roots: Mapping[str, str] = content["roots"]
        self._types: Mapping[str, Mapping[str, list[str]]] = content["types"]
        self._hooks = hooks
        self._walks: dict[str, Walk] = {}
        self._plain: dict[str, bool] = {}

    def root(self, api_version: str, kind: str) -> Walk | None:
        """The walk of a kind; None for kinds that are not built in."""
        name = self._roots.get(f"{api_version}/{kind}")
        return self._struct(name) if name else None

    def _struct(self, name: str) -> Walk:
        known = self._walks.get(name)
        if known is not None:
            return known
        self._walks[name] = self._later(name)  # for types that contain themselves
        self._walks[name] = self._compile(name)
        return self._walks[name]

    def _later(self, name: str) -> Walk:
        def walk(value: Any) -> Any:
            return self._walks[name](value)

        return walk

    def _compile(self, name: str) -> Walk:
        fields = self._types[name]
        dropped = frozenset(key for key, (zero, _) in fields.items() if zero == "d")
        nulled = frozenset(key for key, (zero, shape) in fields.items() if zero == "f" and shape[0] in "[{")
        filled = tuple((key, _filler(shape)) for key, (zero, shape) in fields.items() if zero == "f")
        steps = {key: step for key, (_, shape) in fields.items() if (step := self._step(key, shape)) is not None}
        zeros = _Zeros(filled, dropped, nulled, frozenset(fields.keys() - {key for key, _ in filled}))
        return _walk(self._hooks.get(name), zeros, steps)

    def _step(self, key: str, shape: str) -> Walk | None:
        """How a value of this shape is walked; None if it is stored as it came."""
        shape = shape.removeprefix("*")
        if key in _NOT_WALKED or shape in _PLAIN:
            return None
        if shape == "q":
            return canonical
        if shape in ("t", "u"):
            return _time if shape == "t" else _micro_time
        if shape == "{}q":
            return _amounts
        if shape[0] == "#":
            return self._struct(shape[1:])
        inner = self._step("", shape[2:])
        if inner is None:
            return None
        return _each_item(inner) if shape.startswith("[]") else _each_value(inner)


def _is_null(shape: str) -> bool:
    return shape[0] in "*[{" or shape in ("t", "u", "r", "y")


def _filler(shape: str) -> Callable[[], Any]:
    """What an absent field of this shape is stored as."""
    if _is_null(shape):
        return lambda: None
    if shape[0] == "#":
        return dict
    zero = _ZERO[shape]
    return lambda: zero


@dataclass(frozen=True, slots=True)
class _Zeros:
    """What becomes of the empty fields of a type."""

    filled: tuple[tuple[str, Callable[[], Any]], ...]  # appear when absent
    dropped: frozenset[str]  # vanish when empty
    nulled: frozenset[str]  # null when empty, as storage in protobuf leaves them
    vanishing: frozenset[str]  # vanish when null


def _walk(hook: Hook | None, zeros: _Zeros, steps: Mapping[str, Walk]) -> Walk:
    filled, dropped, nulled, vanishing = zeros.filled, zeros.dropped, zeros.nulled, zeros.vanishing
    step_of = steps.get

    def walk(obj: Any) -> Any:
        if obj.__class__ is not dict:
            return obj
        if hook is not None:
            hook(obj)
        for key, fill in filled:
            if obj.get(key) is None:
                obj[key] = fill()
        for key, value in list(obj.items()):
            if not value:
                if key in dropped or (value is None and key in vanishing):
                    del obj[key]
                    continue
                if key in nulled:
                    obj[key] = None
                    continue
                if value != {}:
                    continue
            step = step_of(key)
            if step is not None:
                stored = step(value)
                if stored is not value:
                    obj[key] = stored
        return obj

    return walk


def _each_item(walk: Walk) -> Walk:
    def each(items: Any) -> Any:
        if items.__class__ is list:
            for index, item in enumerate(items):
                stored = walk({} if item is None else item)
                if stored is not item:
                    items[index] = stored
        return items

    return each


def _each_value(walk: Walk) -> Walk:
    def each(mapping: Any) -> Any:
        if mapping.__class__ is dict:
            for key, value in mapping.items():
                stored = walk(value)
                if stored is not value:
                    mapping[key] = stored
        return mapping

    return each


def _amounts(amounts: Any) -> Any:
    """A list of resources: nothing below a thousandth is kept."""
    if amounts.__class__ is dict:
        for name, amount in amounts.items():
            amounts[name] = rounded_up(amount)
    return amounts


def _time(value: Any) -> Any:
    """A time with another zone, or with fractions of a second, in the stored form."""
    if not isinstance(value, str) or (len(value) == len("2026-01-31T07:00:00Z") and value[-1] == "Z"):
        return value
    try:
        return datetime.fromisoformat(value).astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"
    except ValueError:
        return value


def _micro_time(value: Any) -> Any:
    if not isinstance(value, str) or (len(value) == len("2026-01-31T07:00:00.000000Z") and value[-1] == "Z"):
        return value
    try:
        return datetime.fromisoformat(value).astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"
    except ValueError:
        return value
