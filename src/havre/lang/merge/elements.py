"""The path element of each item of a list that is a set or a map.

Source: structured-merge-diff v6, typed/helpers.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.lang.fieldset import scalar_json
from havre.lang.merge.shape import Shape

NAMES_REMEMBERED: Final = 1024  # per list; with NAME_LIMIT at most some 300 kB for the largest kinds' lists in real use
NAME_LIMIT: Final = 128


class NoElement(ValueError):
    """An item that cannot be told from its neighbours."""


def element_of(shape: Shape, item: Any) -> str:
    """The element of an item of a set or map list. Raises NoElement."""
    keys = shape.keys
    if keys:
        if type(item) is dict and len(keys) == 1:
            value = item.get(keys[0])
            if type(value) is str:
                return shape.known.get(value) or _remember(shape, value, f'k:{{"{keys[0]}":{scalar_json(value)}}}')
        return _by_keys(shape, item)
    kind = type(item)
    if kind is str:
        return shape.known.get(item) or _remember(shape, item, "v:" + scalar_json(item))
    if kind is dict:
        raise NoElement("associative list without keys has an element that's a map type")
    if kind is list:
        raise NoElement("not supported: associative list with lists as elements")
    if item is None:
        raise NoElement("associative list without keys has an element that's an explicit null")
    return "v:" + scalar_json(item)


def _remember(shape: Shape, name: str, element: str) -> str:
    """Names of containers, variables and ports come again and again."""
    if len(shape.known) >= NAMES_REMEMBERED:
        shape.known.clear()
    if len(name) <= NAME_LIMIT:
        shape.known[name] = element
    return element


def _by_keys(shape: Shape, item: Any) -> str:
    if type(item) is not dict:
        if item is None:
            raise NoElement("associative list with keys may not have a null element")
        raise NoElement("associative list with keys may not have non-map elements")
    defaults = shape.key_defaults
    found = {key: item[key] if key in item else defaults[key] for key in shape.keys if key in item or key in defaults}
    if not found:
        names = " ".join(f'"{key}"' for key in shape.key_order)
        raise NoElement(
            f"associative list with keys has an element that omits all key fields [{names}]"
            " (and doesn't have default values for any key fields)"
        )
    return "k:{" + ",".join(f'"{key}":{scalar_json(value)}' for key, value in found.items()) + "}"


def indexed(shape: Shape, items: list[Any]) -> dict[str, list[Any]]:
    """Items by element, in order of first appearance; more than one where a list repeats itself."""
    out: dict[str, list[Any]] = {}
    for item in items:
        out.setdefault(element_of(shape, item), []).append(item)
    return out
