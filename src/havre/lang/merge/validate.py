"""Does a value fit its shape? The words are those of the Go library, which clients show to people.

Source: structured-merge-diff v6, typed/validate.go and helpers.go.
"""

from __future__ import annotations

from typing import Any

from havre.lang.fieldset import field, scalar_json, show_element
from havre.lang.merge.elements import NoElement, element_of
from havre.lang.merge.shape import Shape

Problem = tuple[str, str]  # path, message


class Mistyped(ValueError):
    """A value that does not fit its schema; `problems` says where and why."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = [f"{path}: {message}" if path else message for path, message in problems]
        super().__init__(lines[0] if len(lines) == 1 else "\n".join(["errors:", *(f"  {line}" for line in lines)]))


def too_deep() -> Mistyped:
    return Mistyped([("", "the value is nested too deep to be merged; shorten it")])


def validate(shape: Shape, value: Any, *, duplicates: bool = False) -> list[Problem]:
    """Every problem of a value; `duplicates` allows a list to repeat an element, as stored objects may."""
    return _problems(shape, value, duplicates)


def _problems(shape: Shape, value: Any, duplicates: bool) -> list[Problem]:
    match shape.kind_of(value):
        case "map":
            return _map(shape, value, duplicates)
        case "list" if shape.is_list:
            return _list(shape, value, duplicates)
    return _scalar(shape, value)


def _map(shape: Shape, value: Any, duplicates: bool) -> list[Problem]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [("", f"expected map, got &{{{go_plain(value)}}}")]
    out: list[Problem] = []
    for name, child in value.items():
        below = shape.child(name)
        prefix = show_element(field(name))
        if below is None:
            return [*out, (prefix, "field not declared in schema")]
        out += [(prefix + path, message) for path, message in _problems(below, child, duplicates)]
    return out


def _list(shape: Shape, value: Any, duplicates: bool) -> list[Problem]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [("", f"expected list, got &{{{go_plain(value)}}}")]
    out: list[Problem] = []
    seen: set[str] = set()
    for place, item in enumerate(value):
        element = f"i:{place}"
        if not shape.list_atomic:
            try:
                element = element_of(shape, item)
            except NoElement as err:
                return [*out, ("", f"element {place}: {err}")]
            if element in seen and not duplicates:
                out.append(("", f"duplicate entries for key {show_element(element)}"))
            seen.add(element)
        if shape.item is not None:
            below = _problems(shape.item, item, duplicates)
            out += [(show_element(element) + path, message) for path, message in below] if below else []
    return out


def _scalar(shape: Shape, value: Any) -> list[Problem]:
    if value is None or fits(shape.scalar, value):
        return []
    wrapped = f"&value.valueUnstructured{{Value:{go_syntax(value)}}}"
    match shape.scalar:
        case "numeric":
            return [("", f"expected numeric (int or float), got {go_type(value)}")]
        case "string":
            return [("", f"expected string, got {wrapped}")]
        case "boolean":
            return [("", f"expected boolean, got &{{{go_plain(value)}}}")]
    return [("", f"expected any scalar, got &{{{go_plain(value)}}}")]


def fits(scalar: str, value: Any) -> bool:
    """Is `value` a scalar of this sort?"""
    kind = type(value)
    match scalar:
        case "string":
            return kind is str
        case "numeric":
            return kind is int or kind is float
        case "boolean":
            return kind is bool
    return kind is str or kind is int or kind is float or kind is bool


# How Go prints JSON values: %T, %v, %#v


def go_type(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int64", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}" if isinstance(value, dict) else "<nil>")


def go_plain(value: Any) -> str:
    match value:
        case None:
            return "<nil>"
        case dict():
            return "map[" + " ".join(f"{key}:{go_plain(value[key])}" for key in sorted(value)) + "]"
        case list():
            return "[" + " ".join(map(go_plain, value)) + "]"
        case str():
            return value
    return scalar_json(value)


def go_syntax(value: Any) -> str:
    match value:
        case None:
            return "interface {}(nil)"
        case dict():
            return go_type(value) + "{" + ", ".join(f'"{k}":{go_syntax(value[k])}' for k in sorted(value)) + "}"
        case list():
            return go_type(value) + "{" + ", ".join(map(go_syntax, value)) + "}"
    return scalar_json(value)
